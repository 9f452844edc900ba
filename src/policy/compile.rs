//! From files to a set of policies, and from an image to the policies that cover it.

mod builder;

use std::collections::HashMap;
use std::fmt;

use serde_saphyr::Spanned;
use sha2::{Digest as _, Sha256};

use self::builder::Builder;
use super::containers_policy::{Materials, key_files};
use super::glob::SigstoreGlob;
use super::index::PatternIndex;
use super::model::{Policy, SourceFile, Subject};
use super::pattern::{Pattern, Specificity, lookup_key};
use super::scope::Scoped;
use super::sigstore::{DOCKER_HUB, Glob};
use crate::image::{Digest, ImageName, quoted};
use crate::limits;
use crate::trust::source::RootSource;
use crate::yaml::{Document, Fault};

/// What is wrong with a policy file, in one line: file, line, key, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// The file's name.
    pub file: String,
    /// The line, from 1; 0 where the whole set is meant.
    pub line: u64,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.text),
            line => write!(f, "{}:{line}: {}", self.file, self.text),
        }
    }
}

/// Policies compiled for look-up. A set is made whole or not at all.
#[derive(Debug, Clone)]
pub struct PolicySet {
    pub(super) policies: Vec<Policy>,
    pub(super) native: PatternIndex<Scope>,
    /// Of native policies for pods with labels.
    pub(super) labelled: PatternIndex<Scope>,
    /// Patterns of deny rules with a digest, by digest.
    pub(super) denied: HashMap<Digest, Vec<Scope>>,
    /// The names that these patterns are for, each once.
    denied_names: PatternIndex<DeniedName>,
    pub(super) sigstore: PatternIndex<SigstoreScope>,
    /// The places in `policies` of ClusterImagePolicies for all images.
    pub(super) sigstore_all: Vec<usize>,
    pub(super) scoped: Scoped,
    trust_roots: Vec<RootSource>,
    hash: Digest,
}

#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub pattern: Pattern,
    pub specificity: Specificity,
    pub policy: usize,
    /// The line it is written on.
    pub line: u64,
}

/// A pattern without the digests that deny rules have with it, and the places of those rules in `policies`.
#[derive(Debug, Clone)]
struct DeniedName {
    pattern: Pattern,
    policies: Vec<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct SigstoreScope {
    pub glob: SigstoreGlob,
    pub policy: usize,
    /// The line it is written on.
    pub line: u64,
}

/// One policy document, compiled.
pub(super) enum Compiled {
    /// A native policy; its patterns with their lines.
    Native { policy: Policy, patterns: Vec<(Pattern, u64)> },
    /// A ClusterImagePolicy.
    Sigstore { policy: Policy, globs: Vec<Glob> },
    /// OpenShift's; its scopes, and trusted roots made of its keys.
    OpenShift { policy: Policy, scopes: Vec<String>, roots: Vec<RootSource> },
}

impl Compiled {
    fn policy(&self) -> &Policy {
        match self {
            Self::Native { policy, .. } | Self::Sigstore { policy, .. } | Self::OpenShift { policy, .. } => {
                policy
            }
        }
    }
}

impl PolicySet {
    /// Compiles all documents of all files. On any error nothing is compiled: all of them are returned, at most
    /// [`limits::POLICY_ERRORS`]. Files that policies name by path are no policies:
    /// [`key_files`].
    pub fn compile(files: &[SourceFile]) -> Result<Self, Vec<PolicyError>> {
        let mut files: Vec<&SourceFile> = files.iter().collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut builder = Builder::default();
        let keys = key_files(files.iter().copied());
        let named = files.iter().filter(|file| keys.contains_key(&file.name));
        let materials: Materials<'_> = named.map(|file| (file.name.as_str(), &*file.bytes)).collect();
        let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
        if bytes > limits::POLICY_SET_BYTES {
            builder.limit("POLICY_SET_BYTES", limits::POLICY_SET_BYTES, "bytes");
        } else {
            for file in files.iter().filter(|file| !keys.contains_key(&file.name)) {
                builder.file(file, &materials);
                if builder.errors.len() >= limits::POLICY_ERRORS {
                    break;
                }
            }
        }
        builder.finish(hash(&files))
    }

