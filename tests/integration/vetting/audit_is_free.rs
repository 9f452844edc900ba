//! Audit mode: whatever breaks, every call passes as it came, and is not kept waiting.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use crivet::limits;
use futures_util::future::join_all;
use http::HeaderValue;
use prost::Message;
use serde_json::json;

use super::node::{Gate, Node, allowed, create, pull};
use crate::registry::fake::{endless, reply};
use crate::support::client::{Answer, CREATE, PULL, request};
use crate::support::{framed, noise, until};

/// What the runtime takes for itself, and what a call through crivet may take: far less than any registry.
const RUNTIME: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(1);

/// A pull and a create pass, byte for byte, and soon.
async fn passes(node: &Node, gate: &Gate, name: &str) {
    node.runtime.state().takes = RUNTIME;
    for (path, message) in
        [(PULL, pull(name).encode_to_vec()), (CREATE, create("prod", "sha256:x", name).encode_to_vec())]
    {
        let started = Instant::now();
        let answer = gate.client.call(path, &message).await;
        assert!(allowed(&answer), "{name}: {answer:?}");
        assert!(started.elapsed() < SOON, "{name}: {:?}", started.elapsed());
        let arrived = node.runtime.calls(path);
        assert_eq!(arrived.last().unwrap().data, framed(&message), "{name}");
    }
}

#[tokio::test]
async fn registry_that_misbehaves_delays_nothing() {
    let node = Node::strict().await;
    let gate = node.audit().await;
    type Behaviour = fn() -> crate::registry::fake::Reply;
    let behaviours: [(&str, Behaviour); 5] = [
        ("hangs", || endless(b"", Duration::from_secs(60))),
        ("endless", || endless(&[b' '; 1 << 16], Duration::from_millis(1))),
        ("html", || reply(200, &[("content-type", "text/html")], "<html>")),
        ("garbage", || reply(200, &[("docker-content-digest", "sha256:none")], noise(7, 1 << 16))),
        ("trouble", || reply(503, &[("retry-after", "3600")], "")),
    ];
    for (what, behaviour) in behaviours {
        node.registry.instead(move |_| Some(behaviour()));
        passes(&node, &gate, &node.named(&format!("{what}:1"))).await;
    }
    for (what, reason) in
        [("html", "RegistryAnswer"), ("garbage", "RegistryAnswer"), ("trouble", "RegistryUnreachable")]
    {
        let about = |r: &serde_json::Value| r["image"] == json!(node.named(&format!("{what}:1")));
        let record = node.record(what, about).await;
        assert_eq!((&record["decision"], &record["effective"]), (&json!("undecided"), &json!("forwarded")));
        assert_eq!(record["reason"], reason, "{record}");
    }
    assert!(node.metric("crivet_decisions_total{kind=\"PullImage\",decision=\"undecided\"").await >= 3.0);
}

#[tokio::test]
async fn registry_that_is_away_delays_nothing() {
    let node = Node::strict().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    node.policy(
        "all.yaml",
        &node.signed_by("all", &node.signer, "").replace(&node.host(), &gone.to_string()),
    );
    let gate = node.audit().await;
    passes(&node, &gate, &format!("{gone}/app:1")).await;
    let record = node.record("the record", |r| r["kind"] == "PullImage").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("undecided"), &json!("forwarded")));
}

#[tokio::test]
async fn broken_policies_delay_nothing() {
    let node = Node::strict().await;
    node.policy("all.yaml", "kind: [");
    let gate = node.audit().await;
    passes(&node, &gate, &node.named("app:1")).await;
    let record = node.record("the record", |r| r["kind"] == "PullImage").await;
    assert_eq!((&record["decision"], &record["reason"]), (&json!("undecided"), &json!("PoliciesNotLoaded")));
    assert!(record["message"].as_str().unwrap().contains("all.yaml:1: "), "{record}");
}

