//! Work nobody waits for, on many nodes at once, at one registry.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crivet::limits;
use futures_util::future::join_all;
use serde_json::json;

use super::node::{Gate, Node, allowed};
use crate::registry::fake::reply;
use crate::support::until;

const NODES: usize = 10;
const IMAGES: usize = 60;

/// How long the nodes are watched, seconds: a test's worth, or as the bench says.
fn watched() -> Duration {
    let seconds = std::env::var("CRIVET_TEN_NODES_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// Which node asked: each has repositories of its own.
fn node_of(path: &str) -> Option<usize> {
    path.strip_prefix("/v2/node")?.split('/').next()?.parse().ok()
}

#[tokio::test]
async fn ten_nodes_that_start_at_once_stay_within_the_budget_and_stop_at_429() {
    // All nodes' policies and images name the first one's registry.
    let first = Node::new().await;
    let mut nodes = vec![];
    for number in 0..NODES {
        let node = Node::new().await;
        node.policy("all.yaml", &first.signed_by("all", &first.signer, ""));
        for image in 0..IMAGES {
            let (repository, word) = (format!("node{number}/app{image}"), format!("{number} {image}"));
            let made = super::registry::Image::new(&word);
            first.registry.push(&repository, "1", &made);
            first.registry.sign(&repository, &made, &first.signer);
            node.runtime.arrives(&first.named(&format!("{repository}:1")), &made);
        }
        nodes.push(node);
    }
    let asked = Arc::<Mutex<Vec<(usize, Instant, bool)>>>::default();
    let (log, refusing) = (Arc::clone(&asked), Arc::<AtomicBool>::default());
    let refuses = Arc::clone(&refusing);
    first.registry.instead(move |seen| {
        let node = node_of(&seen.path)?;
        let refused = refuses.load(Ordering::SeqCst);
        log.lock().unwrap().push((node, Instant::now(), refused));
        refused.then(|| reply(429, &[("retry-after", "600")], ""))
    });

    let gates: Vec<Gate> = join_all(nodes.iter().map(Node::audit)).await;
    let began = Instant::now();
    let pulls = gates.iter().enumerate().flat_map(|(number, gate)| {
        let first = &first;
        (0..IMAGES).map(move |image| async move {
            let name = first.named(&format!("node{number}/app{image}:1"));
            (gate.pull(&name).await, began.elapsed())
        })
    });
    let answers = join_all(pulls).await;
    assert!(answers.iter().all(|(answer, _)| allowed(answer)));
    let slowest = answers.iter().map(|(_, took)| *took).max().unwrap_or_default();

    let of_nodes = || {
        let mut counts = [0; NODES];
        asked.lock().unwrap().iter().for_each(|(node, ..)| counts[*node] += 1);
        counts
    };
    until("all nodes use what they may at start", 120, || {
        of_nodes().iter().all(|count| *count >= limits::BACKGROUND_AT_START as usize)
    })
    .await;
    tokio::time::sleep(watched().saturating_sub(began.elapsed())).await;
    refusing.store(true, Ordering::SeqCst);
    let refused_from = Instant::now();
    tokio::time::sleep(watched()).await;
    let asked = asked.lock().unwrap().clone();

    let mut lines = String::new();
    let per_minute = limits::BACKGROUND_REQUESTS_PER_MINUTE as usize;
    for number in 0..NODES {
        let of_node: Vec<_> = asked.iter().filter(|(node, ..)| *node == number).collect();
        let before = of_node.iter().filter(|(_, _, refused)| !refused).count();
        let refused = of_node.iter().filter(|(_, _, refused)| *refused).count();
        lines.push_str(&format!("node {number}: {before} requests, then {refused} answered 429\n"));
        let minutes = refused_from.duration_since(began).as_secs_f64() / 60.0;
        let budget = limits::BACKGROUND_AT_START as usize + (minutes * per_minute as f64).ceil() as usize + 1;
        assert!(before <= budget, "{lines}{before} of at most {budget}");
        // Each that was under way when the first was answered may end so.
        assert!(refused <= limits::BACKGROUND_VETTINGS_PER_HOST, "{lines}");
    }
    println!(
        "{NODES} nodes, {IMAGES} images each, {:?} before 429; slowest pull {slowest:?}\n{lines}",
        watched()
    );
}

#[tokio::test]
async fn a_429_to_a_live_pull_stops_the_background_s_requests() {
    let node = Node::strict().await;
    let only_audits = node.signed_by("all", &node.signer, "  mode: audit\n").replace("/**", "/audited/*");
    node.policy("audited.yaml", &only_audits);
    node.policy("all.yaml", &node.signed_by("live", &node.signer, "").replace("/**", "/live"));
    for image in ["live", "audited/a"] {
        node.push_signed(image, "1", image);
    }
    let gate = node.enforce().await;
    node.registry.instead(|_| Some(reply(429, &[("retry-after", "600")], "")));
    assert!(!allowed(&gate.pull(&node.named("live:1")).await));
    node.registry.well();
    let before = node.registry.asked().len();
    assert!(allowed(&gate.pull(&node.named("audited/a:1")).await));
    let record = node.record("the record", |r| r["image"] == json!(node.named("audited/a:1"))).await;
    assert!(record["message"].as_str().unwrap().contains("answered 429"), "{record}");
    assert_eq!(node.registry.asked().len(), before);
}

#[tokio::test]
async fn registries_that_hang_hold_up_no_other_s_images() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    let gate = node.audit().await;
    let mut hanging = Vec::new();
    for number in 0..4 {
        // The kernel takes connections in; nobody ever answers.
        let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = registry.local_addr().unwrap().to_string();
        node.policy(
            &format!("{number}.yaml"),
            &node.signed_by(&format!("p{number}"), &node.signer, "").replace(&node.host(), &host),
        );
        hanging.push((registry, host));
    }
    gate.reload().await;
    let names: Vec<_> = hanging
        .iter()
        .flat_map(|(_, host)| (0..10).map(move |image| format!("{host}/app{image}:1")))
        .collect();
    assert!(join_all(names.iter().map(|name| gate.pull(name))).await.iter().all(allowed));
    let name = node.named("app:1");
    assert!(allowed(&gate.pull(&name).await));
    let record = node.record("the other one's record", |r| r["image"] == json!(name)).await;
    assert_eq!(record["decision"], json!("allowed"));
    assert!(node.records().len() < names.len(), "nothing hangs");
}
