//! The one inner form that every dialect compiles to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::age::MaxAge;
use super::cel::Condition;
use super::exemption::Exemption;
use super::recheck::Recheck;
use super::signed_identity::SignedIdentity;
use crate::image::{Digest, ImageName, Reference};
use crate::verify::{Authority, SIGNATURE_PREDICATE};

/// A policy file's name (without its folder) and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The name, for messages and order.
    pub name: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// What happens to a call whose image is not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is forwarded and recorded.
    Audit,
    /// It is refused.
    Enforce,
}

/// The dialect a policy is written in, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `crivet.dev/v1alpha1 ImagePolicy`.
    ImagePolicy,
    /// `policy.sigstore.dev ClusterImagePolicy`.
    ClusterImagePolicy,
    /// `config.openshift.io/v1 ClusterImagePolicy`.
    OpenShiftClusterImagePolicy,
    /// `config.openshift.io/v1 ImagePolicy`.
    OpenShiftImagePolicy,
    /// One list of requirements of a containers-policy.json(5).
    ContainersPolicy,
}

impl Kind {
    /// The kind whose policies it is combined with; with those of others each has to hold.
    pub(super) fn dialect(self) -> Self {
        match self {
            Self::OpenShiftImagePolicy => Self::OpenShiftClusterImagePolicy,
            kind => kind,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ImagePolicy => "ImagePolicy",
            Self::ClusterImagePolicy => "ClusterImagePolicy",
            Self::OpenShiftClusterImagePolicy => "OpenShift ClusterImagePolicy",
            Self::OpenShiftImagePolicy => "OpenShift ImagePolicy",
            Self::ContainersPolicy => "containers-policy.json",
        })
    }
}

/// Whom a policy is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The image as the pod names it.
    pub name: &'a ImageName,
    /// The pod's namespace, where the call has one. Policies for namespaces cover no call without.
    pub namespace: Option<&'a str>,
    /// The pod's labels, which its author writes.
    pub labels: &'a Labels,
    /// It is what the pod's sandbox is made of, which nobody who writes pods has chosen.
    pub is_pause: bool,
}

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;

/// Those of no pod.
pub static NO_LABELS: Labels = Labels::new();

/// A compiled policy.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) source: String,
    pub(super) mode: Option<Mode>,
    pub(super) namespaces: Option<BTreeSet<String>>,
    /// Labels that its pods have, each; none: all pods. With labels it only adds to what holds without.
    pub(super) pod_labels: Labels,
    /// Where its evidence is; at least one.
    pub(super) places: Vec<Place>,
    pub(super) rule: Rule,
    pub(super) recheck: Option<Recheck>,
    /// How long ago a check may have found its images' layers whole; `None`: it does not ask.
    pub(super) layers_checked_within: Option<Duration>,
    pub(super) exemptions: Vec<Exemption>,
}

/// What a policy asks of an image.
#[derive(Debug, Clone)]
pub(super) enum Rule {
    /// Nothing.
    Accept { reason: String },
    /// The impossible.
    Deny { reason: String },
    /// Signatures and attestations.
    Requires(Need),
}

/// What has to be there.
#[derive(Debug, Clone)]
pub(super) enum Need {
    /// One signature or attestation that is all of this by itself.
    One(Requirement),
    /// Each of these.
    All(Vec<Need>),
    /// One of these.
    Any(Vec<Need>),
    /// So many of these, by different signers: see [`super::judge`]'s `tree`.
    AtLeast { count: usize, of: Vec<Need> },
    /// A policy on what authorities found.
    Reviewed(Review),
}

/// A ClusterImagePolicy's own policy: at least one of the authorities has to hold, and the policy of all that they found.
#[derive(Debug, Clone)]
pub(super) struct Review {
    pub authorities: Vec<Reviewed>,
    pub policy: Condition,
}

/// One authority.
#[derive(Debug, Clone)]
pub(super) struct Reviewed {
    pub name: String,
    /// A signature; or attestations, each with its name.
    pub wanted: Vec<(Option<String>, Requirement)>,
}

impl Review {
    /// What each authority asks for, as alternatives.
    pub fn alternatives(&self) -> Vec<Need> {
        let one = |(_, requirement): &(_, Requirement)| Need::One(requirement.clone());
        self.authorities
            .iter()
            .map(|authority| Need::All(authority.wanted.iter().map(one).collect()))
            .collect()
    }
}

impl Need {
    /// Whether signers are counted anywhere in it.
    pub fn counts(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::All(needs) | Self::Any(needs) => needs.iter().any(Self::counts),
            Self::AtLeast { .. } => true,
            Self::Reviewed(_) => false,
        }
    }
}

/// What one signature or attestation has to be (facts, step 14: one satisfies all of it).
#[derive(Debug, Clone)]
pub(super) struct Requirement {
    pub wanted: Wanted,
    /// Any one of them.
    pub signers: Vec<Signer>,
    pub repository: ClaimedRepository,
    /// How old it may be; `None`: of any age.
    pub max_age: Option<MaxAge>,
    /// All of them hold of it.
    pub conditions: Vec<Condition>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Signature,
    /// An attestation of one of these predicate types.
    Attestation(Vec<String>),
}

/// Who may have signed.
#[derive(Debug, Clone)]
pub struct Signer {
    /// What is asked of the signature.
    pub authority: Authority,
    /// Equal for equal authorities: whoever remembers what was verified, remembers it by this.
    pub fingerprint: Digest,
    /// The line of the policy's file that it is written on; 0: not known.
    pub(super) line: u64,
}

impl Signer {
    pub(crate) fn new(authority: Authority) -> Self {
        let fingerprint = Digest::of(format!("{authority:?}").as_bytes());
        Self { authority, fingerprint, line: 0 }
    }

