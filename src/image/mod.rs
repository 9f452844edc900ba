//! References, digests, and the proof that ties an image ID to a digest. No I/O.

mod digest;
mod quoted;
mod reference;

pub use digest::{Digest, DigestError, ImageId, IndexDigest, ManifestDigest};
pub use quoted::quoted;
pub use reference::{ImageName, Reference, ReferenceError};
