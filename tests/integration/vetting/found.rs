//! Containers that did not come through crivet.

use std::time::{SystemTime, UNIX_EPOCH};

use crivet::cri::v1;
use serde_json::json;

use super::node::{Gate, Node, allowed};
use super::registry::Image;
use crate::support::until;

fn nanos() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// The runtime lists a running container of an image under this name, in a pod of namespace `prod`.
fn lists(node: &Node, id: &str, name: &str, image: &Image, created_at: i64) {
    let mut lists = node.runtime.lists_of_containers();
    lists.by_handler = false;
    let spec =
        v1::ImageSpec { image: image.id(), user_specified_image: node.named(name), ..Default::default() };
    lists.containers.containers.push(v1::Container {
        id: id.to_owned(),
        pod_sandbox_id: "p".to_owned(),
        metadata: Some(v1::ContainerMetadata { name: "main".to_owned() }),
        image: Some(spec),
        image_ref: image.id(),
        state: v1::ContainerState::ContainerRunning.into(),
        created_at,
        ..Default::default()
    });
    let metadata =
        v1::PodSandboxMetadata { name: "web".to_owned(), uid: "u".to_owned(), namespace: "prod".to_owned() };
    lists.sandboxes.items =
        vec![v1::PodSandbox { id: "p".to_owned(), metadata: Some(metadata), ..Default::default() }];
}

/// Lets one container through crivet, which the runtime then lists.
async fn let_one_through(node: &Node, gate: &Gate) -> Image {
    let image = node.push_signed("signed", "1", "one");
    node.runtime.preloaded(&node.named("signed:1"), &image);
    assert!(allowed(&gate.create(&image.id(), &node.named("signed:1")).await));
    // The scripted runtime counts from 0.
    lists(node, "c0", "signed:1", &image, nanos());
    image
}

#[tokio::test]
async fn one_made_past_crivet_is_found_vetted_recorded_and_counted_and_stays_so() {
    for mode in ["audit", "enforce"] {
        let node = Node::strict().await;
        let mut gate = node.serve(&format!("mode: {mode}\n")).await;
        let_one_through(&node, &gate).await;
        let unsigned = node.push("unsigned", "1", "two");
        node.runtime.preloaded(&node.named("unsigned:1"), &unsigned);
        lists(&node, "theirs", "unsigned:1", &unsigned, nanos());
        let bypasses = "crivet_unvetted_containers{origin=\"bypass\"}";
        for restart in ["", "TERM", "KILL"] {
            if !restart.is_empty() {
                gate.crivet.signal(restart);
                gate.crivet.ended().await;
                drop(gate);
                gate = node.start(&[]).await;
            }
            until("it is vetted", 30, || gate.crivet.log().contains("made past crivet was vetted")).await;
            assert_eq!(node.metric(bypasses).await, 1.0, "{mode} {restart}");
            let denied = "crivet_found_containers_total{decision=\"denied\",origin=\"bypass\"}";
            assert_eq!(node.metric(denied).await, 1.0, "{mode} {restart}");
            assert_eq!(node.metric("crivet_found_containers_total").await, 1.0, "{mode} {restart}");
        }
        let record = node.record("its record", |r| r["kind"] == "FoundContainer").await;
        assert_eq!((&record["decision"], &record["mode"]), (&json!("denied"), &json!(mode)));
        assert_eq!((&record["namespace"], &record["effective"]), (&json!("prod"), &json!("forwarded")));
        assert_eq!(record["imageId"], serde_json::Value::Null);
        assert_eq!(node.runtime.calls(super::runtime::REMOVE).len(), 0);
    }
}

#[tokio::test]
async fn what_was_there_before_crivet_is_vetted_and_called_no_bypass() {
    let node = Node::strict().await;
    let signed = node.push_signed("old", "1", "old");
    node.runtime.preloaded(&node.named("old:1"), &signed);
    lists(&node, "old", "old:1", &signed, nanos());
    let gate = node.audit().await;
    let record = node.record("its record", |r| r["kind"] == "FoundContainer").await;
    assert_eq!((&record["decision"], &record["digest"]), (&json!("allowed"), &json!(signed.digest())));
    let_one_through(&node, &gate).await;
    assert_eq!(node.metric("crivet_unvetted_containers{origin=\"before_crivet\"}").await, 1.0);
    assert_eq!(node.metric("crivet_unvetted_containers{origin=\"bypass\"}").await, 0.0);
    assert!(!gate.crivet.log().contains("past crivet"), "{}", gate.crivet.log());
}

#[tokio::test]
async fn a_full_disk_under_the_list_of_what_came_through_delays_no_create() {
    let node = Node::strict().await;
    let gate = node.enforce().await;
    until("the list is there", 20, || node.place.path().join("state/containers").exists()).await;
    // A folder in the place of the file: nothing can be written there.
    std::fs::remove_file(node.place.path().join("state/containers")).unwrap();
    std::fs::create_dir(node.place.path().join("state/containers")).unwrap();
    let_one_through(&node, &gate).await;
    until("it is said", 20, || gate.crivet.log().contains("cannot be written down")).await;
    std::fs::remove_dir(node.place.path().join("state/containers")).unwrap();
    let written = || std::fs::read_to_string(node.place.path().join("state/containers")).unwrap_or_default();
    until("it is made good", 30, || written().contains("container c0\n")).await;
}
