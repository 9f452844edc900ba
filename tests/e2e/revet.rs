//! A key is exchanged in the policies, under a pod that runs: told, by evidence that is kept, and nothing is stopped.

use crate::support::crivet::key_policy;
use crate::support::kubelet::Kubelet;
use crate::support::node::{Node, Setup};
use crate::support::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest that a node waits before it begins, and what it has to do.
const SOON: Duration = Duration::from_secs(120);

fn found(node: &Node, id: &str) -> Option<Value> {
    let (_, doctor) = node.crivet.json("doctor", &[]);
    doctor["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).cloned()
}

fn revetted(setup: &Setup<'_>) {
    let Some(mut node) = Node::start(setup) else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let other = node.push_signed("stored", &node.says("never started").file("n", "2"));
    node.crictl().pull(&other.reference).unwrap();
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("app", &signed.reference, &json!({}));
    kubelet.wait_pod("app", Duration::from_secs(60), |pod| pod.ready());
    let running = node.containers();

    let other_key = node.cosign.generate_key("other");
    node.crivet.put_policies(&[key_policy("all", &node.glob("**"), &other_key)]);
    let finding = wait_for("the finding", SOON, || found(&node, "running-not-allowed"));
    let text = finding["found"].as_str().unwrap();
    assert!(text.contains(&signed.reference) && text.contains("expected a signature by"), "{text}");
    let is_it = |record: &Value| record["kind"] == "Revetted" && record["container"] == "main";
    let record =
        wait_for("its record", Duration::from_secs(20), || node.crivet.audit().into_iter().find(is_it));
    assert_eq!(
        (&record["decision"], &record["effective"]),
        (&json!("denied"), &json!("forwarded")),
        "{record}"
    );
    assert_eq!(record["digest"], signed.digest.as_str());
    wait_for("the stored image", SOON, || {
        let is_it = |record: &Value| record["kind"] == "Revetted" && record["reference"] == other.reference;
        node.crivet.audit().into_iter().find(is_it)
    });
    wait_for("the end of going over", SOON, || found(&node, "revetting").is_none().then_some(()));
    assert!(found(&node, "stored-not-allowed").is_some());
    // Nothing was stopped, and nothing was removed.
    assert_eq!(node.containers(), running);
    kubelet.wait_pod("app", Duration::from_secs(60), |pod| pod.ready());
    assert!(node.crictl().json(["inspecti", "-o", "json", &other.id]).is_ok());

    node.registry.stop();
    node.crivet.put_policies(&[key_policy("all", &node.glob("**"), &node.key)]);
    let gone = || {
        let all = ["revetting", "running-not-allowed", "stored-not-allowed"];
        all.iter().all(|id| found(&node, id).is_none()).then_some(())
    };
    wait_for("the findings are over", SOON, gone);
    assert_eq!(node.containers(), running);
}

#[test]
fn what_runs_under_a_key_that_was_exchanged_is_told_and_not_stopped() {
    revetted(&Setup::default());
}

#[test]
fn what_runs_under_a_key_that_was_exchanged_is_told_on_containerd_2() {
    revetted(&Setup::on_containerd_2());
}
