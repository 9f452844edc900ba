//! RunPodSandbox in enforce mode: the pause image, which no call names.

use std::time::Duration;

use crivet::cri::v1;
use prost::Message;
use serde_json::json;

use super::layers::checked;
use super::node::{Gate, Node, allowed, pod, refusal};
use super::registry::{Image, digest_of};
use super::runtime::{CONTAINER, REMOVE_SANDBOX, SANDBOX, STOP_SANDBOX};
use crate::support::client::{Answer, PULL};
use crate::support::{framed, until};

const UNDECIDED: &str = "SignatureValidationFailed: undecided: ";

fn run() -> Vec<u8> {
    v1::RunPodSandboxRequest { config: Some(pod("prod")), ..Default::default() }.encode_to_vec()
}

impl Gate {
    async fn sandbox(&self) -> Answer {
        self.client.call(SANDBOX, &run()).await
    }
}

/// A node in enforce mode whose sandboxes are made of `pause:1`; the image is not there yet.
async fn node(signed: bool) -> (Node, Gate, Image) {
    let node = Node::strict().await;
    let image = node.push("pause", "1", "pause");
    if signed {
        node.registry.sign("pause", &image, &node.signer);
    }
    let name = node.named("pause:1");
    node.runtime.state().pause = name.clone();
    let gate = node.serve(&format!("mode: enforce\npauseImage: {name}\n")).await;
    (node, gate, image)
}

#[tokio::test]
async fn absent_pause_image_is_vetted_and_pulled_once_before_the_sandbox() {
    let (node, gate, image) = node(true).await;
    let answers = futures_util::future::join_all((0..20).map(|_| gate.sandbox())).await;
    assert!(answers.iter().all(allowed), "{answers:?}");
    assert_eq!(node.runtime.calls(PULL).len(), 1);
    assert!(node.runtime.calls(SANDBOX).iter().all(|seen| seen.data == framed(&run())));
    let record = node.record("the record", |r| r["kind"] == "RunPodSandbox").await;
    assert_eq!((&record["decision"], &record["imageId"]), (&json!("allowed"), &json!(image.id())));
}

#[tokio::test]
async fn unsigned_pause_image_is_denied_absent_or_present() {
    let (node, gate, image) = node(false).await;
    let text = refusal(&gate.sandbox().await);
    assert!(
        text.starts_with("SignatureValidationFailed: image ") && text.contains(&image.digest()),
        "{text}"
    );
    assert!(node.runtime.calls(PULL).is_empty(), "it was pulled");
    node.runtime.preloaded(&node.named("pause:1"), &image);
    let text = refusal(&gate.sandbox().await);
    assert!(text.starts_with("SignatureValidationFailed: image ") && text.contains("no signature"), "{text}");
    assert!(node.runtime.calls(SANDBOX).is_empty());
}

#[tokio::test]
async fn sandbox_on_other_layers_is_stopped_and_removed() {
    let (node, gate, image) = node(true).await;
    node.runtime.preloaded(&node.named("pause:1"), &image);
    node.runtime.state().parent = Some(digest_of(b"other layers"));
    let text = refusal(&gate.sandbox().await);
    assert!(text.starts_with(UNDECIDED) && text.contains(&image.chain()), "{text}");
    let calls = |path| node.runtime.calls(path).len();
    assert_eq!((calls(STOP_SANDBOX), calls(REMOVE_SANDBOX), node.runtime.containers()), (1, 1, 0));
}

#[tokio::test]
async fn sandbox_on_other_layers_that_cannot_be_stopped_is_removed() {
    let (node, gate, image) = node(true).await;
    node.runtime.preloaded(&node.named("pause:1"), &image);
    node.runtime.state().parent = Some(digest_of(b"other layers"));
    node.runtime.state().stops_nothing = true;
    let text = refusal(&gate.sandbox().await);
    assert!(text.starts_with(UNDECIDED) && text.contains(&image.chain()), "{text}");
    assert_eq!((node.runtime.calls(REMOVE_SANDBOX).len(), node.runtime.containers()), (1, 0));
}

#[tokio::test]
async fn sandbox_on_other_layers_is_removed_though_its_caller_has_given_up() {
    let (node, gate, image) = node(true).await;
    node.runtime.preloaded(&node.named("pause:1"), &image);
    node.runtime.state().parent = Some(digest_of(b"other layers"));
    node.runtime.state().look_takes = Duration::from_millis(500);
    let Gate { crivet: _crivet, client } = gate;
    let _call = client.begin(SANDBOX, &run()).await;
    until("it is looked at", 10, || !node.runtime.calls(CONTAINER).is_empty()).await;
    client.leave();
    assert_eq!(node.runtime.containers(), 1);
    until("it is removed", 10, || node.runtime.containers() == 0).await;
    let record = node.record("the record", |r| r["reason"] == "ContentDiffers").await;
    assert_eq!((&record["kind"], &record["decision"]), (&json!("RunPodSandbox"), &json!("undecided")));
}

#[tokio::test]
async fn pause_image_that_is_not_known_leaves_sandboxes_undecided() {
    let node = Node::strict().await;
    let gate = node.enforce().await;
    let text = refusal(&gate.sandbox().await);
    assert!(text.starts_with(UNDECIDED) && text.contains("set pauseImage"), "{text}");
    assert!(node.runtime.calls(SANDBOX).is_empty());

    let node = Node::strict().await;
    let gate = node.audit().await;
    gate.sandbox().await;
    let record = node.record("the record", |r| r["kind"] == "RunPodSandbox").await;
    assert_eq!((&record["reason"], &record["effective"]), (&json!("PauseImage"), &json!("forwarded")));
}

#[tokio::test]
async fn pause_image_runs_in_a_namespace_whose_own_containers_policy_rejects_it() {
    let node = Node::strict().await;
    let image = node.push_signed("pause", "1", "pause");
    let name = node.named("pause:1");
    node.runtime.state().pause = name.clone();
    node.runtime.preloaded(&name, &image);
    std::fs::create_dir(node.policies().join("namespaces")).unwrap();
    node.policy("policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    node.policy("namespaces/prod.json", r#"{"default": [{"type": "reject"}]}"#);
    let gate = node.serve(&format!("mode: enforce\npauseImage: {name}\n")).await;
    let answer = gate.sandbox().await;
    assert!(allowed(&answer), "{answer:?}");
    // In a container it is an image like any other, and the permit of the sandbox is none for it.
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains("namespaces/prod.json#default"), "{text}");
}

#[tokio::test]
async fn sandbox_whose_image_is_unpacked_within_the_call_onto_an_altered_layer_is_removed() {
    let (node, gate, image) = node(true).await;
    node.runtime.preloaded(&node.named("pause:1"), &image);
    let below = node.runtime.unpacks_within_the_call(&image);
    checked(&node, &image, |told| (told.chain_id, told.found) = (below.clone(), "layer: a file".into()))
        .await;
    let text = refusal(&gate.sandbox().await);
    assert!(text.contains("it was altered on this node"), "{text}");
    assert_eq!((node.runtime.calls(SANDBOX).len(), node.runtime.calls(REMOVE_SANDBOX).len()), (1, 1));
}
