//! What was proven survives crivet, whatever ends it; and what was not is not allowed for it.

use std::time::Duration;

use super::node::{Gate, Node, allowed, refusal};
use super::registry::Image;
use crate::registry::fake::reply;
use crate::support::until;

const PERSISTENT: &str = "crivet_proofs_store_state{state=\"persistent\"}";

/// The registry answers nothing but 503.
fn away(node: &Node) {
    node.registry.instead(|_| Some(reply(503, &[], "")));
}

/// All that is known is on disk.
pub async fn written(node: &Node) {
    for _ in 0..2000 {
        let page = node.metrics().await;
        let has = |line: &str| page.lines().any(|found| found == line);
        if has(&format!("{PERSISTENT} 1")) && has("crivet_proofs_unwritten 0") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it is not written: {}", node.metrics().await);
}

/// Ends relay and vetter without a word, and starts them anew.
async fn killed(node: &Node, mut gate: Gate) -> Gate {
    gate.crivet.signal("KILL");
    gate.crivet.ended().await;
    let gate = node.start(&[]).await;
    until("the vetter is ready", 20, || gate.readied() > 0).await;
    gate
}

#[tokio::test]
async fn what_was_proven_before_a_kill_is_not_asked_for_again() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    written(&node).await;
    let gate = killed(&node, gate).await;
    let asked = node.registry.asked();
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(node.registry.asked(), asked);
    assert_eq!(node.metric("crivet_proofs_held ").await, 1.0);
}

#[tokio::test]
async fn after_a_kill_without_a_registry_what_was_proven_is_allowed_and_nothing_else() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let lines = "mode: enforce\nvetting: {freshFor: 1s}\n";
    let (gate, name) = (node.serve(lines).await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    written(&node).await;
    let unknown = Image::new("unknown");
    node.runtime.preloaded(&node.named("app:2"), &unknown);
    away(&node);
    let gate = killed(&node, gate).await;
    // No longer fresh.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    let text = refusal(&gate.create(&unknown.id(), &node.named("app:2")).await);
    assert!(text.starts_with("RegistryUnavailable: "), "{text}");
    // Other policies are held against what is kept. One that is not met is not known to be met by nothing newer.
    let other = super::signer::Signer::new();
    node.policy("all.yaml", &node.signed_by("another", &other, ""));
    gate.reload().await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with("RegistryUnavailable: "), "{text}");
    node.policy("all.yaml", &node.signed_by("again", &node.signer, ""));
    gate.reload().await;
    assert!(allowed(&gate.create(&image.id(), &name).await));
    node.policy("all.yaml", &node.denying("closed"));
    gate.reload().await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.contains("closed for today"), "{text}");
}

#[tokio::test]
async fn what_is_older_than_usable_is_undecided_while_the_registry_is_away() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let lines =
        "mode: enforce\nvetting: {freshFor: 1s, usableWhenVetterDown: 0s, usableWhenRegistryDown: 0s}\n";
    let (gate, name) = (node.serve(lines).await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    written(&node).await;
    away(&node);
    let gate = killed(&node, gate).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let text = refusal(&gate.create(&image.id(), &name).await);
    assert!(text.starts_with("RegistryUnavailable: "), "{text}");
    node.registry.well();
    assert!(allowed(&gate.create(&image.id(), &name).await));
}

#[tokio::test]
async fn a_damaged_store_is_set_aside_told_and_made_good() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let (mut gate, name) = (node.enforce().await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    written(&node).await;
    gate.crivet.signal("KILL");
    gate.crivet.ended().await;
    let store = node.place.path().join("state/vetter/proofs.redb");
    let mut bytes = std::fs::read(&store).unwrap();
    bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 1);
    std::fs::write(&store, bytes).unwrap();
    let gate = node.start(&[]).await;
    until("the vetter is ready", 20, || gate.readied() > 0).await;
    written(&node).await;
    assert_eq!(node.metric("crivet_proofs_stores_set_aside").await, 1.0);
    assert_eq!(node.metric("crivet_proofs_held").await, 0.0);
    assert!(gate.crivet.log().contains("the proofs' store was damaged: set aside, and made anew"));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    written(&node).await;
    let gate = killed(&node, gate).await;
    let asked = node.registry.asked();
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(node.registry.asked(), asked);
}

#[tokio::test]
async fn without_a_folder_to_write_to_it_vets_all_the_same_and_says_so() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    // A file where the vetter's folder should be.
    std::fs::create_dir(node.place.path().join("state")).unwrap();
    std::fs::write(node.place.path().join("state/vetter"), "").unwrap();
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    assert_eq!(node.metric("crivet_proofs_store_state{state=\"memory_only\"}").await, 1.0);
    assert!(gate.crivet.log().contains("proofs are kept in memory only"));
}
