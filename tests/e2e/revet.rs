//! A key is exchanged in the policies, under a pod that runs: told, by evidence that is kept, and nothing is stopped.

use crate::support::crivet::key_policy;
use crate::support::kubelet::Kubelet;
use crate::support::metrics::{Metrics, sample};
use crate::support::node::{Node, Setup};
use crate::support::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

/// A node begins within 63 s, and its budget at a registry opens within 120 s of the start; what is denied is looked for
/// there, by six requests an image with two seconds between them.
const WHOLE: Duration = Duration::from_secs(63 + 120 + 60);

/// When all was judged anew last, once nothing is left; later than `before`.
fn gone_over(metrics: &Metrics, before: f64) -> f64 {
    wait_for("the end of going over", WHOLE, || {
        let page = metrics.page()?;
        let left = sample(&page, "crivet_revetting_left")?;
        sample(&page, "crivet_revetted_timestamp_seconds").filter(|at| left == 0.0 && *at > before)
    })
}

/// What doctor says of it. Asked seldom: where the pause image is denied, each time takes from the same budget.
fn findings(node: &Node) -> Vec<(String, String)> {
    let (_, doctor) = node.crivet.json("doctor", &[]);
    let all = doctor["findings"].as_array().unwrap().iter();
    let all = all.map(|finding| (finding["id"].as_str().unwrap(), finding["found"].as_str().unwrap()));
    let of_it = ["revetting", "running-not-allowed", "stored-not-allowed"];
    all.filter(|(id, _)| of_it.contains(id)).map(|(id, found)| (id.to_owned(), found.to_owned())).collect()
}

fn revetted(setup: Setup<'_>) {
    let metrics = Metrics::unused();
    let settings = metrics.setting();
    let Some(mut node) = Node::start(&Setup { settings: &settings, ..setup }) else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let other = node.push_signed("stored", &node.says("never started").file("n", "2"));
    node.crictl().pull(&other.reference).unwrap();
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("app", &signed.reference, &json!({}));
    kubelet.wait_pod("app", Duration::from_secs(60), |pod| pod.ready());
    let running = node.containers();

    let other_key = node.cosign.generate_key("other");
    node.crivet.put_policies(&[key_policy("all", &node.glob("**"), &other_key)]);
    let at = gone_over(&metrics, 0.0);
    let found = findings(&node);
    let ids: Vec<_> = found.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["running-not-allowed", "stored-not-allowed"], "{found:?}");
    let text = &found[0].1;
    assert!(text.contains(&signed.reference) && text.contains("expected a signature by"), "{text}");
    let record = |is_it: &dyn Fn(&Value) -> bool| {
        wait_for("its record", Duration::from_secs(20), || {
            node.crivet.audit().into_iter().find(|record| record["kind"] == "Revetted" && is_it(record))
        })
    };
    let main = record(&|record| record["container"] == "main");
    assert_eq!((&main["decision"], &main["effective"]), (&json!("denied"), &json!("forwarded")), "{main}");
    assert_eq!(main["digest"], signed.digest.as_str());
    record(&|record| record["reference"] == other.reference);
    // Nothing was stopped, and nothing was removed.
    assert_eq!(node.containers(), running);
    kubelet.wait_pod("app", Duration::from_secs(60), |pod| pod.ready());
    assert!(node.crictl().json(["inspecti", "-o", "json", &other.id]).is_ok());

    node.registry.stop();
    node.crivet.put_policies(&[key_policy("all", &node.glob("**"), &node.key)]);
    gone_over(&metrics, at);
    let found = findings(&node);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(node.containers(), running);
}

#[test]
fn what_runs_under_a_key_that_was_exchanged_is_told_and_not_stopped() {
    revetted(Setup::default());
}

#[test]
fn what_runs_under_a_key_that_was_exchanged_is_told_on_containerd_2() {
    revetted(Setup::on_containerd_2());
}
