//! Trusted roots in a running daemon: from a repository, from a document, after a restart without either.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cli::crivet;
use super::node::{Node, allowed};
use crate::support::{until, within};
use crate::trust::{FIXTURES, lay, repository};

/// The daemon's lines for a root "corp" of this mirror.
pub(super) fn section(node: &Node, mirror: &Path) -> String {
    let anchor: PathBuf = node.place.path().join("root.json");
    fs::copy(Path::new(FIXTURES).join("good/1.root.json"), &anchor).unwrap();
    fs::set_permissions(&anchor, fs::Permissions::from_mode(0o644)).unwrap();
    format!(
        "trust: {{roots: [{{name: public-good, embedded: {{}}}}, {{name: corp, tuf: {{mirror: 'file://{}', root: {}}}}}]}}\n",
        mirror.display(),
        anchor.display()
    )
}

async fn shown(node: &Node, what: &str, holds: impl Fn(&str) -> bool) -> String {
    within(what, 60, async {
        loop {
            let page = node.metrics().await;
            if holds(&page) {
                return page;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await
}

fn version(page: &str, root: &str) -> String {
    let line =
        page.lines().find(|line| line.starts_with(&format!("crivet_trust_root_info{{root=\"{root}\"")));
    line.unwrap_or_default().split("version=\"").nth(1).unwrap_or_default().to_owned()
}

/// A policy for other images, that rests on this root.
pub(super) fn rests_on(root: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: other}}\nspec:\n  images: ['other.test/**']\n  \
         requirements:\n    keyless:\n    - trustRoot: {root}\n      identities: [{{issuer: 'https://a.test', subject: b}}]\n"
    )
}

#[tokio::test]
async fn new_material_that_no_policy_rests_on_leaves_permits() {
    let node = Node::strict().await;
    let image = node.push_signed("signed", "1", "one");
    let signed = node.named("signed:1");
    let mirror = repository(&[]);
    let gate = node.serve(&format!("mode: enforce\n{}", section(&node, mirror.path()))).await;
    let usable = "\ncrivet_trust_root_usable{root=\"corp\"} 1\n";
    let first = shown(&node, "the repository's root", |page| page.contains(usable)).await;
    assert!(allowed(&gate.pull(&signed).await));
    assert!(allowed(&gate.create(&image.id(), &signed).await));
    lay(mirror.path(), "newer");
    shown(&node, "the newer root", |page| version(page, "corp") != version(&first, "corp")).await;
    assert!(allowed(&gate.create(&image.id(), &signed).await));
    assert_eq!(node.metric("crivet_permits_used_total").await, 1.0);
}

#[tokio::test]
async fn policy_that_names_a_root_nobody_has_is_bad() {
    let node = Node::strict().await;
    let gate = node.audit().await;
    node.policy("other.yaml", &rests_on("corp"));
    gate.reload().await;
    let expected = "other.yaml:1: expected a trusted root of trust.roots or of a TrustRoot document (public-good), found \"corp\"; add it, or name another";
    let said = gate.crivet.log();
    assert!(said.contains(expected), "{said}");
    let policies = node.policies();
    let ended = crivet(&["verify", "--policy", policies.to_str().unwrap(), &node.named("app:1")]).await;
    assert_eq!(ended.code, Some(78));
    assert!(ended.err.contains(expected), "{}", ended.err);
}

#[tokio::test]
async fn new_material_is_taken_over_voids_permits_and_outlives_its_source() {
    let node = Node::strict().await;
    let image = node.push_signed("signed", "1", "one");
    let signed = node.named("signed:1");
    let mirror = repository(&[]);
    let section = section(&node, mirror.path());
    node.policy("other.yaml", &rests_on("corp"));
    let gate = node.serve(&format!("mode: enforce\n{section}")).await;
    let usable = "\ncrivet_trust_root_usable{root=\"corp\"} 1\n";
    let first = shown(&node, "the repository's root", |page| page.contains(usable)).await;
    assert!(first.contains("\ncrivet_trust_root_usable{root=\"public-good\"} 1\n"));
    assert!(
        first.contains("crivet_trust_root_metadata_expiry_timestamp_seconds{root=\"corp\"} 4891363200\n")
    );

    // A permit that is held rests on the roots as they are.
    assert!(allowed(&gate.pull(&signed).await));
    assert!(allowed(&gate.create(&image.id(), &signed).await));
    assert!(allowed(&gate.create(&image.id(), &signed).await));
    assert_eq!(node.metric("crivet_permits_used_total").await, 1.0);
    lay(mirror.path(), "newer");
    let second =
        shown(&node, "the newer root", |page| version(page, "corp") != version(&first, "corp")).await;
    assert_eq!(version(&second, "public-good"), version(&first, "public-good"));
    shown(&node, "the permits are void", |page| page.contains("\ncrivet_permits_held 0\n")).await;
    assert!(allowed(&gate.create(&image.id(), &signed).await));
    assert_eq!(node.metric("crivet_permits_used_total").await, 1.0);

    // The repository is gone, and crivet is started anew.
    drop(gate);
    drop(mirror);
    let gate = node.start(&[]).await;
    until("the vetter is ready", 20, || gate.readied() > 0).await;
    let third = shown(&node, "what was kept", |page| page.contains(usable)).await;
    assert_eq!(version(&third, "corp"), version(&second, "corp"));
    let failing = "\ncrivet_trust_root_refresh_failures{root=\"corp\"} ";
    shown(&node, "the repository that is away", |page| {
        page.contains(failing) && !page.contains(&format!("{failing}0\n"))
    })
    .await;
    until("its absence is told", 20, || gate.crivet.log().contains("timestamp.json not found")).await;
    assert!(allowed(&gate.create(&image.id(), &signed).await));
}

#[tokio::test]
async fn root_of_a_document_is_there_and_takes_no_configured_name() {
    let node = Node::strict().await;
    let document = |name| fs::read_to_string(Path::new(FIXTURES).join("documents").join(name)).unwrap();
    node.policy("keys.yaml", &document("keys.yaml"));
    node.policy("packed.yaml", &document("repository.yaml"));
    let gate = node.audit().await;
    for root in ["keys", "packed", "public-good"] {
        let line = format!("\ncrivet_trust_root_usable{{root=\"{root}\"}} 1\n");
        shown(&node, root, |page| page.contains(&line)).await;
    }
    node.policy("clash.yaml", &document("keys.yaml").replace("name: keys", "name: public-good"));
    gate.reload().await;
    let said = gate.crivet.log();
    assert!(
        said.contains(
            "clash.yaml:4: metadata.name: expected another name than in trust.roots, found public-good"
        ),
        "{said}"
    );
    node.policy("clash.yaml", &document("keys.yaml"));
    gate.reload().await;
    assert!(gate.crivet.log().contains("expected a TrustRoot's name of its own"), "{}", gate.crivet.log());
}
