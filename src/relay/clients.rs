//! Who is connected to the listening socket: the kubelet's actual endpoint, whatever its configuration says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::control::wire;

/// A connection without a call for so long may be ended where others need its place.
const IDLE_MILLIS: u64 = 60_000;

/// The connections there are now. Bounded by `limits::CONNECTIONS`.
#[derive(Default)]
pub struct Clients {
    connected: Arc<Mutex<Connected>>,
}

#[derive(Default)]
struct Connected {
    next: u64,
    clients: BTreeMap<u64, Arc<Client>>,
}

/// One connection; it is forgotten when this is dropped.
pub struct Guest {
    id: u64,
    client: Arc<Client>,
    connected: Arc<Mutex<Connected>>,
}

struct Client {
    pid: u32,
    uid: u32,
    since: SystemTime,
    calls: AtomicU64,
    last_call: AtomicU64,
    go: CancellationToken,
}

impl Clients {
    /// A client connected. Its process is the one that the kernel names (unix(7), SO_PEERCRED); 0 where it does not.
    pub fn connected(&self, stream: &UnixStream, now: SystemTime) -> Guest {
        let peer = stream.peer_cred().ok();
        let pid =
            peer.as_ref().and_then(tokio::net::unix::UCred::pid).and_then(|pid| u32::try_from(pid).ok());
        let client = Arc::new(Client {
            pid: pid.unwrap_or_default(),
            uid: peer.map_or(u32::MAX, |peer| peer.uid()),
            since: now,
            calls: AtomicU64::new(0),
            last_call: AtomicU64::new(0),
            go: CancellationToken::new(),
        });
        let mut connected = lock(&self.connected);
        connected.next += 1;
        let id = connected.next;
        connected.clients.insert(id, Arc::clone(&client));
        Guest { id, client, connected: Arc::clone(&self.connected) }
    }

    /// Tells the one to go that has been idle for longest, if that is a minute or more: a kubelet calls every second
    /// or so. `false` if none has.
    pub fn end_idlest(&self, now: SystemTime) -> bool {
        let connected = lock(&self.connected);
        let since = |client: &Client| client.last_call.load(Ordering::Relaxed).max(millis(client.since));
        let staying = connected.clients.values().filter(|client| !client.go.is_cancelled());
        let idlest = staying.min_by_key(|client| since(client));
        let idle = idlest.filter(|client| millis(now).saturating_sub(since(client)) >= IDLE_MILLIS);
        idle.inspect(|client| client.go.cancel()).is_some()
    }

    /// All of them, as the control socket tells.
    pub fn list(&self) -> Vec<wire::Client> {
        let connected = lock(&self.connected);
        let told = connected.clients.values().map(|client| wire::Client {
            pid: client.pid,
            uid: client.uid,
            connected: millis(client.since),
            calls: client.calls.load(Ordering::Relaxed),
            last_call: client.last_call.load(Ordering::Relaxed),
        });
        told.collect()
    }
}

impl Guest {
    /// Done when it is to go, to make room.
    pub fn told_to_go(&self) -> CancellationToken {
        self.client.go.clone()
    }

    /// It made a call.
    pub fn called(&self, now: SystemTime) {
        self.client.calls.fetch_add(1, Ordering::Relaxed);
        self.client.last_call.store(millis(now), Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        lock(&self.connected).clients.remove(&self.id);
    }
}

/// Milliseconds of Unix time.
pub fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn lock(connected: &Mutex<Connected>) -> MutexGuard<'_, Connected> {
    connected.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_one_that_is_idle_for_longest_is_told_to_go_and_no_other() {
        let clients = Clients::default();
        let (one, _peer) = UnixStream::pair().unwrap();
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(1000 + seconds);
        let (forgotten, kubelet) = (clients.connected(&one, at(0)), clients.connected(&one, at(0)));
        forgotten.called(at(10));
        kubelet.called(at(60));
        assert!(!clients.end_idlest(at(69)), "nobody has been idle for a minute");
        assert!(clients.end_idlest(at(70)));
        assert!(forgotten.told_to_go().is_cancelled() && !kubelet.told_to_go().is_cancelled());
        // It may take a moment to go; meanwhile no other has to.
        assert!(!clients.end_idlest(at(71)));
    }
}
