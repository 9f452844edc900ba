//! `crivet doctor` beside a running daemon. No kubelet of this node's is through here: that is the end-to-end tests'.

use serde_json::{Value, json};

use super::cli::{crivet, shown};
use super::node::Node;
use crate::registry::fake::reply;
use crate::support::client::CREATE;

async fn findings(node: &Node) -> (Option<i32>, Vec<Value>) {
    let config = node.policies().parent().unwrap().join("config.yaml");
    let ended = crivet(&["doctor", "--config", shown(&config), "-o", "json"]).await;
    let said: Value =
        serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{}{}", ended.out, ended.err));
    assert_eq!(said["protected"], json!(ended.code == Some(0)));
    (ended.code, said["findings"].as_array().unwrap().clone())
}

fn find<'a>(findings: &'a [Value], id: &str) -> Option<&'a Value> {
    findings.iter().find(|finding| finding["id"] == id)
}

fn level<'a>(findings: &'a [Value], id: &str) -> &'a str {
    find(findings, id).unwrap_or_else(|| panic!("no {id}: {findings:#?}"))["level"].as_str().unwrap()
}

async fn node() -> Node {
    let node = Node::strict().await;
    let pause = node.push_signed("pause", "1", "one");
    node.runtime.preloaded(&node.named("pause:1"), &pause);
    node.runtime.state().pause = node.named("pause:1");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_is_refused_before_the_runtime_is_asked_for_a_container() {
    let node = node().await;
    let _gate = node.enforce().await;
    let (code, findings) = findings(&node).await;
    assert_eq!(code, Some(1), "no kubelet is through");
    let canary = find(&findings, "canary").unwrap_or_else(|| panic!("{findings:#?}"));
    let found = canary["found"].as_str().unwrap();
    assert!(found.contains("/crivet-doctor was refused before the runtime was reached"), "{found}");
    assert!(node.runtime.calls(CREATE).is_empty());
    let record = node.record("the canary's record", |record| record["podUid"] == "crivet-doctor").await;
    assert_eq!((&record["kind"], &record["effective"]), (&json!("CreateContainer"), &json!("refused")));
    for id in ["daemon", "configuration", "mode", "policies", "runtime", "pause-image", "registries"] {
        let found = level(&findings, id);
        assert_eq!(found, "ok", "{id}: {findings:#?}");
    }
    assert_eq!(level(&findings, "vetter-user-not-set"), "warning");
    assert_eq!(level(&findings, "unmatched-allow"), "warning");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_audit_mode_only_the_judgement_is_shown_and_the_runtime_sees_nothing() {
    let node = node().await;
    let _gate = node.audit().await;
    let (code, findings) = findings(&node).await;
    assert_eq!((code, level(&findings, "mode-audit")), (Some(1), "failure"));
    assert_eq!(level(&findings, "canary-judged"), "note");
    assert!(node.runtime.calls(CREATE).is_empty() && node.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_runs_with_other_policies_than_the_folder_s_lets_the_canary_through() {
    let node = node().await;
    std::fs::remove_file(node.policies().join("all.yaml")).unwrap();
    let _gate = node.enforce().await;
    node.policy("closed.yaml", &node.denying("closed"));
    let (code, findings) = findings(&node).await;
    assert_eq!((code, level(&findings, "policies-not-running")), (Some(1), "warning"));
    assert_eq!(level(&findings, "canary-not-refused"), "failure");
    assert_eq!(level(&findings, "nothing-covered"), "failure");
    let [create] = node.runtime.calls(CREATE).try_into().unwrap();
    let text = String::from_utf8_lossy(&create.data).into_owned();
    assert!(text.contains("crivet-doctor"), "what is let through names what is not there: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_away_is_found_with_what_can_be_seen_without_it() {
    let node = node().await;
    node.configure("mode: enforce\n");
    node.policy("bad.yaml", "kind: ImagePolicy\n");
    let (code, findings) = findings(&node).await;
    assert_eq!((code, level(&findings, "daemon-away")), (Some(1), "failure"));
    assert_eq!(level(&findings, "policies-bad"), "warning");
    assert_eq!(level(&findings, "canary-not-tried"), "failure");
    node.configure("mode: enforced\n");
    let (_, findings) = self::findings(&node).await;
    assert_eq!(level(&findings, "configuration-salvaged"), "failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_tried_at_their_registries_and_what_is_wrong_with_them_is_found() {
    let node = node().await;
    let write = |name: &str, user: &str| {
        let login = json!({"auths": {node.host(): {"username": user, "password": "horse"}}});
        let path = node.place.path().join(name);
        std::fs::write(&path, login.to_string()).unwrap();
        path.display().to_string()
    };
    let (good, bad, gone) =
        (write("good.json", "good"), write("bad.json", "bad"), node.place.path().join("gone"));
    node.registry.instead(|seen| match seen.authorization.as_deref() {
        Some("Basic Z29vZDpob3JzZQ==") => None,
        _ => Some(reply(401, &[("www-authenticate", "Basic realm=\"r\"")], "")),
    });
    let files = format!("{good}, {bad}, {}", gone.display());
    let lines = format!("mode: enforce\nregistry: {{credentials: {{dockerConfigs: [{files}]}}}}\n");
    let _gate = node.serve(&lines).await;
    let (_, findings) = findings(&node).await;
    let found = |id: &str| {
        find(&findings, id).unwrap_or_else(|| panic!("no {id}: {findings:#?}"))["found"].to_string()
    };
    assert!(found("registry-login-refused").contains(&format!("the login of {bad}")));
    assert!(found("registry-logins").contains(&good) && !found("registry-logins").contains(&bad));
    assert!(found("docker-config-unusable").contains("gone"));
    assert!(!format!("{findings:?}").contains("horse"));
}
