//! The kubelet's own traces, with crivet's part in them.

use crate::support::collector::{Collected, collect};
use crate::support::kubelet::Kubelet;
use crate::support::node::{Node, Setup};
use crate::support::wait_for;
use crivet::telemetry::wire::Span;
use serde_json::json;
use std::time::Duration;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn vetted_calls_of_a_kubelet_are_in_its_own_traces() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let (address, collected) = (listener.local_addr().unwrap().to_string(), Collected::default());
    runtime.spawn(collect(listener, collected.clone()));
    let settings = format!("tracing: {{endpoint: '{address}'}}\n");
    let Some(node) = Node::start(&Setup { settings: &settings, ..Setup::default() }) else { return };
    let signed = node.push_signed("signed", &node.says("here"));
    let tracing = json!({"tracing": {"endpoint": address, "samplingRatePerMillion": 1_000_000}});
    let kubelet = Kubelet::start_with(&node.peers, &node.crivet.socket(), &tracing);
    kubelet.add_pod("traced", &signed.reference, &json!({}));
    kubelet.wait_pod("traced", Duration::from_secs(60), |pod| pod.ready());

    for (own, kubelets) in [
        ("vet PullImage", "runtime.v1.ImageService/PullImage"),
        ("vet CreateContainer", "runtime.v1.RuntimeService/CreateContainer"),
        ("vet RunPodSandbox", "runtime.v1.RuntimeService/RunPodSandbox"),
    ] {
        // Both send in batches, each when it likes.
        let (vetted, caller) = wait_for(own, Duration::from_secs(60), || {
            let spans = collected.spans();
            // A sandbox's has the pull of the pause image in it, too.
            let of = |caller: &Span| {
                spans.iter().find(|span| span.name == own && span.parent_span_id == caller.span_id)
            };
            let (caller, vetted) = spans
                .iter()
                .filter(|span| span.name == kubelets)
                .find_map(|caller| Some((caller, of(caller)?)))?;
            Some((vetted.clone(), caller.clone()))
        });
        assert_eq!(hex(&vetted.trace_id), hex(&caller.trace_id));
        let within = |inner: &Span, outer: &Span| {
            outer.start_time_unix_nano <= inner.start_time_unix_nano
                && inner.end_time_unix_nano <= outer.end_time_unix_nano
        };
        assert!(within(&vetted, &caller), "{own} is not within the kubelet's call");
        let syncs = collected.spans();
        let above = syncs.iter().find(|span| span.span_id == caller.parent_span_id);
        assert!(
            above.is_some_and(|above| above.trace_id == caller.trace_id),
            "{kubelets} is a trace of its own"
        );
    }
}
