//! Accepts connections, and ends them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use hyper::service::service_fn;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::gather::Gather;
use super::upstream::Upstream;
use super::{Relay, descriptors, http2};

/// After the drain: time for the last answers to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How the calls of a connection are told that the relay stops.
#[derive(Clone, Default)]
pub struct Stop {
    /// Cancelled first: server streams end, and the connection takes no new calls.
    pub streams: CancellationToken,
    /// Cancelled after the drain: calls end as Unavailable.
    pub calls: CancellationToken,
}

/// Serves until `stop` is done, this many connections at once. Then server streams end at once, other calls may finish for
/// `drain`, and end as Unavailable after it.
///
/// One long call (a pull) must not keep all others waiting for the next relay: a client that connects anew during the
/// drain is served as before, and told to go when the drain is over.
pub async fn serve(
    relay: Arc<Relay>,
    listener: UnixListener,
    room: usize,
    stop: impl Future<Output = ()>,
    drain: Duration,
) {
    let places = Arc::new(Semaphore::new(room));
    let door = Door { relay, listener, places, complained: AtomicBool::default() };
    let (before, after) = (Stop::default(), Stop::default());
    let (mut connections, mut late) = (JoinSet::new(), JoinSet::new());
    tokio::pin!(stop);
    loop {
        door.relay.metrics.connections(room.saturating_sub(door.places.available_permits()));
        tokio::select! {
            guest = door.next(&before) => drop(guest.map(|guest| connections.spawn(guest))),
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    before.streams.cancel();
    let drained = Instant::now() + drain;
    while !connections.is_empty() {
        tokio::select! {
            guest = door.next(&after) => drop(guest.map(|guest| late.spawn(guest))),
            _ = connections.join_next() => {}
            Some(_) = late.join_next() => {}
            () = sleep_until(drained) => break,
        }
    }
    drop(door);
    before.calls.cancel();
    after.streams.cancel();
    let all_ended = async {
        while connections.join_next().await.is_some() {}
        while late.join_next().await.is_some() {}
    };
    tokio::pin!(all_ended);
    if timeout(LAST_WORDS, &mut all_ended).await.is_err() {
        after.calls.cancel();
        let _ = timeout(LAST_WORDS, all_ended).await;
    }
}

/// Where connections come in.
struct Door {
    relay: Arc<Relay>,
    listener: UnixListener,
    places: Arc<Semaphore>,
    /// It was said that nobody gets in; not again ten times a second.
    complained: AtomicBool,
}

impl Door {
    /// Lets the next one in: its connection's life. `None` if there was no room for it.
    async fn next(&self, stop: &Stop) -> Option<impl Future<Output = ()> + Send + use<>> {
        match self.listener.accept().await {
            Ok((stream, _)) => match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => {
                    self.complained.store(false, Ordering::Relaxed);
                    let (relay, stop) = (Arc::clone(&self.relay), stop.clone());
                    return Some(async move {
                        connection(relay, stream, stop).await;
                        drop(place);
                    });
                }
                // The kubelet may be who comes: it must not wait for a program that forgot its connections.
                Err(_) => {
                    let ended = self.relay.clients.end_idlest(SystemTime::now());
                    tracing::warn!(
                        ended,
                        "too many connections (limits::CONNECTIONS); closed the newest, and asked the one that is idle for longest to go"
                    );
                }
            },
            Err(error) => {
                // Out of file descriptors, mostly: the backlog keeps whoever waits.
                let ended =
                    descriptors::are_exhausted(&error) && self.relay.clients.end_idlest(SystemTime::now());
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, ended, "cannot accept connections; those that are there go on");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        None
    }
}

async fn connection(relay: Arc<Relay>, stream: UnixStream, stop: Stop) {
    let upstream = Arc::new(Upstream::new(&relay.endpoints));
    let stopping = stop.streams.clone();
    let client = relay.clients.connected(&stream, SystemTime::now());
    let idle = client.told_to_go();
    let service = service_fn(move |request| {
        client.called(SystemTime::now());
        let (relay, upstream, stop) = (Arc::clone(&relay), Arc::clone(&upstream), stop.clone());
        async move { relay.call(upstream, stop, request).await }
    });
    let connection = http2::server().serve_connection(Gather::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = idle.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_WORDS, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        // Bytes that are no HTTP/2, a kubelet before 1.31, a client that went away.
        tracing::debug!(%error, "a connection ended");
    }
}
