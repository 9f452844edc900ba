//! Hosts that stand for a registry: who is asked, in which order, and as whom.

use std::sync::Arc;

use crivet::image::{Digest, Reference};
use crivet::registry::{
    Cap, Cause, Client, Credential, HostFiles, HostsError, Outcome, Settings, Unreachable,
};

use tokio::net::TcpSocket;

use super::fake::{Fake, Reply, Seen, reply};
use super::{MANIFEST, good_manifest, observed_with, repo, serving, settings, soon};

const BASIC: &str = "Basic dTpw";

/// The folder of a runtime's configuration.
struct Etc(tempfile::TempDir);

impl Etc {
    /// A `hosts.toml` for a registry.
    fn containerd(registry: &Fake, text: &str) -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        etc.put(registry, text);
        etc
    }

    fn put(&self, registry: &Fake, text: &str) {
        let dir = self.0.path().join(registry.host().replace(':', "_") + "_");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    fn settings(&self) -> Settings {
        Settings { hosts: HostFiles::Containerd(vec![self.0.path().to_owned()]), ..settings() }
    }

    fn client(&self) -> Client {
        Client::new(&self.settings(), Arc::new(|_| {})).unwrap()
    }
}

fn mirror(fake: &Fake, more: &str) -> String {
    format!("[host.\"http://{}\"]\n{more}\n", fake.host())
}

fn mirror_at(nobody: &Nobody) -> String {
    format!("[host.\"http://{}\"]\n", nobody.1)
}

/// An address where nobody listens. It is bound, so that nobody else gets it meanwhile.
struct Nobody(#[expect(dead_code, reason = "held")] TcpSocket, String);

fn nobody() -> Nobody {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    Nobody(socket, address)
}

async fn manifest(client: &Client, registry: &Fake) -> Result<Digest, crivet::registry::FetchError> {
    let digest = Digest::of(MANIFEST.as_bytes());
    let fetched = client.manifest(&repo(registry), &digest, &Credential::Anonymous, soon()).await;
    fetched.map(|fetched| fetched.digest)
}

fn paths(fake: &Fake) -> Vec<String> {
    fake.seen().into_iter().map(|seen| seen.path).collect()
}

fn not_found() -> Reply {
    reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#)
}

/// Wants [`BASIC`], and then gives the manifest.
fn private(seen: &Seen) -> Reply {
    match seen.authorization.as_deref() {
        Some(BASIC) => good_manifest(),
        _ => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], ""),
    }
}

