//! A signature with all that came with it, in one form for all formats.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::certificate::{Certificate, CertificateError};
use super::key::Hash;
use super::log_entry::Entry;
use super::outcome::Step;
use crate::image::json::{JsonError, Object};
use crate::image::quoted;

/// A signature as read: within the limits, readable in one way only, and nothing of it verified.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    pub form: Form,
    pub content: Content,
    pub signature: Vec<u8>,
    pub material: Material,
    pub entries: Vec<Entry>,
    /// RFC 3161 timestamps, DER.
    pub timestamps: Vec<Vec<u8>>,
    /// The envelope as it was found, for attestations under `.att`: timestamps and old log entries are over that.
    pub found: Option<Vec<u8>>,
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

/// Holds a count or length to its limit.
pub(super) fn at_most(what: &str, limit: &str, cap: usize, found: usize) -> Result<(), Problem> {
    if found > cap { Err(Problem::limit(what, limit, cap, found)) } else { Ok(()) }
}

/// Base64 as everybody writes it: with padding and without line breaks, so that bytes have one text.
pub(super) fn decode(what: &str, text: &str) -> Result<Vec<u8>, Problem> {
    let wrong = |_| Problem::format(format!("expected base64 in {what}, found {}", quoted(text)));
    STANDARD.decode(text).map_err(wrong)
}

/// Type, payload and the one signature of a DSSE envelope (DSSE envelope.md). Of several each would have to be looked
/// for in every other place, so several are refused.
pub(super) fn envelope(value: &Value) -> Result<(String, Vec<u8>, Vec<u8>), Problem> {
    let wrong = |error: JsonError| Problem::json("DSSE envelope", &error);
    let object = Object::new(value, "envelope", &["payloadType", "payload", "signatures"]).map_err(wrong)?;
    let payload = decode("DSSE payload", object.string("payload").map_err(wrong)?)?;
    let signatures = object.array("signatures").map_err(wrong)?;
    let [one] = signatures else {
        let found = signatures.len();
        return Err(Problem::format(format!("DSSE envelope: expected one signature, found {found}")));
    };
    let one = Object::new(one, "signature", &["sig", "keyid"]).map_err(wrong)?;
    let signature = decode("DSSE signature", one.string("sig").map_err(wrong)?)?;
    Ok((object.string("payloadType").map_err(wrong)?.to_owned(), payload, signature))
}
