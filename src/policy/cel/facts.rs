//! What conditions can speak of: the variables, and what they are in one case.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use super::kind::Kind;
use super::value::Value;
use crate::image::{Digest, ImageName};
use crate::policy::model::{Subject, comparable_registry};
use crate::verify::{AltName, Signer, TimeSource, Verified};

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum About {
    /// One signature.
    Signature,
    /// One attestation.
    Attestation,
}

impl About {
    /// The variable that is it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Attestation => "attestation",
        }
    }
}

/// A variable, or a field of one, whose type is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    Registry,
    Repository,
    Tag,
    Digest,
    Namespace,
    Now,
    PredicateType,
    Predicate,
    SubjectDigest,
    Annotations,
    ClaimedRepository,
    Key,
    Issuer,
    Subjects,
    Claims,
    Time,
}

/// Its name and type; the variable's own name is [`About::name`] where the name begins with a point.
type Named = (Fact, &'static str, fn() -> Kind);

const FACTS: [Named; 16] = [
    (Fact::Registry, "image.registry", || Kind::Text),
    (Fact::Repository, "image.repository", || Kind::Text),
    (Fact::Tag, "image.tag", || Kind::Text),
    (Fact::Digest, "image.digest", || Kind::Text),
    (Fact::Namespace, "pod.namespace", || Kind::Text),
    (Fact::Now, "now", || Kind::Time),
    (Fact::PredicateType, ".predicateType", || Kind::Text),
    (Fact::Predicate, ".predicate", || Kind::Any),
    (Fact::SubjectDigest, ".subject.digest", || Kind::Text),
    (Fact::Annotations, ".subject.annotations", || Kind::Map(Box::new(Kind::Any))),
    (Fact::ClaimedRepository, ".repository", || Kind::Text),
    (Fact::Key, ".signer.key", || Kind::Text),
    (Fact::Issuer, ".signer.issuer", || Kind::Text),
    (Fact::Subjects, ".signer.subjects", || Kind::List(Box::new(Kind::Text))),
    (Fact::Claims, ".signer.claims", || Kind::Map(Box::new(Kind::Text))),
    (Fact::Time, ".time", || Kind::Time),
];

impl Fact {
    /// Whether conditions about this can name it.
    fn is_of(self, about: About) -> bool {
        match self {
            Self::PredicateType | Self::Predicate => about == About::Attestation,
            Self::ClaimedRepository => about == About::Signature,
            _ => true,
        }
    }

    /// All that conditions about this can name, with their names and types.
    pub fn all(about: About) -> impl Iterator<Item = (Self, String, Kind)> {
        FACTS.iter().filter(move |(fact, ..)| fact.is_of(about)).map(move |(fact, name, kind)| {
            let root = if name.starts_with('.') { about.name() } else { "" };
            (*fact, format!("{root}{name}"), kind())
        })
    }
}

/// What is the case for one signature or attestation that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    about: About,
    pub(super) now: SystemTime,
    registry: String,
    repository: String,
    tag: String,
    digest: String,
    namespace: String,
    predicate_type: String,
    /// JSON.
    pub(super) predicate: Bytes,
    subject_digest: String,
    annotations: Json,
    claimed_repository: String,
    key: String,
    issuer: String,
    subjects: Json,
    claims: Json,
    time: Option<SystemTime>,
    /// What policies in Rego look at, JSON: the statement of an attestation, or what a policy's authorities found.
    pub(super) input: Bytes,
}

