//! What a policy asks for, in words, and the command that would make it.

use serde::Serialize;

use crate::image::{ImageName, quoted_name};
use crate::policy::cel::Condition;
use crate::policy::model::{
    ClaimedRepository, NamedRepository, Need, Policy, Requirement, Subject, Wanted, comparable_repository,
};
use crate::policy::signed_identity::SignedIdentity;
use crate::policy::signers::PUBLIC_GOOD;
use crate::verify::{Authority, Witness, Witnesses};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// Each of these.
    All(Vec<Ask>),
    /// One of these.
    Any(Vec<Ask>),
    /// At least so many of these, by different signers.
    AtLeast {
        /// How many.
        count: usize,
        /// Of these.
        of: Vec<Ask>,
    },
    /// One signature or attestation that is all of this.
    One(Leaf),
}

/// One signature or attestation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaf {
    /// What it is.
    pub what: String,
    /// The types that an attestation may be of; none for a signature.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub predicate_types: Vec<String>,
    /// Any one of these.
    pub by: Vec<SignedBy>,
    /// Which repository or name a signature has to claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub naming: Option<String>,
    /// How old it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// What has to be true of it: in CEL, or the name of a policy in Rego.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
    /// The commands that make one.
    pub satisfied_by: Vec<String>,
}

/// Who may have signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedBy {
    /// Its name in the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who.
    pub signer: String,
    /// What besides the signature is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub besides: Vec<String>,
}

/// The words for a need.
pub(super) fn words(need: &Need, policy: &Policy, subject: &Subject<'_>) -> Ask {
    match need {
        Need::One(requirement) => Ask::One(leaf(requirement, policy, subject)),
        // A tree of one is its only branch.
        Need::All(needs) | Need::Any(needs) if needs.len() == 1 => {
            needs.first().map_or(Ask::All(Vec::new()), |need| words(need, policy, subject))
        }
        Need::All(needs) => Ask::All(needs.iter().map(|need| words(need, policy, subject)).collect()),
        Need::Any(needs) => Ask::Any(needs.iter().map(|need| words(need, policy, subject)).collect()),
        Need::Reviewed(review) => {
            let mut ask = words(&Need::Any(review.alternatives()), policy, subject);
            let holds = format!("{}, of all that is found", review.policy.shown());
            ask.leaves_mut().for_each(|leaf| leaf.conditions.push(holds.clone()));
            ask
        }
        Need::AtLeast { count, of } => {
            Ask::AtLeast { count: *count, of: of.iter().map(|need| words(need, policy, subject)).collect() }
        }
    }
}

impl Ask {
    fn leaves_mut(&mut self) -> Box<dyn Iterator<Item = &mut Leaf> + '_> {
        match self {
            Self::One(leaf) => Box::new(std::iter::once(leaf)),
            Self::All(asks) | Self::Any(asks) | Self::AtLeast { of: asks, .. } => {
                Box::new(asks.iter_mut().flat_map(Ask::leaves_mut))
            }
        }
    }

    /// All leaves, in order.
    pub fn leaves(&self) -> Vec<&Leaf> {
        match self {
            Self::One(leaf) => vec![leaf],
            Self::All(asks) | Self::Any(asks) | Self::AtLeast { of: asks, .. } => {
                asks.iter().flat_map(Ask::leaves).collect()
            }
        }
    }
}

fn leaf(requirement: &Requirement, policy: &Policy, subject: &Subject<'_>) -> Leaf {
    let (what, predicate_types) = match &requirement.wanted {
        Wanted::Signature => ("a signature".to_owned(), Vec::new()),
        Wanted::Attestation(types) => {
            (format!("an attestation of type {}", types.join(" or ")), types.clone())
        }
    };
    let by = requirement.signers.iter().map(|signer| signed_by(&signer.authority)).collect();
    let mut satisfied_by: Vec<String> = Vec::new();
    for signer in &requirement.signers {
        let command = command(requirement, &signer.authority, policy, subject);
        if !satisfied_by.contains(&command) {
            satisfied_by.push(command);
        }
    }
    Leaf {
        what,
        predicate_types,
        by,
        naming: naming(requirement, subject),
        max_age: requirement.max_age.as_ref().map(|age| age.written().to_owned()),
        conditions: requirement.conditions.iter().map(Condition::shown).collect(),
        satisfied_by,
    }
}

fn signed_by(authority: &Authority) -> SignedBy {
    let signer = match authority {
        Authority::Key(key) => format!("key {} ({})", key.key.fingerprint(), key.key.algorithm()),
        Authority::Keyless(keyless) => {
            let identities: Vec<String> = keyless.identities.iter().map(ToString::to_string).collect();
            identities.join(", or ")
        }
        Authority::Pki(pki) => {
            let subjects: Vec<String> = pki.subjects.iter().map(ToString::to_string).collect();
            let roots: Vec<String> = pki.roots.iter().map(|root| quoted_name(root.subject())).collect();
            format!("a certificate for {} by authority {}", subjects.join(", or "), roots.join(", or "))
        }
    };
    let mut besides = Vec::new();
    let own = match authority {
        Authority::Keyless(keyless) => {
            besides.push(format!("its certificate by an authority of trusted root {}", keyless.root));
            if !keyless.sct {
                besides.push("no promise of a CT log is asked for".to_owned());
            }
            Some(keyless.root.as_str())
        }
        Authority::Key(_) | Authority::Pki(_) => None,
    };
    let Witnesses { logs, timestamps } = authority.witnesses();
    besides.extend(witness(logs, own, "transparency log"));
    besides.extend(witness(timestamps, own, "timestamp authority"));
    if matches!(authority, Authority::Pki(_)) && logs.count == 0 && timestamps.count == 0 {
        besides.push("valid now, since nothing says when it was signed".to_owned());
    }
    SignedBy { name: authority.name().map(str::to_owned), signer, besides }
}

