//! Keys and signatures. Bytes, digests and the time come in as arguments; no I/O.

mod key;
mod signature_manifest;
mod simple_signing;
#[cfg(test)]
pub(crate) mod testing;

pub use key::{Algorithm, KeyError, PublicKey};
pub use signature_manifest::{
    SIGNATURE_MEDIA_TYPE, SignatureLayer, SignatureManifest, SignatureManifestError,
};
pub use simple_signing::{Claim, ClaimError, SimpleSigning, VerifyError, verify};
