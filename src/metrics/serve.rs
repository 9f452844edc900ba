//! The metrics address: a small HTTP/1 server that answers two paths.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::limits::{METRICS_CONNECTION_SECONDS, METRICS_CONNECTIONS, METRICS_HEADER_BYTES};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers `GET /metrics` with what `render` gives and `GET /healthz` with `ok`, until dropped.
///
/// One request per connection, `METRICS_CONNECTIONS` at a time, each at most `METRICS_CONNECTION_SECONDS`: who
/// can reach the address can keep it busy for others, and do nothing else.
pub async fn serve<F, Fut>(listener: TcpListener, render: F) -> Infallible
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = String> + Send + 'static,
{
    serve_within(listener, render, Duration::from_secs(METRICS_CONNECTION_SECONDS)).await
}

async fn serve_within<F, Fut>(listener: TcpListener, render: F, limit: Duration) -> Infallible
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = String> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(METRICS_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { continue };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: not worth more than another try.
                tracing::warn!(%error, "metrics: a connection could not be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let render = render.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, render.clone()));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limit)
                .max_buf_size(METRICS_HEADER_BYTES)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off or breaks HTTP concerns nobody else.
            let _ = tokio::time::timeout(limit, connection).await;
            drop(slot);
        });
    }
}

async fn answer<F, Fut>(request: Request<Incoming>, render: F) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn() -> Fut,
    Fut: Future<Output = String>,
{
    let path = request.uri().path();
    let (status, kind, body) = match (path, request.method()) {
        ("/metrics", &Method::GET) => (StatusCode::OK, OPEN_METRICS, render().await),
        ("/healthz", &Method::GET) => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        ("/metrics" | "/healthz", _) => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "only /metrics and /healthz are here\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    const GET_METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";

    /// Takes all connections, sends `first` on each, and asks on one more.
    async fn healthy_behind(first: &[u8]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // The page is never done: as if the other process had stopped answering.
        tokio::spawn(serve_within(listener, std::future::pending, Duration::from_millis(100)));
        let mut held = Vec::new();
        for _ in 0..METRICS_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(first).await.unwrap();
            held.push(stream);
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer));
        read.await.unwrap().unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");
    }

    #[tokio::test]
    async fn connections_that_say_nothing_give_way_in_time() {
        healthy_behind(b"").await;
    }

    #[tokio::test]
    async fn connections_whose_page_is_never_done_give_way_in_time() {
        healthy_behind(GET_METRICS).await;
    }
}
