//! What came of verifying one signature or attestation.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::certificate::{AltName, Certificate};
use super::claims::FulcioClaim;
use super::key::PublicKey;
use crate::image::{Digest, quoted_name};

/// A check, in the order in which they are made; the later one fails, the further a signature got. The signature itself
/// is early, so that one by another key is never nearer than one by the right key that lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// It is within the limits, of a supported format, and reads one way only.
    Format,
    /// It is signed in the way the authority signs: with a key or with a certificate.
    Kind,
    /// The signature is the key's over these bytes.
    Signature,
    /// The log's promise, which has the time, is signed by a log of the trusted root.
    Promise,
    /// A timestamp is by an authority of the trusted root, over this signature.
    Timestamp,
    /// There is some verified time.
    Time,
    /// The certificate was issued by the authority, for signing code, and valid at each verified time.
    Chain,
    /// A CT log has promised to log the certificate.
    Sct,
    /// The log has the entry, says its checkpoint.
    Inclusion,
    /// Enough distinct logs and timestamp authorities vouch.
    Witnesses,
    /// The log's entry is of this signature, key and content.
    Entry,
    /// What was signed is a claim about an image.
    Claim,
    /// It is about this image.
    Subject,
    /// It is what was sought: a signature, or an attestation of that type.
    Type,
    /// Its signer is one of those that may sign.
    Identity,
}

impl Step {
    /// What is checked, in a few words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Kind => "kind of signer",
            Self::Signature => "signature",
            Self::Promise => "log promise",
            Self::Timestamp => "timestamp",
            Self::Time => "verified time",
            Self::Chain => "certificate chain",
            Self::Sct => "certificate transparency",
            Self::Inclusion => "log inclusion",
            Self::Witnesses => "thresholds",
            Self::Entry => "log entry",
            Self::Claim => "claim",
            Self::Subject => "subject",
            Self::Type => "type",
            Self::Identity => "identity",
        }
    }

    /// Where it is written that this has to be checked.
    pub const fn clause(self) -> &'static str {
        match self {
            Self::Format => {
                "sigstore bundle spec, Verification; DSSE protocol 1.0; RFC 8259, 4; CVE-2024-29902"
            }
            Self::Kind => "sigstore client spec, 4",
            Self::Signature => "cosign SIGNATURE_SPEC; DSSE protocol 1.0; sigstore client spec, 4.4",
            Self::Promise => "sigstore client spec, 4.1.1; CVE-2024-55655",
            Self::Timestamp => "RFC 3161, 2.3 and 2.4.2; RFC 5652, 5.4; CVE-2026-39984",
            Self::Time => "sigstore client spec, 4.1",
            Self::Chain => "RFC 5280, 6.1 and 4.2.1.12; sigstore client spec, 4.2; CVE-2026-24122",
            Self::Sct => "RFC 6962, 3.2 and 3.3; sigstore client spec, 4.2",
            Self::Inclusion => "RFC 6962, 2.1.1; C2SP tlog-checkpoint; sigstore client spec, 4.1.2",
            Self::Witnesses => "GHSA-9vcr-p3rj-q5q6",
            Self::Entry => "sigstore client spec, 4.1.3; CVE-2022-36056; CVE-2026-22703",
            Self::Claim => "cosign SIGNATURE_SPEC, Simple Signing; in-toto Statement v1",
            Self::Subject => "cosign SIGNATURE_SPEC; in-toto Statement v1, subject; CVE-2023-33959",
            Self::Type => {
                "cosign BUNDLE_SPEC; in-toto Statement v1, predicateType; CVE-2022-35929; CVE-2026-39395"
            }
            Self::Identity => "sigstore client spec, 4.3; fulcio oid-info",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A check that was made and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Which.
    pub step: Step,
    /// What was found, one line.
    pub detail: String,
}

/// Who has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A key, by its fingerprint.
    Key(Digest),
    /// The holder of a certificate.
    Certificate(CertificateSigner),
}

/// What a certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSigner {
    /// `sha256:<hex>` of the certificate.
    pub fingerprint: Digest,
    /// Who issued the OIDC token, in Fulcio's.
    pub issuer: Option<String>,
    /// All subject alternative names.
    pub names: Vec<AltName>,
    /// Fulcio's claims.
    pub claims: BTreeMap<FulcioClaim, String>,
}

