//! What was signed: which message a signature is over, what that says, and whether it is what is sought.

use serde_json::{Map, Value};

use super::entry::Message;
use super::key::{Hash, PublicKey};
use super::outcome::{Predicate, Step};
use super::signed::{Content, Problem};
use super::simple_signing::Claim;
use super::statement::{SIGNATURE_PREDICATE, Statement};
use super::verifier::Sought;
use crate::image::{Digest, quoted_name};

/// What a signature says, once it holds.
pub(super) struct Said {
    pub digest: Digest,
    pub docker_reference: Option<String>,
    pub annotations: Map<String, Value>,
    pub predicate: Option<Predicate>,
    /// Whether it may be a signature on an image.
    is_signature: bool,
    /// What kind of claim it is; empty where the signature is over the image's digest itself.
    pub form: &'static str,
}

/// What a signature comes with, read once: what it says of itself is told before anything is verified, and counts after.
pub(super) enum Claimed<'s> {
    /// cosign's simple signing.
    Signing(&'s [u8]),
    /// An in-toto statement, or why it is none.
    Statement { read: Result<Statement, Problem>, attached: bool },
    /// Nothing: the signature is over the image's digest itself.
    Artifact,
}

impl<'s> Claimed<'s> {
    pub fn of(content: &'s Content) -> Self {
        match content {
            Content::Claim(payload) => Self::Signing(payload),
            Content::Envelope { payload_type, payload, attached } => {
                Self::Statement { read: Statement::read(payload_type, payload), attached: *attached }
            }
            Content::Artifact(_) => Self::Artifact,
        }
    }

    /// Whether what says of itself what it is, is sought: so an attestation by somebody else is not taken for a signature by
    /// the wrong signer. What cannot be read says nothing of itself.
    pub fn is(&self, sought: &Sought<'_>) -> Result<(), String> {
        let (is_signature, predicate_type) = match self {
            Self::Statement { read: Ok(statement), attached } => {
                let predicate_type = statement.predicate.predicate_type.as_str();
                (!attached && predicate_type == SIGNATURE_PREDICATE, Some(predicate_type))
            }
            Self::Statement { read: Err(_), .. } => return Ok(()),
            Self::Signing(_) | Self::Artifact => (true, None),
        };
        is_sought(sought, is_signature, predicate_type).map(|_| ())
    }

    /// What was signed, and whether it is about one of `digests`.
    pub fn signed(self, message: Message<'_>, digests: &[Digest]) -> Result<Said, Problem> {
        Ok(match self {
            Self::Signing(payload) => {
                let claim = Claim::parse(payload)
                    .map_err(|error| Problem::new(Step::Claim, format!("it is signed, but {error}")))?;
                claim.about(digests).map_err(|error| Problem::new(Step::Subject, error.to_string()))?;
                Said {
                    digest: claim.digest(),
                    docker_reference: Some(claim.docker_reference().to_owned()),
                    annotations: claim.optional().clone(),
                    predicate: None,
                    is_signature: true,
                    form: "simple signing",
                }
            }
            Self::Statement { read, attached } => {
                let statement = read?;
                let (digest, annotations) = statement.about(digests)?;
                let is_signature = !attached && statement.predicate.predicate_type == SIGNATURE_PREDICATE;
                Said {
                    digest,
                    docker_reference: None,
                    annotations,
                    predicate: Some(statement.predicate),
                    is_signature,
                    form: "in-toto statement",
                }
            }
            Self::Artifact => {
                let digest = match message {
                    Message::Bytes(bytes) => Digest::of(bytes),
                    Message::Digest(digest) => digest,
                };
                Said {
                    digest,
                    docker_reference: None,
                    annotations: Map::new(),
                    predicate: None,
                    is_signature: true,
                    form: "",
                }
            }
        })
    }
}

impl Said {
    /// Whether it is what is sought.
    pub fn is(&self, sought: &Sought<'_>) -> Result<String, String> {
        let predicate_type = self.predicate.as_ref().map(|predicate| predicate.predicate_type.as_str());
        is_sought(sought, self.is_signature, predicate_type)
    }
}

/// An attestation is no signature (cosign 3 takes one for it), a signature no attestation, and an attestation of one type
/// none of another (CVE-2022-35929, CVE-2026-39395).
fn is_sought(
    sought: &Sought<'_>,
    is_signature: bool,
    predicate_type: Option<&str>,
) -> Result<String, String> {
    let found = match predicate_type {
        Some(predicate_type) => format!("an attestation of type {}", quoted_name(predicate_type)),
        None => "a signature".to_owned(),
    };
    match (sought, predicate_type) {
        (Sought::Signature, _) if is_signature => Ok("signature".to_owned()),
        (Sought::Signature, _) => Err(format!("expected a signature, found {found}")),
        (Sought::Attestation { predicate_types }, Some(predicate_type))
            if predicate_type != SIGNATURE_PREDICATE
                && predicate_types.iter().any(|sought| sought == predicate_type) =>
        {
            Ok(found)
        }
        (Sought::Attestation { predicate_types }, _) => {
            let expected: Vec<String> = predicate_types.iter().take(3).map(|one| quoted_name(one)).collect();
            let expected = if expected.is_empty() { "no type".to_owned() } else { expected.join(" or ") };
            Err(format!("expected an attestation of type {expected}, found {found}"))
        }
    }
}

/// What a message signature is over: the file's bytes, or of the image's digests the one that it verifies with.
pub(super) fn artifact<'s>(
    logged: Option<&(Hash, Vec<u8>)>,
    digests: &[Digest],
    bytes: Option<&'s [u8]>,
    key: &PublicKey,
    signature: &[u8],
) -> Result<Message<'s>, Problem> {
    let candidates: Vec<Message<'s>> = match bytes {
        Some(bytes) => vec![Message::Bytes(bytes)],
        None => digests.iter().copied().map(Message::Digest).collect(),
    };
    // The hash beside the signature is a hint; one that contradicts is refused.
    let named = |message: &&Message<'_>| match logged {
        None => true,
        Some((hash, expected)) => message.hash(*hash).as_ref() == Some(expected),
    };
    let mut named = candidates.iter().filter(named);
    let Some(first) = named.next() else {
        return Err(Problem::new(
            Step::Signature,
            "expected a signature over this digest, found one over another",
        ));
    };
    let holds = |message: &&Message<'_>| match message {
        Message::Bytes(_) => true,
        Message::Digest(digest) => key.verifies_digest(digest, signature),
    };
    Ok(*std::iter::once(first).chain(named).find(holds).unwrap_or(first))
}
