//! The audit log as callers see it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::file::LineFile;
use super::journal::Journal;
use super::merge::Merger;
use super::record::{Record, Seen};

/// How often a lasting trouble is logged.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Takes records and never fails: what cannot be written is counted, and nothing a decision depends on.
///
/// Writes are made by the caller's thread, to the page cache; there is no sync.
pub struct AuditLog(Mutex<Inner>);

struct Inner {
    file: LineFile,
    journal: Option<Journal>,
    /// Entries the journal did not take, since the start.
    journal_lost: u64,
    merger: Merger,
    lost: u64,
    /// Lost since the last line that was written: the next one says so.
    unwritten: u64,
    /// Lost since the last complaint, and why.
    unsaid: Option<(u64, String)>,
    complained: Option<SystemTime>,
}

impl AuditLog {
    /// A log at `path` of at most `max_bytes` (a single longer line apart), with `backups` older files beside
    /// it. A path that cannot be written now is tried again with each record.
    pub fn open(path: impl Into<PathBuf>, max_bytes: u64, backups: u32) -> Self {
        Self(Mutex::new(Inner {
            file: LineFile::new(path.into(), max_bytes, backups),
            journal: None,
            journal_lost: 0,
            merger: Merger::default(),
            lost: 0,
            unwritten: 0,
            unsaid: None,
            complained: None,
        }))
    }

    /// The same log, with each line an entry in the journal at `socket` too. The two are independent.
    #[must_use]
    pub fn and_journal(self, socket: &Path) -> Self {
        self.lock().journal = Some(Journal::at(socket));
        self
    }

    /// Records a decision made at `now`: written at once, or counted if an equal one was written less than a
    /// minute ago.
    pub fn log(&self, record: Record, now: SystemTime) {
        let mut inner = self.lock();
        let record = record.bounded();
        let to_write = match record.key() {
            Ok(key) => inner.merger.add(key, record, now),
            Err(_) => Some((record, Seen { count: 1, first: now, last: now })),
        };
        if let Some((record, seen)) = to_write {
            inner.write(&record, seen, now);
        }
        inner.complain(now);
    }

    /// To be called every few seconds: writes the counts whose minute is over, and notices a file that was
    /// moved away.
    pub fn tick(&self, now: SystemTime) {
        let mut inner = self.lock();
        inner.file.reopen_if_replaced();
        for (record, seen) in inner.merger.due(now) {
            inner.write(&record, seen, now);
        }
        inner.complain(now);
    }

    /// Writes all counts: before the process ends.
    pub fn flush(&self, now: SystemTime) {
        let mut inner = self.lock();
        for (record, seen) in inner.merger.drain() {
            inner.write(&record, seen, now);
        }
        inner.complain(now);
    }

    /// Decisions whose record could not be written, since the start.
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Entries the journal did not take, since the start.
    pub fn lost_to_journal(&self) -> u64 {
        self.lock().journal_lost
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, record: &Record, seen: Seen, now: SystemTime) {
        let line = record.line(now, seen, self.unwritten);
        let written: io::Result<()> = line.and_then(|line| self.file.append(&line));
        if let Some(journal) = &mut self.journal
            && journal.send(record, seen.count).is_err()
        {
            self.journal_lost = self.journal_lost.saturating_add(1);
        }
        match written {
            Ok(()) => self.unwritten = 0,
            Err(error) => {
                self.lost = self.lost.saturating_add(seen.count);
                self.unwritten = self.unwritten.saturating_add(seen.count);
                let before = self.unsaid.take().map_or(0, |(count, _)| count);
                self.unsaid = Some((before.saturating_add(seen.count), error.to_string()));
            }
        }
    }

    /// One log line a minute, also if the clock goes back.
    fn complain(&mut self, now: SystemTime) {
        let due =
            self.complained.is_none_or(|last| now.duration_since(last).map_or(true, |d| d >= COMPLAINT));
        if due && let Some((count, why)) = self.unsaid.take() {
            self.complained = Some(now);
            tracing::error!(
                path = %self.file.path().display(),
                lost = count,
                total = self.lost,
                "audit records could not be written: {why}; decisions are not affected, make room or correct the path"
            );
        }
    }
}
