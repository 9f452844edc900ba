//! An OTLP collector that keeps the spans it gets. Shared with the end-to-end tests.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crivet::telemetry::wire::{ExportTraceServiceRequest, ExportTraceServiceResponse, Span};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;

/// What came so far.
#[derive(Clone, Default)]
pub struct Collected {
    spans: Arc<Mutex<Vec<Span>>>,
    /// The messages as they came.
    pub requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collected {
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

/// Collects until the runtime it runs on ends.
pub async fn collect(listener: TcpListener, collected: Collected) {
    while let Ok((stream, _)) = listener.accept().await {
        let collected = collected.clone();
        let service = service_fn(move |request: Request<Incoming>| answer(request, collected.clone()));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    collected: Collected,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    // After gRPC's prefix of a flag and a length.
    let export = ExportTraceServiceRequest::decode(&body[5..]).unwrap();
    collected.requests.lock().unwrap().push(body.to_vec());
    let scopes = export.resource_spans.into_iter().flat_map(|one| one.scope_spans);
    collected.spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
    let message = ExportTraceServiceResponse::default().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed: Vec<u8> = [&[0], &length[..], &message].concat();
    let end = HeaderMap::from_iter([("grpc-status".parse().unwrap(), 0.into())]);
    let body = Full::<Bytes>::new(framed.into()).with_trailers(async { Some(Ok(end)) });
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}
