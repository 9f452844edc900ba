//! Whom keyless signatures, transparency logs and timestamps are believed: trusted roots, where they come from, and
//! which are in force.
//!
//! [`Root`], [`Trust`], [`source`] and [`document`] are pure: bytes in, checked material out. `load` reads files, `keeper` asks
//! repositories in the background, `kept` holds the last good material on disk.

pub mod document;
mod keeper;
mod kept;
mod keys;
mod load;
mod mirror;
pub mod own;
mod read;
mod root;
mod set;
pub mod source;
mod tuf;
mod unpack;

pub use keeper::Keeper;
pub use kept::FOLDER;
pub use keys::{KeyDetails, KeyShape};
pub use root::{Authority, Certificate, Log, Material, Root, RootError, Window};
pub use set::{Origin, State, Trust, WARN_BEFORE};
#[cfg(any(test, fuzzing))]
pub(crate) use unpack::unpack;
