//! A signature with all that came with it, in one form for all formats.

use sigstore_verify::types::TransparencyLogEntry;

use super::certificate::{Certificate, CertificateError};
use super::key::Hash;
use super::outcome::Step;
use crate::image::json::JsonError;

/// A signature as read: within the limits, readable in one way only, and nothing of it verified.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    pub form: Form,
    pub content: Content,
    pub signature: Vec<u8>,
    pub material: Material,
    pub entries: Vec<TransparencyLogEntry>,
    /// RFC 3161 timestamps, DER.
    pub timestamps: Vec<Vec<u8>>,
    /// What the timestamps are over, where that is not the signature.
    pub stamped: Option<Vec<u8>>,
}

/// The format it was found in, and so what its log entries have to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// cosign's annotations: a promise and no more.
    Annotations,
    /// A bundle, and the two digits of its version.
    Bundle(&'static str),
}

/// What was signed.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// cosign's simple signing: these bytes.
    Claim(Vec<u8>),
    /// A DSSE envelope: its pre-authentication encoding.
    Envelope {
        /// Type of the payload.
        payload_type: String,
        /// The payload.
        payload: Vec<u8>,
        /// Whether it may be a signature: what is found as an attestation may not.
        attached: bool,
    },
    /// Bytes that are not in the bundle, and their hash as the bundle has it.
    Artifact(Option<(Hash, Vec<u8>)>),
}

/// With what it was signed.
#[derive(Debug, Clone)]
pub(super) enum Material {
    /// A key that whoever verifies has to know.
    Key,
    /// A certificate, and what may stand between it and a trusted one.
    Certificate {
        /// The signer's.
        leaf: Box<Certificate>,
        /// The others.
        chain: Vec<Certificate>,
    },
}

/// Why a check does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub step: Step,
    pub text: String,
    /// A limit was hit, or what is needed is not there.
    pub undecided: bool,
}

impl Problem {
    pub fn new(step: Step, text: impl Into<String>) -> Self {
        Self { step, text: text.into(), undecided: false }
    }

    pub fn undecided(step: Step, text: impl Into<String>) -> Self {
        Self { step, text: text.into(), undecided: true }
    }

    /// Bytes that do not read.
    pub fn format(text: impl Into<String>) -> Self {
        Self::new(Step::Format, text)
    }

    /// More of something than a limit allows.
    pub fn limit(what: &str, limit: &str, cap: usize, found: usize) -> Self {
        Self::undecided(Step::Format, format!("expected at most {cap} {what} (limit {limit}), found {found}"))
    }

    /// JSON that does not read.
    pub fn json(what: &str, error: &JsonError) -> Self {
        Self { step: Step::Format, text: format!("{what}: {error}"), undecided: error.is_limit() }
    }

    /// A certificate that does not read.
    pub fn certificate(what: &str, error: &CertificateError) -> Self {
        Self { step: Step::Format, text: format!("{what}: {error}"), undecided: error.is_limit() }
    }
}
