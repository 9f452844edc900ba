//! Traces over OTLP: joined to the kubelet's, without credentials, and free.

use std::collections::HashMap;

use crivet::telemetry::wire::{Span, StatusCode};
use prost::Message;

use super::node::{Gate, Node, allowed, pull};
use crate::support::client::{PULL, request};
use crate::support::collector::{Collected, collect};
use crate::support::{framed, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector, and what it has.
struct Collector {
    address: String,
    collected: Collected,
}

impl Collector {
    async fn start() -> Collector {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let collected = Collected::default();
        tokio::spawn(collect(listener, collected.clone()));
        Collector { address, collected }
    }

    /// Waits for the span of a vetted call, which ends last; answers with all that came until then.
    async fn call(&self, name: &str) -> (Span, Vec<Span>) {
        let find = || self.collected.spans().into_iter().find(|span| span.name == name);
        until(name, 20, || find().is_some()).await;
        (find().unwrap(), self.collected.spans())
    }
}

async fn serve(node: &Node, collector: &str, rate: u32) -> Gate {
    let tracing = format!("tracing: {{endpoint: '{collector}', samplingRatePerMillion: {rate}}}\n");
    node.serve(&format!("mode: enforce\n{tracing}")).await
}

async fn traced_pull(gate: &Gate, image: &str, flags: &str) -> u16 {
    let mut request = request(PULL);
    let traceparent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.headers_mut().insert("traceparent", traceparent.parse().unwrap());
    let auth = crivet::cri::v1::AuthConfig {
        username: "user".to_owned(),
        password: "swordfish".to_owned(),
        ..Default::default()
    };
    let message = crivet::cri::v1::PullImageRequest { auth: Some(auth), ..pull(image) };
    gate.client.send(request, framed(&message.encode_to_vec())).await.unwrap().code()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a str {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|attribute| attribute.value.as_ref()).map_or("", |value| &value.string_value)
}

#[tokio::test]
async fn the_spans_of_a_call_join_the_kubelet_s_trace_and_hold_no_credential() {
    let (node, collector) = (Node::strict().await, Collector::start().await);
    let image = node.push_signed("app", "1", "one");
    let gate = serve(&node, &collector.address, 0).await;
    assert_eq!(traced_pull(&gate, &node.named("app:1"), "01").await, 0);
    let (call, spans) = collector.call("vet PullImage").await;
    assert_eq!((hex(&call.trace_id), hex(&call.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!(
        (attribute(&call, "crivet.decision"), attribute(&call, "k8s.namespace.name")),
        ("allowed", "prod")
    );

    let parents: HashMap<_, _> = spans.iter().map(|span| (span.span_id.clone(), span)).collect();
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.span_id.len() == 8);
        let above = parents.get(&span.parent_span_id);
        assert!(above.is_some() || span.name == call.name, "{} hangs in the air", span.name);
        assert!(above.is_none_or(|above| above.start_time_unix_nano <= span.start_time_unix_nano));
    }
    let of_image = spans.iter().find(|span| span.name == "image").unwrap();
    assert_eq!(attribute(of_image, "crivet.digest"), image.digest());
    assert_eq!(attribute(of_image, "crivet.policies"), "all");
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    for name in ["walk from digest to image ID", "fetch evidence", "verify", "GET manifest", "GET blob"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let requests = spans.iter().filter(|span| span.name.starts_with("GET ")).count();
    assert_eq!(requests, node.registry.asked().len(), "{names:?}");
    for body in collector.collected.requests.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(body);
        assert!(text.contains("crivet") && !text.contains("swordfish") && !text.contains("c3dvcmRmaXNo"));
    }
}

#[tokio::test]
async fn a_denied_call_s_span_says_why() {
    let (node, collector) = (Node::strict().await, Collector::start().await);
    node.push("app", "1", "one");
    let gate = serve(&node, &collector.address, 1_000_000).await;
    assert!(!allowed(&gate.pull(&node.named("app:1")).await));
    let (call, _) = collector.call("vet PullImage").await;
    assert!(call.parent_span_id.is_empty());
    assert_eq!(attribute(&call, "crivet.decision"), "denied");
    let status = call.status.unwrap();
    assert_eq!(status.code, i32::from(StatusCode::Error));
    assert!(status.message.contains("policy all"), "{}", status.message);
}

#[tokio::test]
async fn a_call_that_its_caller_does_not_trace_is_not_traced() {
    let (node, collector) = (Node::strict().await, Collector::start().await);
    node.push_signed("app", "1", "one");
    let gate = serve(&node, &collector.address, 1_000_000).await;
    assert_eq!(traced_pull(&gate, &node.named("app:1"), "00").await, 0);
    assert!(allowed(&gate.pull(&node.named("app:1")).await));
    let (_, spans) = collector.call("vet PullImage").await;
    assert!(spans.iter().all(|span| hex(&span.trace_id) != TRACE));
}

#[tokio::test]
async fn a_collector_that_hangs_or_is_away_costs_nothing() {
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [hangs.local_addr().unwrap(), away] {
        let node = Node::strict().await;
        node.push_signed("app", "1", "one");
        let gate = serve(&node, &address.to_string(), 1_000_000).await;
        // Far more spans than the queue holds.
        for _ in 0..10 {
            let pulls = (0..100).map(|_| gate.pull("x.invalid/app:1"));
            assert!(futures_util::future::join_all(pulls).await.iter().all(allowed));
        }
        assert!(allowed(&gate.pull(&node.named("app:1")).await));
        let mut dropped = 0.0;
        while dropped < 512.0 {
            dropped = node.metric("crivet_trace_spans_total{outcome=\"dropped\"}").await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(gate.crivet.log().contains("the collector does not take traces"));
        assert_eq!(gate.readied(), 1);
    }
}
