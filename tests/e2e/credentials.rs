//! Registries that want credentials: whose are shown, when, and that nobody else ever sees them.

use crate::support::crivet::key_policy;
use crate::support::image::Pushed;
use crate::support::metrics::Metrics;
use crate::support::node::{DENIED, Node, Setup, UNDECIDED, assert_refused};
use crate::support::registry::Registry;
use crate::support::wait_for;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const LOGIN: &str = "puller:correct-horse";
/// What `htpasswd -B` makes of [`LOGIN`].
const HTPASSWD: &str = "puller:$2y$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n";
const WRONG: &str = "puller:wrong-staple";
/// Other wrong ones: the docker config's, and the credential provider's.
const OF_FILE: &str = "puller:filed-battery";
const OF_PROVIDER: &str = "puller:provided-crank";

/// A node and a registry beside the node's own that wants [`LOGIN`].
fn start(setup: &Setup<'_>) -> Option<(Registry, Node)> {
    let node = Node::start(setup)?;
    let private = Registry::start_private(&node.peers, LOGIN, HTPASSWD);
    node.containerd.may_pull_from(&private);
    node.cosign.log_in(private.address(), LOGIN);
    node.crivet.put_policies(&[
        key_policy("all", &node.glob("**"), &node.key),
        key_policy("private", &format!("{}/**", private.address()), &node.key),
    ]);
    Some((private, node))
}

fn push(node: &Node, registry: &Registry, name: &str, signed: bool) -> Pushed {
    let pushed = node.says(name).file("name", name).push(registry, name, "1");
    if signed {
        node.sign(&pushed);
    }
    pushed
}

#[test]
fn a_pulls_credential_is_shown_to_the_registry_and_held_for_later_creates() {
    let setup = Setup { settings: "vetting: {freshFor: 1s}\n", ..Setup::default() };
    let Some((private, node)) = start(&setup) else { return };
    let signed = push(&node, &private, "signed", true);
    node.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
    let pod = node.crictl().sandbox("private").unwrap();
    node.crictl().create("at-once", &pod, &signed).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let before = private.requests_of("crivet/").len();
    node.crictl().create("later", &pod, &signed).unwrap();
    let asked = private.requests_of("crivet/").split_off(before);
    assert!(asked.iter().any(|request| request.contains(".sig")), "not asked anew: {asked:?}");

    // It is held for its namespace: another one's pods did not bring it, and what is proven is shared.
    std::thread::sleep(Duration::from_millis(1100));
    let elsewhere = crate::support::crictl::named(&signed.id, &signed.reference);
    node.crictl().create_of("elsewhere", &pod, "other", &elsewhere, &json!([])).unwrap();
}

#[test]
fn a_create_without_a_credential_of_its_namespace_is_undecided() {
    let Some((private, node)) = start(&Setup::default()) else { return };
    let signed = push(&node, &private, "signed", true);
    node.containerd.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
    let pod = node.crictl().sandbox("private").unwrap();
    // The registry answered, and said no: it is not unavailable.
    assert_refused(
        node.crictl().create("c", &pod, &signed),
        UNDECIDED,
        &[&signed.reference, "the registry wants another login"],
    );
    node.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
    node.crictl().create("c", &pod, &signed).unwrap();
}

#[test]
fn one_credentials_refusal_is_not_anothers_answer() {
    let Some((private, node)) = start(&Setup::default()) else { return };
    let signed = push(&node, &private, "signed", true);
    let unsigned = push(&node, &private, "unsigned", false);
    for _ in 0..2 {
        for image in [&signed, &unsigned] {
            for creds in [WRONG, "nobody:"] {
                let refused = node.crictl().pull_as(&image.reference, "e2e", creds);
                assert_refused(
                    refused,
                    UNDECIDED,
                    &[&image.reference, "wants another login", "check the pull secret"],
                );
            }
        }
        node.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
        assert_refused(node.crictl().pull_as(&unsigned.reference, "e2e", LOGIN), DENIED, &[&unsigned.digest]);
    }
}

/// The node's own logins: files that only root may read, and a provider that everybody may run.
struct OfNode {
    dir: TempDir,
}

impl OfNode {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let of_node = Self { dir };
        fs::create_dir(of_node.file("bin")).unwrap();
        for folder in ["", "bin"] {
            fs::set_permissions(of_node.file(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        of_node
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.file(name), text).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn docker_config(&self, registry: &Registry, login: &str) {
        let config = json!({"auths": {registry.address(): {"auth": STANDARD.encode(login)}}});
        self.write("config.json", &config.to_string(), 0o600);
    }

    /// A provider that says this login, on its standard error too, and writes down as whom it ran.
    fn provider(&self, registry: &Registry, login: &str) {
        let (username, password) = login.split_once(':').unwrap();
        let answer = json!({"kind": "CredentialProviderResponse",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Registry",
            "auth": {registry.address(): {"username": username, "password": password}}});
        let script = format!(
            "#!/bin/sh\nid -u > {}\necho '{answer}' >&2\necho '{answer}'\n",
            self.file("user").display()
        );
        self.write("user", "", 0o666);
        self.write("bin/of-test", &script, 0o755);
        let host = registry.address();
        let config = json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
            "providers": [{"name": "of-test", "matchImages": [host], "defaultCacheDuration": "1h",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                "env": [{"name": "SECRET", "value": login}]}]});
        self.write("providers.yaml", &config.to_string(), 0o600);
    }

