//! A policy on trial, that only audits, beside policies that refuse: it decides nothing, and takes nothing from what does.

use std::time::Duration;

use crivet::cri::v1;
use prost::Message;
use serde_json::json;

use super::node::{Gate, Node, allowed, create, refusal};
use super::registry::{Image, digest_of};
use super::runtime::REMOVE;
use super::signer::Signer;
use crate::registry::fake::endless;
use crate::support::client::CREATE;

const DENIED: &str = "SignatureValidationFailed: image ";
const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";

/// A ClusterImagePolicy, which has to hold beside whatever else covers its images.
fn beside(node: &Node, signer: &Signer) -> String {
    let pem: String = signer.pem().lines().map(|line| format!("          {line}\n")).collect();
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: beside}}\nspec:\n  \
         images: [{{glob: '{}/**'}}]\n  authorities:\n  - key:\n      data: |\n{pem}",
        node.host()
    )
}

fn on_trial(text: &str) -> String {
    text.replace("\nspec:\n", "\nspec:\n  mode: audit\n")
}

/// An image that the runtime has, signed by the node's key or not, and a policy that refuses what is not.
async fn node(signed: bool, trial: impl Fn(&Node, &Image) -> String) -> (Node, Gate, Image, String) {
    let node = Node::new().await;
    let image = if signed { node.push_signed("app", "1", "one") } else { node.push("app", "1", "one") };
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    node.policy("beside.yaml", &beside(&node, &node.signer));
    node.policy("a-trial.yaml", &trial(&node, &image));
    let gate = node.enforce().await;
    (node, gate, image, name)
}

#[tokio::test]
async fn denial_on_trial_lets_nothing_pass_that_another_policy_refuses() {
    let (_node, gate, image, name) = node(false, |node, _| on_trial(&node.denying("trial"))).await;
    for text in [refusal(&gate.pull(&name).await), refusal(&gate.create(&image.id(), &name).await)] {
        assert!(text.starts_with(DENIED) && text.contains("policy beside "), "{text}");
    }
}

#[tokio::test]
async fn what_is_on_trial_is_recorded_where_the_others_hold() {
    let (node, gate, image, name) = node(true, |node, _| on_trial(&node.denying("trial"))).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let record = node.record("the denial", |r| r["decision"] == "denied").await;
    assert_eq!((&record["effective"], &record["reason"]), (&json!("forwarded"), &json!("DeniedByPolicy")));
    let names: Vec<_> = record["policies"].as_array().unwrap().iter().map(|policy| &policy["name"]).collect();
    assert_eq!(names, [&json!("beside"), &json!("trial")]);
}

#[tokio::test]
async fn denial_by_digest_on_trial_does_not_stand_before_one_that_refuses() {
    let denying = |node: &Node, image: &Image, name: &str, pattern: &str| {
        let digest = format!("/{pattern}@{}'", image.digest());
        node.denying(name).replace("/**'", &digest)
    };
    let (node, gate, image, name) =
        node(true, |node, image| on_trial(&denying(node, image, "trial", "**"))).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    node.policy("b-denied.yaml", &denying(&node, &image, "denied", "app"));
    gate.reload().await;
    for text in [refusal(&gate.pull(&name).await), refusal(&gate.create(&image.id(), &name).await)] {
        assert!(text.starts_with(DENIED) && text.contains("policy denied "), "{text}");
    }
}

#[tokio::test]
async fn denial_by_digest_on_trial_lets_nothing_pass_that_another_policy_refuses() {
    let trial = |node: &Node, image: &Image| {
        on_trial(&node.denying("trial").replace("/**'", &format!("/**@{}'", image.digest())))
    };
    let (_node, gate, image, name) = node(false, trial).await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(DENIED) && text.contains("policy beside "), "{text}");
}

#[tokio::test]
async fn container_on_other_layers_is_removed_although_a_trial_does_not_hold() {
    let trial = |node: &Node, _: &Image| on_trial(&node.signed_by("trial", &Signer::new(), ""));
    let (node, gate, image, name) = node(true, trial).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    node.runtime.state().parent = Some(digest_of(b"other layers"));
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains(&digest_of(b"other layers")), "{text}");
    assert_eq!(node.runtime.calls(REMOVE).len(), 1);
}

#[tokio::test]
async fn trial_that_waits_for_a_registry_does_not_make_the_call_late() {
    let trial = |node: &Node, _: &Image| {
        let policy = on_trial(&node.signed_by("trial", &Signer::new(), ""));
        format!("{policy}    evidence: [{{repository: {}}}]\n", node.named("slow"))
    };
    let (node, gate, image, name) = node(true, trial).await;
    let volume = node.push_signed("volume", "1", "files");
    let volume_name = node.named("volume:1");
    node.runtime.preloaded(&volume_name, &volume);
    node.registry
        .instead(|seen| seen.path.starts_with("/v2/slow/").then(|| endless(b"", Duration::from_secs(3600))));
    // Nor for another image of the call, which comes after it.
    let mut call = create("prod", &image.id(), &name);
    let mount = v1::ImageSpec { image: volume.id(), user_specified_image: volume_name, ..Default::default() };
    call.config.as_mut().unwrap().mounts.push(v1::Mount { image: Some(mount) });
    let answer = gate.timed(CREATE, "4S", call.encode_to_vec()).await;
    assert!(allowed(&answer), "{answer:?}");
    let record = node.record("the trial", |r| r["decision"] == "undecided").await;
    assert_eq!((&record["effective"], &record["reason"]), (&json!("forwarded"), &json!("TooSlow")));
}