    /// The SHA-256 of the sources, names included: what a decision was made by.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there are none, so that `unmatched` decides everything.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// All policies, in the order of their files.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The roots of TrustRoot documents, each name once.
    pub fn trust_roots(&self) -> &[RootSource] {
        &self.trust_roots
    }

    /// A name for each pattern that it could cover, with `word` in place of wildcards, and the policy it is of; sorted.
    /// Digests are left out.
    pub fn samples(&self, word: &str) -> Vec<(String, &Policy)> {
        let native = self
            .native
            .entries()
            .map(|scope| (scope.pattern.to_string().replace("**", word).replace('*', word), scope.policy));
        let sigstore = self.sigstore.entries().map(|scope| (scope.glob.sample(word), scope.policy));
        let named = |(text, policy): (String, usize)| {
            let name = text.split('@').next().unwrap_or_default().to_owned();
            Some((name, self.policies.get(policy)?))
        };
        let scoped = self.scoped.samples(word);
        let mut samples: Vec<_> = native.chain(sigstore).chain(scoped).filter_map(named).collect();
        samples.sort_by(|a, b| (&a.0, a.1.name()).cmp(&(&b.0, b.1.name())));
        samples.dedup_by(|a, b| a.0 == b.0 && a.1.name() == b.1.name());
        samples
    }

    /// The policies that all have to hold for an image, whatever its pod's labels are; none if no policy covers it.
    ///
    /// Of the native ones those with the most specific pattern: several only if they are equally specific in different
    /// ways, and then each has to hold. Of sigstore's every one that matches. Of OpenShift's, and of a
    /// containers-policy.json, those of the most specific scope.
    pub fn applicable(&self, subject: &Subject<'_>) -> Vec<&Policy> {
        let key = match subject.name {
            ImageName::Reference(reference) => lookup_key(reference),
            ImageName::Id(_) | ImageName::Empty => String::new(),
        };
        let mut best: Option<Specificity> = None;
        let mut found: Vec<usize> = Vec::new();
        for scope in self.native.candidates(&key) {
            if best.is_some_and(|best| scope.specificity < best)
                || !self.policies.get(scope.policy).is_some_and(|p| p.covers_pod(subject))
                || !scope.pattern.matches(subject.name)
            {
                continue;
            }
            if best.is_none_or(|best| scope.specificity > best) {
                found.clear();
            }
            best = Some(scope.specificity);
            found.push(scope.policy);
        }
        found.extend(self.sigstore_matches(subject.name, &key).filter(|at| !self.is_for_labels(*at)));
        found.extend(self.scoped.applicable(&self.policies, subject));
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(|at| self.policies.get(at)).collect()
    }

    /// The policies that have to hold. Those for the pod's labels stand beside others, and where an image that none covers is let
    /// through (`unmatched_runs`): what is refused otherwise they do not let pass.
    pub fn deciding(&self, subject: &Subject<'_>, unmatched_runs: bool) -> Vec<&Policy> {
        let mut deciding = self.applicable(subject);
        if !deciding.is_empty() || unmatched_runs {
            deciding.extend(self.adding(subject));
        }
        deciding
    }

    /// The policies that have to hold besides because of the pod's labels: every one that covers the image and the pod. Who
    /// writes the labels is who is to be held to the policies, so these only add: they take part in no choice of the most specific one,
    /// and an image that none but these covers is covered by none.
    pub fn adding(&self, subject: &Subject<'_>) -> Vec<&Policy> {
        let key = match subject.name {
            ImageName::Reference(reference) => lookup_key(reference),
            ImageName::Id(_) | ImageName::Empty => String::new(),
        };
        let covering = self.labelled.candidates(&key).filter(|scope| scope.pattern.matches(subject.name));
        let mut found: Vec<usize> = covering.map(|scope| scope.policy).collect();
        found.extend(self.sigstore_matches(subject.name, &key).filter(|at| self.is_for_labels(*at)));
        found.sort_unstable();
        found.dedup();
        let policies = found.into_iter().filter_map(|at| self.policies.get(at));
        policies.filter(|policy| policy.covers_pod(subject)).collect()
    }