impl Facts {
    pub(in crate::policy) fn new(
        about: About,
        subject: &Subject<'_>,
        digests: &[Digest],
        verified: &Verified,
        now: SystemTime,
    ) -> Self {
        let (registry, repository, tag) = match subject.name {
            ImageName::Reference(name) => (
                comparable_registry(name.registry()),
                name.repository().to_owned(),
                name.tag().unwrap_or_default().to_owned(),
            ),
            ImageName::Id(_) | ImageName::Empty => Default::default(),
        };
        let (key, issuer, subjects, claims) = match &verified.signer {
            Signer::Key(fingerprint) => (fingerprint.to_string(), String::new(), Vec::new(), Map::new()),
            Signer::Certificate(by) => (
                String::new(),
                by.issuer.clone().unwrap_or_default(),
                by.names.iter().map(AltName::as_str).map(Json::from).collect(),
                by.claims
                    .iter()
                    .map(|(claim, value)| (claim.name().to_owned(), value.as_str().into()))
                    .collect(),
            ),
        };
        // The node's own clock vouches for nothing. Of several times the earliest: anybody can have an old signature
        // stamped once more.
        let vouched = verified.times.iter().filter(|known| known.source != TimeSource::Clock);
        let predicate = verified.predicate.as_ref();
        Self {
            about,
            now,
            registry,
            repository,
            tag,
            digest: digests.first().map(Digest::to_string).unwrap_or_default(),
            namespace: subject.namespace.unwrap_or_default().to_owned(),
            predicate_type: predicate.map(|predicate| predicate.predicate_type.clone()).unwrap_or_default(),
            predicate: predicate.map_or(Bytes::from_static(b"null"), |predicate| predicate.bytes.clone()),
            subject_digest: verified.digest.to_string(),
            annotations: Json::Object(verified.annotations.clone()),
            claimed_repository: verified.docker_reference.clone().unwrap_or_default(),
            key,
            issuer,
            subjects: Json::Array(subjects),
            claims: Json::Object(claims),
            time: vouched.map(|known| known.time).min(),
            input: predicate.map_or(Bytes::from_static(b"null"), |predicate| predicate.statement.clone()),
        }
    }

    /// What is the case for all that a policy's authorities found, which Rego alone looks at.
    pub(in crate::policy) fn of_matches(input: Bytes, now: SystemTime) -> Self {
        let none = String::new;
        Self {
            about: About::Signature,
            now,
            registry: none(),
            repository: none(),
            tag: none(),
            digest: none(),
            namespace: none(),
            predicate_type: none(),
            predicate: Bytes::from_static(b"null"),
            subject_digest: none(),
            annotations: Json::Null,
            claimed_repository: none(),
            key: none(),
            issuer: none(),
            subjects: Json::Null,
            claims: Json::Null,
            time: None,
            input,
        }
    }

    /// The same where nobody vouches for a time.
    #[cfg(test)]
    pub(super) fn undated(self) -> Self {
        Self { time: None, ..self }
    }

    /// A variable's value; `None`: there is none.
    pub(super) fn value<'a>(&'a self, fact: Fact, predicate: &'a Json) -> Option<Value<'a>> {
        Some(match fact {
            Fact::Registry => Value::Text(&self.registry),
            Fact::Repository => Value::Text(&self.repository),
            Fact::Tag => Value::Text(&self.tag),
            Fact::Digest => Value::Text(&self.digest),
            Fact::Namespace => Value::Text(&self.namespace),
            Fact::Now => Value::Time(since_1970(self.now)),
            Fact::PredicateType => Value::Text(&self.predicate_type),
            Fact::Predicate => Value::of(predicate),
            Fact::SubjectDigest => Value::Text(&self.subject_digest),
            Fact::Annotations => Value::of(&self.annotations),
            Fact::ClaimedRepository => Value::Text(&self.claimed_repository),
            Fact::Key => Value::Text(&self.key),
            Fact::Issuer => Value::Text(&self.issuer),
            Fact::Subjects => Value::of(&self.subjects),
            Fact::Claims => Value::of(&self.claims),
            Fact::Time => Value::Time(since_1970(self.time?)),
        })
    }
}

/// Nanoseconds since 1970.
pub(in crate::policy) fn since_1970(time: SystemTime) -> i128 {
    let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => nanos(since),
        Err(before) => -nanos(before.duration()),
    }
}
