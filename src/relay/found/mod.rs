//! Containers that did not come through crivet: found, vetted beside, counted and told. Nothing is stopped.
//!
//! The runtime's list is compared with what crivet let through. Sandboxes are not looked at: their image is the
//! runtime's own setting, whoever makes them, and what is put into one is found by itself.
//!
//! **Events, and why mostly not.** GetContainerEvents is no broadcast everywhere. containerd 1.6 does not have it;
//! containerd 1.7 hands each event to one subscriber only, so a second one takes the kubelet's; CRI-O has it off by
//! default. containerd 2 broadcasts, but hands what happened while nobody listened to the first who comes. So crivet
//! listens on containerd 2 only, after a kubelet that listens has had time to come first, and stops when one comes
//! later. Everywhere else it asks for the list from time to time: a kubelet asks ten times as often.

mod known;
mod store;
mod strangers;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use self::known::Known;
use self::store::Store;
use self::strangers::{GRACE, Round, Strangers};
use super::Relay;
use crate::control::wire;
use crate::cri::v1::ContainerEventType;
use crate::metrics::Origin;

/// The first look comes after the kubelet, which has waited for crivet.
const FIRST: Duration = Duration::from_secs(5);
/// How often the runtime is asked for its containers. A kubelet asks about 17 times in ten seconds.
const POLL: Duration = Duration::from_secs(10);
/// The same, while events are heard: in case one was lost.
const POLL_BESIDE_EVENTS: Duration = Duration::from_secs(60);
/// A kubelet that listens to events has come back by then (its back-off is 3 s).
const KUBELET_FIRST: Duration = Duration::from_secs(30);
/// Longest the vetting of one container may take. Nobody waits for it.
const BUDGET: Duration = super::beside::BUDGET;
/// Vettings of strangers that are asked for at once.
const AT_ONCE: usize = 16;

/// What is known about containers that came through, and those that did not.
#[derive(Default)]
pub struct Found {
    known: Mutex<Known>,
    strangers: Mutex<Strangers>,
    /// There is something to write.
    written: Notify,
    /// Somebody listens to the runtime's events through crivet.
    listened: AtomicBool,
    /// How containers are watched for.
    watching: Mutex<&'static str>,
}

impl Found {
    /// The runtime answered a create that came through crivet with this ID.
    pub fn came_through(&self, id: &str) {
        if id.is_empty() {
            return;
        }
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
        if lock(&self.known).came_through(id, Instant::now(), nanos) {
            self.written.notify_one();
        } else {
            tracing::warn!(
                id,
                "a container that came through cannot be kept in mind (limits::CONTAINERS_KNOWN)"
            );
        }
    }

    /// Somebody asks for the runtime's events through crivet: it is theirs alone from now on.
    pub fn somebody_listens(&self) {
        self.listened.store(true, Ordering::Relaxed);
    }

    /// The strangers as `Status` shows them, how many there are, and how they are watched for.
    pub fn status(&self) -> (Vec<wire::FoundContainer>, usize, &'static str) {
        let strangers = lock(&self.strangers);
        (strangers.list(), strangers.len(), *lock(&self.watching))
    }
}

/// Watches as long as the relay lives. `state` is the folder in which it is kept what came through.
pub async fn watch(relay: Arc<Relay>, state: PathBuf) {
    let store = Arc::new(Mutex::new(read(&relay.found, state).await));
    tokio::spawn(write(Arc::clone(&relay), Arc::clone(&store)));
    let listening = Arc::<Notify>::default();
    let events = Arc::<AtomicBool>::default();
    tokio::spawn(listen(Arc::clone(&relay), Arc::clone(&listening), Arc::clone(&events)));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut answers = true;
    sleep(FIRST).await;
    loop {
        let (now_listening, every) = match events.load(Ordering::Relaxed) {
            true => ("events", POLL_BESIDE_EVENTS),
            false => ("polling", POLL),
        };
        let pause = match look(&relay, &places).await {
            Ok(suspected) => {
                answers = true;
                *lock(&relay.found.watching) = now_listening;
                if suspected { GRACE } else { every }
            }
            Err(error) => {
                if std::mem::take(&mut answers) {
                    tracing::warn!(%error, "containers that came past crivet cannot be looked for; trying again");
                }
                *lock(&relay.found.watching) = "the runtime does not answer";
                POLL
            }
        };
        keep_whole(&relay, &store).await;
        // An event of a container that is not known ends the pause; what came through has been said by then.
        if timeout(pause, listening.notified()).await.is_ok() {
            sleep(GRACE).await;
        }
    }
}

