//! Whom keyless signatures, transparency logs and timestamps are believed: trusted roots, where they come from, and
//! which are in force.
//!
//! [`Root`] is pure: bytes in, checked material out.

mod keys;
mod root;

pub use keys::{KeyDetails, KeyShape};
pub use root::{Authority, Certificate, Log, Material, Root, RootError, Window};