impl Signer {
    pub(super) fn key(key: &PublicKey) -> Self {
        Self::Key(key.fingerprint())
    }

    pub(super) fn certificate(certificate: &Certificate) -> Self {
        Self::Certificate(CertificateSigner {
            fingerprint: certificate.fingerprint(),
            issuer: certificate.issuer().map(str::to_owned),
            names: certificate.names().to_vec(),
            claims: certificate.claims().clone(),
        })
    }
}

/// Most names of a signer that one message lists.
const LISTED: usize = 3;

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(fingerprint) => write!(f, "key {fingerprint}"),
            Self::Certificate(CertificateSigner { names, issuer, .. }) => {
                let listed: Vec<String> =
                    names.iter().take(LISTED).map(|name| quoted_name(name.as_str())).collect();
                match listed.as_slice() {
                    [] => f.write_str("nobody by name")?,
                    listed => f.write_str(&listed.join(", "))?,
                }
                if let Some(more) = names.len().checked_sub(LISTED).filter(|more| *more > 0) {
                    write!(f, " and {more} more")?;
                }
                match issuer {
                    Some(issuer) => write!(f, " (issuer {})", quoted_name(issuer)),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A time at which the signature is known to have been there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedTime {
    /// When.
    pub time: SystemTime,
    /// Who says so.
    pub source: TimeSource,
}

/// Who vouches for a time, by the hash of the key or certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeSource {
    /// A transparency log's promise (Rekor v1).
    Log(Digest),
    /// A timestamp authority.
    Timestamp(Digest),
    /// The node's own clock: nothing but the certificate's own dates was asked for.
    Clock,
}

/// The predicate of an attestation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predicate {
    /// `predicateType` as signed.
    pub predicate_type: String,
    /// `predicate`, JSON; at most [`crate::limits::BUNDLE_BYTES`].
    pub bytes: Bytes,
    /// The whole statement, JSON, of which `bytes` are a part.
    pub statement: Bytes,
}

/// A signature or attestation that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// Who signed.
    pub signer: Signer,
    /// The key it was made with, the certificate's where there is one: [`PublicKey::identity`].
    pub key: Digest,
    /// The name of the authority that it holds for.
    pub authority: Option<String>,
    /// The digest that was signed.
    pub digest: Digest,
    /// `critical.identity.docker-reference` of simple signing, as signed; `None` where the format has none.
    pub docker_reference: Option<String>,
    /// The signer's annotations.
    pub annotations: Map<String, Value>,
    /// The times at which it is known to have been there.
    pub times: Vec<VerifiedTime>,
    /// The transparency logs that vouch, distinct, by the hash of their key.
    pub logs: Vec<Digest>,
    /// The timestamp authorities that vouch, distinct, by the hash of their certificate.
    pub timestamp_authorities: Vec<Digest>,
    /// The predicate of an attestation.
    pub predicate: Option<Predicate>,
    /// The checks that were made, in order.
    pub checks: Vec<Checked>,
    /// Until when this holds, where the node's clock had to do for a verified time.
    pub until: Option<SystemTime>,
}

/// A signature or attestation that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which check failed.
    pub step: Step,
    /// What was expected and what found, one line.
    pub text: String,
    /// Whether nothing is known: a limit was hit, or a trusted root is not there. Such a signature does not count, and
    /// whoever has no better one is undecided, not denied.
    pub undecided: bool,
    /// Whom the signature is by, as far as that was found out.
    pub signer: Option<Box<ClaimedSigner>>,
    /// The checks that did hold, in order.
    pub checks: Vec<Checked>,
}

/// Whom a signature that does not hold is by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedSigner {
    /// Who.
    pub signer: Signer,
    /// Whether that was verified. Otherwise it is what the certificate says, whoever made it.
    pub verified: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.text)?;
        // What failed at the identity names it already.
        match self.signer.as_deref() {
            Some(ClaimedSigner { signer: signer @ Signer::Certificate(_), verified })
                if self.step != Step::Identity =>
            {
                let says = if *verified { "it is by" } else { "it says that it is by" };
                write!(f, "; {says} {signer}")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
