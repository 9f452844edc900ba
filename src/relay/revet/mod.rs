//! What runs and what is stored, judged anew after policies or trusted roots have changed: beside, and told. Nothing is
//! stopped or removed.
//!
//! It is asked as background work: evidence that is kept answers without the network, and what has to be asked of a
//! registry is asked within its budget. A fleet takes a change over at one moment, so each node begins at one of its own. The
//! next change ends what is under way. What was gone over whole, by the same policies and roots, and had nothing against it is
//! not gone over again after a restart.

mod round;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub use self::round::Counts;
use self::round::{Ask, Round, grouped};
use super::Relay;
use super::clients::millis;
use crate::config::files::{self, FileError};
use crate::control::wire;
use crate::inventory::listed::Listed;
use crate::inventory::uses::{Question, uses};
use crate::limits;
use crate::vetter::wire::{Call, Configured, Judged, Kind, Outcome};

/// A node waits so long at least: who corrects a policy often does so twice.
const LEAST_WAIT: Duration = Duration::from_secs(3);
/// Between one question and the next: the vetter is everybody's.
const PAUSE: Duration = Duration::from_millis(100);
/// Questions under way at once; one registry that hangs is not to hold up the others.
const AT_ONCE: usize = 8;
/// Longest that one question may take. Nobody waits for it.
const BUDGET: Duration = super::beside::BUDGET;
/// How often it is looked whether what is not allowed is still there.
const LOOK: Duration = Duration::from_secs(60);
/// The runtime is asked again after this where it did not answer, and so is looked for what is due.
const TICK: Duration = Duration::from_secs(5);

/// What came of it, for whoever asks.
#[derive(Default)]
pub struct Revetting(Mutex<Round>);

