//! Whether what is known about an image satisfies a policy.

use std::fmt;

use serde::Serialize;

use super::model::{ClaimedRepository, Policy, Rule, SignerKey, Subject, comparable_repository};
use crate::image::{Digest, ImageName, quoted};
use crate::verify::{Claim, PublicKey, SimpleSigning, VerifyError, verify_simple};

/// Most keys or digests that one message lists.
const LISTED: usize = 3;

/// What a policy says about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It holds.
    Satisfied {
        /// The signatures that satisfy it, each on its own; none where the policy asks for none.
        by: Vec<Verified>,
        /// What was looked at.
        checks: Vec<Check>,
    },
    /// It does not hold. Expected, found and remedy are parts of one line.
    Unsatisfied {
        /// What kind of shortfall it is.
        why: Shortfall,
        /// What the policy asks for.
        expected: String,
        /// What there is.
        found: String,
        /// What to do.
        remedy: String,
        /// What was looked at.
        checks: Vec<Check>,
    },
}

/// In what an image falls short of a policy; of several signatures, what the nearest one falls short in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// The policy denies it, whatever is signed.
    Denied,
    /// There is no signature.
    NoSignature,
    /// None is by one of the policy's keys.
    OtherKey,
    /// One by such a key is no claim about an image.
    Malformed,
    /// One by such a key is about another image.
    OtherImage,
    /// One by such a key is about this image in another repository.
    OtherRepository,
}

/// A signature that satisfies a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The key's fingerprint.
    pub key: Digest,
    /// The key's name in the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// The digest that was signed.
    pub digest: Digest,
    /// The repository that was signed for, as signed.
    pub repository: String,
}

/// One thing that was looked at, as `crivet verify` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// One line.
    pub detail: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
        };
        write!(f, "{}: {outcome}: {}", self.name, self.detail)
    }
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
}

/// How far a signature got; the further, the more its failure tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    /// No key verifies it.
    Unverified(String),
    /// A key made it, but it is no claim about an image.
    Malformed(String),
    /// It is about another image.
    OtherImage(String),
    /// It is about this image in another repository.
    OtherRepository(String),
}

impl Failure {
    fn shortfall(&self) -> Shortfall {
        match self {
            Self::Unverified(_) => Shortfall::OtherKey,
            Self::Malformed(_) => Shortfall::Malformed,
            Self::OtherImage(_) => Shortfall::OtherImage,
            Self::OtherRepository(_) => Shortfall::OtherRepository,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Unverified(text)
            | Self::Malformed(text)
            | Self::OtherImage(text)
            | Self::OtherRepository(text) => text,
        }
    }
}

impl Policy {
    /// Judges an image that has these `digests` (its index and its platform's manifest) by these `signatures`, which
    /// are not trusted yet. One signature has to meet all that the policy asks for (facts, step 14).
    pub fn judge(
        &self,
        subject: &Subject<'_>,
        digests: &[Digest],
        signatures: &[SimpleSigning],
    ) -> Judgement {
        self.judge_with(subject, digests, signatures, &mut verify_simple)
    }

    /// As [`Policy::judge`] with `verify` in the caller's hands, who may remember what it said: it depends on nothing but the
    /// key and the signature.
    pub fn judge_with(
        &self,
        subject: &Subject<'_>,
        digests: &[Digest],
        signatures: &[SimpleSigning],
        verify: &mut dyn FnMut(&PublicKey, &SimpleSigning) -> Result<Claim, VerifyError>,
    ) -> Judgement {
        match &self.rule {
            Rule::Accept { reason } => {
                let detail = format!("the policy accepts anything: {reason}");
                let check = Check { name: "policy".to_owned(), outcome: Outcome::Passed, detail };
                Judgement::Satisfied { by: Vec::new(), checks: vec![check] }
            }
            Rule::Deny { reason } => {
                let detail = format!("the policy denies: {reason}");
                Judgement::Unsatisfied {
                    why: Shortfall::Denied,
                    expected: "another image".to_owned(),
                    found: format!("one that the policy denies ({reason})"),
                    remedy: "use another image, or change the policy".to_owned(),
                    checks: vec![Check { name: "policy".to_owned(), outcome: Outcome::Failed, detail }],
                }
            }
            Rule::Signed { keys, repository } => {
                let case = Case { subject, digests, keys, repository };
                case.judge(signatures, verify)
            }
        }
    }
}

struct Case<'a> {
    subject: &'a Subject<'a>,
    digests: &'a [Digest],
    keys: &'a [SignerKey],
    repository: &'a ClaimedRepository,
}

