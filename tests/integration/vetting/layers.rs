//! A policy that asks for a check of an image's layers before a create (`content.layersCheckedWithin`). The check is the test.

use std::path::PathBuf;
use std::time::Duration;

use crivet::control::wire::{CheckedImage, CheckedLayer, ContentChecked, ContentReport};
use crivet::control::{self, Control};
use crivet::cri::v1;
use prost::Message;
use serde_json::{Value, json};

use super::node::{Gate, Node, allowed, create, refusal};
use super::registry::Image;
use super::runtime::{REMOVE, SNAPSHOT};
use crate::support::client::{Answer, CREATE};

const UNDECIDED: &str = "SignatureValidationFailed: undecided: image ";
const EXPECTED: &str = "expected a check that has found its layers whole within the last 72h";

/// A node whose policy asks for a check, and whose runtime has a signed image under `app:1`; crivet runs in this mode.
async fn asking(mode: &str) -> (Node, Gate, Image, String) {
    let node = Node::new().await;
    let spec = "  content: {layersCheckedWithin: 72h}\n";
    node.policy("all.yaml", &node.signed_by("all", &node.signer, spec));
    let image = node.push_signed("app", "1", "one");
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    let gate = node.serve(mode).await;
    (node, gate, image, name)
}

const ENFORCE: &str = "mode: enforce\n";

fn request(node: &Node) -> PathBuf {
    node.place.path().join("content-requested")
}

async fn daemon(node: &Node) -> Control {
    Control::connect(&control::socket(node.place.path())).await.unwrap()
}

fn layer(image: &Image) -> CheckedLayer {
    CheckedLayer {
        snapshotter: "overlayfs".into(),
        chain_id: image.chain(),
        created: "1.000000000".into(),
        image_id: image.id(),
        image: "app:1".into(),
        age_ms: Some(1),
        ..Default::default()
    }
}

/// What a check says that found the image whole, but for what is changed.
pub async fn checked(node: &Node, image: &Image, change: impl Fn(&mut CheckedLayer)) {
    let mut told = layer(image);
    change(&mut told);
    let images = vec![CheckedImage { image_id: image.id(), found: told.found.clone() }];
    let report = ContentReport { layers: vec![told], images, ..Default::default() };
    daemon(node).await.content(report).await.unwrap();
}

#[tokio::test]
async fn image_that_no_check_has_found_whole_is_requested_and_runs_when_one_has() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    assert!(!request(&node).exists());
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with(UNDECIDED) && text.contains(EXPECTED), "{text}");
    assert!(text.contains(&format!("found none of layers {}", image.chain())), "{text}");
    assert!(text.contains("systemctl enable --now crivet-content-requested.path"), "{text}");
    // Nothing was made to be taken away again.
    assert_eq!((node.runtime.calls(CREATE).len(), node.runtime.calls(REMOVE).len()), (0, 0));
    let record = node.record("the record", |r| r["reason"] == "ContentNotChecked").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("undecided"), &json!("refused")));
    assert_eq!(node.metric("crivet_content_requested_images").await, 1.0);

    assert!(request(&node).exists());
    assert_eq!(daemon(&node).await.content_requests().await.unwrap(), [image.id()]);
    assert!(!request(&node).exists());
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains("one was begun, and the container is made if it finds the image whole"), "{text}");
    checked(&node, &image, |_| {}).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(node.metric("crivet_content_requested_images").await, 0.0);
    // With the permit that is held, too: altered or unpacked anew since.
    node.runtime.state().unpacked.insert(image.chain(), (String::new(), 2));
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains("found none of layers"), "{text}");
    assert!(request(&node).exists());
}