    /// Written on this line.
    pub(super) fn at(self, line: u64) -> Self {
        Self { line, ..self }
    }
}

/// Which repository a signature may claim.
#[derive(Debug, Clone)]
pub(super) struct ClaimedRepository {
    pub named: NamedRepository,
    /// Whether one that names none will do: the format has no place for it.
    pub unnamed: bool,
}

#[derive(Debug, Clone)]
pub(super) enum NamedRepository {
    /// The image's own.
    Same,
    /// One of these, in comparable form.
    OneOf(Vec<String>),
    /// Any: a signature on the same bytes in another repository counts.
    Any,
    /// What a `signedIdentity` asks for.
    Signed(SignedIdentity),
}

/// A repository where evidence is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// `None`: the image's own.
    pub repository: Option<Reference>,
    /// What cosign's tags begin with there.
    pub tag_prefix: String,
}

impl Place {
    /// Where evidence is unless the policy says otherwise.
    pub const OWN: Self = Self { repository: None, tag_prefix: String::new() };
}

impl Policy {
    /// Its `metadata.name`, unique in its set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its dialect.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is written: `file:line`.
    pub fn source(&self) -> String {
        self.source.clone()
    }

    /// Its own mode; `None` leaves it to the daemon's.
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// Whether its judgement depends on evidence. Where it does not, none need be fetched.
    pub fn needs_evidence(&self) -> bool {
        matches!(self.rule, Rule::Requires(_))
    }

    /// Whether it has to see all evidence there is before it says anything: more may make it say no.
    pub fn needs_all_evidence(&self) -> bool {
        matches!(self.rule, Rule::Requires(Need::Reviewed(_)))
    }

    /// Whether evidence decides about an image with this name and these digests: not where it is exempted.
    pub fn asks(&self, subject: &Subject<'_>, digests: &[Digest], now: SystemTime) -> bool {
        self.needs_evidence() && self.exemption(subject, digests, now).is_none()
    }

    /// Where its evidence is looked for.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// How tags are held to their registry; `None`: what was vetted runs as long as it is on the node.
    pub fn recheck(&self) -> Option<Recheck> {
        self.recheck
    }

    /// How long ago a check may have found the layers on the node's disk whole, when a container is made of them; `None`: nobody
    /// has to have checked them.
    pub fn layers_checked_within(&self) -> Option<Duration> {
        self.layers_checked_within
    }

    /// The requirements it is made of, whatever their combination.
    pub(super) fn requirements(&self) -> Vec<&Requirement> {
        let mut found = Vec::new();
        let mut left: Vec<&Need> = match &self.rule {
            Rule::Requires(need) => vec![need],
            Rule::Accept { .. } | Rule::Deny { .. } => Vec::new(),
        };
        while let Some(need) = left.pop() {
            match need {
                Need::One(requirement) => found.push(requirement),
                Need::All(needs) | Need::Any(needs) | Need::AtLeast { of: needs, .. } => {
                    left.extend(needs.iter().rev());
                }
                Need::Reviewed(Review { authorities, .. }) => {
                    let wanted = authorities.iter().flat_map(|authority| &authority.wanted);
                    found.extend(wanted.map(|(_, requirement)| requirement));
                }
            }
        }
        found
    }

    /// The predicate types it asks for; a signature's where it asks for signatures.
    pub fn predicate_types(&self) -> impl Iterator<Item = &str> {
        self.requirements().into_iter().flat_map(|requirement| match &requirement.wanted {
            Wanted::Signature => vec![SIGNATURE_PREDICATE],
            Wanted::Attestation(types) => types.iter().map(String::as_str).collect(),
        })
    }

    /// The names of the trusted roots it rests on; none for one of keys alone.
    pub fn trust_roots(&self) -> BTreeSet<&str> {
        let authorities = self.requirements().into_iter().flat_map(|requirement| &requirement.signers);
        let named = authorities.flat_map(|signer| {
            let witnesses = signer.authority.witnesses();
            let own = match &signer.authority {
                Authority::Keyless(keyless) => Some(keyless.root.as_str()),
                Authority::Key(_) | Authority::Pki(_) => None,
            };
            [own, witnesses.logs.root.as_deref(), witnesses.timestamps.root.as_deref()]
        });
        named.flatten().collect()
    }

    /// The namespaces it is for; `None`: all, and calls without one.
    pub fn namespaces(&self) -> Option<&BTreeSet<String>> {
        self.namespaces.as_ref()
    }

    /// The labels that its pods have, each of them; none: it is for all pods. With labels it only adds to what holds without.
    pub fn pod_labels(&self) -> &Labels {
        &self.pod_labels
    }

    pub(super) fn covers_namespace(&self, namespace: Option<&str>) -> bool {
        match &self.namespaces {
            None => true,
            Some(names) => namespace.is_some_and(|namespace| names.contains(namespace)),
        }
    }

    /// Whether it is for this pod.
    pub(super) fn covers_pod(&self, subject: &Subject<'_>) -> bool {
        let in_namespace = self.covers_namespace(subject.namespace);
        in_namespace && self.pod_labels.iter().all(|(key, value)| subject.labels.get(key) == Some(value))
    }
}

/// A registry as patterns and claims are compared: hosts without regard to case, https's own port left out. The
/// runtimes keep the spelling, but it reaches the same registry, so another spelling must not evade a rule.
pub(crate) fn comparable_registry(registry: &str) -> String {
    let registry = registry.to_ascii_lowercase();
    match registry.strip_suffix(":443") {
        Some(host) => host.to_owned(),
        None => registry,
    }
}

/// `registry/repository` in comparable form.
pub(super) fn comparable_repository(reference: &Reference) -> String {
    format!("{}/{}", comparable_registry(reference.registry()), reference.repository())
}
