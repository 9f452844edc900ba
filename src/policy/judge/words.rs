//! What is said of a judgement: what was expected, and what to do.

use super::{Case, CheckStep, Outcome, Shortfall, Why};
use crate::image::{ImageName, quoted};
use crate::policy::cel::{Answer, Condition};
use crate::policy::model::{NamedRepository, Requirement, Wanted};
use crate::verify::{Authority, Verified};

/// Most keys, identities or digests that one message lists.
const LISTED: usize = 3;

impl Case<'_> {
    pub(super) fn expected(&self, requirement: &Requirement) -> String {
        let signers = one_of(requirement.signers.iter().map(|signer| authority_text(&signer.authority)));
        let repository = match (&requirement.wanted, &requirement.repository.named) {
            (Wanted::Attestation(_), _) | (_, NamedRepository::Any) => String::new(),
            (_, NamedRepository::OneOf(names)) => {
                format!(" for repository {}", one_of(names.iter().cloned()))
            }
            (_, NamedRepository::Signed(identity)) => {
                format!(" for {}", identity.expected(self.subject.name))
            }
            (_, NamedRepository::Same) => match self.own_repository() {
                Some(own) => format!(" for repository {own}"),
                None => " for the image's own repository".to_owned(),
            },
        };
        let age = requirement.max_age.as_ref().map(|age| format!(", not older than {}", age.written()));
        let (what, age) = (requirement.wanted.with_article(), age.unwrap_or_default());
        let conditions = match requirement.conditions.len() {
            0 => "",
            1 => " that meets the policy's condition",
            _ => " that meets each of the policy's conditions",
        };
        format!("{what} by {signers}{repository}{age}{conditions}")
    }

    pub(super) fn remedy(&self, requirement: &Requirement, furthest: Option<&Why>) -> String {
        match (&requirement.repository.named, self.subject.name, furthest) {
            (_, _, Some(Why::Condition { undecided: true, .. })) => {
                "see docs/conditions.md for the limits".to_owned()
            }
            (_, _, Some(Why::Condition { .. })) => {
                let what = requirement.wanted.what();
                format!("make the {what} anew so that it does, or change the condition (docs/conditions.md)")
            }
            (_, _, Some(Why::Verify(failure))) if failure.undecided => {
                "see docs/verification.md for the limits and docs/trust.md for trusted roots".to_owned()
            }
            (NamedRepository::Same, ImageName::Id(_) | ImageName::Empty, _)
                if matches!(requirement.wanted, Wanted::Signature) =>
            {
                "name the image by its repository in the pod".to_owned()
            }
            (NamedRepository::Signed(identity), ImageName::Id(_) | ImageName::Empty, _)
                if identity.needs_name() =>
            {
                "name the image by its repository in the pod".to_owned()
            }
            (NamedRepository::Signed(identity), _, Some(Why::OtherRepository { unnamed, .. })) => {
                identity.remedy(*unnamed).to_owned()
            }
            (_, _, Some(Why::OtherRepository { unnamed: true, .. })) => {
                "a sigstore bundle has no place for it: write claimedRepository: {unnamed: accept} in the policy if that will do"
                    .to_owned()
            }
            (_, _, Some(Why::TooOld { undated: true, .. })) => {
                "sign it anew with a timestamp (cosign sign --timestamp-server-url URL), or with a log that promises a time"
                    .to_owned()
            }
            (_, _, Some(Why::OtherRepository { .. })) => {
                "sign the image in its own repository, or allow the other one in claimedRepository".to_owned()
            }
            _ => {
                let image = match (self.own_repository(), self.digests.first()) {
                    (Some(own), Some(digest)) => format!(" {own}@{digest}"),
                    _ => String::new(),
                };
                let by_key = requirement.signers.iter().any(|signer| matches!(signer.authority, Authority::Key(_)));
                let key = if by_key { " --key KEY" } else { "" };
                match &requirement.wanted {
                    Wanted::Signature if by_key => format!("sign it with such a key (cosign sign{key}{image})"),
                    Wanted::Signature => {
                        let other = match furthest.map(Why::shortfall) {
                            Some(Shortfall::OtherIdentity) => ", or add the one found to the policy if it may sign",
                            _ => "",
                        };
                        format!("sign it as such an identity (cosign sign{image}){other}")
                    }
                    Wanted::Attestation(types) => {
                        let kind = types.first().map_or("TYPE", String::as_str);
                        format!("attest it (cosign attest{key} --type {kind} --predicate FILE{image})")
                    }
                }
            }
        }
    }
}

impl Wanted {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Attestation(_) => "attestation",
        }
    }

    pub(super) fn with_article(&self) -> String {
        match self {
            Self::Signature => "a signature".to_owned(),
            Self::Attestation(types) => format!("an attestation of type {}", one_of(types.iter().cloned())),
        }
    }
}

/// A condition as a check.
pub(super) fn answered(condition: &Condition, answer: &Answer) -> CheckStep {
    let (outcome, detail) = match answer {
        Answer::Holds => (Outcome::Passed, condition.shown()),
        Answer::Fails(found) if found.is_empty() => (Outcome::Failed, condition.shown()),
        Answer::Fails(found) => (Outcome::Failed, format!("{}; {found}", condition.shown())),
        Answer::Unknown(text) => {
            (Outcome::Failed, format!("{}; it cannot be told: {text}", condition.shown()))
        }
    };
    let detail = match (answer, condition.message()) {
        (Answer::Holds, _) | (_, None) => detail,
        (_, Some(message)) => format!("{detail} ({message})"),
    };
    CheckStep { name: "condition", clause: "conditions of the policy", outcome, detail }
}

pub(super) fn told(verified: &Verified, requirement: &Requirement) -> String {
    let by = match &verified.authority {
        Some(name) => format!("{name} ({})", verified.signer),
        None => verified.signer.to_string(),
    };
    let what = match (&requirement.wanted, &verified.docker_reference) {
        (Wanted::Signature, Some(reference)) => format!(", for repository {}", quoted(reference)),
        (Wanted::Signature, None) => ", for no repository by name".to_owned(),
        (Wanted::Attestation(_), _) => match &verified.predicate {
            Some(predicate) => format!(", {}", quoted(&predicate.predicate_type)),
            None => String::new(),
        },
    };
    format!("by {by}, on {}{what}", verified.digest)
}

pub(super) fn authority_text(authority: &Authority) -> String {
    let name = authority.name();
    match (authority, name) {
        (Authority::Key(key), Some(name)) => format!("key {name} ({})", key.key.fingerprint()),
        (Authority::Key(key), None) => format!("key {}", key.key.fingerprint()),
        (Authority::Keyless(_) | Authority::Pki(_), Some(name)) => format!("identity {name}"),
        (Authority::Keyless(keyless), None) => one_of(keyless.identities.iter().map(ToString::to_string)),
        (Authority::Pki(pki), None) => one_of(pki.subjects.iter().map(ToString::to_string)),
    }
}

pub(super) fn one_of(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(LISTED);
    let listed = items.take(LISTED).collect::<Vec<_>>().join(" or ");
    if more == 0 { listed } else { format!("{listed} or {more} more") }
}
