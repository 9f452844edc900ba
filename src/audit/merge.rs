//! Which records are written: equal ones at most once a minute, with a count. No clock, no I/O.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::record::{Record, Seen};
use crate::image::Digest;
use crate::limits::{AUDIT_KEYS, AUDIT_MERGE_SECONDS};

/// Remembers what was written in the last minute. The counts of all that it lets through add up to the number
/// of decisions.
#[derive(Default)]
pub(super) struct Merger {
    remembered: HashMap<Digest, Pending>,
}

struct Pending {
    written: SystemTime,
    /// What came since, if anything.
    since: Option<(Record, Seen)>,
}

impl Merger {
    /// Takes a record in: `Some` must be written now, `None` is counted.
    pub(super) fn add(&mut self, key: Digest, record: Record, now: SystemTime) -> Option<(Record, Seen)> {
        let once = Seen { count: 1, first: now, last: now };
        let Some(pending) = self.remembered.get_mut(&key) else {
            if self.remembered.len() < AUDIT_KEYS {
                self.remembered.insert(key, Pending { written: now, since: None });
            }
            return Some((record, once));
        };
        match &mut pending.since {
            Some((kept, seen)) => {
                kept.latency_ms = kept.latency_ms.max(record.latency_ms);
                seen.count = seen.count.saturating_add(1);
                seen.last = now;
            }
            None => pending.since = Some((record, once)),
        }
        if !is_over(pending.written, now) {
            return None;
        }
        pending.written = now;
        pending.since.take()
    }

    /// The counted records whose minute is over at `now`. What was not seen again is forgotten.
    pub(super) fn due(&mut self, now: SystemTime) -> Vec<(Record, Seen)> {
        let mut due = Vec::new();
        self.remembered.retain(|_, pending| {
            if !is_over(pending.written, now) {
                return true;
            }
            pending.written = now;
            match pending.since.take() {
                Some(counted) => {
                    due.push(counted);
                    true
                }
                None => false,
            }
        });
        due
    }

    /// All counted records, and nothing is remembered any more.
    pub(super) fn drain(&mut self) -> Vec<(Record, Seen)> {
        self.remembered.drain().filter_map(|(_, pending)| pending.since).collect()
    }
}

/// Also if the clock went back: otherwise a record could be held for as long as it went.
fn is_over(written: SystemTime, now: SystemTime) -> bool {
    now.duration_since(written).map_or(true, |d| d >= Duration::from_secs(AUDIT_MERGE_SECONDS))
}
