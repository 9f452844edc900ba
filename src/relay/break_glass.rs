//! Break-glass: a file in the runtime folder that turns enforcement into audit until it expires. Nothing else is
//! needed for it: no policies, no configuration that can be read, no living vetter. The runtime folder is gone at a
//! reboot, and the file with it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::descriptors;
use crate::audit::from_rfc3339;
use crate::config::files::{FileError, read_guarded};
use crate::image::quoted;
use crate::limits;
use crate::yaml::{self, Fault};

/// The longest that a break-glass file may be ahead.
pub const LONGEST: Duration = Duration::from_secs(limits::BREAK_GLASS_SECONDS);

/// What to do about a file that is not taken.
pub const WRITE_IT_SO: &str = "write it with crivet node break-glass --reason TEXT --for 1h";

/// What a break-glass file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Why, for the log and for whoever comes next.
    pub reason: String,
    /// Until when.
    pub expires: SystemTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    reason: Spanned<String>,
    expires: Spanned<String>,
}

/// The file's name.
pub const NAME: &str = "break-glass";

/// The break-glass file of a runtime folder.
pub fn path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(NAME)
}

/// Reads the file; `None` if there is none.
///
/// # Errors
/// It cannot be read, others could have written it, or it does not say what it should.
pub fn read(path: &Path) -> Result<Option<Written>, NotTaken> {
    // Also when no descriptor is left: that may be the emergency.
    let exhausted =
        |error: &FileError| matches!(error, FileError::Io { error, .. } if descriptors::are_exhausted(error));
    let read = || read_guarded(path, "BREAK_GLASS_BYTES", limits::BREAK_GLASS_BYTES);
    match descriptors::or_from_reserve(read, exhausted) {
        Ok(bytes) => parse(path, &bytes).map(Some).map_err(NotTaken::Wrong),
        Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error @ FileError::Io { .. }) => Err(NotTaken::Unread(error.to_string())),
        Err(error) => Err(NotTaken::Wrong(error.to_string())),
    }
}

/// Why a file is not taken. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// What it says, or who could have said it.
    Wrong(String),
    /// It could not be read; what it says is not known.
    Unread(String),
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Written, String> {
    let said = |fault: Fault| format!("{}:{}: {}; {WRITE_IT_SO}", path.display(), fault.line, fault.text);
    let text = std::str::from_utf8(bytes)
        .map_err(|_| said(Fault { line: 1, text: "expected UTF-8 text".to_owned() }))?;
    let documents = yaml::documents(text);
    let [document] = documents.as_slice() else {
        let text = format!("expected reason and expires, found {} documents", documents.len());
        return Err(said(Fault { line: 1, text }));
    };
    let file: File = document.read().map_err(said)?;
    check_reason(&file.reason.value).map_err(|text| said(document.fault_at(&file.reason, text)))?;
    let expires = from_rfc3339(&file.expires.value).ok_or_else(|| {
        let found = quoted(&file.expires.value);
        let text =
            format!("expires: expected a time in UTC as 2026-08-01T12:00:00Z (RFC 3339), found {found}");
        said(document.fault_at(&file.expires, text))
    })?;
    Ok(Written { reason: file.reason.value, expires })
}

/// A reason is one line with something in it.
///
/// # Errors
/// What is wrong with it.
pub fn check_reason(reason: &str) -> Result<(), String> {
    let cap = limits::QUOTED_CHARS;
    if reason.trim().is_empty() || reason.chars().any(char::is_control) || reason.chars().count() > cap {
        return Err(format!(
            "reason: expected one line of at most {cap} characters (limits::QUOTED_CHARS) that says why"
        ));
    }
    Ok(())
}

/// What became of the file since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is in force from now on.
    Begun,
    /// It is no longer.
    Ended(&'static str),
    /// It is there and is not taken; why.
    Rejected(String),
}

/// A break-glass file, watched. Time comes in twice: the wall clock, which the file speaks of, and the monotonic one,
/// which nobody sets.
#[derive(Debug, Default)]
pub struct Watched {
    active: Option<Active>,
    /// What was in force and has ended. Who takes the file away and puts it back has what was left of it, and a clock that
    /// jumps back gives nothing more.
    ended: Option<Active>,
    rejected: Option<String>,
}

#[derive(Debug)]
struct Active {
    written: Written,
    /// The end by the monotonic clock.
    until: Duration,
}

impl Watched {
    /// The file in force.
    pub fn active(&self) -> Option<&Written> {
        self.active.as_ref().map(|active| &active.written)
    }

    /// What is left of it by the clock that is nearer to the end.
    pub fn left(&self, wall: SystemTime, monotonic: Duration) -> Duration {
        let left = |active: &Active| {
            let by_wall = active.written.expires.duration_since(wall).unwrap_or_default();
            by_wall.min(active.until.saturating_sub(monotonic))
        };
        self.active.as_ref().map(left).unwrap_or_default()
    }

    /// Why a file that is there is not in force.
    pub fn rejected(&self) -> Option<&str> {
        self.rejected.as_deref()
    }

    /// Takes what was found; says what is new.
    pub fn look(
        &mut self,
        found: Result<Option<Written>, NotTaken>,
        wall: SystemTime,
        monotonic: Duration,
    ) -> Option<Event> {
        let over = self.active.is_some() && self.left(wall, monotonic).is_zero();
        if over {
            // Nothing is left of it, whichever clock says so.
            if let Some(active) = &mut self.active {
                active.until = Duration::ZERO;
            }
            let ended = self.end("it expired");
            self.rejected = Some(EXPIRED.to_owned());
            return ended;
        }
        match found {
            Ok(None) => {
                self.rejected = None;
                self.end("the file was removed")
            }
            // Whoever took the descriptors or the disk away did not take back what was said.
            Err(NotTaken::Unread(_)) if self.active.is_some() => None,
            Err(NotTaken::Unread(why) | NotTaken::Wrong(why)) => self.reject(why),
            Ok(Some(written)) => self.found(written, wall, monotonic),
        }
    }

    fn found(&mut self, written: Written, wall: SystemTime, monotonic: Duration) -> Option<Event> {
        if self.active() == Some(&written) {
            return None;
        }
        let left = written.expires.duration_since(wall).unwrap_or_default();
        let mut until = monotonic.saturating_add(left);
        if let Some(ended) = self.ended.as_ref().filter(|ended| ended.written == written) {
            until = until.min(ended.until);
        }
        if until <= monotonic {
            return self.reject(EXPIRED.to_owned());
        }
        if left > LONGEST {
            return self.reject(format!(
                "it expires more than {} hours ahead (limits::BREAK_GLASS_SECONDS); {WRITE_IT_SO}",
                LONGEST.as_secs() / 3600
            ));
        }
        self.rejected = None;
        self.active = Some(Active { written, until });
        Some(Event::Begun)
    }

    fn reject(&mut self, why: String) -> Option<Event> {
        let ended = self.end("the file is no longer valid");
        let known = self.rejected.replace(why.clone());
        // That it has ended is the louder word; the reason is in the status.
        ended.or_else(|| (known.as_ref() != Some(&why)).then_some(Event::Rejected(why)))
    }

    fn end(&mut self, why: &'static str) -> Option<Event> {
        self.ended = Some(self.active.take()?);
        Some(Event::Ended(why))
    }
}

const EXPIRED: &str = "it has expired; remove it with crivet node break-glass --end, or write a new one with --reason TEXT --for 1h";

#[cfg(test)]
#[path = "break_glass_tests.rs"]
mod tests;
