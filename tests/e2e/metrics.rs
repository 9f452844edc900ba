//! What an operator sees at `metricsAddress`.

use crate::support::metrics::{Metrics, sample as find};
use crate::support::node::{Node, Setup};
use crate::support::wait_for;
use std::time::Duration;

/// A sample's value, 0 if there is none.
fn sample(page: &str, name: &str) -> f64 {
    find(page, name).unwrap_or_default()
}

fn start() -> Option<(Metrics, Node)> {
    let metrics = Metrics::unused();
    let node = Node::start(&Setup { settings: &metrics.setting(), ..Setup::default() })?;
    metrics.wait();
    Some((metrics, node))
}

#[test]
fn decisions_and_registry_requests_are_counted() {
    let Some((metrics, node)) = start() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let unsigned = node.push("unsigned", &node.says("never").file("n", "2"));
    node.crictl().pull(&signed.reference).unwrap();
    node.crictl().pull(&unsigned.reference).unwrap_err();
    let page = metrics.page().unwrap();
    let pulls = |decision: &str, effective: &str| {
        sample(
            &page,
            &format!(
                "crivet_decisions_total{{kind=\"PullImage\",decision=\"{decision}\",mode=\"enforce\",effective=\"{effective}\"}}"
            ),
        )
    };
    assert_eq!((pulls("allowed", "forwarded"), pulls("denied", "refused")), (1.0, 1.0), "{page}");
    let made = node.registry.requests_of("crivet/").len();
    let counted = ["ok", "not_found"]
        .map(|o| sample(&page, &format!("crivet_registry_requests_total{{outcome=\"{o}\"}}")));
    assert_eq!(counted.iter().sum::<f64>(), made as f64, "{page}");
    assert!(counted.iter().all(|count| *count > 0.0), "{page}");
}

#[test]
fn the_last_kubelet_call_moves_with_each_call_and_not_by_itself() {
    let Some((metrics, node)) = start() else { return };
    let last = || sample(&metrics.page().unwrap(), "crivet_last_kubelet_call_seconds");
    node.crictl().run(["version"]).unwrap();
    let first = last();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(last(), first);
    node.crictl().run(["version"]).unwrap();
    assert!(last() > first);
}

#[test]
fn the_relays_numbers_survive_the_vetter() {
    let Some((metrics, node)) = start() else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    node.crictl().pull(&signed.reference).unwrap();
    node.crictl().start("before", &signed).unwrap();
    let vetted = "crivet_relay_calls_total{class=\"vetted\"}";
    let before = metrics.page().unwrap();
    assert!(sample(&before, vetted) >= 3.0, "{before}");

    node.crivet.kill_vetter();
    let after = wait_for("the new vetter's metrics", Duration::from_secs(20), || {
        metrics.page().filter(|page| sample(page, "crivet_vetter_restarts_total") == 1.0)
    });
    assert!(sample(&after, vetted) >= sample(&before, vetted), "{after}");
    assert!(
        sample(&after, "crivet_last_kubelet_call_seconds")
            >= sample(&before, "crivet_last_kubelet_call_seconds")
    );
    // What the relay holds a permit for needed nobody.
    assert!(sample(&after, "crivet_permits_held") > 0.0, "{after}");
}