impl Case<'_> {
    fn judge(
        &self,
        signatures: &[SimpleSigning],
        verify: &mut dyn FnMut(&PublicKey, &SimpleSigning) -> Result<Claim, VerifyError>,
    ) -> Judgement {
        let (mut by, mut checks, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for (n, signature) in (1..).zip(signatures) {
            let name = format!("signature {n} of {}", signatures.len());
            match self.one(signature, verify) {
                Ok(verified) => {
                    let detail = format!(
                        "by {}, on {}, for repository {}",
                        self.key_text(verified.key_name.as_deref(), verified.key),
                        verified.digest,
                        quoted(&verified.repository)
                    );
                    checks.push(Check { name, outcome: Outcome::Passed, detail });
                    by.push(verified);
                }
                Err(failure) => {
                    checks.push(Check { name, outcome: Outcome::Failed, detail: failure.text().to_owned() });
                    failures.push(failure);
                }
            }
        }
        if !by.is_empty() {
            return Judgement::Satisfied { by, checks };
        }
        if signatures.is_empty() {
            let detail = "there is none".to_owned();
            checks.push(Check { name: "signatures".to_owned(), outcome: Outcome::Failed, detail });
        }
        let found = match (signatures.len(), failures.iter().max()) {
            (_, None) => "no signature".to_owned(),
            (1, Some(furthest)) => format!("1 signature: {}", furthest.text()),
            (n, Some(furthest)) => format!("{n} signatures, the nearest: {}", furthest.text()),
        };
        Judgement::Unsatisfied {
            why: failures.iter().max().map_or(Shortfall::NoSignature, Failure::shortfall),
            expected: self.expected(),
            found,
            remedy: self.remedy(failures.iter().max()),
            checks,
        }
    }

    /// Holds one signature to everything, with each key.
    fn one(
        &self,
        signature: &SimpleSigning,
        verify: &mut dyn FnMut(&PublicKey, &SimpleSigning) -> Result<Claim, VerifyError>,
    ) -> Result<Verified, Failure> {
        let mut furthest = Failure::Unverified("made by none of the policy's keys".to_owned());
        for SignerKey { name, key } in self.keys {
            let failure = match verify(key, signature) {
                Ok(claim) => match self.claim(&claim) {
                    Ok(()) => {
                        return Ok(Verified {
                            key: key.fingerprint(),
                            key_name: name.clone(),
                            digest: claim.digest(),
                            repository: claim.docker_reference().to_owned(),
                        });
                    }
                    Err(failure) => failure,
                },
                Err(VerifyError::Signature { .. }) => continue,
                Err(error @ VerifyError::Claim { .. }) => Failure::Malformed(error.to_string()),
                Err(error) => Failure::Unverified(error.to_string()),
            };
            furthest = furthest.max(failure);
        }
        Err(furthest)
    }

    fn claim(&self, claim: &Claim) -> Result<(), Failure> {
        claim
            .about(self.digests)
            .map_err(|error| Failure::OtherImage(format!("one made by the policy's key, but {error}")))?;
        let claimed = claim.repository().map(|reference| comparable_repository(&reference));
        let allowed = match self.repository {
            ClaimedRepository::Any => true,
            ClaimedRepository::OneOf(names) => {
                claimed.as_ref().is_some_and(|claimed| names.contains(claimed))
            }
            ClaimedRepository::Same => claimed.is_some() && claimed == self.own_repository(),
        };
        if allowed {
            return Ok(());
        }
        let claimed = quoted(claim.docker_reference());
        Err(Failure::OtherRepository(format!("one on this image, but made for repository {claimed}")))
    }

    fn own_repository(&self) -> Option<String> {
        match self.subject.name {
            ImageName::Reference(reference) => Some(comparable_repository(reference)),
            ImageName::Id(_) | ImageName::Empty => None,
        }
    }

    fn key_text(&self, name: Option<&str>, fingerprint: Digest) -> String {
        match name {
            Some(name) => format!("key {name} ({fingerprint})"),
            None => format!("key {fingerprint}"),
        }
    }

    fn expected(&self) -> String {
        let keys = self.keys.iter().map(|key| self.key_text(key.name.as_deref(), key.key.fingerprint()));
        let repository = match self.repository {
            ClaimedRepository::Any => String::new(),
            ClaimedRepository::OneOf(names) => format!(" for repository {}", one_of(names.iter().cloned())),
            ClaimedRepository::Same => match self.own_repository() {
                Some(own) => format!(" for repository {own}"),
                None => " for the image's own repository".to_owned(),
            },
        };
        format!("a signature by {}{repository}", one_of(keys))
    }

    fn remedy(&self, furthest: Option<&Failure>) -> String {
        match (self.repository, self.subject.name, furthest) {
            (ClaimedRepository::Same, ImageName::Id(_) | ImageName::Empty, _) => {
                "name the image by its repository in the pod".to_owned()
            }
            (_, _, Some(Failure::OtherRepository(_))) => {
                "sign the image in its own repository, or allow the other one in claimedRepository".to_owned()
            }
            _ => match (self.own_repository(), self.digests.first()) {
                (Some(own), Some(digest)) => {
                    format!("sign it with such a key (cosign sign --key KEY {own}@{digest})")
                }
                _ => "sign it with such a key (cosign sign --key KEY)".to_owned(),
            },
        }
    }
}

fn one_of(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(LISTED);
    let listed = items.take(LISTED).collect::<Vec<_>>().join(" or ");
    if more == 0 { listed } else { format!("{listed} or {more} more") }
}
