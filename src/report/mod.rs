//! `crivet report`: from audit records to what enforcement would refuse, and what to do about it.
//!
//! `line` reads one line of a log, `gather` adds lines up within bounds, `readiness` draws the conclusion, `model` is the
//! result; `text` and `html` show it, and as JSON it is the model itself (docs/report.schema.json). No I/O and no clock.

mod advice;
mod draft;
mod gather;
pub mod html;
mod line;
mod model;
mod readiness;
mod tally;
pub mod text;
mod timeline;
mod words;

pub use draft::Drafter;
pub use gather::{Gatherer, Window};
pub use model::Report;

/// What is done with the lines of logs.
pub trait Reads {
    /// The lines from now on are of this log, one node's.
    fn log(&mut self, name: &str);

    /// A file of this log begins.
    fn file(&mut self);

    /// Something of this log could not be read.
    fn error(&mut self, error: String);

    /// A line that is longer than is read.
    fn too_long(&mut self);

    /// A line, without its newline. Empty ones are nothing.
    fn line(&mut self, line: &[u8]);
}

#[cfg(test)]
mod tests;
