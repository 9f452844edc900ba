//! What was vetted starts when crivet was killed and no registry is there; what was not stays undecided.

use crate::support::crivet::key_policy;
use crate::support::node::{Node, REGISTRY_UNAVAILABLE, Setup, assert_refused};
use crate::support::{free_port, http, wait_for};
use serde_json::json;
use std::time::Duration;

const A_WHILE: Duration = Duration::from_secs(20);

#[test]
fn a_killed_crivet_without_a_registry_starts_what_it_had_vetted_and_nothing_else() {
    let metrics = format!("127.0.0.1:{}", free_port());
    // Nothing is fresh, so that the registry is asked each time.
    let settings = format!("metricsAddress: {metrics}\nvetting: {{freshFor: 1s}}\n");
    let Some(mut node) = Node::start(&Setup { settings: &settings, ..Setup::default() }) else { return };
    let signed = node.push_signed("signed", &node.says("vouched for"));
    let unvetted = node.push_signed("unvetted", &node.says("signed, and never vetted here"));
    node.preload(&unvetted.reference);
    node.crictl().pull(&signed.reference).unwrap();
    let container = node.crictl().start("before", &signed).unwrap();
    assert_eq!(container.first_line(), "vouched for");
    wait_for("the proofs on disk", A_WHILE, || {
        let page = http::request(&metrics, "GET", "/metrics", &[], &[]).ok()?;
        let page = String::from_utf8(page.body).ok()?;
        let has = |line: &str| page.lines().any(|found| found == line);
        let persistent = has("crivet_proofs_store_state{state=\"persistent\"} 1");
        (persistent && has("crivet_proofs_unwritten 0")).then_some(())
    });

    node.registry.stop();
    node.crivet.kill();
    node.crivet.start_again(&node.peers);
    std::thread::sleep(Duration::from_secs(2));
    // The pod sandbox and its pause image, and the container.
    let container = node.crictl().start("after", &signed).unwrap();
    assert_eq!(container.first_line(), "vouched for");
    let image = json!({"image": unvetted.id, "user_specified_image": unvetted.reference});
    assert_refused(node.create("unvetted", &image), REGISTRY_UNAVAILABLE, &[]);

    // Other policies are held against the evidence that is kept.
    let all = node.glob("**");
    let other = node.cosign.generate_key("other");
    node.crivet.put_policies(&[key_policy("of-another-name", &all, &node.key)]);
    node.crictl().start("same-key", &signed).unwrap();
    node.crivet.put_policies(&[key_policy("of-another-key", &all, &other)]);
    assert_refused(node.crictl().start("other-key", &signed).map(drop), REGISTRY_UNAVAILABLE, &[]);

    let (_, said) = node.crivet.json("doctor", &[]);
    let found = said["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == "proofs");
    assert!(found.is_some(), "{said}");
}
