//! The audit log: one JSON line per decision, size-capped, rotated, equal ones merged.
//!
//! `record` is what a line says, `merge` which lines are written, `file` how they get to disk, `journal` to the
//! systemd journal, `log` all of them together. The schema of a line is docs/audit-record.schema.json.

mod file;
mod journal;
mod log;
mod merge;
mod record;
mod time;

pub use journal::SOCKET as JOURNAL_SOCKET;
pub use log::AuditLog;
pub use record::{
    Decision, Effective, Kind, Mode, PolicyDecision, Reason, Record, SCHEMA_VERSION, printable,
};
pub use time::{from_rfc3339, rfc3339};
