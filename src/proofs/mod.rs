//! What is known about a digest: which image IDs it was walked to, and what evidence was found on it, where.
//!
//! No decisions are kept here. Whether this satisfies a policy for a reference, a pod and a moment is decided at
//! each call, so that a changed policy or trust root needs no network and no namespace's lax rule answers for another's.
//!
//! All of it is in memory, and looked up there. A thread of its own ([`keeper`]) keeps a copy on disk, which is read at
//! the start. Only what was found is kept there: a store that is lost, or old, can take an allowance away and never give one.

mod disk;
mod keeper;
mod known;
mod moment;
mod record;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout_at};

use crate::image::{Digest, ImageId, Tie};
use crate::limits;
use crate::registry::Credential;
use crate::verify::Evidence;
use keeper::{Keeper, Shared};
pub use keeper::{Kept, Store};
pub use moment::{Age, Moment};

/// How long it is believed that evidence is not there or does not suffice. A kubelet retries every ten seconds.
pub const DENIED_FOR: Duration = Duration::from_secs(5);

/// Evidence found on a digest in one repository.
#[derive(Clone, Debug)]
pub struct Held {
    /// At least one, unverified.
    pub evidence: Arc<[Evidence]>,
    /// False: there may be more, so that whoever is not satisfied is undecided, not denied; and it is never fresh.
    pub complete: bool,
    /// How long ago it was fetched.
    pub age: Age,
}

/// What there is, for metrics.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Digests that were walked.
    pub walked: usize,
    /// Digests with evidence, counted in each repository.
    pub with_evidence: usize,
    /// Bytes of evidence.
    pub evidence_bytes: usize,
    /// Of all these, what is not on disk yet.
    pub unwritten: usize,
    /// The store on disk.
    pub store: Store,
}

/// The proofs; bounded by [`limits::PROOFS`] and [`limits::PROOF_BYTES`].
#[derive(Default)]
pub struct Proofs {
    shared: Arc<Shared>,
    /// What one credential was told there is not. Never another's answer, and never on disk.
    none: Mutex<HashMap<(Digest, String, Credential), Instant>>,
    /// What is known besides, and not changed from here.
    under: Option<Arc<Proofs>>,
    keeper: Mutex<Option<Keeper>>,
}

impl Proofs {
    /// Proofs that begin with what is known there; what is kept here is not known there, nor on disk.
    pub fn over(under: Arc<Proofs>) -> Proofs {
        Proofs { under: Some(under), ..Proofs::default() }
    }

    /// Keeps everything in a store in this folder, too, from now on, and begins to read what is there. Returns at once.
    pub fn persist(&self, dir: &Path) {
        let mut keeper = lock(&self.keeper);
        if keeper.as_ref().is_none_or(|keeper| keeper.dir() != dir) {
            let before = keeper.take();
            *keeper = Some(Keeper::start(&self.shared, dir, before));
        }
    }

    /// Waits until what is on disk is known, but not for a disk that hangs: what is not known then is asked for.
    pub async fn loaded(&self) {
        let mut opening = self.shared.opening();
        let since = *opening.borrow();
        if let Some(since) = since {
            let by = since + Duration::from_secs(limits::PROOFS_LOADING_SECONDS);
            let _ = timeout_at(by, opening.wait_for(Option::is_none)).await;
        }
    }

    /// Writes what is not on disk yet, and ends that; waits for it, but not longer than this. Blocks.
    pub fn close(&self, longest: Duration) {
        let keeper = lock(&self.keeper).take();
        if let Some(keeper) = keeper {
            keeper.close(longest);
        }
    }

    /// Takes note of the time; to be called now and then. The highest wall clock seen survives a restart.
    pub fn tick(&self, now: Moment) {
        self.shared.change(|known| known.note(now));
    }

    /// This time, or the highest ever seen where the clock runs behind it: what has ended by then has ended, and a clock that
    /// is set back revives nothing.
    pub fn latest(&self, wall: SystemTime) -> SystemTime {
        let highest = Duration::from_secs(self.shared.known().highest());
        let latest = UNIX_EPOCH.checked_add(highest).map_or(wall, |highest| wall.max(highest));
        self.under.as_ref().map_or(latest, |under| under.latest(latest))
    }

    /// Keeps ties that a walk came to.
    pub fn keep_ties(&self, ties: &[Tie], now: Moment) {
        self.shared.change(|known| ties.iter().for_each(|tie| known.keep_tie(tie, now)));
    }

    /// Every tie known for a root.
    pub fn ties_of_root(&self, root: &Digest) -> Vec<Tie> {
        let mut ties = self.shared.known().ties_of_root(root);
        // A root held here may have been walked for one ID only.
        for tie in self.under.iter().flat_map(|under| under.ties_of_root(root)) {
            if !ties.contains(&tie) {
                ties.push(tie);
            }
        }
        ties
    }

    /// Every tie known for an image ID, one per root.
    pub fn ties_of_id(&self, id: &ImageId) -> Vec<Tie> {
        let roots = self.shared.known().roots_of_id(id);
        let ties = roots.iter().flat_map(|root| self.ties_of_root(root)).filter(|tie| tie.id() == *id);
        let mut ties: Vec<Tie> = ties.collect();
        for tie in self.under.iter().flat_map(|under| under.ties_of_id(id)) {
            if !ties.contains(&tie) {
                ties.push(tie);
            }
        }
        ties
    }

    /// Keeps evidence found on `digest` in `repository`; shared by all credentials. A set that may not be `complete`
    /// never takes the place of one that was.
    pub fn keep_evidence(
        &self,
        digest: Digest,
        repository: &str,
        found: Vec<Evidence>,
        complete: bool,
        now: Moment,
    ) {
        let place = (digest, repository.to_owned());
        self.shared.change(|known| known.keep_evidence(place, found, complete, now));
    }

    /// The evidence last found on `digest` in `repository`.
    pub fn evidence(&self, digest: &Digest, repository: &str, now: Moment) -> Option<Held> {
        match self.shared.known().evidence(&(*digest, repository.to_owned()), now) {
            Some((evidence, complete, age)) => Some(Held { evidence, complete, age }),
            None => self.under.as_ref()?.evidence(digest, repository, now),
        }
    }

    /// Keeps, for seconds, that `credential` was told there is no evidence.
    pub fn keep_none(&self, digest: Digest, repository: &str, credential: &Credential, now: Moment) {
        let mut none = lock(&self.none);
        none.retain(|_, since| now.clock.duration_since(*since) < DENIED_FOR);
        if none.len() < limits::PROOFS {
            none.insert((digest, repository.to_owned(), credential.clone()), now.clock);
        }
    }

    /// Whether `credential` was told within seconds that there is none. Re-signing is legitimate: not longer.
    pub fn none(&self, digest: &Digest, repository: &str, credential: &Credential, now: Moment) -> bool {
        let key = (*digest, repository.to_owned(), credential.clone());
        lock(&self.none).get(&key).is_some_and(|since| now.clock.duration_since(*since) < DENIED_FOR)
    }

    /// What there is.
    pub fn summary(&self) -> Summary {
        let (walked, with_evidence, evidence_bytes, unwritten) = self.shared.known().counts();
        Summary { walked, with_evidence, evidence_bytes, unwritten, store: self.shared.store().clone() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