#[tokio::test]
async fn vetter_that_hangs_or_is_killed_delays_nothing() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    let gate = node.audit().await;
    gate.signal_vetter("STOP");
    passes(&node, &gate, &node.named("app:1")).await;
    gate.signal_vetter("CONT");
    let record = node.record("the record after the pause", |r| r["kind"] == "PullImage").await;
    assert_eq!(record["decision"], json!("allowed"));

    let killing = gate.keep_killing_the_vetter();
    for number in 0..10 {
        passes(&node, &gate, &node.named(&format!("app{number}:1"))).await;
    }
    until("it is said", 10, || gate.crivet.log().contains("a call was relayed and not vetted")).await;
    let restarts = gate.readied();
    drop(killing);
    until("a vetter lives", 20, || gate.readied() > restarts).await;
    assert!(node.metric("crivet_audit_calls_not_vetted_total").await >= 1.0);
    assert!(node.metric("crivet_vetter_restarts_total").await >= 1.0);
    passes(&node, &gate, &node.named("app:1")).await;
}

#[tokio::test]
async fn full_disk_under_the_audit_log_changes_no_decision() {
    for (mode, code) in [("audit", 0), ("enforce", 2)] {
        let node = Node::strict().await;
        node.push_signed("signed", "1", "one");
        node.push("unsigned", "1", "two");
        let log = node.place.path().join("absent/audit.jsonl");
        let gate = node.serve(&format!("mode: {mode}\nauditLog: {{path: {}}}\n", log.display())).await;
        // Made at the start; what stands in its way now cannot be written to.
        let _ = fs::remove_dir_all(log.parent().unwrap());
        fs::write(log.parent().unwrap(), "").unwrap();
        assert!(allowed(&gate.pull(&node.named("signed:1")).await), "{mode}");
        assert_eq!(gate.pull(&node.named("unsigned:1")).await.code(), code, "{mode}");
        until("the loss is said", 20, || gate.crivet.log().contains("audit records could not be written"))
            .await;
        assert!(node.metric("crivet_audit_records_lost_total").await >= 1.0, "{mode}");
    }
}

#[tokio::test]
async fn calls_that_cannot_be_read_pass_as_they_came() {
    let node = Node::strict().await;
    let gate = node.audit().await;
    let compressed = [&[1, 0, 0, 0, 4][..], b"gzip"].concat();
    let several = [framed(b"one"), framed(b"two")].concat();
    let truncated = framed(&noise(1, 100))[..50].to_vec();
    let bodies = [
        ("garbage", framed(&noise(2, 4096)).to_vec()),
        ("oversized", framed(&noise(3, 17 << 20)).to_vec()),
        ("long name", framed(&pull(&"x".repeat(8 << 20)).encode_to_vec()).to_vec()),
        ("compressed", compressed),
        ("several", several),
        ("truncated", truncated),
        ("empty", Vec::new()),
    ];
    for (what, body) in bodies {
        for path in [PULL, CREATE] {
            let mut request = request(path);
            if what == "compressed" {
                request.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
            }
            let answer = gate.client.send(request, body.clone().into()).await.unwrap();
            assert_eq!(answer.code(), 0, "{what}: {answer:?}");
            assert!(node.runtime.calls(path).last().unwrap().data == body, "{what}");
        }
    }
    let said = || gate.crivet.log().matches("a call was relayed that enforce mode would refuse").count();
    until("each is said", 20, || said() >= 10).await;
    // All but the long name, which is a call like any other.
    assert!(node.metric("crivet_audit_calls_not_vetted_total").await >= 12.0);
    for (kind, path) in [("PullImage", PULL), ("CreateContainer", CREATE)] {
        for says in ["VETTED_CALL_BYTES", "no valid"] {
            let is_it = |r: &serde_json::Value| {
                r["image"] == json!(path) && r["message"].as_str().unwrap().contains(says)
            };
            let record = node.record(says, is_it).await;
            let told = (&record["kind"], &record["decision"], &record["effective"], &record["reason"]);
            let expected = [kind, "undecided", "forwarded", "CallNotVettable"].map(|word| json!(word));
            assert_eq!(told, (&expected[0], &expected[1], &expected[2], &expected[3]), "{record}");
        }
    }
    passes(&node, &gate, &node.named("app:1")).await;
}