#[tokio::test]
async fn check_of_anything_but_this_snapshot_is_none() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    let changes: [fn(&mut CheckedLayer); 4] = [
        |told| told.snapshotter = "native".into(),
        |told| told.chain_id = told.image_id.clone(),
        |told| told.created = "2.000000000".into(),
        |told| told.age_ms = None,
    ];
    for change in changes {
        checked(&node, &image, change).await;
        let text = refusal(&gate.create(&image.id(), &name).await);
        assert!(text.contains("found none of layers"), "{text}");
    }
    checked(&node, &image, |_| {}).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn check_longer_ago_than_the_policy_says_is_too_old() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    const AGE: u64 = 72 * 3600 * 1000;
    checked(&node, &image, |told| told.age_ms = Some(AGE)).await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains(&format!("found an older one of layers {}", image.chain())), "{text}");
    checked(&node, &image, |told| told.age_ms = Some(AGE - 600_000)).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn layer_below_that_was_not_checked_counts() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    let below = super::registry::digest_of(b"below");
    node.runtime.state().unpacked.insert(image.chain(), (below.clone(), 1));
    node.runtime.state().unpacked.insert(below.clone(), (String::new(), 1));
    checked(&node, &image, |_| {}).await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains(&format!("found none of layers {below}")), "{text}");
    checked(&node, &image, |told| told.chain_id.clone_from(&below)).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn layers_below_one_that_is_still_there_are_not_asked_about_again() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    let below: Vec<_> = ["a", "b", "c"].map(|word| super::registry::digest_of(word.as_bytes())).into();
    let chain: Vec<_> = [image.chain()].into_iter().chain(below).collect();
    let unpack = |created: i64| {
        for (at, layer) in chain.iter().enumerate() {
            let parent = chain.get(at + 1).cloned().unwrap_or_default();
            node.runtime.state().unpacked.insert(layer.clone(), (parent, created));
        }
    };
    unpack(1);
    for layer in &chain {
        checked(&node, &image, |told| told.chain_id.clone_from(layer)).await;
    }
    let asked = async || {
        let before = node.runtime.calls(SNAPSHOT).len();
        let answer = gate.create(&image.id(), &name).await;
        (answer, node.runtime.calls(SNAPSHOT).len() - before)
    };
    let (answer, first) = asked().await;
    assert!(allowed(&answer));
    let (answer, again) = asked().await;
    assert!(allowed(&answer));
    assert_eq!(first - again, 3, "{first} questions, then {again}");
    // What is below it goes only with it, and then all is another.
    unpack(2);
    checked(&node, &image, |told| told.created = "2.000000000".into()).await;
    let text = refusal(&asked().await.0);
    assert!(text.contains(&format!("found none of layers {}", chain[1])), "{text}");
}

#[tokio::test]
async fn altered_layer_is_denied_until_a_check_that_began_later() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    checked(&node, &image, |_| {}).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    checked(&node, &image, |told| told.found = "layer: a file".into()).await;
    let denied = |text: String| text.contains("it was altered on this node");
    assert!(denied(refusal(&gate.create(&image.id(), &name).await)));
    // Of one that was under way when the other found it.
    checked(&node, &image, |told| told.age_ms = Some(60_000)).await;
    assert!(denied(refusal(&gate.create(&image.id(), &name).await)));
    tokio::time::sleep(Duration::from_millis(20)).await;
    checked(&node, &image, |told| told.age_ms = Some(0)).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn container_of_an_image_that_is_unpacked_within_the_call_onto_an_altered_layer_is_removed() {
    let (node, gate, image, name) = super::create::preloaded("").await;
    let below = node.runtime.unpacks_within_the_call(&image);
    // As unpacking does: what is asked beside it is answered by then.
    node.runtime.state().takes = Duration::from_millis(500);
    checked(&node, &image, |told| (told.chain_id, told.found) = (below.clone(), "layer: a file".into()))
        .await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(
        text.starts_with("SignatureValidationFailed: image ") && text.contains("it was altered on this node"),
        "{text}"
    );
    assert_eq!((node.runtime.calls(CREATE).len(), node.runtime.containers()), (1, 0));
    assert_eq!(node.metric("crivet_content_altered_total").await, 1.0);
    let record = node
        .record("the record", |r| r["reason"] == "ContentAltered" && r["kind"] == "CreateContainer")
        .await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("refused")));
}

#[tokio::test]
async fn container_of_an_image_that_is_unpacked_within_the_call_onto_other_layers_is_kept() {
    let (node, gate, image, name) = super::create::preloaded("").await;
    node.runtime.unpacks_within_the_call(&image);
    let other = super::registry::digest_of(b"other");
    checked(&node, &image, |told| (told.chain_id, told.found) = (other.clone(), "layer: a file".into()))
        .await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(node.runtime.containers(), 1);
}

