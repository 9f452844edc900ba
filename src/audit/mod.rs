//! The audit log: one JSON line per decision, size-capped, rotated, equal ones merged.
//!
//! `record` is what a line says, `merge` which lines are written, `file` how they get to disk, `log` the three
//! together. The schema of a line is docs/audit-record.schema.json.

mod file;
mod log;
mod merge;
mod record;
mod time;

pub use log::AuditLog;
pub use record::{Decision, Effective, Kind, Mode, PolicyDecision, Record};
pub use time::rfc3339;
