//! `crivet report`: from audit records to what enforcement would refuse, and what to do about it.
//!
//! `line` reads one line of a log, `gather` adds lines up within bounds, `readiness` draws the conclusion, `model` is the
//! result; `text` and `html` show it, and as JSON it is the model itself (docs/report.schema.json). No I/O and no clock.

mod advice;
mod gather;
pub mod html;
mod line;
mod model;
mod readiness;
mod tally;
pub mod text;
mod timeline;
mod words;

pub use gather::{Gatherer, Window};
pub use model::Report;

#[cfg(test)]
mod tests;