impl Revetting {
    /// As `Status` shows it.
    pub fn status(&self) -> wire::Revetted {
        self.lock().status()
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes over the node after each change, as long as the relay lives. `state` is the folder in which it is kept by what it
/// was gone over last.
pub async fn watch(relay: Arc<Relay>, state: PathBuf) {
    let store = Store(state);
    let mut told = relay.vetter.told();
    let mut by = match store.read().await {
        Ok(Some(Kept::Settled(judges))) => judges,
        Ok(Some(Kept::Open)) => String::new(),
        // A new node: what runs is vetted by whoever looks for containers from before crivet, the rest when it is used.
        Ok(None) => {
            let judges = changed(&mut told, "").await;
            store.write(&Kept::Settled(judges.clone())).await;
            judges
        }
        Err(error) => {
            tracing::warn!(%error, "by which policies this node was gone over is not known; it is gone over anew");
            String::new()
        }
    };
    loop {
        by = changed(&mut told, &by).await;
        let mut next = told.clone();
        tokio::select! {
            biased;
            _ = changed(&mut next, &by) => {}
            () = go_over(&relay, &store, &by) => {}
        }
    }
}

/// Waits until images are judged by something else than this, and says by what. Without policies nothing is judged.
async fn changed(told: &mut watch::Receiver<Option<Configured>>, by: &str) -> String {
    let is_new = |told: &Option<Configured>| {
        told.as_ref().is_some_and(|told| !told.judges.is_empty() && told.judges != by)
    };
    let new = told.wait_for(is_new).await;
    let judges = new.map(|told| told.as_ref().map(|told| told.judges.clone()).unwrap_or_default());
    match judges {
        Ok(judges) => judges,
        // The keeper is gone, and with it the relay.
        Err(_) => std::future::pending().await,
    }
}

/// Goes over the node, and then looks after what is not allowed until there is nothing of that.
async fn go_over(relay: &Arc<Relay>, store: &Store, by: &str) {
    store.write(&Kept::Open).await;
    relay.revetting.lock().waits = true;
    sleep(LEAST_WAIT + spread()).await;
    let uses = loop {
        match look(relay).await {
            Ok(uses) => break uses,
            Err(error) => {
                tracing::debug!(%error, "what is on the node cannot be listed; trying again");
                sleep(TICK).await;
            }
        }
    };
    relay.revetting.lock().begin(uses, Instant::now());
    count(relay);
    tracing::info!(uses = relay.revetting.lock().left(), "judging anew what runs and what is stored");
    let (mut asked, mut looked, mut through) = (JoinSet::new(), Instant::now(), false);
    loop {
        let ask = if asked.len() < AT_ONCE { relay.revetting.lock().next(Instant::now()) } else { None };
        let pause = if ask.is_some() { PAUSE } else { TICK };
        if let Some(ask) = ask {
            let relay = Arc::clone(relay);
            asked.spawn(async move { (judge(&relay, &ask).await, ask.question) });
        }
        tokio::select! {
            Some(Ok((judged, question))) = asked.join_next() => {
                decided(relay, &question, judged.as_ref());
                count(relay);
            }
            () = sleep(pause) => {}
        }
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            match look(relay).await {
                Ok(uses) => {
                    relay.revetting.lock().listed(uses);
                    count(relay);
                }
                Err(error) => tracing::debug!(%error, "what is on the node cannot be listed; trying again"),
            }
        }
        if !through && relay.revetting.lock().left() == 0 {
            through = true;
            relay.revetting.lock().at = millis(SystemTime::now());
            tell(relay);
            count(relay);
        }
        if through && relay.revetting.lock().is_settled() {
            return store.write(&Kept::Settled(by.to_owned())).await;
        }
    }
}

/// A time of this node's own, so that nodes that take over a change together do not ask together.
fn spread() -> Duration {
    let mut random = [0; 8];
    // Without randomness all the same: then this node begins at once.
    let _ = SystemRandom::new().fill(&mut random);
    Duration::from_millis(u64::from_le_bytes(random) % (limits::REVETTING_SPREAD_SECONDS * 1000))
}

async fn look(relay: &Relay) -> Result<round::Uses, String> {
    let listed =
        Listed::of(&relay.runtime, relay.pause.setting()).await.map_err(|error| error.to_string())?;
    let (grouped, too_many) = grouped(uses(&listed, None));
    if too_many {
        tracing::warn!("not all that is stored is judged anew: there is too much (limits::REVETTED)");
    }
    Ok(grouped)
}

/// What the policies say; `None`: nobody could be asked.
async fn judge(relay: &Relay, ask: &Ask) -> Option<Judged> {
    let mut namespace = String::new();
    if !ask.namespaces.is_empty() {
        // No pod uses it. Where only policies of namespaces cover it, it is what they say in the first of them.
        let mut said = said(relay, probe(ask.calls.first()?, &namespace)).await?;
        for other in &ask.namespaces {
            if said.outcome() != Outcome::Denied || !said.policies.is_empty() {
                break;
            }
            said = self::said(relay, probe(ask.calls.first()?, other)).await?;
            namespace.clone_from(other);
        }
        if said.outcome() == Outcome::Permitted && !ask.calls.first()?.was_not_allowed {
            return Some(said);
        }
    }
    let mut first = None;
    for call in &ask.calls {
        let mut call = call.clone();
        if !namespace.is_empty() {
            call.namespace.clone_from(&namespace);
        }
        let judged = said(relay, call).await?;
        first = first.or(Some(judged));
    }
    first
}

/// The same question, which is not recorded.
fn probe(call: &Call, namespace: &str) -> Call {
    Call { kind: Kind::Inventory.into(), namespace: namespace.to_owned(), ..call.clone() }
}

async fn said(relay: &Relay, call: Call) -> Option<Judged> {
    relay.vetter.ask(call, BUDGET).await.ok()?.judged.into_iter().next()
}

fn decided(relay: &Relay, question: &Question, judged: Option<&Judged>) {
    relay.revetting.lock().judged(question, judged, Instant::now());
    let Some(judged) = judged.filter(|judged| judged.outcome() != Outcome::Permitted) else { return };
    let (image, namespace) = (&question.reference, &question.namespace);
    tracing::debug!(%image, %namespace, reason = %judged.message, "not allowed by the policies in force");
}

fn tell(relay: &Relay) {
    let Counts { running_denied, running_undecided, stored_denied, stored_undecided } =
        relay.revetting.lock().counts();
    if running_denied + running_undecided + stored_denied + stored_undecided == 0 {
        return tracing::info!("what runs and what is stored is allowed by the policies in force");
    }
    tracing::warn!(
        running_denied,
        running_undecided,
        stored_denied,
        stored_undecided,
        "not all that runs and is stored is allowed by the policies in force; nothing is stopped, and crivet doctor tells"
    );
}

fn count(relay: &Relay) {
    let round = relay.revetting.lock();
    relay.metrics.revetted(&round.counts(), round.left(), round.at);
}

/// By what the node was gone over last.
enum Kept {
    /// By this, and it had nothing against anything.
    Settled(String),
    /// It was not gone over whole, or something was not allowed.
    Open,
}

/// The file `revetted` in stateDir.
struct Store(PathBuf);

impl Store {
    const NAME: &str = "revetted";
    const OPEN: &str = "open\n";