#[tokio::test]
async fn mirror_is_asked_first_and_told_which_registry_is_meant() {
    let (registry, first) = (serving(|_| good_manifest()).await, serving(|_| good_manifest()).await);
    let etc = Etc::containerd(&registry, &mirror(&first, ""));
    manifest(&etc.client(), &registry).await.unwrap();
    let ns = registry.host().replace(':', "%3A");
    let digest = Digest::of(MANIFEST.as_bytes());
    assert_eq!(paths(&first), [format!("/v2/team/app/manifests/{digest}?ns={ns}")]);
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn mirror_that_does_not_have_it_is_followed_by_the_next() {
    for status in [404, 401, 403, 418, 429, 500] {
        let (registry, first) =
            (serving(|_| good_manifest()).await, serving(move |_| reply(status, &[], "")).await);
        let etc = Etc::containerd(&registry, &mirror(&first, ""));
        manifest(&etc.client(), &registry).await.unwrap();
        assert_eq!((first.seen().len(), registry.seen().len()), (1, 1), "{status}");
    }
}

#[tokio::test]
async fn mirror_that_gives_other_bytes_is_followed_by_the_next() {
    let (registry, first) = (serving(|_| good_manifest()).await, serving(|_| reply(200, &[], "{}")).await);
    let etc = Etc::containerd(&registry, &mirror(&first, ""));
    assert_eq!(manifest(&etc.client(), &registry).await.unwrap(), Digest::of(MANIFEST.as_bytes()));
    let (repo, digest) = (repo(&registry), Digest::of(MANIFEST.as_bytes()));
    let blob = etc.client().blob(&repo, &digest, Cap::CONFIG, &Credential::Anonymous, soon()).await;
    assert_eq!(blob.unwrap(), MANIFEST);
}

#[tokio::test]
async fn other_bytes_from_every_host_are_told_by_host() {
    let (registry, first) = (serving(|_| not_found()).await, serving(|_| reply(200, &[], "{}")).await);
    let etc = Etc::containerd(&registry, &mirror(&first, ""));
    let error = manifest(&etc.client(), &registry).await.unwrap_err();
    assert!(
        matches!(error.cause, Cause::DigestMismatch { .. })
            && !error.is_not_found()
            && !error.is_unreachable()
    );
    let (expected, found) = (Digest::of(MANIFEST.as_bytes()), Digest::of(b"{}"));
    assert_eq!(
        error.to_string(),
        format!(
            "manifest {}/team/app@{expected}: asked {}: digest mismatch: expected {expected}, found {found}; \
             {}: not found (MANIFEST_UNKNOWN)",
            registry.host(),
            first.host(),
            registry.host()
        )
    );
}

#[tokio::test]
async fn mirror_that_is_down_is_passed_over_for_a_while() {
    let (registry, gone) = (serving(|_| good_manifest()).await, nobody());
    let etc = Etc::containerd(&registry, &mirror_at(&gone));
    let (client, outcomes) = observed_with(&etc.settings());
    for _ in 0..3 {
        manifest(&client, &registry).await.unwrap();
    }
    assert_eq!(*outcomes.lock().unwrap(), [Outcome::Unreachable, Outcome::Ok, Outcome::Ok, Outcome::Ok]);
}

#[tokio::test]
async fn what_a_mirror_that_is_down_may_have_is_not_absent() {
    let (registry, gone) = (serving(|_| not_found()).await, nobody());
    let etc = Etc::containerd(&registry, &mirror_at(&gone));
    let client = etc.client();
    // The second time it is passed over, and says the same.
    for _ in 0..2 {
        let error = manifest(&client, &registry).await.unwrap_err();
        assert_eq!(error.cause, Cause::Unreachable(Unreachable::Refused));
        assert!(error.is_unreachable() && !error.is_not_found());
    }
    let absent = serving(|_| not_found()).await;
    etc.put(&registry, &mirror(&absent, ""));
    assert!(manifest(&etc.client(), &registry).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn the_registrys_credential_is_not_shown_to_a_mirror() {
    let (registry, first) = (serving(private).await, serving(private).await);
    let etc = Etc::containerd(&registry, &mirror(&first, ""));
    let credential = Credential::basic("u", "p");
    let fetched = etc.client().manifest_by_tag(&repo(&registry), "v1", &credential, soon()).await;
    assert!(fetched.is_ok());
    assert_eq!(first.seen().len(), 1);
    assert!(first.seen().iter().all(|seen| seen.authorization.is_none()));
    assert!(registry.seen().iter().any(|seen| seen.authorization.as_deref() == Some(BASIC)));
}

#[tokio::test]
async fn a_mirrors_own_credential_is_shown_to_it_only() {
    let (registry, first) = (serving(private).await, serving(private).await);
    let etc = Etc::containerd(&registry, &mirror(&first, "capabilities = [\"pull\"]"));
    let own = first.host();
    let client = etc.client().with_mirror_credentials(Arc::new(move |host, repository| {
        let own = host == own && repository == "team/app";
        if own { Credential::basic("u", "p") } else { Credential::Anonymous }
    }));
    manifest(&client, &registry).await.unwrap();
    assert!(registry.seen().is_empty());
    let none = Credential::Anonymous;
    let error = client.manifest_by_tag(&repo(&registry), "v1", &none, soon()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Unauthorized(_)));
    assert!(registry.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn headers_go_to_their_host_and_not_to_where_it_sends_us() {
    let store = serving(|_| good_manifest()).await;
    let to = format!("http://{}/store", store.host());
    let (registry, first) =
        (serving(|_| good_manifest()).await, serving(move |_| reply(307, &[("location", &to)], "")).await);
    let header = "header = {Authorization = \"Basic eDp5\", X-Test = [\"a\", \"b\"], Host = \"evil.example\", User-Agent = \"own\"}";
    let etc = Etc::containerd(&registry, &mirror(&first, header));
    manifest(&etc.client(), &registry).await.unwrap();
    let [seen] = &first.seen()[..] else { panic!("asked once") };
    assert_eq!(seen.authorization.as_deref(), Some("Basic eDp5"));
    assert_eq!(seen.headers.get_all("x-test").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        (&seen.headers["host"], &seen.headers["user-agent"]),
        (&first.host().parse().unwrap(), &"own".parse().unwrap())
    );
    let [seen] = &store.seen()[..] else { panic!("asked once") };
    assert_eq!((seen.authorization.as_deref(), seen.headers.get("x-test")), (None, None));
    assert_eq!(seen.headers["user-agent"], "crivet/test");
}

#[tokio::test]
async fn names_are_resolved_only_where_that_is_allowed_and_evidence_is_looked_for_everywhere() {
    let (registry, first) = (serving(|_| good_manifest()).await, serving(|_| good_manifest()).await);
    let etc = Etc::containerd(&registry, &mirror(&first, "capabilities = [\"pull\"]"));
    let (client, repo, none) = (etc.client(), repo(&registry), Credential::Anonymous);
    client.manifest_by_tag(&repo, "v1", &none, soon()).await.unwrap();
    client.head(&repo, "v1", &none, soon()).await.unwrap();
    assert_eq!((first.seen().len(), registry.seen().len()), (0, 2));
    client.evidence_by_tag(&repo, "sha256-00.sig", &none, soon()).await.unwrap();
    client.evidence_head(&repo, "sha256-00.sig", &none, soon()).await.unwrap();
    assert_eq!((first.seen().len(), registry.seen().len()), (2, 2));
}

#[tokio::test]
async fn a_changed_file_is_read_again() {
    let (registry, first) = (serving(|_| good_manifest()).await, serving(|_| good_manifest()).await);
    let etc = Etc::containerd(&registry, &mirror(&first, ""));
    let client = etc.client();
    manifest(&client, &registry).await.unwrap();
    client.reread_hosts();
    etc.put(&registry, "# none");
    manifest(&client, &registry).await.unwrap();
    assert_eq!((first.seen().len(), registry.seen().len()), (2, 0));
    client.reread_hosts();
    manifest(&client, &registry).await.unwrap();
    assert_eq!((first.seen().len(), registry.seen().len()), (2, 1));
}

#[tokio::test]
async fn nobody_to_ask_says_which_file_or_entry_is_why() {
    let registry = serving(|_| good_manifest()).await;
    let etc = Etc::containerd(&registry, &mirror(&registry, "capabilities = [\"push\"]"));
    etc.put(&registry, "server = \"http://localhost:1\"\ncapabilities = [\"push\"]");
    let error = manifest(&etc.client(), &registry).await.unwrap_err();
    assert_eq!(error.cause, Cause::Hosts(HostsError::Incapable("pull")));
    assert!(!error.is_unreachable() && !error.is_not_found());
    etc.put(&registry, "ca = \"ca.crt\"");
    let error = manifest(&etc.client(), &registry).await.unwrap_err();
    assert!(error.to_string().contains("ca.crt: expected a certificate or key, found no file"), "{error}");
    assert!(error.is_unreachable() && registry.seen().is_empty());
}

/// A registry that registries.conf says something about.
async fn insecure(text: &str) -> (Fake, Client, tempfile::TempDir) {
    let registry = serving(|_| good_manifest()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registries.conf");
    std::fs::write(&file, format!("[[registry]]\nlocation = \"{}\"\n{text}", registry.host())).unwrap();
    let settings = Settings { hosts: HostFiles::Containers(file), ..settings() };
    (registry, Client::new(&settings, Arc::new(|_| {})).unwrap(), dir)
}

#[tokio::test]
async fn insecure_registry_without_tls_is_spoken_to_in_the_clear() {
    let (registry, client, _dir) = insecure("insecure = true").await;
    for _ in 0..2 {
        manifest(&client, &registry).await.unwrap();
    }
    assert_eq!(registry.seen().len(), 2);
    // TLS was tried before the first request only.
    assert_eq!(client.requests(), 3);
}

#[tokio::test]
async fn registry_without_tls_is_not_spoken_to_in_the_clear_unless_it_is_insecure() {
    let (registry, client, _dir) = insecure("").await;
    let error = manifest(&client, &registry).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable(Unreachable::Tls));
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn a_name_is_rewritten_for_a_mirror_of_registries_conf() {
    let mirror = serving(|_| good_manifest()).await;
    let text = format!("[[registry.mirror]]\nlocation = \"{}/deep/mirror\"\ninsecure = true", mirror.host());
    let (registry, client, _dir) = insecure(&text).await;
    let repo = Reference::parse(&format!("{}/team/app:v1", registry.host())).unwrap();
    client.manifest_by_tag(&repo, "v1", &Credential::basic("u", "p"), soon()).await.unwrap();
    assert_eq!(paths(&mirror), ["/v2/deep/mirror/team/app/manifests/v1"]);
    assert!(registry.seen().is_empty());
}
