//! A change of what images are judged by, under what runs and is stored.

use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

use super::cli::{crivet, shown};
use super::node::{Gate, Node};
use super::runtime::REMOVE;
use super::signer::Signer;
use super::trust::{rests_on, section};
use crate::registry::fake::reply;
use crate::support::{until, within};
use crate::trust::{lay, repository};

/// Longest that a node waits before it begins, and what it has to do.
const SOON: u64 = 100;

/// A node on which a signed image runs in two pods of `prod`; another one is only stored.
async fn node() -> Node {
    let node = Node::strict().await;
    let signed = node.push_signed("signed", "1", "one");
    let stored = node.push_signed("stored", "1", "two");
    let pause = node.push_signed("pause", "1", "three");
    let [a, b, c] = ["signed:1", "stored:1", "pause:1"].map(|name| node.named(name));
    for (name, image) in [(&a, &signed), (&b, &stored), (&c, &pause)] {
        node.runtime.preloaded(name, image);
    }
    node.runtime.state().pause = c;
    node.runtime.runs("prod", "web", "api", &signed, &a);
    node.runtime.runs("prod", "web-too", "api", &signed, &a);
    node
}

/// By what the node was gone over.
fn kept(node: &Node) -> String {
    fs::read_to_string(node.place.path().join("state/revetted")).unwrap_or_default()
}

async fn is_settled(node: &Node) {
    within("it is settled", SOON, async {
        while !kept(node).starts_with("settled ") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

async fn metric_is(node: &Node, metric: &str, value: f64) {
    within(&format!("{metric} is {value}"), SOON, async {
        while node.metric(metric).await != value {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// The finding of this name.
async fn found(node: &Node, id: &str) -> Option<Value> {
    let config = node.place.path().join("config.yaml");
    let ended = crivet(&["doctor", "--config", shown(&config), "-o", "json"]).await;
    let said: Value = serde_json::from_str(&ended.out).unwrap();
    said["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).cloned()
}

fn revetted(node: &Node) -> Vec<Value> {
    node.records().into_iter().filter(|record| record["kind"] == "Revetted").collect()
}

async fn exchange_key(node: &Node, gate: &Gate, signer: &Signer) {
    node.policy("all.yaml", &node.signed_by("all", signer, ""));
    gate.reload().await;
}

const RUNNING: &str = "crivet_running_containers_not_allowed{decision=\"denied\"}";
const STORED: &str = "crivet_stored_images_not_allowed{decision=\"denied\"}";

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_and_is_stored_under_another_key_is_told_until_the_key_is_back() {
    for mode in ["audit", "enforce"] {
        let node = node().await;
        let gate = node.serve(&format!("mode: {mode}\nunmatched: deny\n")).await;
        is_settled(&node).await;
        exchange_key(&node, &gate, &Signer::new()).await;
        metric_is(&node, RUNNING, 2.0).await;
        metric_is(&node, "crivet_revetting_left ", 0.0).await;
        // The pause image, too, on which no container runs.
        metric_is(&node, STORED, 2.0).await;
        within("the records", 20, async {
            while revetted(&node).len() < 4 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let records = revetted(&node);
        let pods: Vec<_> = records.iter().filter_map(|record| record["pod"].as_str()).collect();
        assert_eq!(pods.len(), 2, "{records:#?}");
        assert!(pods.contains(&"web") && pods.contains(&"web-too"), "{pods:?}");
        for record in &records {
            let said = (&record["decision"], &record["effective"], &record["mode"]);
            assert_eq!(said, (&json!("denied"), &json!("forwarded"), &json!(mode)), "{record:#}");
            assert_eq!(record["reason"], "SignatureByOtherKey", "{record:#}");
        }
        let finding = found(&node, "running-not-allowed").await.unwrap();
        let text = finding["found"].as_str().unwrap();
        assert!(text.contains("deny: 2") && text.contains("prod/web main"), "{text}");
        assert!(found(&node, "stored-not-allowed").await.is_some());

        // Nobody can be asked; what was fetched under the first policy is there.
        node.registry.instead(|_| Some(reply(503, &[], "away")));
        exchange_key(&node, &gate, &node.signer).await;
        metric_is(&node, RUNNING, 0.0).await;
        metric_is(&node, STORED, 0.0).await;
        is_settled(&node).await;
        assert_eq!(found(&node, "running-not-allowed").await, None);
        assert_eq!(found(&node, "revetted").await.unwrap()["level"], "ok");
        let over = |record: &Value| record["decision"] == "allowed";
        within("the end is recorded", 20, async {
            while revetted(&node).iter().filter(|record| over(record)).count() < 4 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert_eq!(node.runtime.calls(REMOVE).len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_of_the_same_and_a_restart_are_no_change_and_an_unfinished_one_goes_on() {
    let node = node().await;
    let mut gate = node.audit().await;
    is_settled(&node).await;
    let first = kept(&node);
    gate.reload().await;
    node.configure("mode: enforce\nforceEnforce: true\n");
    gate.reload().await;
    assert_eq!(found(&node, "revetting").await, None);
    drop(gate);
    gate = node.serve("mode: audit\n").await;
    assert_eq!((found(&node, "revetting").await, kept(&node)), (None, first));
    let node_says = || gate.crivet.log();
    assert!(!node_says().contains("judging anew"), "{}", node_says());

    exchange_key(&node, &gate, &Signer::new()).await;
    within("it is at hand", 20, async {
        while found(&node, "revetting").await.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    gate.crivet.signal("KILL");
    gate.crivet.ended().await;
    drop(gate);
    gate = node.start(&[]).await;
    until("the vetter is ready", 20, || gate.readied() > 0).await;
    metric_is(&node, RUNNING, 2.0).await;
    assert!(!kept(&node).starts_with("settled "), "what is not allowed is forgotten by the next start");
    drop(gate);
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_root_that_a_policy_rests_on_is_a_change_and_another_is_none() {
    let node = Node::strict().await;
    let mirror = repository(&[]);
    let section = section(&node, mirror.path());
    node.policy("other.yaml", &rests_on("corp"));
    let gate = node.serve(&format!("mode: audit\n{section}")).await;
    let usable = "\ncrivet_trust_root_usable{root=\"corp\"} 1\n";
    within("the root", 60, async {
        while !node.metrics().await.contains(usable) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    is_settled(&node).await;
    lay(mirror.path(), "newer");
    until("the newer root is a change", 60, || kept(&node) == "open\n").await;
    // A policy for nothing on this node: the set is another one.
    is_settled(&node).await;
    let by = kept(&node);
    node.policy("other.yaml", &rests_on("public-good"));
    gate.reload().await;
    until("another policy is a change", 20, || kept(&node) == "open\n").await;
    is_settled(&node).await;
    assert_ne!(kept(&node), by);
}
