//! Enforce mode and the clock: a slow registry never turns into a hung kubelet.

use std::time::{Duration, Instant};

use prost::Message;
use serde_json::json;

use super::node::{Node, allowed, create, pull, refusal};
use super::registry::Image;
use super::signer::Signer;
use crate::registry::fake::endless;
use crate::support::client::{CREATE, PULL};

const LATE: &str = "vetting took longer than its time budget; it goes on, try again";

/// A registry that never comes to an end of an answer.
fn hang(node: &Node) {
    node.registry.instead(|_| Some(endless(b"", Duration::from_secs(3600))));
}

#[tokio::test]
async fn call_with_a_deadline_is_undecided_in_half_of_it() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    hang(&node);
    let listed = format!("{}@{}", node.named("app"), image.digest());
    node.runtime.preloaded(&listed, &image);
    for (path, message) in
        [(PULL, pull(&name).encode_to_vec()), (CREATE, create("prod", &listed, &name).encode_to_vec())]
    {
        let started = Instant::now();
        let text = refusal(&gate.timed(path, "2S", message).await);
        assert_eq!(text, format!("SignatureValidationFailed: undecided: image {name}: {LATE}"));
        let took = started.elapsed();
        assert!(Duration::from_millis(700) < took && took < Duration::from_millis(1400), "{took:?}");
        assert!(node.runtime.calls(path).is_empty());
    }
    let record = node.record("the record", |r| r["kind"] == "PullImage").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("undecided"), &json!("refused")));
    assert!(record["message"].as_str().unwrap().contains(LATE), "{record}");
    assert_eq!(record["reason"], "TooSlow");
}

#[tokio::test]
async fn try_after_a_late_one_finds_its_work_done() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    let by_digest = format!("{}@{}", node.named("app"), image.digest());
    node.runtime.arrives(&by_digest, &image);
    node.registry.slow(Duration::from_millis(400));
    // Manifest, config, signatures and payload need 1.6 s.
    let message = || pull(&by_digest).encode_to_vec();
    assert!(refusal(&gate.timed(PULL, "2S", message()).await).contains(LATE));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let (started, asked) = (Instant::now(), node.registry.asked());
    assert!(allowed(&gate.timed(PULL, "2S", message()).await));
    assert!(started.elapsed() < Duration::from_millis(400), "{:?}", started.elapsed());
    assert_eq!(node.registry.asked(), asked, "{name}");
    // What was answered is what was recorded: one undecided, one allowed.
    node.record("the second record", |r| r["decision"] == "allowed").await;
    let decisions: Vec<_> = node.records().iter().map(|r| r["decision"].clone()).collect();
    assert_eq!(decisions, ["undecided", "allowed"]);
}

#[tokio::test]
async fn pull_without_a_deadline_keeps_to_the_configured_limit() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    let gate = node.serve("mode: enforce\nvetting: {timeout: 1s}\n").await;
    hang(&node);
    let started = Instant::now();
    let text = refusal(&gate.pull(&node.named("app:1")).await);
    let took = started.elapsed();
    assert!(text.contains(LATE), "{text}");
    assert!(Duration::from_millis(800) < took && took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test]
async fn runtime_gets_the_deadline_as_it_came_and_its_half_of_it() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    node.registry.slow(Duration::from_millis(200));
    node.runtime.state().takes = Duration::from_millis(2000);
    let started = Instant::now();
    let answer = gate.timed(PULL, "4S", pull(&name).encode_to_vec()).await;
    assert!(allowed(&answer) && started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(node.runtime.calls(PULL).iter().all(|seen| seen.head.headers["grpc-timeout"] == "4S"));
    assert!(String::from_utf8_lossy(&answer.data).contains(&image.id()));
}

#[tokio::test]
async fn what_was_proven_is_allowed_while_the_registry_hangs() {
    let node = Node::strict().await;
    let image = node.push_signed("app", "1", "one");
    let (gate, name) = (node.serve("mode: enforce\nvetting: {freshFor: 1s}\n").await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    assert!(allowed(&gate.create(&image.id(), &name).await));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    hang(&node);
    let started = Instant::now();
    let answer = gate.timed(CREATE, "2S", create("prod", &image.id(), &name).encode_to_vec()).await;
    assert!(allowed(&answer), "{answer:?}");
    assert!(started.elapsed() < Duration::from_millis(1400), "{:?}", started.elapsed());
    let unknown = Image::new("unknown");
    node.runtime.preloaded(&node.named("app:2"), &unknown);
    let text = refusal(&gate.timed(CREATE, "2S", create("prod", &unknown.id(), &name).encode_to_vec()).await);
    assert!(text.contains(LATE), "{text}");
}

/// Between pieces others have their turn, and conditions are asked of a thread: what is held is judged before the answer is due.
#[tokio::test]
async fn what_takes_time_to_judge_is_allowed_while_the_registry_hangs() {
    let other = Signer::new();
    for conditions in ["", "    conditions: [{cel: \"pod.namespace == 'prod'\"}]\n"] {
        let node = Node::new().await;
        let policy = node.signed_by("all", &node.signer, "");
        node.policy("all.yaml", &format!("{policy}{conditions}"));
        let (image, name) = (node.push("app", "1", "one"), node.named("app:1"));
        let signed = [&other, &node.signer].map(|by| by.sign(&image.digest(), &node.named("app")));
        let of_policy = if conditions.is_empty() { &signed[..] } else { &signed[1..] };
        node.registry.put_signatures("app", &image.digest(), of_policy);
        let gate = node.serve("mode: enforce\nvetting: {freshFor: 1s}\n").await;
        assert!(allowed(&gate.pull(&name).await));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        hang(&node);
        let started = Instant::now();
        let answer = gate.timed(CREATE, "2S", create("prod", &image.id(), &name).encode_to_vec()).await;
        assert!(allowed(&answer), "{conditions}: {answer:?}");
        assert!(started.elapsed() < Duration::from_millis(1400), "{:?}", started.elapsed());
    }
}

/// Equal records are merged for a minute; a stop in order writes what is merged.
#[tokio::test]
async fn stop_in_order_loses_no_decision_of_the_last_minute() {
    let node = Node::strict().await;
    let mut gate = node.enforce().await;
    let name = node.named("absent:1");
    for _ in 0..5 {
        refusal(&gate.pull(&name).await);
    }
    gate.crivet.signal("TERM");
    assert!(gate.crivet.ended().await.success());
    let counted: u64 = node.records().iter().filter_map(|record| record["count"].as_u64()).sum();
    assert_eq!(counted, 5, "{:?}", node.records());
}