/// One look at the runtime's containers; `true` if another is due soon.
async fn look(relay: &Arc<Relay>, places: &Arc<Semaphore>) -> Result<bool, String> {
    let asked = Instant::now();
    let containers = relay.runtime.containers().await.map_err(|error| error.to_string())?;
    let found = &relay.found;
    let (new, suspected) = {
        let mut known = lock(&found.known);
        let listed: std::collections::HashSet<&str> = containers.iter().map(|c| c.id.as_str()).collect();
        known.keep(|id| listed.contains(id), asked);
        let round = Round { known: &known, asked, now_ms: unix_millis() };
        drop(listed);
        lock(&found.strangers).listed(containers, &round)
    };
    if lock(&found.strangers).want_pods() {
        // Without them namespaces are unknown: then the next look will do.
        let pods = relay.runtime.pod_sandboxes().await.map_err(|error| error.to_string())?;
        lock(&found.strangers).pods(pods);
    }
    for id in &new {
        if let Some(stranger) = lock(&found.strangers).shown(id).filter(|stranger| stranger.bypass) {
            let (pod, namespace, image) = (&stranger.pod, &stranger.namespace, &stranger.image);
            tracing::warn!(container = %id, %pod, %namespace, %image, "a container was made past crivet");
        }
    }
    let before = new.len() - new.iter().filter(|id| is_bypass(found, id)).count();
    if before > 0 {
        tracing::info!(containers = before, "containers are there from before crivet; vetting them");
    }
    count(relay);
    let due = lock(&found.strangers).due(Instant::now());
    for (id, call) in due {
        let (relay, places) = (Arc::clone(relay), Arc::clone(places));
        tokio::spawn(async move {
            let _place = places.acquire_owned().await;
            let verdict = relay.vetter.ask(call, BUDGET).await;
            let judged = verdict.ok().and_then(|verdict| verdict.judged.into_iter().next());
            decided(&relay, &id, judged.as_ref());
        });
    }
    Ok(suspected)
}

fn is_bypass(found: &Found, id: &str) -> bool {
    lock(&found.strangers).origin(id) == Some(Origin::Bypass)
}

fn decided(relay: &Relay, id: &str, judged: Option<&crate::vetter::wire::Judged>) {
    let mut strangers = lock(&relay.found.strangers);
    if !strangers.decided(id, judged, Instant::now()) {
        return;
    }
    let (Some(shown), Some(origin)) = (strangers.shown(id), strangers.origin(id)) else { return };
    drop(strangers);
    let judged = judged.map(crate::vetter::wire::Judged::outcome).unwrap_or_default();
    relay.metrics.found(judged, origin);
    let wire::FoundContainer { pod, namespace, image, decision, message, .. } = &shown;
    match (origin, decision.as_str()) {
        (Origin::BeforeCrivet, "allowed") => {}
        (Origin::BeforeCrivet, _) => {
            tracing::info!(container = %id, %pod, %namespace, %image, %decision, reason = %message, "a container from before crivet was vetted");
        }
        (Origin::Bypass, _) => {
            tracing::warn!(container = %id, %pod, %namespace, %image, %decision, reason = %message, "a container that was made past crivet was vetted; nothing is stopped");
        }
    }
}

fn count(relay: &Relay) {
    let strangers = lock(&relay.found.strangers);
    for origin in [Origin::Bypass, Origin::BeforeCrivet] {
        relay.metrics.unvetted(origin, strangers.running(origin));
    }
}

