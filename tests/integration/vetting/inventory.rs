//! `crivet inventory`, with a running daemon and by itself.

use serde_json::{Value, json};

use super::cli::{Ended, crivet, shown};
use super::node::Node;
use crate::registry::fake::reply;

/// A node with a signed image that runs in two pods, an unsigned one that is a static pod's, and one that is not in use.
async fn node() -> Node {
    let node = Node::strict().await;
    let signed = node.push_signed("signed", "1", "one");
    let unsigned = node.push("unsigned", "1", "two");
    let idle = node.push_signed("idle", "1", "three");
    let pause = node.push_signed("pause", "1", "four");
    let [a, b, c, d] = ["signed:1", "unsigned:1", "idle:1", "pause:1"].map(|name| node.named(name));
    for (name, image) in [(&a, &signed), (&b, &unsigned), (&c, &idle), (&d, &pause)] {
        node.runtime.preloaded(name, image);
    }
    node.runtime.state().pause = d;
    node.runtime.runs("prod", "web", "api", &signed, &a);
    node.runtime.runs("prod", "web-too", "api", &signed, &a);
    node.runtime.runs("kube-system", "proxy", "file", &unsigned, &b);
    node
}

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{}{}", ended.out, ended.err))
}

#[tokio::test(flavor = "multi_thread")]
async fn inventory_says_what_would_be_refused_and_marks_what_matters_most() {
    let node = node().await;
    let config = node.configure("mode: audit\n");
    let _gate = node.audit().await;
    let ended = crivet(&["inventory", "--config", shown(&config), "-o", "json"]).await;
    let said = json_of(&ended);
    assert_eq!((ended.code, &said["judgedBy"]), (Some(1), &json!("daemon")), "{said:#}");
    assert_eq!(said["summary"]["running"], json!({"allowed": 4, "denied": 1, "undecided": 0}), "{said:#}");
    assert_eq!(said["summary"]["notInUse"], json!({"allowed": 1, "denied": 0, "undecided": 0}), "{said:#}");
    let worst = &said["running"][0];
    assert_eq!(
        (&worst["pod"], &worst["staticPod"], &worst["refused"]),
        (&json!("proxy"), &json!(true), &json!(true))
    );
    assert!(worst["message"].as_str().unwrap().contains("expected a signature by key all-key"), "{worst}");
    let pauses = said["running"].as_array().unwrap().iter().filter(|row| row["use"] == "pause image").count();
    assert_eq!(pauses, 2, "one for each namespace with a pod: {said:#}");
    assert_eq!(said["notInUse"][0]["reference"], json!(node.named("idle:1")));
    assert!(node.records().is_empty(), "an inventory is no decision about a call");

    let text = crivet(&["inventory", "--config", shown(&config)]).await;
    assert!(text.out.contains("kube-system/proxy main") && text.out.contains("[static pod]"), "{}", text.out);
    let again = crivet(&["inventory", "--config", shown(&config)]).await;
    assert_eq!(text.out, again.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_nobody_knows_of_the_checks_that_a_policy_asks_for() {
    let node = node().await;
    let config = node.configure("mode: audit\n");
    let allowed = async || {
        let said = json_of(&crivet(&["inventory", "--config", shown(&config), "-o", "json"]).await);
        (
            said["judgedBy"].clone(),
            said["summary"]["notInUse"]["allowed"].clone(),
            said["notInUse"][0].clone(),
        )
    };
    assert_eq!(allowed().await.1, 1);
    let spec = "  content: {layersCheckedWithin: 72h}\n";
    node.policy("all.yaml", &node.signed_by("all", &node.signer, spec));
    let (by, count, idle) = allowed().await;
    assert_eq!((by, count, &idle["decision"]), (json!("command"), json!(0), &json!("undecided")), "{idle}");
    let message = idle["message"].as_str().unwrap();
    assert!(message.contains("layersCheckedWithin") && message.contains("idle:1"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_by_a_runtime_that_may_run_something_else_is_undecided_unless_it_is_allowed() {
    let node = node().await;
    node.runtime.state().runtime = Some("io.containerd.kata.v2".to_owned());
    for (line, running) in [
        ("", json!({"allowed": 0, "denied": 1, "undecided": 4})),
        (
            "insecureAllowRuntimes: [io.containerd.kata.v2]\n",
            json!({"allowed": 4, "denied": 1, "undecided": 0}),
        ),
    ] {
        let config = node.configure(&format!("mode: audit\n{line}"));
        let said = json_of(&crivet(&["inventory", "--config", shown(&config), "-o", "json"]).await);
        assert_eq!(said["summary"]["running"], running, "{said:#}");
        // What is not in use is in nobody's runtime yet.
        assert_eq!(said["summary"]["notInUse"]["allowed"], 1, "{said:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_warm_has_the_daemon_keep_the_proofs() {
    let node = node().await;
    let config = node.configure("mode: audit\n");
    let _gate = node.audit().await;
    crivet(&["inventory", "--config", shown(&config)]).await;
    assert_eq!(node.metric("crivet_proofs_held ").await, 0.0);
    let asked = node.registry.asked().len();
    crivet(&["inventory", "--config", shown(&config), "--warm"]).await;
    assert!(node.registry.asked().len() > asked, "what was learned without --warm was used with it");
    assert_eq!(node.metric("crivet_proofs_held ").await, 4.0);
    let asked = node.registry.asked().len();
    let ended = crivet(&["inventory", "--config", shown(&config), "--namespace", "prod"]).await;
    assert_eq!((ended.code, node.registry.asked().len()), (Some(0), asked), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn inventory_without_a_daemon_judges_by_itself_and_the_same() {
    let node = node().await;
    let config = node.configure("mode: enforce\n");
    let ended = crivet(&["inventory", "--config", shown(&config), "-o", "json"]).await;
    let said = json_of(&ended);
    assert_eq!((ended.code, &said["judgedBy"]), (Some(1), &json!("command")), "{said:#}");
    assert_eq!(said["summary"]["running"], json!({"allowed": 4, "denied": 1, "undecided": 0}), "{said:#}");
    let asked = node.registry.asked();
    let mut once = asked.clone();
    once.sort();
    once.dedup();
    assert_eq!(asked.len(), once.len(), "two containers of one image, one set of requests: {asked:?}");

    let ended = crivet(&["inventory", "--config", shown(&config), "--warm"]).await;
    assert_eq!(ended.code, Some(78), "{}", ended.out);
    assert!(ended.err.contains("--warm has a running daemon keep the proofs"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_private_registry_does_not_show_is_undecided_and_says_so() {
    let node = node().await;
    node.registry.instead(|seen| {
        seen.path.contains("/unsigned/").then(|| reply(401, &[("www-authenticate", "Basic realm=r")], ""))
    });
    let config = node.configure("mode: audit\n");
    let _gate = node.audit().await;
    let ended = crivet(&["inventory", "--config", shown(&config), "-o", "json"]).await;
    let said = json_of(&ended);
    assert_eq!(ended.code, Some(2), "{said:#}");
    let worst = &said["running"][0];
    assert_eq!((&worst["decision"], &worst["pod"]), (&json!("undecided"), &json!("proxy")));
    assert!(worst["message"].as_str().unwrap().contains("wants another login"), "{worst}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_away_ends_with_2_and_is_named() {
    let node = node().await;
    let config = node.configure("mode: enforce\n");
    std::fs::remove_file(node.policies().parent().unwrap().join("runtime.sock")).unwrap();
    let ended = crivet(&["inventory", "--config", shown(&config)]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""));
    assert!(ended.err.contains("ListImages"), "{}", ended.err);
}
