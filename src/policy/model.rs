//! The one inner form that every dialect compiles to.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::{ImageName, Reference};
use crate::verify::PublicKey;

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
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ImagePolicy => "ImagePolicy",
            Self::ClusterImagePolicy => "ClusterImagePolicy",
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
}

/// A compiled policy.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) source: String,
    pub(super) mode: Option<Mode>,
    pub(super) namespaces: Option<BTreeSet<String>>,
    pub(super) rule: Rule,
}

/// What a policy asks of an image.
#[derive(Debug, Clone)]
pub(super) enum Rule {
    /// Nothing.
    Accept { reason: String },
    /// The impossible.
    Deny { reason: String },
    /// One signature that one of the keys made and whose claim names a repository that is allowed.
    Signed { keys: Vec<SignerKey>, repository: ClaimedRepository },
}

#[derive(Debug, Clone)]
pub(super) struct SignerKey {
    pub name: Option<String>,
    pub key: PublicKey,
}

/// Which repository a signature may claim.
#[derive(Debug, Clone)]
pub(super) enum ClaimedRepository {
    /// The image's own.
    Same,
    /// One of these, in comparable form.
    OneOf(Vec<String>),
    /// Any: a signature on the same bytes in another repository counts.
    Any,
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

    /// Whether its judgement depends on signatures. Where it does not, none need be fetched.
    pub fn needs_evidence(&self) -> bool {
        matches!(self.rule, Rule::Signed { .. })
    }

    /// The namespaces it is for; `None`: all, and calls without one.
    pub fn namespaces(&self) -> Option<&BTreeSet<String>> {
        self.namespaces.as_ref()
    }

    pub(super) fn covers_namespace(&self, namespace: Option<&str>) -> bool {
        match &self.namespaces {
            None => true,
            Some(names) => namespace.is_some_and(|namespace| names.contains(namespace)),
        }
    }
}

/// A registry as patterns and claims are compared: hosts without regard to case, https's own port left out. The
/// runtimes keep the spelling, but it reaches the same registry, so another spelling must not evade a rule.
pub(super) fn comparable_registry(registry: &str) -> String {
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