/// Listens where all who listen hear everything; wakes `heard` for each new container that is not known.
async fn listen(relay: Arc<Relay>, heard: Arc<Notify>, events: Arc<AtomicBool>) {
    sleep(KUBELET_FIRST).await;
    loop {
        if relay.found.listened.load(Ordering::Relaxed) {
            return;
        }
        if broadcasts(&relay).await
            && let Ok(mut stream) = relay.runtime.events().await
        {
            events.store(true, Ordering::Relaxed);
            tracing::info!("listening to the runtime's events");
            // What happened before this was not heard.
            heard.notify_one();
            while !relay.found.listened.load(Ordering::Relaxed) {
                // Looks at `listened` now and then, also where nothing happens.
                let event = match timeout(Duration::from_secs(1), stream.message()).await {
                    Ok(Ok(Some(event))) => event,
                    Ok(_) => break,
                    Err(_) => continue,
                };
                let made = matches!(
                    event.container_event_type(),
                    ContainerEventType::ContainerCreatedEvent | ContainerEventType::ContainerStartedEvent
                );
                if made && !lock(&relay.found.known).contains(&event.container_id) {
                    heard.notify_one();
                }
            }
            events.store(false, Ordering::Relaxed);
            tracing::info!("not listening to the runtime's events any more");
            heard.notify_one();
        }
        sleep(POLL).await;
    }
}

/// Whether this runtime hands its events to all who listen: see the module's words.
async fn broadcasts(relay: &Relay) -> bool {
    let Ok(version) = relay.runtime.version().await else { return false };
    hands_to_all(&version.runtime_name, &version.runtime_version)
}

fn hands_to_all(name: &str, version: &str) -> bool {
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    name == "containerd" && major.is_some_and(|major| major >= 2)
}

/// What an earlier crivet let through.
async fn read(found: &Found, state: PathBuf) -> Store {
    let read = tokio::task::spawn_blocking(move || {
        let store = Store::new(state);
        let text = store.read();
        (store, text)
    });
    // The task does not panic, and is not aborted.
    let Ok((store, text)) = read.await else { return Store::new(PathBuf::new()) };
    match text {
        Ok(text) => lock(&found.known).read(&text, Instant::now()),
        Err(error) => {
            tracing::error!(%error, "what came through an earlier crivet is not known; all that runs is taken for unvetted");
        }
    }
    store
}

/// Adds to the file what came through, soon after.
async fn write(relay: Arc<Relay>, store: Arc<Mutex<Store>>) {
    loop {
        relay.found.written.notified().await;
        let lines = lock(&relay.found.known).unwritten();
        let store = Arc::clone(&store);
        let added = tokio::task::spawn_blocking(move || lock(&store).add(&lines)).map(Result::ok).await;
        if let Some(Err(error)) = added {
            tracing::error!(%error, "what comes through cannot be written down; until it can, a restart makes bypasses of it");
        }
    }
}

/// Writes the file whole where it is time to.
async fn keep_whole(relay: &Arc<Relay>, store: &Arc<Mutex<Store>>) {
    let (relay, store) = (Arc::clone(relay), Arc::clone(store));
    let done = tokio::task::spawn_blocking(move || {
        // A disk that hangs is hung upon by one thread, and by nothing else.
        let Ok(mut store) = store.try_lock() else { return };
        let known = lock(&relay.found.known).len();
        if store.wants_whole(known) {
            let lines = lock(&relay.found.known).lines();
            if let Err(error) = store.write(&lines) {
                tracing::debug!(%error, "what came through cannot be written down");
            }
        }
    });
    let _ = timeout(Duration::from_secs(1), done).await;
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_containerd_2_hands_its_events_to_all() {
        for version in ["v2.0.0", "2.1.9+unknown", "v3.0.0"] {
            assert!(hands_to_all("containerd", version), "{version}");
        }
        for (name, version) in
            [("containerd", "1.7.24~ds1"), ("containerd", "v1.6.39"), ("containerd", ""), ("cri-o", "2.0.0")]
        {
            assert!(!hands_to_all(name, version), "{name} {version}");
        }
    }
}