    /// What an earlier crivet wrote; `None` if there was none.
    async fn read(&self) -> Result<Option<Kept>, FileError> {
        let path = self.0.join(Self::NAME);
        let read = move || files::read_guarded(&path, "REVETTED_BYTES", limits::REVETTED_BYTES);
        // The task does not panic, and is not aborted.
        let Ok(read) = tokio::task::spawn_blocking(read).await else { return Ok(Some(Kept::Open)) };
        match read {
            Ok(bytes) => {
                Ok(Some(match std::str::from_utf8(&bytes).map(|text| text.strip_prefix("settled ")) {
                    Ok(Some(judges)) => Kept::Settled(judges.trim_end().to_owned()),
                    _ => Kept::Open,
                }))
            }
            Err(FileError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where it cannot be written, the next start goes over the node once more.
    async fn write(&self, kept: &Kept) {
        let (folder, text) = (
            self.0.clone(),
            match kept {
                Kept::Settled(judges) => format!("settled {judges}\n"),
                Kept::Open => Self::OPEN.to_owned(),
            },
        );
        let write = move || files::write_state(&folder, Self::NAME, text.as_bytes());
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::debug!(%error, "by what this node was gone over cannot be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(judges: &str) -> Option<Configured> {
        Some(Configured { judges: judges.to_owned(), ..Configured::default() })
    }

    #[tokio::test]
    async fn only_what_judges_otherwise_is_a_change() {
        let (tell, mut told) = watch::channel(None);
        for same in [configured("a"), None, configured(""), configured("a")] {
            tell.send_replace(same);
            let soon = Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, changed(&mut told, "a")).await.is_err());
        }
        tell.send_replace(configured("b"));
        assert_eq!(changed(&mut told, "a").await, "b");
    }

    #[tokio::test]
    async fn what_is_kept_is_read_by_the_next_and_anything_else_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store(dir.path().to_owned());
        assert!(matches!(store.read().await, Ok(None)));
        store.write(&Kept::Settled("policies roots deny".to_owned())).await;
        assert!(matches!(store.read().await, Ok(Some(Kept::Settled(by))) if by == "policies roots deny"));
        store.write(&Kept::Open).await;
        assert!(matches!(store.read().await, Ok(Some(Kept::Open))));
        for torn in ["", "settle", "\u{fffd}"] {
            files::write_state(dir.path(), Store::NAME, torn.as_bytes()).unwrap();
            assert!(matches!(store.read().await, Ok(Some(Kept::Open))), "{torn:?}");
        }
    }

    #[test]
    fn nodes_begin_at_times_of_their_own() {
        let times: Vec<_> = (0..20).map(|_| spread()).collect();
        let most = Duration::from_secs(limits::REVETTING_SPREAD_SECONDS);
        assert!(
            times.iter().all(|time| *time < most) && times.iter().min() < times.iter().max(),
            "{times:?}"
        );
    }
}