#[tokio::test]
async fn image_that_cannot_be_compared_stays_undecided_and_is_not_read_again_at_each_try() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    refusal(&gate.create(&image.id(), &name).await);
    let mut control = daemon(&node).await;
    assert_eq!(control.content_requests().await.unwrap(), [image.id()]);
    let images = vec![CheckedImage { image_id: image.id(), found: "a sparse file".into() }];
    control.content(ContentReport { images, ..Default::default() }).await.unwrap();
    for _ in 0..2 {
        let text = refusal(&gate.create(&image.id(), &name).await);
        assert!(text.contains("the last one could not find it whole: a sparse file"), "{text}");
    }
    assert!(!request(&node).exists());
    assert!(control.content_requests().await.unwrap().is_empty());
    let status = control.status().await.unwrap();
    let told = (status.content_requests_count, status.content_requests[0].found.as_str());
    assert_eq!(told, (1, "a sparse file"));
}

#[tokio::test]
async fn image_unpacked_by_a_snapshotter_that_is_not_checked_is_undecided() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    checked(&node, &image, |_| {}).await;
    node.runtime.state().other_snapshotters = vec!["stargz".into()];
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains("found none of layers"), "{text}");
    // Nothing says so before: it is unpacked within the call.
    node.runtime.state().other_snapshotters.clear();
    node.runtime.state().snapshotter = Some("stargz".into());
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains("by its snapshotter \"stargz\""), "{text}");
    assert_eq!(node.runtime.containers(), 0);
}

#[tokio::test]
async fn what_was_found_whole_outlives_crivet() {
    let (node, gate, image, name) = asking(ENFORCE).await;
    checked(&node, &image, |_| {}).await;
    let end = ContentChecked { images: 1, layers: 1, took_ms: Some(60_000), ..Default::default() };
    let report = ContentReport { checked: Some(end), ..Default::default() };
    daemon(&node).await.content(report).await.unwrap();
    drop(gate);
    let gate = node.serve(ENFORCE).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    // A check of all there is that does not find it again: it took less time than has passed since.
    node.runtime.state().unpacked.insert(image.chain(), (String::new(), 2));
    checked(&node, &image, |told| {
        (told.created, told.age_ms) = ("2.000000000".into(), Some(120_000));
    })
    .await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let end = ContentChecked { took_ms: Some(0), ..Default::default() };
    let report = ContentReport { checked: Some(end), ..Default::default() };
    daemon(&node).await.content(report).await.unwrap();
    assert!(refusal(&gate.create(&image.id(), &name).await).contains("found none of layers"));
}

#[tokio::test]
async fn in_audit_mode_it_is_recorded_and_nothing_is_requested() {
    let (node, gate, image, name) = asking("mode: audit\n").await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let is_it = |record: &Value| record["reason"] == "ContentNotChecked";
    let record = node.record("the record", is_it).await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("undecided"), &json!("forwarded")));
    assert!(record["message"].as_str().unwrap().contains(EXPECTED), "{record}");
    assert!(!request(&node).exists());
}

/// A container whose own image no policy covers, and into which an image is mounted whose policy asks for a check.
async fn mounting(gate: &Gate, image: &Image, name: &str) -> Answer {
    let own = super::registry::digest_of(b"whatever it is");
    let mut create = create("prod", &own, "elsewhere.invalid/app:1");
    let volume =
        v1::ImageSpec { image: image.id(), user_specified_image: name.to_owned(), ..Default::default() };
    create.config.as_mut().unwrap().mounts.push(v1::Mount { image: Some(volume) });
    gate.client.call(CREATE, &create.encode_to_vec()).await
}

#[tokio::test]
async fn what_is_mounted_has_to_be_checked_whatever_it_is_mounted_into() {
    let (_node, gate, image, name) = asking(ENFORCE).await;
    let text = refusal(&mounting(&gate, &image, &name).await);
    assert!(text.contains(EXPECTED), "{text}");

    let (node, gate, image, name) = asking("mode: audit\n").await;
    assert!(allowed(&mounting(&gate, &image, &name).await));
    let is_it = |record: &Value| record["reason"] == "ContentNotChecked" && record["image"] == image.id();
    let record = node.record("the record", is_it).await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("undecided"), &json!("forwarded")));
}

#[tokio::test]
async fn policy_that_does_not_ask_needs_no_check() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let name = node.named("app:1");
    node.runtime.preloaded(&name, &image);
    let gate = node.enforce().await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert!(!request(&node).exists());
}