    /// The first policy, of those that `count`, that denies one of these digests by name, whatever the image is called by: a
    /// pattern's digest is then held against the content, not the reference. It beats every proof and every other policy.
    pub fn denies(
        &self,
        subject: &Subject<'_>,
        digests: &[Digest],
        count: impl Fn(&Policy) -> bool,
    ) -> Option<&Policy> {
        let scopes = digests.iter().filter_map(|digest| self.denied.get(digest)).flatten();
        scopes
            .filter(|scope| scope.pattern.matches_name(subject.name))
            .filter_map(|scope| self.policies.get(scope.policy))
            .find(|policy| policy.covers_pod(subject) && count(policy))
    }

    /// The policies that deny some digest of an image with this name: before it is allowed its content has to be known.
    pub fn may_deny<'a>(&'a self, subject: &'a Subject<'a>) -> impl Iterator<Item = &'a Policy> {
        let key = match subject.name {
            ImageName::Reference(reference) => lookup_key(reference),
            ImageName::Id(_) | ImageName::Empty => String::new(),
        };
        let names = self.denied_names.candidates(&key).filter(|name| name.pattern.matches_name(subject.name));
        let policies: Vec<usize> = names.flat_map(|name| &name.policies).copied().collect();
        let policies = policies.into_iter().filter_map(|at| self.policies.get(at));
        policies.filter(|policy| policy.covers_pod(subject))
    }

    /// How many names of deny rules are tried for a look-up key.
    #[cfg(test)]
    pub(super) fn denied_candidates(&self, key: &str) -> usize {
        self.denied_names.candidates(key).count()
    }

    /// How many patterns are tried for a look-up key.
    #[cfg(test)]
    pub(super) fn candidates(&self, key: &str) -> usize {
        self.native.candidates(key).count()
    }

    fn is_for_labels(&self, at: usize) -> bool {
        self.policies.get(at).is_some_and(|policy| !policy.pod_labels.is_empty())
    }

    fn sigstore_matches(&self, name: &ImageName, key: &str) -> impl Iterator<Item = usize> + use<> {
        let mut found = self.sigstore_all.clone();
        for name in &sigstore_names(name, key) {
            let matching = self.sigstore.candidates(name).filter(|scope| scope.glob.matches(name));
            found.extend(matching.map(|scope| scope.policy));
        }
        found.into_iter()
    }
}

/// The names that policy-controller's globs are held against.
pub(super) fn sigstore_names(name: &ImageName, key: &str) -> Vec<String> {
    let ImageName::Reference(reference) = name else { return Vec::new() };
    let hub = |name: &str| match name.strip_prefix("docker.io/") {
        Some(rest) => format!("{DOCKER_HUB}{rest}"),
        None => name.to_owned(),
    };
    let mut names = vec![hub(key)];
    if reference.digest().is_none() {
        // The controller sees images after their tags were turned into digests. Globs that say so (…@sha256:*) are
        // held against a digest that stands for any.
        let repository = key.rsplit_once(':').map_or(key, |(name, _)| name);
        names.push(hub(&format!("{repository}@sha256:{}", "0".repeat(64))));
    }
    names
}

/// Names and contents with their lengths, so that no two sets of files have one hash.
fn hash(files: &[&SourceFile]) -> Digest {
    let mut hash = Sha256::new();
    for part in files.iter().flat_map(|file| [file.name.as_bytes(), file.bytes.as_slice()]) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Digest::from_raw(hash.finalize().into())
}

/// A reason that is there and fits into one line.
pub(super) fn required_reason(
    document: &Document<'_>,
    key: &str,
    written: &Spanned<String>,
    faults: &mut Vec<Fault>,
) -> String {
    let reason = written.value.trim();
    if reason.is_empty() || reason.len() > 300 || reason.chars().any(char::is_control) {
        let text =
            format!("{key}: expected one line of at most 300 bytes that says why, found {}", quoted(reason));
        faults.push(document.fault_at(written, text));
    }
    reason.to_owned()
}
