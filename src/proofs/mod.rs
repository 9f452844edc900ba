//! What is known about a digest: which image IDs it was walked to, and which signatures were found on it, where.
//!
//! No decisions are kept here. Whether this satisfies a policy for a reference, a pod and a moment is decided at
//! each call, so that a changed policy needs no network and no namespace's lax rule answers for another's.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::image::{Digest, ImageId, Tie};
use crate::limits;
use crate::registry::Credential;
use crate::verify::SimpleSigning;

/// Signatures found on a digest in one repository.
#[derive(Clone, Debug)]
pub struct Signatures {
    /// At least one, with its evidence bytes.
    pub found: Arc<[SimpleSigning]>,
    /// When they were fetched.
    pub fetched: Instant,
}

/// The store; in memory, bounded by [`limits::PROOFS`] and [`limits::PROOF_BYTES`].
#[derive(Default)]
pub struct Proofs {
    inner: Mutex<Inner>,
    /// What is known besides, and not changed from here.
    under: Option<Arc<Proofs>>,
}

#[derive(Default)]
struct Inner {
    /// Per root digest, every tie that was walked from it.
    ties: HashMap<Digest, Aged<Vec<Tie>>>,
    /// Which roots an ID was tied to.
    roots: HashMap<ImageId, Vec<Digest>>,
    signatures: HashMap<(Digest, String), Aged<Signatures>>,
    bytes: usize,
    /// What one credential was told there is not. Never another's answer.
    none: HashMap<(Digest, String, Credential), Instant>,
}

struct Aged<T> {
    value: T,
    used: Instant,
}

impl Proofs {
    /// Proofs that begin with what is known there; what is kept here is not known there.
    pub fn over(under: Arc<Proofs>) -> Proofs {
        Proofs { inner: Mutex::default(), under: Some(under) }
    }

    /// Keeps ties that a walk came to.
    pub fn keep_ties(&self, ties: &[Tie], now: Instant) {
        let mut inner = self.lock();
        for tie in ties {
            let held = inner.ties.entry(tie.root()).or_insert_with(|| Aged { value: Vec::new(), used: now });
            held.used = now;
            if !held.value.contains(tie) {
                held.value.push(tie.clone());
            }
            let roots = inner.roots.entry(tie.id()).or_default();
            if !roots.contains(&tie.root()) {
                roots.push(tie.root());
            }
        }
        while inner.ties.len() > limits::PROOFS
            && let Some(root) = oldest(&inner.ties, |held| held.used)
        {
            inner.ties.remove(&root);
            inner.roots.retain(|_, roots| {
                roots.retain(|known| *known != root);
                !roots.is_empty()
            });
        }
    }

    /// Every tie known for a root.
    pub fn ties_of_root(&self, root: &Digest, now: Instant) -> Vec<Tie> {
        let held = self.lock().ties.get_mut(root).map(|held| {
            held.used = now;
            held.value.clone()
        });
        // A root held here may have been walked for one ID only.
        let below = self.under.as_ref().map_or_else(Vec::new, |under| under.ties_of_root(root, now));
        let mut ties = held.unwrap_or_default();
        ties.extend(below.into_iter().filter(|tie| !ties.contains(tie)).collect::<Vec<_>>());
        ties
    }

    /// Every tie known for an image ID, one per root.
    pub fn ties_of_id(&self, id: &ImageId, now: Instant) -> Vec<Tie> {
        let roots = self.lock().roots.get(id).cloned().unwrap_or_default();
        let ties = roots.iter().flat_map(|root| self.ties_of_root(root, now)).filter(|tie| tie.id() == *id);
        let mut ties: Vec<Tie> = ties.collect();
        for tie in self.under.iter().flat_map(|under| under.ties_of_id(id, now)) {
            if !ties.contains(&tie) {
                ties.push(tie);
            }
        }
        ties
    }

    /// Keeps signatures found on `digest` in `repository`; shared by all credentials.
    pub fn keep_signatures(&self, digest: Digest, repository: &str, found: Vec<SimpleSigning>, now: Instant) {
        let mut inner = self.lock();
        let key = (digest, repository.to_owned());
        let signatures = Signatures { found: found.into(), fetched: now };
        inner.bytes += size(&signatures);
        if let Some(old) = inner.signatures.insert(key, Aged { value: signatures, used: now }) {
            inner.bytes -= size(&old.value);
        }
        while (inner.signatures.len() > limits::PROOFS || inner.bytes > limits::PROOF_BYTES)
            && let Some(key) = oldest(&inner.signatures, |held| held.used)
            && let Some(old) = inner.signatures.remove(&key)
        {
            inner.bytes -= size(&old.value);
        }
    }

    /// The signatures last found on `digest` in `repository`.
    pub fn signatures(&self, digest: &Digest, repository: &str, now: Instant) -> Option<Signatures> {
        let mut inner = self.lock();
        match inner.signatures.get_mut(&(*digest, repository.to_owned())) {
            Some(held) => {
                held.used = now;
                Some(held.value.clone())
            }
            None => self.under.as_ref()?.signatures(digest, repository, now),
        }
    }

    /// Keeps, for seconds, that `credential` was told there are no signatures.
    pub fn keep_none(&self, digest: Digest, repository: &str, credential: &Credential, now: Instant) {
        let mut inner = self.lock();
        inner.none.retain(|_, since| now.duration_since(*since) < DENIED_FOR);
        if inner.none.len() < limits::PROOFS {
            inner.none.insert((digest, repository.to_owned(), credential.clone()), now);
        }
    }

    /// Whether `credential` was told within seconds that there are none. Re-signing is legitimate: not longer.
    pub fn none(&self, digest: &Digest, repository: &str, credential: &Credential, now: Instant) -> bool {
        let key = (*digest, repository.to_owned(), credential.clone());
        self.lock().none.get(&key).is_some_and(|since| now.duration_since(*since) < DENIED_FOR)
    }

    /// Entries held: roots walked, and digests with signatures.
    pub fn held(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.ties.len(), inner.signatures.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it is believed that evidence is not there or does not suffice. A kubelet retries every ten seconds.
pub const DENIED_FOR: Duration = Duration::from_secs(5);

fn size(signatures: &Signatures) -> usize {
    signatures.found.iter().map(|one| one.payload.len() + one.signature.len()).sum()
}

fn oldest<K: Clone + Eq + Hash, V>(map: &HashMap<K, V>, used: impl Fn(&V) -> Instant) -> Option<K> {
    map.iter().min_by_key(|(_, held)| used(held)).map(|(key, _)| key.clone())
}
