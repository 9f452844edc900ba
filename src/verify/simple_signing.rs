//! cosign's simple signing: a signed JSON claim that a digest is an image of a repository.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::evidence::Annotations;
use super::key::{Algorithm, PublicKey};
use crate::image::json::{self, JsonError, Object};
use crate::image::{Digest, DigestError, Reference, quoted};
use crate::limits;

/// The one value of `critical.type` (cosign SIGNATURE_SPEC, "Simple Signing").
const CLAIM_TYPE: &str = "cosign container image signature";

/// A payload and a signature over it, as fetched: neither is trusted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimpleSigning {
    /// The bytes that were signed.
    pub payload: Vec<u8>,
    /// The signature, base64.
    pub signature: String,
    /// What cosign wrote beside it.
    pub annotations: Annotations,
}

/// What a key has signed. Only a verified signature makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    digest: Digest,
    docker_reference: String,
    optional: Map<String, Value>,
}

/// Why a signature proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The payload is larger than [`limits::PAYLOAD_BYTES`].
    #[error(
        "expected a signed payload of at most {} bytes (limit PAYLOAD_BYTES), found {found}",
        limits::PAYLOAD_BYTES
    )]
    TooLarge {
        /// Length found, bytes.
        found: usize,
    },
    /// The signature is no base64.
    #[error("expected a base64 signature, found {}", quoted(.found))]
    Encoding {
        /// The text found.
        found: String,
    },
    /// The signature is not this key's over this payload.
    #[error("expected a signature by the {algorithm} key {key}, found one that does not verify with it")]
    Signature {
        /// The key's fingerprint.
        key: Digest,
        /// Its kind.
        algorithm: Algorithm,
    },
    /// The key did sign, but not a claim about an image.
    #[error("signed by {key}, but {error}")]
    Claim {
        /// The key's fingerprint.
        key: Digest,
        /// What is wrong with the claim.
        error: ClaimError,
    },
}

/// What is wrong with a signed claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The payload's JSON.
    #[error("its payload is malformed: {0}")]
    Json(#[from] JsonError),
    /// The payload's digest.
    #[error("its docker-manifest-digest is malformed: {0}")]
    Digest(#[from] DigestError),
    /// A key that the specification does not have: what it restricts is unknown.
    #[error("its payload has the unknown key {}", quoted(.0))]
    UnknownKey(String),
    /// A claim of another type.
    #[error("it expected critical.type {CLAIM_TYPE:?}, found {}", quoted(.0))]
    Type(String),
    /// A claim about another image.
    #[error("it is about {claimed}, expected {}", list(.expected))]
    OtherDigest {
        /// The digest in the claim.
        claimed: Digest,
        /// The digests the image has.
        expected: Vec<Digest>,
    },
}

fn list(digests: &[Digest]) -> String {
    digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(" or ")
}

/// Verifies a signature and reads what it claims (facts: steps 4 and 9 of "What a verifier must check"; the digest
/// and type of step 11). Nothing of the payload is looked at before the signature holds. What the claim is worth is decided by
/// [`Claim::about`] and by the policy's rule on repositories.
pub fn verify_simple(key: &PublicKey, signing: &SimpleSigning) -> Result<Claim, VerifyError> {
    if signing.payload.len() > limits::PAYLOAD_BYTES {
        return Err(VerifyError::TooLarge { found: signing.payload.len() });
    }
    // 9. Signature over the payload bytes as they are (SIGNATURE_SPEC, "Signature verification").
    let signature = STANDARD
        .decode(&signing.signature)
        .map_err(|_| VerifyError::Encoding { found: signing.signature.clone() })?;
    if !key.verifies(&signing.payload, &signature) {
        return Err(VerifyError::Signature { key: key.fingerprint(), algorithm: key.algorithm() });
    }
    Claim::parse(&signing.payload).map_err(|error| VerifyError::Claim { key: key.fingerprint(), error })
}

impl Claim {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, ClaimError> {
        // 4. Strict parse, no duplicate keys.
        let value = json::parse(payload, "PAYLOAD_BYTES", limits::PAYLOAD_BYTES)?;
        let top = only(&value, "payload", &["critical", "optional"])?;
        let absent = |key| JsonError::Value { key, expected: "an object" };
        let critical = top.get("critical").ok_or(absent("critical"))?;
        // "critical" means what it says: what it holds beyond the known keys cannot be ignored.
        let critical = only(critical, "critical", &["identity", "image", "type"])?;
        // 11. critical.type: a signature on something else by the same key is no signature on an image.
        let claim_type = critical.string("type")?;
        if claim_type != CLAIM_TYPE {
            return Err(ClaimError::Type(claim_type.to_owned()));
        }
        let image = critical.get("image").ok_or(absent("image"))?;
        let image = only(image, "image", &["docker-manifest-digest"])?;
        let digest = Digest::parse(image.string("docker-manifest-digest")?)?;
        let identity = critical.get("identity").ok_or(absent("identity"))?;
        let identity = only(identity, "identity", &["docker-reference"])?;
        let docker_reference = identity.string("docker-reference")?.to_owned();
        let optional = match top.get("optional") {
            None => Map::new(),
            Some(value) => value.as_object().cloned().ok_or(absent("optional"))?,
        };
        Ok(Self { digest, docker_reference, optional })
    }

    /// The digest that was signed (`critical.image.docker-manifest-digest`).
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// `critical.identity.docker-reference` as signed.
    pub fn docker_reference(&self) -> &str {
        &self.docker_reference
    }

    /// The repository the image was signed for, normalised; `None` where the signer named none. A tag in it is left
    /// out: cosign signs repositories.
    pub fn repository(&self) -> Option<Reference> {
        Reference::parse_as_written(&self.docker_reference).ok()
    }

    /// The signer's annotations (`optional`).
    pub fn optional(&self) -> &Map<String, Value> {
        &self.optional
    }

    /// Step 11: the claim is about one of the digests the image has: its index or its platform's manifest. A signature copied
    /// from another image fails here (CVE-2022-36056, CVE-2023-33959).
    pub fn about(&self, digests: &[Digest]) -> Result<(), ClaimError> {
        if digests.contains(&self.digest) {
            return Ok(());
        }
        Err(ClaimError::OtherDigest { claimed: self.digest, expected: digests.to_vec() })
    }
}

/// An object that has no other keys than those given.
fn only<'a>(value: &'a Value, what: &'static str, known: &[&'static str]) -> Result<Object<'a>, ClaimError> {
    let object = Object::new(value, what, known)?;
    match object.keys().find(|key| !known.contains(key)) {
        Some(unknown) => Err(ClaimError::UnknownKey(unknown.to_owned())),
        None => Ok(object),
    }
}

#[cfg(test)]
mod tests;
