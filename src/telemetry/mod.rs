//! Traces over OTLP, joined to the kubelet's. Made in the vetter: the relay has no network and does not grow.
//!
//! A call that is sampled has one span, each of its images one below it, and below these what was done: requests to
//! registries, the walk, the verification. What is not sampled costs nothing. Spans wait in a bounded queue; what finds no
//! room, and what a collector does not take, is dropped and counted. Attributes hold no credential: they are the texts
//! of the audit log.

mod export;
mod parent;

pub use parent::Parent;

/// The messages of OTLP, generated from `proto/otlp.proto`.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod wire {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc;

use self::wire::{AnyValue, KeyValue, SpanKind, Status, StatusCode};
use crate::config::Tracing;
use crate::limits;
use crate::metrics::VetterMetrics;

/// Starts traces, and sends them as the configuration says.
#[derive(Clone)]
pub struct Tracer {
    queue: mpsc::Sender<wire::Span>,
    metrics: Arc<VetterMetrics>,
    per_million: u32,
}

impl Tracer {
    /// A tracer that sends until it is dropped. Must be called within the async runtime.
    pub fn new(settings: &Tracing, metrics: Arc<VetterMetrics>) -> Tracer {
        let (queue, spans) = mpsc::channel(limits::TRACE_SPANS);
        tokio::spawn(export::run(settings.endpoint.clone(), spans, Arc::clone(&metrics)));
        Tracer { queue, metrics, per_million: settings.sampling_rate_per_million }
    }

    /// The trace of a call: its caller's, if that is sampled; without a caller's one in so many is sampled.
    pub fn trace(&self, traceparent: &str) -> Trace {
        let random = SystemRandom::new();
        let parent = match Parent::parse(traceparent) {
            Some(parent) if !parent.sampled => return Trace::default(),
            Some(parent) => Some(parent),
            None if !self.samples(&random) => return Trace::default(),
            None => None,
        };
        let (trace_id, parent_id) = match parent {
            Some(parent) => (parent.trace_id.to_vec(), parent.span_id.to_vec()),
            None => (random_id::<16>(&random), Vec::new()),
        };
        Trace { sampled: Some(Arc::new(Sampled { tracer: self.clone(), trace_id, parent_id })) }
    }

    fn samples(&self, random: &SystemRandom) -> bool {
        let mut bytes = [0; 8];
        self.per_million > 0
            && random.fill(&mut bytes).is_ok()
            && u64::from_le_bytes(bytes) % 1_000_000 < u64::from(self.per_million)
    }
}

/// Where spans go; nowhere, unless the call is sampled. Cheap to clone.
#[derive(Clone, Default)]
pub struct Trace {
    sampled: Option<Arc<Sampled>>,
}

struct Sampled {
    tracer: Tracer,
    trace_id: Vec<u8>,
    /// The span that those made here are below; empty at the root.
    parent_id: Vec<u8>,
}

/// What a span is to whom it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Work within the vetter.
    Internal,
    /// Work for a caller.
    Server,
    /// A request to somebody else.
    Client,
}

impl Trace {
    /// Begins a span; it ends when it is dropped.
    pub fn span(&self, name: &str, role: Role) -> Span {
        let Some(sampled) = &self.sampled else { return Span { open: None } };
        let kind = match role {
            Role::Internal => SpanKind::Internal,
            Role::Server => SpanKind::Server,
            Role::Client => SpanKind::Client,
        };
        let span = wire::Span {
            trace_id: sampled.trace_id.clone(),
            span_id: random_id::<8>(&SystemRandom::new()),
            parent_span_id: sampled.parent_id.clone(),
            name: name.to_owned(),
            kind: kind.into(),
            start_time_unix_nano: now(),
            flags: 1,
            ..Default::default()
        };
        Span { open: Some(Box::new(Open { span, tracer: sampled.tracer.clone() })) }
    }
}

/// A span that has begun; nothing, where the call is not sampled.
pub struct Span {
    open: Option<Box<Open>>,
}

