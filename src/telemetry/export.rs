//! Sends spans to a collector, in batches. Nobody waits for it, and a collector that is away costs a bounded queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

use super::attribute;
use super::wire::trace_service_client::TraceServiceClient;
use super::wire::{
    ExportTraceServiceRequest, InstrumentationScope, Resource, ResourceSpans, ScopeSpans, Span,
};
use crate::limits;
use crate::metrics::VetterMetrics;

/// Longest a batch waits for more spans.
const GATHER: Duration = Duration::from_secs(2);
/// Longest a collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a batch that was not taken; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Sends until the tracer is gone.
pub async fn run(endpoint: String, mut spans: mpsc::Receiver<Span>, metrics: Arc<VetterMetrics>) {
    let Ok(address) = Endpoint::from_shared(format!("http://{endpoint}")) else {
        // The configuration was checked: this is for the compiler.
        return tracing::error!(%endpoint, "traces cannot be sent: this is no address");
    };
    let channel = address.connect_timeout(PATIENCE).timeout(PATIENCE).connect_lazy();
    let mut collector = TraceServiceClient::new(channel);
    let (mut pause, mut batch) = (FIRST_PAUSE, Vec::new());
    while spans.recv_many(&mut batch, limits::TRACE_BATCH).await > 0 {
        if batch.len() < limits::TRACE_BATCH {
            sleep(GATHER).await;
            while batch.len() < limits::TRACE_BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
        }
        let count = batch.len();
        match send(&mut collector, std::mem::take(&mut batch)).await {
            Ok(rejected) => {
                if pause > FIRST_PAUSE {
                    tracing::info!(%endpoint, "the collector takes traces again");
                }
                pause = FIRST_PAUSE;
                let rejected = rejected.min(count);
                metrics.trace_spans_exported(count - rejected);
                metrics.trace_spans_dropped(rejected);
            }
            Err(reason) => {
                // Not kept for later: what comes meanwhile would find no room.
                metrics.trace_spans_dropped(count);
                if pause == FIRST_PAUSE {
                    tracing::warn!(%endpoint, %reason, "the collector does not take traces; they are dropped");
                }
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Sends one batch; answers with how many of it the collector did not take.
async fn send(collector: &mut TraceServiceClient<Channel>, spans: Vec<Span>) -> Result<usize, String> {
    let scope =
        InstrumentationScope { name: "crivet".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource = Some(Resource {
        attributes: [
            ("service.name", "crivet".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("host.name", rustix::system::uname().nodename().to_string_lossy().into_owned()),
        ]
        .map(|(key, value)| attribute(key, value))
        .into(),
    });
    let request = ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans }] };
    let response = collector.export(request).await.map_err(|status| format!("{:?}", status.code()))?;
    let rejected = response.into_inner().partial_success.unwrap_or_default().rejected_spans;
    Ok(usize::try_from(rejected).unwrap_or(0))
}
