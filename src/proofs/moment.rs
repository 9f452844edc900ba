//! Two clocks: ages are measured by the one that never goes back, and by the wall's where a restart lies between.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock that never goes back, and does not survive a reboot.
    pub clock: Instant,
    /// By the wall clock, seconds of Unix time.
    pub wall: u64,
}

impl Moment {
    /// This moment.
    pub fn now() -> Moment {
        Moment::of(Instant::now(), SystemTime::now())
    }

    /// A moment of these clocks. A wall clock before 1970 is at its very beginning.
    pub fn of(clock: Instant, wall: SystemTime) -> Moment {
        Moment { clock, wall: wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() }
    }
}

/// How long ago something was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// So long.
    Known(Duration),
    /// It was fetched by an earlier process, and the wall clock runs behind the highest time seen: longer than any
    /// limit.
    Unknown,
}

impl Age {
    /// Whether it is less than this.
    pub fn within(self, longest: Duration) -> bool {
        matches!(self, Age::Known(age) if age < longest)
    }
}

/// When something was fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// Absent: by an earlier process.
    pub clock: Option<Instant>,
    pub wall: u64,
}

impl Stamp {
    pub fn of(now: Moment) -> Stamp {
        Stamp { clock: Some(now.clock), wall: now.wall }
    }

    /// The age of what was fetched then; `highest` is the highest wall clock ever seen.
    pub fn age(self, now: Moment, highest: u64) -> Age {
        match self.clock {
            Some(then) => Age::Known(now.clock.duration_since(then)),
            None if now.wall < highest => Age::Unknown,
            None => match now.wall.checked_sub(self.wall) {
                Some(seconds) => Age::Known(Duration::from_secs(seconds)),
                None => Age::Unknown,
            },
        }
    }
}