#[tokio::test]
async fn calls_beyond_what_waits_for_vetting_pass_and_are_counted() {
    let node = Node::strict().await;
    let gate = node.audit().await;
    gate.signal_vetter("STOP");
    let (message, more) = (pull(&node.named("app:1")).encode_to_vec(), 100);
    let started = Instant::now();
    let pulls = (0..limits::BESIDE_CALLS + more).map(|_| gate.client.call(PULL, &message));
    assert!(join_all(pulls).await.iter().all(allowed));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    gate.signal_vetter("CONT");
    assert!(node.metric("crivet_audit_calls_not_vetted_total").await >= more as f64);
}

/// What a process has in memory, bytes.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[tokio::test]
async fn large_calls_are_not_kept_while_they_wait_for_vetting() {
    const CALLS: usize = 16;
    const BYTES: usize = 8 << 20;
    let node = Node::strict().await;
    let gate = node.audit().await;
    // As a field that nobody knows: the log says when its call is about to be vetted.
    let mut message = pull(&node.named("app:1")).encode_to_vec();
    prost::encoding::bytes::encode(99, &vec![0; BYTES], &mut message);
    let before = resident(gate.crivet.pid());
    gate.signal_vetter("STOP");
    for _ in 0..CALLS {
        assert!(allowed(&gate.client.call(PULL, &message).await));
    }
    let waiting = || gate.crivet.log().matches("fields=PullImageRequest.99").count();
    until("all wait", 5, || waiting() == CALLS).await;
    // Less than half of what they have: of what was freed, not all goes back at once.
    let held = || resident(gate.crivet.pid()).saturating_sub(before);
    until("their bytes are gone", 5, || held() < CALLS * BYTES / 2).await;
    gate.signal_vetter("CONT");
}

#[tokio::test]
async fn equal_images_are_vetted_once_and_asked_for_with_head_first() {
    let node = Node::strict().await;
    for (name, word) in [("signed", "one"), ("unsigned", "two")] {
        node.push(name, "1", word);
    }
    node.registry.sign("signed", &super::registry::Image::new("one"), &node.signer);
    node.registry.slow(Duration::from_millis(50));
    let gate = node.audit().await;
    let names = [node.named("signed:1"), node.named("unsigned:1")];
    for _ in 0..2 {
        let pulls = (0..100).map(|number| gate.pull(&names[number % 2]));
        let answers: Vec<Answer> = join_all(pulls).await;
        assert!(answers.iter().all(allowed));
        for name in &names {
            node.record(name, |r| r["image"] == json!(name)).await;
        }
    }
    until("all are vetted", 20, || {
        let log = node.registry.asked();
        std::thread::sleep(Duration::from_millis(300));
        log == node.registry.asked()
    })
    .await;
    let mut times = HashMap::<String, usize>::new();
    let asked = node.registry.asked();
    asked.iter().for_each(|asked| *times.entry(asked.clone()).or_default() += 1);
    for (asked, times) in &times {
        // A tag may have moved between two bursts; what it leads to is asked for once.
        let most = if asked.starts_with("HEAD") { 3 } else { 1 };
        assert!(*times <= most, "{asked}: {times} times");
    }
    for (at, request) in asked.iter().enumerate() {
        let Some(path) = request.strip_prefix("GET ").filter(|path| path.contains("/manifests/")) else {
            continue;
        };
        // What is asked for by digest was named by a HEAD of its tag, or by a manifest.
        if path.contains("/manifests/sha256:") {
            continue;
        }
        assert!(asked[..at].contains(&format!("HEAD {path}")), "{request} before HEAD");
    }
}
