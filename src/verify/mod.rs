//! Signatures and attestations: whether they hold, for whom, and by which checks. Bytes, digests, trusted roots and the
//! time come in as arguments; no I/O.

mod authority;
mod bundle;
mod certificate;
mod chain;
mod claims;
mod der;
mod entry;
mod evidence;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[cfg_attr(fuzzing, allow(dead_code))]
pub(crate) mod fixture;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
pub(crate) mod fuzzing;
mod identity;
mod key;
mod legacy;
mod log;
mod log_entry;
mod outcome;
mod said;
mod sct;
mod signature_manifest;
mod signed;
mod simple_signing;
mod statement;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timestamp;
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
    ATTESTATION_MEDIA_TYPE, BUNDLE_MEDIA_TYPE, EvidenceManifest, PREDICATE_TYPE, SIGNATURE_MEDIA_TYPE,
    SignatureLayer, SignatureManifest, SignatureManifestError, is_evidence,
};
pub use simple_signing::{Claim, ClaimError, SimpleSigning, VerifyError, verify_simple};
pub use statement::SIGNATURE_PREDICATE;
pub use verifier::{Artifact, Sought, verify, verify_artifact};
