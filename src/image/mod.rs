//! References, digests, and the proof that ties an image ID to a digest. No I/O.

mod digest;
mod identity;
pub mod json;
pub mod layer;
pub mod manifest;
mod platform;
mod quoted;
mod reference;

pub use digest::{Digest, DigestError, ImageId, IndexDigest, ManifestDigest};
pub use identity::{Content, Need, Step, Target, Tie, Walk, WalkError};
pub use platform::Platform;
pub use quoted::{quoted, quoted_name};
pub use reference::{ImageName, Reference, ReferenceError};
