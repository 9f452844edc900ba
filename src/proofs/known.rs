//! What is known, in memory, and what of it is not on disk yet. No I/O, and never held for long: calls wait for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::moment::{Age, Moment, Stamp};
use super::record::size;
use crate::image::{Digest, ImageId, Tie};
use crate::limits;
use crate::verify::Evidence;

/// Seconds by which the wall clock goes on until the highest time is written anew where nothing else is: by so much a
/// clock that is set back while no crivet runs can make a proof look younger.
const CLOCK_EVERY: u64 = 600;

/// Uses in this process count from here; what was loaded was last used before.
const FIRST_USE: u64 = 1 << 32;

/// A digest, and a repository that evidence about it was found in.
pub(super) type Place = (Digest, String);

/// What something is kept under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Ties(Digest),
    Evidence(Place),
}

/// Where one root was walked to.
#[derive(Clone, Debug)]
pub(super) struct Walked {
    pub ties: Vec<Tie>,
    /// When that was last added to, seconds of Unix time.
    pub walked: u64,
}

/// What was found about a digest in a repository.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub evidence: Arc<[Evidence]>,
    pub complete: bool,
    pub fetched: Stamp,
}

/// What a store holds.
#[derive(Default)]
pub(super) struct Content {
    pub ties: Vec<(Digest, Walked)>,
    pub evidence: Vec<(Place, Found)>,
    pub highest: u64,
}

/// What is to be written next; `None` is to be deleted.
#[derive(Default)]
pub(super) struct Batch {
    /// Nothing else shall be in the store.
    pub whole: bool,
    pub ties: Vec<(Digest, Option<Walked>)>,
    pub evidence: Vec<(Place, Option<Found>)>,
    pub highest: u64,
}

pub(super) struct Known {
    /// Per root digest, every tie that was walked from it.
    ties: HashMap<Digest, Used<Walked>>,
    /// Which roots an ID was tied to.
    roots: HashMap<ImageId, Vec<Digest>>,
    evidence: HashMap<Place, Used<Found>>,
    /// Of all evidence.
    bytes: usize,
    /// The highest wall clock seen.
    highest: u64,
    uses: u64,
    unwritten: Unwritten,
}

/// What memory has and the disk has not, by key: what the disk cannot take never piles up beyond what memory holds.
#[derive(Default)]
struct Unwritten {
    /// There is a store to write to.
    wanted: bool,
    keys: HashSet<Key>,
    /// Everything, and nothing else.
    whole: bool,
    /// How many are being written.
    under_way: usize,
    /// The highest time that was written.
    highest: u64,
}

struct Used<T> {
    value: T,
    last: u64,
}

impl Default for Known {
    fn default() -> Known {
        Known {
            ties: HashMap::new(),
            roots: HashMap::new(),
            evidence: HashMap::new(),
            bytes: 0,
            highest: 0,
            uses: FIRST_USE,
            unwritten: Unwritten::default(),
        }
    }
}