struct Open {
    span: wire::Span,
    tracer: Tracer,
}

impl Span {
    /// Adds an attribute; an empty one says nothing, and a long one is cut.
    pub fn set(&mut self, key: &str, value: &str) {
        if let Some(open) = &mut self.open
            && !value.is_empty()
        {
            let value = value.chars().take(limits::QUOTED_CHARS).collect();
            open.span.attributes.push(attribute(key, value));
        }
    }

    /// Says that it came to no good end, and why.
    pub fn failed(&mut self, why: &str) {
        if let Some(open) = &mut self.open {
            let message = why.chars().take(2 * limits::QUOTED_CHARS).collect();
            open.span.status = Some(Status { message, code: StatusCode::Error.into() });
        }
    }

    /// Where the spans below this one go.
    pub fn below(&self) -> Trace {
        let sampled = self.open.as_ref().map(|open| {
            Arc::new(Sampled {
                tracer: open.tracer.clone(),
                trace_id: open.span.trace_id.clone(),
                parent_id: open.span.span_id.clone(),
            })
        });
        Trace { sampled }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        let Open { mut span, tracer } = *open;
        span.end_time_unix_nano = now().max(span.start_time_unix_nano);
        if tracer.queue.try_send(span).is_err() {
            tracer.metrics.trace_spans_dropped(1);
        }
    }
}

fn attribute(key: &str, value: String) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { string_value: value }) }
}

/// An ID that is not all zeros, as the protocol has it.
fn random_id<const BYTES: usize>(random: &SystemRandom) -> Vec<u8> {
    let mut id = [1; BYTES];
    // Without randomness spans are told apart by nothing, and no call is worse for it.
    let _ = random.fill(&mut id);
    id.to_vec()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracer(per_million: u32) -> (Tracer, mpsc::Receiver<wire::Span>) {
        let (queue, spans) = mpsc::channel(2);
        (Tracer { queue, metrics: Arc::default(), per_million }, spans)
    }

    #[test]
    fn a_sampled_call_joins_its_caller_s_trace() {
        let (tracer, mut spans) = tracer(0);
        let mut outer = tracer.trace(SAMPLED).span("outer", Role::Server);
        outer.set("empty", "");
        outer.set("key", &"x".repeat(10_000));
        outer.failed("why");
        drop(outer.below().span("inner", Role::Client));
        drop(outer);
        let (inner, outer) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
        assert_eq!(outer.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert_eq!((&inner.parent_span_id, &inner.trace_id), (&outer.span_id, &outer.trace_id));
        assert_eq!(outer.attributes.len(), 1);
        assert_eq!(outer.attributes[0].value.as_ref().unwrap().string_value.len(), limits::QUOTED_CHARS);
        assert_eq!(outer.status.unwrap().code, i32::from(StatusCode::Error));
    }

    #[test]
    fn a_call_whose_caller_does_not_sample_has_no_span() {
        let (tracer, mut spans) = tracer(1_000_000);
        drop(tracer.trace(&SAMPLED.replace("-01", "-00")).span("x", Role::Server));
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn a_call_without_a_caller_s_trace_is_sampled_by_the_ratio() {
        for (per_million, sampled) in [(0, false), (1_000_000, true)] {
            let (tracer, mut spans) = tracer(per_million);
            for traceparent in ["", "garbage"] {
                drop(tracer.trace(traceparent).span("x", Role::Server));
                let span = spans.try_recv();
                assert_eq!(span.is_ok(), sampled);
                assert!(span.is_err() || span.is_ok_and(|span| span.parent_span_id.is_empty()));
            }
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (tracer, _spans) = tracer(1_000_000);
        for _ in 0..5 {
            drop(tracer.trace("").span("x", Role::Server));
        }
        let page = tracer.metrics.render("");
        assert!(page.contains("crivet_trace_spans_total{outcome=\"dropped\"} 3\n"), "{page}");
    }
}
