//! Policies as written, compiled to one inner form; who must have signed what. No I/O.

mod age;
mod cel;
mod compile;
mod conditions;
mod containers_policy;
mod content;
mod exemption;
mod explain;
mod glob;
mod import;
mod index;
mod judge;
mod lint;
mod model;
mod native;
mod openshift;
mod pattern;
mod recheck;
mod rego;
mod scope;
mod signed_identity;
mod signers;
mod sigstore;
mod sigstore_signed;

#[cfg(any(test, fuzzing))]
pub(crate) use cel::fuzzing;
pub use cel::{Answer, Condition, Conditions, Question};
pub use compile::{PolicyError, PolicySet};
pub use containers_policy::{NAMESPACES, key_files};
pub use exemption::Exemption;
pub use explain::{Ask, Covering, Explanation, Leaf, Named, Says, SignedBy};
pub use import::Imported;
pub use judge::{Check, CheckStep, Judgement, Outcome, Shortfall, Verifies};
pub use lint::Warning;
pub(crate) use model::comparable_registry;
pub use model::{Kind, Labels, Mode, NO_LABELS, Place, Policy, Signer, SourceFile, Subject};
pub use recheck::{OnDrift, Recheck, WithoutAnswer};
#[cfg(any(test, fuzzing))]
pub(crate) use rego::fuzzing as rego_fuzzing;

#[cfg(test)]
mod tests;
