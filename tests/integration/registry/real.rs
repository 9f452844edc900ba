//! The same client against docker-registry (CNCF distribution).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use crivet::image::{Digest, Reference};
use crivet::registry::{Cap, Credential};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;

use super::{OCI_MANIFEST, client, soon};

const REGISTRY: &str = "/usr/bin/docker-registry";

struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a registry that stores under `root` on a free port; `host:port` once it answers.
async fn start(root: &Path) -> (Registry, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let config = root.join("config.yml");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            root.display()
        ),
    )
    .unwrap();
    let child = Command::new(REGISTRY)
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let registry = Registry(child);
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(&host).await.is_ok() {
            return (registry, host);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("docker-registry does not answer on {host}");
}

async fn put(
    method: Method,
    uri: &str,
    media_type: &str,
    body: &'static [u8],
) -> http::Response<hyper::body::Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", media_type)
        .body(Full::new(Bytes::from_static(body)))
        .unwrap();
    Http::builder(TokioExecutor::new()).build_http().request(request).await.unwrap()
}

async fn push(host: &str, blob: &'static [u8], manifest: &'static [u8]) {
    let started = put(Method::POST, &format!("http://{host}/v2/team/app/blobs/uploads/"), "", b"").await;
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let to = started.headers()["location"].to_str().unwrap();
    let stored =
        put(Method::PUT, &format!("{to}&digest={}", Digest::of(blob)), "application/octet-stream", blob)
            .await;
    assert_eq!(stored.status(), StatusCode::CREATED);
    let tagged =
        put(Method::PUT, &format!("http://{host}/v2/team/app/manifests/v1"), OCI_MANIFEST, manifest).await;
    assert_eq!(tagged.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_real_registry_serves_what_was_pushed() {
    if !Path::new(REGISTRY).exists() {
        println!("skipped: {REGISTRY} is not on this machine (Debian package docker-registry)");
        return;
    }
    const BLOB: &[u8] = b"{}";
    const MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[]}"#;
    let root = tempfile::tempdir().unwrap();
    let (_registry, host) = start(root.path()).await;
    push(&host, BLOB, MANIFEST).await;

    let (client, none) = (client(), Credential::Anonymous);
    let repo = Reference::parse(&format!("{host}/team/app:v1")).unwrap();
    let digest = Digest::of(MANIFEST);
    assert_eq!(client.head(&repo, "v1", &none, soon()).await.unwrap(), digest);
    let fetched = client.manifest_by_tag(&repo, "v1", &none, soon()).await.unwrap();
    assert_eq!((fetched.digest, fetched.media_type.as_str()), (digest, OCI_MANIFEST));
    assert_eq!(client.manifest(&repo, &digest, &none, soon()).await.unwrap().bytes, MANIFEST);
    assert_eq!(client.blob(&repo, &Digest::of(BLOB), Cap::CONFIG, &none, soon()).await.unwrap(), BLOB);
    assert_eq!(client.requests(), 4, "an anonymous registry costs one request each");

    let absent = client.manifest_by_tag(&repo, "v2", &none, soon()).await.unwrap_err();
    assert!(absent.is_not_found());
    assert!(absent.to_string().ends_with("app:v2: not found (MANIFEST_UNKNOWN)"), "{absent}");
    let absent = client.blob(&repo, &Digest::of(b"x"), Cap::CONFIG, &none, soon()).await.unwrap_err();
    assert!(absent.to_string().ends_with("not found (BLOB_UNKNOWN)"), "{absent}");
    let absent = client.head(&repo, "v2", &none, soon()).await.unwrap_err();
    assert!(absent.is_not_found());
}
