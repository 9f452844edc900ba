//! Signatures and attestations: whether they hold, for whom, and by which checks. Bytes, digests, trusted roots and the
//! time come in as arguments; no I/O.

mod authority;
mod certificate;
mod claims;
#[allow(dead_code, reason = "the formats that need it follow")]
mod der;
mod evidence;
mod key;
#[allow(dead_code, reason = "the formats that need it follow")]
mod outcome;
mod signature_manifest;
mod simple_signing;
#[cfg(test)]
pub(crate) mod testing;
mod verifier;

pub use authority::{
    Authority, Identity, KeyAuthority, KeylessAuthority, Matcher, Pattern, PatternError, PkiAuthority,
    PkiSubject, Witness, Witnesses,
};
pub use certificate::{AltName, Certificate, CertificateError};
pub use claims::FulcioClaim;
pub use evidence::{Annotations, Attached, Evidence};
pub use key::{Algorithm, KeyError, PublicKey};
pub use outcome::{
    CertificateSigner, Checked, ClaimedSigner, Failure, Predicate, Signer, Step, TimeSource, Verified,
    VerifiedTime,
};
pub use signature_manifest::{
    ATTESTATION_MEDIA_TYPE, BUNDLE_MEDIA_TYPE, PREDICATE_TYPE, SIGNATURE_MEDIA_TYPE, SignatureLayer, SignatureManifest, SignatureManifestError,
};
pub use simple_signing::{Claim, ClaimError, SimpleSigning, VerifyError, verify_simple};
pub use verifier::{Roots, Sought, verify};
