//! Accepts connections, and ends them in order.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::service::service_fn;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::gather::Gather;
use super::upstream::Upstream;
use super::{Relay, http2};
use crate::limits;

/// After the drain: time for the last answers to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until `stop` is done. Then server streams end at once, other calls may finish for `drain`, and end as
/// Unavailable after it.
pub async fn serve(
    relay: Arc<Relay>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
    drain: Duration,
) {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
    tokio::pin!(stop);
    loop {
        relay.metrics.connections(limits::CONNECTIONS - places.available_permits());
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => {
                        let relay = Arc::clone(&relay);
                        connections.spawn(async move {
                            connection(relay, stream).await;
                            drop(place);
                        });
                    }
                    Err(_) => tracing::warn!(limit = limits::CONNECTIONS, "too many connections (limits::CONNECTIONS); closed the newest"),
                },
                Err(error) => {
                    // Out of file descriptors, mostly: the backlog keeps whoever waits.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(listener);
    relay.stop_streams.cancel();
    let all_ended = async { while connections.join_next().await.is_some() {} };
    tokio::pin!(all_ended);
    if timeout(drain, &mut all_ended).await.is_err() {
        relay.stop_calls.cancel();
        let _ = timeout(LAST_WORDS, all_ended).await;
    }
}

async fn connection(relay: Arc<Relay>, stream: UnixStream) {
    let upstream = Arc::new(Upstream::new(&relay.endpoints));
    let stopping = relay.stop_streams.clone();
    let client = relay.clients.connected(&stream, SystemTime::now());
    let service = service_fn(move |request| {
        client.called(SystemTime::now());
        let (relay, upstream) = (Arc::clone(&relay), Arc::clone(&upstream));
        async move { relay.call(upstream, request).await }
    });
    let connection = http2::server().serve_connection(Gather::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Bytes that are no HTTP/2, a kubelet before 1.31, a client that went away.
        tracing::debug!(%error, "a connection ended");
    }
}