fn witness(witness: &Witness, own: Option<&str>, what: &str) -> Option<String> {
    let root = witness.root.as_deref().or(own).unwrap_or("(none)");
    match witness.count {
        0 => None,
        1 => Some(format!("vouched for by a {what} of trusted root {root}")),
        more => Some(format!("vouched for by {more} different ones of kind {what} of trusted root {root}")),
    }
}

fn own_repository(subject: &Subject<'_>) -> Option<String> {
    match subject.name {
        ImageName::Reference(reference) => Some(comparable_repository(reference)),
        ImageName::Id(_) | ImageName::Empty => None,
    }
}

/// What a signature has to claim. Attestations are about bytes, wherever they are.
fn naming(requirement: &Requirement, subject: &Subject<'_>) -> Option<String> {
    let Wanted::Signature = requirement.wanted else { return None };
    let ClaimedRepository { named, unnamed } = &requirement.repository;
    let or_none = if *unnamed { ", or none" } else { "" };
    Some(match named {
        NamedRepository::Any => "any repository, or none".to_owned(),
        NamedRepository::Same => match own_repository(subject) {
            Some(own) => format!("repository {own}{or_none}"),
            None => format!("the image's own repository{or_none}; an image by ID has none"),
        },
        NamedRepository::OneOf(names) => format!("repository {}{or_none}", names.join(" or ")),
        NamedRepository::Signed(identity) => identity.expected(subject.name),
    })
}

/// The command of cosign 3. cosign 2 knows neither `--new-bundle-format` nor `--use-signing-config`, and needs neither.
fn command(
    requirement: &Requirement,
    authority: &Authority,
    policy: &Policy,
    subject: &Subject<'_>,
) -> String {
    let mut words: Vec<String> = Vec::new();
    let place = policy.places.first();
    if let Some(repository) = place.and_then(|place| place.repository.as_ref()) {
        words.push(format!("COSIGN_REPOSITORY={}", repository.repo_name()));
    }
    words.push("cosign".to_owned());
    words.push(match &requirement.wanted {
        Wanted::Signature => "sign".to_owned(),
        Wanted::Attestation(types) => {
            format!("attest --type {} --predicate FILE", types.first().map_or("TYPE", String::as_str))
        }
    });
    match authority {
        Authority::Key(_) => words.push("--key KEY".to_owned()),
        Authority::Keyless(_) => {}
        Authority::Pki(_) => {
            words.push("--key KEY --certificate CERTIFICATE --certificate-chain CHAIN".to_owned())
        }
    }
    if let Some(prefix) = place.map(|place| place.tag_prefix.as_str()).filter(|prefix| !prefix.is_empty()) {
        words.push(format!("--attachment-tag-prefix {prefix}"));
    }
    let ClaimedRepository { named, unnamed } = &requirement.repository;
    // A bundle, cosign 3's default, has no place for a name.
    let legacy =
        matches!(requirement.wanted, Wanted::Signature) && !unnamed && !matches!(named, NamedRepository::Any);
    // cosign's own default is to publish the signature in sigstore's log, which takes a network and nobody asks for here.
    let Witnesses { logs, timestamps } = authority.witnesses();
    let unlogged = !matches!(authority, Authority::Keyless(_)) && logs.count == 0 && timestamps.count == 0;
    words.extend(legacy.then(|| "--new-bundle-format=false".to_owned()));
    words.extend((legacy || unlogged).then(|| "--use-signing-config=false".to_owned()));
    words.extend(unlogged.then(|| "--tlog-upload=false".to_owned()));
    if matches!(requirement.wanted, Wanted::Signature) {
        let own = own_repository(subject);
        let claim = match named {
            NamedRepository::Any | NamedRepository::Same => None,
            NamedRepository::OneOf(names) if own.as_ref().is_some_and(|own| names.contains(own)) => None,
            NamedRepository::OneOf(names) if !unnamed => names.first().cloned(),
            NamedRepository::OneOf(_) => None,
            NamedRepository::Signed(identity) => SignedIdentity::claim(identity, subject.name),
        };
        words.extend(claim.map(|claim| format!("--sign-container-identity {claim}")));
    }
    let roots = match authority {
        Authority::Keyless(keyless) => Some(keyless.root.as_str()),
        Authority::Key(_) | Authority::Pki(_) => None,
    };
    let asked = |witness: &'_ Witness| {
        witness.count > 0 && witness.root.as_deref().is_some_and(|root| root != PUBLIC_GOOD)
    };
    if roots.is_some_and(|root| root != PUBLIC_GOOD) || asked(logs) || timestamps.count > 0 {
        words.push("--signing-config FILE".to_owned());
    }
    words.push(match subject.name {
        ImageName::Reference(reference) => match reference.digest() {
            Some(digest) => format!("{}@{digest}", reference.repo_name()),
            None => format!("{}@DIGEST", reference.repo_name()),
        },
        ImageName::Id(_) | ImageName::Empty => "IMAGE@DIGEST".to_owned(),
    });
    words.join(" ")
}
