//! Policies as written, compiled to one inner form; who must have signed what. No I/O.

mod compile;
mod glob;
mod index;
mod judge;
mod model;
mod native;
mod pattern;
mod recheck;
mod signers;
mod sigstore;

pub use compile::{PolicyError, PolicySet};
pub use judge::{Check, CheckStep, Judgement, Outcome, Shortfall, Verifies};
pub use model::{Kind, Mode, Place, Policy, Signer, SourceFile, Subject};
pub use recheck::{OnDrift, Recheck, WithoutAnswer};

#[cfg(test)]
mod tests;
