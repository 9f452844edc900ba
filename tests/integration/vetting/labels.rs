//! Policies for pods with labels: they only add to what holds without them.

use prost::Message;

use super::cli::crivet;
use super::node::{Gate, Node, allowed, create, pull, refusal};
use super::registry::Image;
use super::signer::Signer;
use crate::support::client::{Answer, CREATE, PULL};

const DENIED: &str = "SignatureValidationFailed: image ";
const PAYMENTS: &[(&str, &str)] = &[("team", "payments"), ("io.kubernetes.pod.name", "web-1")];
const OTHERS: &[(&str, &str)] = &[("team", "others"), ("io.kubernetes.pod.name", "web-2")];

async fn created(gate: &Gate, image: &Image, name: &str, labels: &[(&str, &str)]) -> Answer {
    let mut message = create("prod", &image.id(), name);
    let pod = message.sandbox_config.as_mut().unwrap();
    pod.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    gate.client.call(CREATE, &message.encode_to_vec()).await
}

/// A signed image on a node, and a policy for the payments team that asks for another signer, with these lines.
async fn node(spec: &str) -> (Node, Signer, Image, String) {
    let node = Node::new().await;
    let (other, image, name) = (Signer::new(), node.push_signed("app", "1", "one"), node.named("app:1"));
    node.runtime.preloaded(&name, &image);
    let added = node.signed_by("payments", &other, &format!("  podLabels: {{team: payments}}\n{spec}"));
    node.policy("payments.yaml", &added);
    (node, other, image, name)
}

fn everybody(node: &Node) {
    node.policy("all.yaml", &node.signed_by("all", &node.signer, ""));
}

#[tokio::test]
async fn pod_with_the_label_is_asked_for_more_and_no_other() {
    let (node, other, image, name) = node("").await;
    everybody(&node);
    let gate = node.enforce().await;
    // The one's permit is not the other's.
    assert!(allowed(&created(&gate, &image, &name, OTHERS).await));
    let text = refusal(&created(&gate, &image, &name, PAYMENTS).await);
    assert!(text.starts_with(DENIED) && text.contains("policy payments "), "{text}");
    assert!(allowed(&created(&gate, &image, &name, OTHERS).await));
    assert!(allowed(&created(&gate, &image, &name, &[]).await));
    // Signed by the other alone it is not loosened either.
    let alone = node.push("alone", "1", "two");
    node.registry.sign("alone", &alone, &other);
    node.runtime.preloaded(&node.named("alone:1"), &alone);
    let text = refusal(&created(&gate, &alone, &node.named("alone:1"), PAYMENTS).await);
    assert!(text.starts_with(DENIED) && text.contains("policy all "), "{text}");
    // By both it runs.
    let name = node.named("alone");
    let both = [&other, &node.signer].map(|signer| signer.sign(&alone.digest(), &name));
    node.registry.put_signatures("alone", &alone.digest(), &both);
    tokio::time::sleep(std::time::Duration::from_millis(5100)).await;
    assert!(allowed(&created(&gate, &alone, &node.named("alone:1"), PAYMENTS).await));
}

#[tokio::test]
async fn what_no_other_policy_covers_is_unmatched_whatever_the_labels() {
    let (node, other, image, name) = node("").await;
    node.registry.sign("app", &image, &other);
    let gate = node.serve("mode: enforce\nunmatched: deny\n").await;
    for labels in [PAYMENTS, OTHERS] {
        let text = refusal(&created(&gate, &image, &name, labels).await);
        assert!(text.starts_with(DENIED) && text.contains("found none and unmatched: deny"), "{text}");
    }
    // Nor does one that only audits let it pass.
    node.policy(
        "payments.yaml",
        &node.signed_by("payments", &other, "  mode: audit\n  podLabels: {team: payments}\n"),
    );
    gate.reload().await;
    assert!(refusal(&created(&gate, &image, &name, PAYMENTS).await).contains("unmatched: deny"));
    // Where what is unmatched is allowed, it adds.
    node.policy(
        "payments.yaml",
        &node.signed_by("payments", &Signer::new(), "  podLabels: {team: payments}\n"),
    );
    node.configure("mode: enforce\nunmatched: allow\n");
    gate.reload().await;
    assert!(allowed(&created(&gate, &image, &name, OTHERS).await));
    assert!(refusal(&created(&gate, &image, &name, PAYMENTS).await).contains("policy payments "));
}

#[tokio::test]
async fn policy_for_labels_on_trial_takes_nothing_from_what_refuses() {
    let (node, _, image, name) = node("  mode: audit\n").await;
    everybody(&node);
    let gate = node.enforce().await;
    assert!(allowed(&created(&gate, &image, &name, PAYMENTS).await));
    let record = node.record("the trial", |r| r["decision"] == "denied").await;
    assert_eq!(record["effective"], "forwarded");
    let unsigned = node.push("unsigned", "1", "two");
    node.runtime.preloaded(&node.named("unsigned:1"), &unsigned);
    let text = refusal(&created(&gate, &unsigned, &node.named("unsigned:1"), PAYMENTS).await);
    assert!(text.contains("policy all "), "{text}");
}

#[tokio::test]
async fn in_audit_mode_what_labels_add_is_recorded() {
    let (node, _, image, name) = node("").await;
    everybody(&node);
    let gate = node.audit().await;
    for (labels, decision) in [(OTHERS, "allowed"), (PAYMENTS, "denied")] {
        assert!(allowed(&created(&gate, &image, &name, labels).await));
        node.record(decision, |r| r["decision"] == decision && r["effective"] == "forwarded").await;
    }
}

#[tokio::test]
async fn pull_for_a_pod_is_asked_for_what_its_labels_add() {
    let (node, _, _, name) = node("").await;
    everybody(&node);
    let gate = node.enforce().await;
    let mut message = pull(&name);
    message.sandbox_config.as_mut().unwrap().labels = [("team".to_owned(), "payments".to_owned())].into();
    let text = refusal(&gate.client.call(PULL, &message.encode_to_vec()).await);
    assert!(text.contains("policy payments "), "{text}");
    assert!(allowed(&gate.pull(&name).await));
}

#[tokio::test]
async fn verify_decides_as_for_a_pod_with_labels() {
    let (node, _, _, name) = node("").await;
    everybody(&node);
    let policies = node.policies();
    let verify = |more: &'static [&'static str]| {
        let arguments =
            [&["verify", "--policy", policies.to_str().unwrap()], more, &[name.as_str()]].concat();
        async move { crivet(&arguments).await }
    };
    assert_eq!(verify(&[]).await.code, Some(0));
    assert_eq!(verify(&["--pod-label", "team=others"]).await.code, Some(0));
    let ended = verify(&["--pod-label", "tier=web", "--pod-label", "team=payments"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("policy payments (payments.yaml:1): denied"), "{}", ended.out);
    let wrong = verify(&["--pod-label", "team"]).await;
    assert!(wrong.code == Some(64) && wrong.err.contains("expected KEY=VALUE"), "{}", wrong.err);
}
