//! docker-registry on loopback, without TLS.

use super::daemon::Daemon;
use super::http;
use super::peers::Peers;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::time::Duration;

pub struct Registry {
    daemon: Daemon,
    dir: PathBuf,
    address: String,
    authorization: Option<String>,
}

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    pub fn start(peers: &Peers) -> Self {
        Self::start_with(peers, None)
    }

    /// A registry that wants HTTP basic authentication for everything: `user:password`, and its htpasswd line.
    pub fn start_private(peers: &Peers, login: &str, htpasswd: &str) -> Self {
        Self::start_with(peers, Some((login, htpasswd)))
    }

    fn start_with(peers: &Peers, login: Option<(&str, &str)>) -> Self {
        let address = format!("127.0.0.1:{}", super::free_port());
        let dir = peers.path().join(format!("registry-{}", address.replace(':', "-")));
        std::fs::create_dir(&dir).unwrap();
        let config = dir.join("config.yml");
        let auth = login.map_or(String::new(), |(_, htpasswd)| {
            let file = dir.join("htpasswd");
            std::fs::write(&file, htpasswd).unwrap();
            format!("auth: {{htpasswd: {{realm: e2e, path: {}}}}}\n", file.display())
        });
        let authorization = login.map(|(login, _)| format!("Basic {}", STANDARD.encode(login)));
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '{address}'}}\n{auth}",
            dir.join("storage").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut registry = Self {
            daemon: Daemon::start(
                peers,
                &format!("registry-{address}"),
                &peers.program("docker-registry"),
                ["serve".as_ref(), config.as_os_str()],
                &[],
            ),
            dir,
            address,
            authorization,
        };
        let address = registry.address.clone();
        registry.daemon.wait_ready(Duration::from_secs(20), || {
            http::request(&address, "GET", "/v2/", &[], &[])
                .is_ok_and(|reply| [200, 401].contains(&reply.status))
        });
        registry
    }

    /// `127.0.0.1:<port>`: what an image reference starts with.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder of its content.
    pub fn storage(&self) -> PathBuf {
        self.dir.join("storage")
    }

    /// The requests answered so far, oldest first, as `GET /v2/… `; what started the registry included.
    pub fn requests(&self) -> Vec<String> {
        let log = self.daemon.log();
        let quoted = log.lines().filter_map(|line| line.split('"').nth(1));
        quoted.filter_map(|r| r.split_once(" HTTP/")).map(|(request, _)| request.to_owned()).collect()
    }

    /// The requests of one program, by how its `User-Agent` starts, oldest first.
    pub fn requests_of(&self, agent: &str) -> Vec<String> {
        let log = self.daemon.log();
        let fields = log.lines().map(|line| line.split('"').collect::<Vec<_>>());
        let of_agent = fields.filter(|f| f.get(5).is_some_and(|found| found.starts_with(agent)));
        of_agent.filter_map(|f| f[1].split_once(" HTTP/").map(|(request, _)| request.to_owned())).collect()
    }

    /// The registry goes away; what asks it meets a refused connection.
    pub fn stop(&mut self) {
        self.daemon.kill();
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let started = self.send("POST", &uploads, &[], &[], 202);
        let location = started.header("location").expect("an upload has a location").to_owned();
        let target = location.split_once(&self.address).map_or(location.as_str(), |(_, path)| path);
        let target = format!("{target}&digest={digest}");
        self.send("PUT", &target, &[("Content-Type", "application/octet-stream")], bytes, 201);
        digest
    }

    /// Stores a manifest under a tag or its own digest; answers with the digest.
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> String {
        let target = format!("/v2/{repository}/manifests/{reference}");
        self.send("PUT", &target, &[("Content-Type", media_type)], bytes, 201);
        digest(bytes)
    }

    /// Points a tag at what another tag of the same repository points at.
    pub fn move_tag(&self, repository: &str, tag: &str, to: &str) {
        let source = format!("/v2/{repository}/manifests/{to}");
        let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
        let reply = self.send("GET", &source, &accept, &[], 200);
        let media_type = reply.header("content-type").expect("a manifest has a type").to_owned();
        self.put_manifest(repository, tag, &media_type, &reply.body);
    }

    fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        want: u16,
    ) -> http::Reply {
        let authorization = self.authorization.as_ref().map(|value| ("Authorization", value.as_str()));
        let headers: Vec<_> = headers.iter().copied().chain(authorization).collect();
        let reply = http::request(&self.address, method, target, &headers, body)
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"));
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, want, "{method} {target}: {text}");
        reply
    }
}
