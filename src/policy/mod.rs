//! Policies as written, compiled to one inner form; who must have signed what. No I/O.

mod compile;
mod glob;
mod index;
mod judge;
mod model;
mod native;
mod pattern;
mod sigstore;

pub use compile::{PolicyError, PolicySet};
pub use judge::{Check, Judgement, Outcome, Shortfall, Verified};
pub use model::{Kind, Mode, Policy, SourceFile, Subject};

#[cfg(test)]
mod tests;
