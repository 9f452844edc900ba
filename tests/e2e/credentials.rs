//! Registries that want credentials: whose are shown, when, and that nobody else ever sees them.

use crate::support::crivet::key_policy;
use crate::support::http;
use crate::support::image::Pushed;
use crate::support::node::{DENIED, Node, Setup, UNDECIDED, assert_refused};
use crate::support::registry::Registry;
use crate::support::{free_port, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::time::Duration;

const LOGIN: &str = "puller:correct-horse";
/// What `htpasswd -B` makes of [`LOGIN`].
const HTPASSWD: &str = "puller:$2y$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n";
const WRONG: &str = "puller:wrong-staple";

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

#[test]
fn no_credential_is_written_anywhere() {
    let metrics = format!("127.0.0.1:{}", free_port());
    let settings = format!("metricsAddress: {metrics}\n");
    let setup = Setup { settings: &settings, rust_log: "trace", ..Setup::default() };
    let Some((private, node)) = start(&setup) else { return };
    let signed = push(&node, &private, "signed", true);
    assert!(node.crictl().pull_as(&signed.reference, "e2e", WRONG).is_err());
    node.crictl().pull_as(&signed.reference, "e2e", LOGIN).unwrap();
    node.crictl().start("private", &signed).unwrap();
    let audit = wait_for("the records", Duration::from_secs(5), || {
        let audit = node.crivet.audit();
        (audit.len() >= 4).then(|| format!("{audit:?}"))
    });
    let log = node.crivet.log();
    assert!(log.contains("TRACE"), "nothing is traced");
    let page = http::request(&metrics, "GET", "/metrics", &[], &[]).unwrap().body;
    let kept = walk(&node.peers.path().join("crivet"));
    let written =
        [("log", log.into_bytes()), ("audit log", audit.into_bytes()), ("metrics", page), ("files", kept)];
    for (where_, bytes) in written {
        assert!(!bytes.is_empty(), "no {where_}");
        for login in [LOGIN, WRONG] {
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
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            bytes.extend(walk(&entry.path()));
        } else if kind.is_file() {
            bytes.extend(std::fs::read(entry.path()).unwrap());
        }
    }
    bytes
}
