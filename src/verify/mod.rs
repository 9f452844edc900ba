//! Keys and signatures. Bytes, digests and the time come in as arguments; no I/O.

mod key;
mod signature_manifest;
mod simple_signing;

pub use key::{Algorithm, KeyError, PublicKey};
pub use signature_manifest::{
    SIGNATURE_MEDIA_TYPE, SignatureLayer, SignatureManifest, SignatureManifestError,
};
pub use simple_signing::{Claim, ClaimError, SimpleSigning, VerifyError, verify};
