//! Images that a policy leaves out for a time.

use std::time::{Duration, SystemTime};

use crivet::audit::rfc3339;
use serde_json::json;

use super::node::{Gate, Node, allowed, refusal};
use super::registry::Image;

const DENIED: &str = "SignatureValidationFailed: image ";
const HOUR: Duration = Duration::from_secs(3600);

fn exempting(images: &str, expires: SystemTime) -> String {
    format!(
        "  exemptions: [{{images: ['{images}'], reason: not signed yet, expires: '{}'}}]\n",
        rfc3339(expires)
    )
}

/// A node in enforce mode whose runtime has an unsigned image under `app:1`, which is exempted so long.
async fn node(images: impl Fn(&Node, &Image) -> String, expires: SystemTime) -> (Node, Gate, Image, String) {
    let node = Node::new().await;
    let image = node.push("app", "1", "one");
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    let spec = exempting(&images(&node, &image), expires);
    node.policy("all.yaml", &node.signed_by("all", &node.signer, &spec));
    let gate = node.enforce().await;
    (node, gate, image, name)
}

fn by_name(node: &Node, _: &Image) -> String {
    node.named("app")
}

#[tokio::test]
async fn exempted_image_runs_and_each_use_is_told() {
    let expires = SystemTime::now() + HOUR;
    let (node, gate, image, name) = node(by_name, expires).await;
    assert!(allowed(&gate.pull(&name).await));
    for _ in 0..2 {
        assert!(allowed(&gate.create(&image.id(), &name).await));
    }
    let record = node.record("the record", |r| r["kind"] == "CreateContainer").await;
    assert_eq!((&record["decision"], &record["reason"]), (&json!("allowed"), &json!("Exempted")));
    let told = format!("policy all (all.yaml:1): exempted until {} (not signed yet)", rfc3339(expires));
    assert_eq!(record["message"], format!("image {name}: {told}"));
    // Neither the registry nor a permit that the relay holds: each is asked for, and counted.
    assert_eq!(node.metric("crivet_exemptions_used_total").await, 3.0);
    assert_eq!(node.metric("crivet_exemptions{state=\"in_force\"}").await, 1.0);
    assert!(
        !node.registry.asked().iter().any(|asked| asked.contains("sha256-") || asked.contains("referrers"))
    );
    // What is exempted is all that is.
    node.push("other", "1", "two");
    assert!(refusal(&gate.pull(&node.named("other:1")).await).starts_with(DENIED));
}

#[tokio::test]
async fn exemption_that_is_over_is_refused_and_says_since_when() {
    let expires = SystemTime::now() - HOUR;
    let (node, gate, image, name) = node(by_name, expires).await;
    let told =
        format!("found no signature, and its exemption ended at {} (not signed yet)", rfc3339(expires));
    for text in [refusal(&gate.pull(&name).await), refusal(&gate.create(&image.id(), &name).await)] {
        assert!(text.starts_with(DENIED) && text.contains(&told), "{text}");
    }
    assert_eq!(node.metric("crivet_exemptions{state=\"over\"}").await, 1.0);
    assert_eq!(node.metric("crivet_exemptions_used_total").await, 0.0);
    // Signed, it runs as any.
    node.registry.sign("app", &image, &node.signer);
    tokio::time::sleep(Duration::from_millis(5100)).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn permit_ends_with_its_exemption_though_no_vetter_lives() {
    let expires = SystemTime::now() + Duration::from_secs(6);
    let (_node, gate, image, name) = node(by_name, expires).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let killing = gate.keep_killing_the_vetter();
    assert!(allowed(&gate.create(&image.id(), &name).await), "held, while no vetter lives");
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left + Duration::from_millis(50)).await;
    assert!(refusal(&gate.create(&image.id(), &name).await).contains("vetter"));
    drop(killing);
}

#[tokio::test]
async fn exempted_digest_runs_by_its_content_under_every_name() {
    let by_digest = |node: &Node, image: &Image| format!("{}/**@{}", node.host(), image.digest());
    let (node, gate, image, name) = node(by_digest, SystemTime::now() + HOUR).await;
    assert!(allowed(&gate.pull(&name).await));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    node.record("the use", |r| r["reason"] == "Exempted" && r["digest"] == json!(image.digest())).await;
    // The same name with other content.
    node.push("app", "1", "two");
    assert!(refusal(&gate.pull(&name).await).starts_with(DENIED));
}

/// Under an exempted digest a runtime may have something else: an import gives its images whatever names it likes.
#[tokio::test]
async fn content_that_only_bears_an_exempted_digest_in_its_name_is_refused() {
    let by_digest = |node: &Node, image: &Image| format!("{}/**@{}", node.host(), image.digest());
    let (node, gate, image, _) = node(by_digest, SystemTime::now() + HOUR).await;
    let named = format!("{}@{}", node.named("app"), image.digest());
    assert!(allowed(&gate.pull(&node.named("app:1")).await));
    assert!(allowed(&gate.create(&image.id(), &named).await));
    let other = Image::new("not vouched for");
    node.runtime.preloaded(&named, &other);
    let text = refusal(&gate.create(&other.id(), &named).await);
    assert!(text.contains("undecided: ") && text.contains(&other.id()), "{text}");
    assert_eq!(node.runtime.containers(), 1);
}

#[tokio::test]
async fn denial_by_digest_beats_an_exemption() {
    let (node, gate, image, name) = node(by_name, SystemTime::now() + HOUR).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let denied = node.denying("denied").replace("/**'", &format!("/**@{}'", image.digest()));
    node.policy("denied.yaml", &denied);
    gate.reload().await;
    for text in [refusal(&gate.pull(&name).await), refusal(&gate.create(&image.id(), &name).await)] {
        assert!(text.starts_with(DENIED) && text.contains("policy denied "), "{text}");
    }
}

#[tokio::test]
async fn in_audit_mode_an_exemption_is_recorded_as_it_would_have_been() {
    let node = Node::new().await;
    let (past, future) = (SystemTime::now() - HOUR, SystemTime::now() + HOUR);
    for (name, expires) in [("past", past), ("future", future)] {
        node.push(name, "1", name);
        let policy = node.signed_by(name, &node.signer, &exempting(&node.named(name), expires));
        node.policy(&format!("{name}.yaml"), &policy.replace("/**'", &format!("/{name}'")));
    }
    let gate = node.audit().await;
    for (name, decision, reason) in
        [("past", "denied", "SignatureMissing"), ("future", "allowed", "Exempted")]
    {
        assert!(allowed(&gate.pull(&node.named(&format!("{name}:1"))).await));
        node.record(name, |r| {
            r["decision"] == decision && r["reason"] == reason && r["effective"] == "forwarded"
        })
        .await;
    }
}
