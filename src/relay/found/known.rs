//! Which containers came through crivet: a bounded set of IDs, and the lines it is kept in. No I/O, no clock.

use std::collections::HashMap;
use std::fmt::Write as _;

use tokio::time::Instant;

use crate::limits;

/// Absent in so many lists in a row, a container is gone. One list may be that of a runtime that is just starting.
const GONE_AFTER: u8 = 2;

/// The containers that came through crivet and are still there.
#[derive(Default)]
pub struct Known {
    ids: HashMap<Box<str>, Life>,
    /// The earliest time at which a container came through, nanoseconds of Unix time: crivet has been in the way since then.
    /// That of the first may be of a clock that was ahead.
    since: Option<i64>,
    /// Lines that are not in the file yet.
    unwritten: String,
}

struct Life {
    told: Instant,
    missed: u8,
}

impl Known {
    /// Takes in what an earlier crivet wrote. Lines that say nothing (a torn one, a later version's) are passed over.
    pub fn read(&mut self, text: &str, now: Instant) {
        // What does not end in a newline was being written when its writer died.
        let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
        for line in whole.lines() {
            match line.split_once(' ') {
                Some(("since", nanos)) => {
                    if let Ok(nanos) = nanos.parse() {
                        self.is_since(nanos);
                    }
                }
                Some(("container", id)) if is_id(id) && self.has_room() => {
                    self.ids.insert(id.into(), Life { told: now, missed: 0 });
                }
                _ => {}
            }
        }
    }

    /// A container came through: the runtime answered the create with this ID. `false` if there is no room for it.
    pub fn came_through(&mut self, id: &str, now: Instant, nanos: i64) -> bool {
        if !is_id(id) || !self.has_room() {
            return false;
        }
        if self.is_since(nanos) {
            // Writing to a String cannot fail.
            let _ = writeln!(self.unwritten, "since {nanos}");
        }
        if self.ids.insert(id.into(), Life { told: now, missed: 0 }).is_none() {
            let _ = writeln!(self.unwritten, "container {id}");
        }
        true
    }

    /// crivet was in the way at this time. `true` if that is earlier than was known.
    fn is_since(&mut self, nanos: i64) -> bool {
        let is_earlier = self.since.is_none_or(|since| nanos < since);
        if is_earlier {
            self.since = Some(nanos);
        }
        is_earlier
    }

    fn has_room(&self) -> bool {
        self.ids.len() < limits::CONTAINERS_KNOWN
    }

    /// Whether a container came through.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains_key(id)
    }

    /// Whether a container made at this time came past crivet when it was in the way already.
    pub fn is_bypass(&self, created_at: i64) -> bool {
        self.since.is_some_and(|since| created_at >= since)
    }

    /// Forgets what the runtime no longer lists. `asked` is when it was asked: what came through later is not in it.
    pub fn keep(&mut self, listed: impl Fn(&str) -> bool, asked: Instant) {
        self.ids.retain(|id, life| {
            life.missed = if listed(id) || life.told >= asked { 0 } else { life.missed + 1 };
            life.missed < GONE_AFTER
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Lines to be added to the file; each is given once.
    pub fn unwritten(&mut self) -> String {
        std::mem::take(&mut self.unwritten)
    }

    /// The whole file anew.
    pub fn lines(&mut self) -> String {
        self.unwritten.clear();
        let mut text = String::with_capacity(80 * (self.ids.len() + 1));
        if let Some(since) = self.since {
            let _ = writeln!(text, "since {since}");
        }
        for id in self.ids.keys() {
            let _ = writeln!(text, "container {id}");
        }
        text
    }
}

/// What the runtimes make their IDs of; containerd's and CRI-O's have 64 characters.
fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Known, Instant) {
        let (mut known, now) = (Known::default(), Instant::now());
        assert!(known.came_through("aa", now, 100) && known.came_through("bb", now, 200));
        (known, now)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (mut known, now) = two();
        assert_eq!(known.unwritten(), "since 100\ncontainer aa\ncontainer bb\n");
        assert_eq!(known.unwritten(), "");
        for text in ["since 100\ncontainer aa\ncontainer bb\n".to_owned(), known.lines()] {
            let mut again = Known::default();
            again.read(&text, now);
            assert!(again.contains("aa") && again.contains("bb") && again.len() == 2, "{text}");
            assert!(again.is_bypass(100) && !again.is_bypass(99));
        }
    }

    #[test]
    fn every_torn_end_costs_its_line_only() {
        let (mut known, now) = two();
        let text = known.unwritten();
        for end in 0..text.len() {
            let mut again = Known::default();
            again.read(&text[..end], now);
            assert_eq!(again.contains("aa"), end >= "since 100\ncontainer aa\n".len(), "{end}");
            assert!(!again.contains("bb") && again.ids.keys().all(|id| &**id == "aa"), "{end}");
        }
        let mut again = Known::default();
        again.read("since 100\ncontai\ncontainer bb\nlater-word x\ncontainer a/b\n", now);
        assert!(again.contains("bb") && again.len() == 1);
    }

    #[test]
    fn nothing_is_a_bypass_before_the_first_came_through() {
        let mut known = Known::default();
        assert!(!known.is_bypass(i64::MAX));
        known.came_through("aa", Instant::now(), 100);
        assert!(known.is_bypass(100) && !known.is_bypass(99));
    }

    #[test]
    fn clock_that_was_ahead_at_the_first_create_hides_no_bypass() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.came_through("aa", now, 900);
        assert!(!known.is_bypass(150));
        known.came_through("bb", now, 100);
        assert!(known.is_bypass(150) && !known.is_bypass(99));
        for text in [known.unwritten(), known.lines()] {
            let mut again = Known::default();
            again.read(&text, now);
            assert!(again.is_bypass(150) && !again.is_bypass(99), "{text}");
        }
    }

    #[test]
    fn create_that_comes_before_the_file_is_read_hides_no_bypass() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.came_through("cc", now, 900);
        known.read("since 100\ncontainer aa\n", now);
        assert!(known.is_bypass(100) && known.contains("aa") && known.contains("cc"));
        assert!(known.lines().starts_with("since 100\n"));
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_came_later_is_not() {
        let (mut known, then) = two();
        let asked = then + std::time::Duration::from_secs(1);
        known.came_through("cc", asked, 300);
        known.keep(|id| id == "aa", asked);
        assert_eq!(known.len(), 3);
        known.keep(|id| id == "aa", asked);
        assert!(known.contains("aa") && !known.contains("bb") && known.contains("cc"));
    }

    #[test]
    fn one_empty_list_forgets_nothing() {
        let (mut known, then) = two();
        let asked = then + std::time::Duration::from_secs(1);
        known.keep(|_| false, asked);
        known.keep(|_| true, asked);
        known.keep(|_| false, asked);
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn the_set_is_bounded() {
        let (mut known, now) = two();
        for number in 2..limits::CONTAINERS_KNOWN {
            assert!(known.came_through(&format!("c{number}"), now, 1));
        }
        assert!(!known.came_through("more", now, 1) && !known.contains("more"));
    }
}