impl Known {
    fn used(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// The highest wall clock seen, seconds of Unix time.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Takes note of the time.
    pub fn note(&mut self, now: Moment) {
        self.highest = self.highest.max(now.wall);
    }

    pub fn keep_tie(&mut self, tie: &Tie, now: Moment) {
        self.note(now);
        let (root, last) = (tie.root(), self.used());
        let fresh = || Used { value: Walked { ties: Vec::new(), walked: now.wall }, last };
        let held = self.ties.entry(root).or_insert_with(fresh);
        held.last = last;
        if !held.value.ties.contains(tie) {
            held.value.ties.push(tie.clone());
            held.value.walked = now.wall;
            self.unwritten.add(Key::Ties(root));
        }
        self.index(tie.id(), root);
        while self.ties.len() > limits::PROOFS
            && let Some(root) = longest_unused(&self.ties)
        {
            self.forget_root(root);
        }
    }

    fn index(&mut self, id: ImageId, root: Digest) {
        let roots = self.roots.entry(id).or_default();
        if !roots.contains(&root) {
            roots.push(root);
        }
    }

    fn forget_root(&mut self, root: Digest) {
        let Some(held) = self.ties.remove(&root) else { return };
        for tie in held.value.ties {
            if let Some(roots) = self.roots.get_mut(&tie.id()) {
                roots.retain(|known| *known != root);
                if roots.is_empty() {
                    self.roots.remove(&tie.id());
                }
            }
        }
        self.unwritten.add(Key::Ties(root));
    }

    pub fn ties_of_root(&mut self, root: &Digest) -> Vec<Tie> {
        let last = self.used();
        let held = self.ties.get_mut(root).map(|held| {
            held.last = last;
            held.value.ties.clone()
        });
        held.unwrap_or_default()
    }

    pub fn roots_of_id(&self, id: &ImageId) -> Vec<Digest> {
        self.roots.get(id).cloned().unwrap_or_default()
    }

    /// Keeps a set of evidence. What may not be all there is never takes the place of what was.
    pub fn keep_evidence(&mut self, place: Place, found: Vec<Evidence>, complete: bool, now: Moment) {
        self.note(now);
        let (evidence, cut) = cut(found);
        let complete = complete && !cut;
        let held = self.evidence.get(&place).is_some_and(|held| held.value.complete);
        if evidence.is_empty() || (held && !complete) {
            return;
        }
        let last = self.used();
        self.unwritten.add(Key::Evidence(place.clone()));
        self.put(place, Used { value: Found { evidence, complete, fetched: Stamp::of(now) }, last });
        while !self.has_room(0)
            && let Some(place) = longest_unused(&self.evidence)
        {
            self.bytes -= self.evidence.remove(&place).map_or(0, |old| size(&old.value.evidence));
            self.unwritten.add(Key::Evidence(place));
        }
    }

    fn put(&mut self, place: Place, found: Used<Found>) {
        self.bytes += size(&found.value.evidence);
        if let Some(old) = self.evidence.insert(place, found) {
            self.bytes -= size(&old.value.evidence);
        }
    }

    /// Whether this many bytes more are within the limits.
    fn has_room(&self, more: usize) -> bool {
        self.evidence.len() <= limits::PROOFS && self.bytes + more <= limits::PROOF_BYTES
    }

    pub fn evidence(&mut self, place: &Place, now: Moment) -> Option<(Arc<[Evidence]>, bool, Age)> {
        let (last, highest) = (self.used(), self.highest.max(now.wall));
        let held = self.evidence.get_mut(place)?;
        held.last = last;
        let found = &held.value;
        Some((Arc::clone(&found.evidence), found.complete, found.fetched.age(now, highest)))
    }

    /// Entries held: roots walked, and sets of evidence; the bytes of these; what is not on disk yet.
    pub fn counts(&self) -> (usize, usize, usize, usize) {
        let everything = self.ties.len() + self.evidence.len();
        let waiting = if self.unwritten.whole { everything } else { self.unwritten.keys.len() };
        (self.ties.len(), self.evidence.len(), self.bytes, waiting + self.unwritten.under_way)
    }

    /// From now on there is a store to write to, and what is known already has to go there.
    pub fn want_store(&mut self) {
        self.unwritten.wanted = true;
        self.unwritten.highest = 0;
        let ties = self.ties.keys().copied().map(Key::Ties);
        self.unwritten.keys = ties.chain(self.evidence.keys().cloned().map(Key::Evidence)).collect();
    }

    /// The store is to be written whole: it is another one, or it cannot be told any more what it lacks.
    pub fn want_whole(&mut self) {
        self.unwritten.whole = true;
        self.unwritten.keys.clear();
    }

    /// Takes over what a store holds. What was learned or forgotten meanwhile stands.
    pub fn load(&mut self, mut content: Content) {
        self.highest = self.highest.max(content.highest);
        if self.unwritten.whole {
            return;
        }
        self.unwritten.highest = content.highest;
        // The newest first: they are the last to find no room, and the last to be forgotten.
        content.ties.sort_by_key(|(_, walked)| std::cmp::Reverse(walked.walked));
        content.evidence.sort_by_key(|(_, found)| std::cmp::Reverse(found.fetched.wall));
        for (nth, (root, value)) in content.ties.into_iter().enumerate() {
            let key = Key::Ties(root);
            if self.unwritten.keys.contains(&key) || self.ties.contains_key(&root) {
                continue;
            }
            if self.ties.len() >= limits::PROOFS {
                self.unwritten.add(key);
                continue;
            }
            for tie in &value.ties {
                self.index(tie.id(), root);
            }
            self.ties.insert(root, Used { value, last: FIRST_USE.saturating_sub(nth as u64 + 1) });
        }
        for (nth, (place, value)) in content.evidence.into_iter().enumerate() {
            let key = Key::Evidence(place);
            let Key::Evidence(place) = &key else { continue };
            if self.unwritten.keys.contains(&key) || self.evidence.contains_key(place) {
                continue;
            }
            let size = size(&value.evidence);
            let room = self.evidence.len() < limits::PROOFS && self.has_room(size);
            if !room || size > limits::PROOF_SET_BYTES || value.evidence.is_empty() {
                self.unwritten.add(key);
                continue;
            }
            let last = FIRST_USE.saturating_sub(nth as u64 + 1);
            self.put(place.clone(), Used { value, last });
        }
    }

    /// Whether something is to be written.
    pub fn has_unwritten(&self) -> bool {
        let clock = self.highest >= self.unwritten.highest.saturating_add(CLOCK_EVERY);
        self.unwritten.wanted && (self.unwritten.whole || !self.unwritten.keys.is_empty() || clock)
    }

    /// What is to be written next.
    pub fn batch(&mut self) -> Batch {
        let whole = std::mem::take(&mut self.unwritten.whole);
        let keys: Vec<Key> = match whole {
            true => {
                self.unwritten.keys.clear();
                let ties = self.ties.keys().copied().map(Key::Ties);
                ties.chain(self.evidence.keys().cloned().map(Key::Evidence)).collect()
            }
            false => {
                let next = self.unwritten.keys.iter().take(limits::PROOFS_PER_WRITE).cloned().collect();
                for key in &next {
                    self.unwritten.keys.remove(key);
                }
                next
            }
        };
        self.unwritten.highest = self.highest;
        self.unwritten.under_way = keys.len();
        let mut batch = Batch { whole, ties: Vec::new(), evidence: Vec::new(), highest: self.highest };
        for key in keys {
            match key {
                Key::Ties(root) => {
                    batch.ties.push((root, self.ties.get(&root).map(|held| held.value.clone())));
                }
                Key::Evidence(place) => {
                    let found = self.evidence.get(&place).map(|held| held.value.clone());
                    batch.evidence.push((place, found));
                }
            }
        }
        batch
    }

    /// The last batch is on the disk.
    pub fn written(&mut self) {
        self.unwritten.under_way = 0;
    }

    /// The last batch did not get to the disk.
    pub fn not_written(&mut self, batch: Batch) {
        self.unwritten.under_way = 0;
        self.unwritten.highest = 0;
        if batch.whole {
            return self.want_whole();
        }
        batch.ties.into_iter().for_each(|(root, _)| self.unwritten.add(Key::Ties(root)));
        batch.evidence.into_iter().for_each(|(place, _)| self.unwritten.add(Key::Evidence(place)));
    }
}

impl Unwritten {
    fn add(&mut self, key: Key) {
        if !self.wanted || self.whole {
            return;
        }
        if self.keys.len() >= limits::PROOFS_UNWRITTEN {
            self.keys.clear();
            self.whole = true;
            return;
        }
        self.keys.insert(key);
    }
}

/// As much of a set as is kept of one, and whether something had to be left out.
fn cut(mut found: Vec<Evidence>) -> (Arc<[Evidence]>, bool) {
    let all = found.len();
    let mut room = limits::PROOF_SET_BYTES;
    found.retain(|one| {
        let size = size(std::slice::from_ref(one));
        let fits = size <= room;
        room -= if fits { size } else { 0 };
        fits
    });
    let cut = found.len() < all;
    (found.into(), cut)
}

fn longest_unused<K: Clone, V>(map: &HashMap<K, Used<V>>) -> Option<K> {
    map.iter().min_by_key(|(_, held)| held.last).map(|(key, _)| key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_changes_than_can_wait_make_the_store_be_written_anew() {
        let mut known = Known::default();
        known.want_store();
        for n in 0..limits::PROOFS_UNWRITTEN {
            known.unwritten.add(Key::Ties(Digest::of(&n.to_le_bytes())));
        }
        assert_eq!(known.counts().3, limits::PROOFS_UNWRITTEN);
        assert!(!known.unwritten.whole);
        known.unwritten.add(Key::Ties(Digest::of(b"one more")));
        assert!(known.unwritten.whole && known.unwritten.keys.is_empty() && known.has_unwritten());
        let batch = known.batch();
        assert!(batch.whole && !known.has_unwritten());
        known.not_written(batch);
        assert!(known.batch().whole);
    }

    #[test]
    fn what_did_not_get_to_the_disk_is_written_next() {
        let mut known = Known::default();
        known.want_store();
        known.unwritten.add(Key::Ties(Digest::of(b"a")));
        let batch = known.batch();
        // On its way is not there yet.
        assert_eq!((batch.ties.len(), known.has_unwritten(), known.counts().3), (1, false, 1));
        known.not_written(batch);
        assert_eq!((known.batch().ties.len(), known.counts().3), (1, 1));
        known.written();
        assert_eq!(known.counts().3, 0);
    }
}