    fn settings(&self, what: &str) -> String {
        let at = |name: &str| self.file(name).display().to_string();
        let docker = format!("dockerConfigs: [{}]", at("config.json"));
        let providers = format!(
            "imageCredentialProviderConfig: {}, imageCredentialProviderBinDir: {}",
            at("providers.yaml"),
            at("bin")
        );
        let credentials = match what {
            "docker" => docker,
            "providers" => providers,
            _ => format!("{docker}, {providers}"),
        };
        format!("registry: {{credentials: {{{credentials}}}}}\n")
    }
}

/// Creates an image that came past crivet, so that no pull brought a login: as a vetter that runs as nobody.
fn created_with(what: &str, login: &str) -> Option<(OfNode, Result<String, String>)> {
    let of_node = OfNode::new();
    let settings = format!("vetterUser: nobody\n{}", of_node.settings(what));
    let (private, node) = start(&Setup { settings: &settings, ..Setup::default() })?;
    let signed = push(&node, &private, "signed", true);
    node.containerd.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
    match what {
        "docker" => of_node.docker_config(&private, login),
        _ => of_node.provider(&private, login),
    }
    node.crivet.reload();
    let pod = node.crictl().sandbox("private").unwrap();
    let created = node.crictl().create("c", &pod, &signed);
    Some((of_node, created))
}

#[test]
fn the_node_s_docker_config_is_used_where_no_pull_brought_a_login() {
    let Some((_, created)) = created_with("docker", LOGIN) else { return };
    created.unwrap();
    let Some((of_node, created)) = created_with("docker", WRONG) else { return };
    let file = of_node.file("config.json").display().to_string();
    assert_refused(
        created,
        UNDECIDED,
        &["the registry wants another login", &format!("refused logins: {file}")],
    );
}

#[test]
fn a_credential_provider_is_run_as_the_vetter_s_user_where_no_pull_brought_a_login() {
    let Some((of_node, created)) = created_with("providers", LOGIN) else { return };
    created.unwrap();
    let nobody = fs::read_to_string(of_node.file("user")).unwrap();
    assert_eq!(nobody.trim(), "65534");
    let Some((_, created)) = created_with("providers", WRONG) else { return };
    let provider = "refused logins: credential provider of-test";
    assert_refused(created, UNDECIDED, &["the registry wants another login", provider]);
}

#[test]
fn no_credential_is_written_anywhere() {
    let metrics = Metrics::unused();
    let of_node = OfNode::new();
    let settings = metrics.setting() + &of_node.settings("both");
    let setup = Setup { settings: &settings, rust_log: "trace", ..Setup::default() };
    let Some((private, node)) = start(&setup) else { return };
    let signed = push(&node, &private, "signed", true);
    node.containerd.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
    of_node.docker_config(&private, OF_FILE);
    of_node.provider(&private, OF_PROVIDER);
    node.crivet.reload();
    // All logins of the node's are refused, one after the other.
    let pod = node.crictl().sandbox("refused").unwrap();
    let refused = node.crictl().create("refused", &pod, &signed);
    assert_refused(refused, UNDECIDED, &["config.json, credential provider of-test"]);
    let (_, doctor) = node.crivet.json("doctor", &[]);
    let doctor = doctor.to_string();
    assert_eq!(doctor.matches("registry-login-refused").count(), 2, "{doctor}");
    // A broken file is told, and not shown.
    of_node.write("config.json", &format!("{{\"auths\": {{\"r\": {{\"auth\": [\"{OF_FILE}\"]}}}}}}"), 0o600);
    node.crivet.reload();
    wait_for("the broken file's warning", Duration::from_secs(10), || {
        node.crivet.log().contains("expected a docker config.json").then_some(())
    });
    assert!(node.crictl().pull_as(&signed.reference, "e2e", WRONG).is_err());
    node.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
    node.crictl().start("private", &signed).unwrap();
    let audit = wait_for("the records", Duration::from_secs(5), || {
        let audit = node.crivet.audit();
        (audit.len() >= 4).then(|| format!("{audit:?}"))
    });
    let log = node.crivet.log();
    assert!(log.contains("TRACE"), "nothing is traced");
    let page = metrics.page().unwrap().into_bytes();
    let kept = walk(&node.peers.path().join("crivet"));
    let written = [
        ("log", log.into_bytes()),
        ("audit log", audit.into_bytes()),
        ("metrics", page),
        ("files", kept),
        ("doctor", doctor.into_bytes()),
    ];
    for (where_, bytes) in written {
        assert!(!bytes.is_empty(), "no {where_}");
        for login in [LOGIN, WRONG, OF_FILE, OF_PROVIDER] {
            let (_, password) = login.split_once(':').unwrap();
            let debug = format!("{:?}", password.as_bytes());
            for secret in
                [password, &STANDARD.encode(login), &STANDARD.encode(password), &debug[1..debug.len() - 1]]
            {
                let found = bytes.windows(secret.len()).position(|window| window == secret.as_bytes());
                let around = found
                    .map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(300)..at + secret.len()]));
                assert_eq!(around, None, "a credential in the {where_}");
            }
        }
    }
}

/// The bytes of all files of a folder.
fn walk(folder: &std::path::Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            bytes.extend(walk(&entry.path()));
        } else if kind.is_file() {
            bytes.extend(fs::read(entry.path()).unwrap());
        }
    }
    bytes
}
