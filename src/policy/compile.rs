//! From files to a set of policies, and from an image to the policies that cover it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Deserialize;
use serde_saphyr::Spanned;
use sha2::{Digest as _, Sha256};

use super::containers_policy::{Materials, key_files};
use super::glob::SigstoreGlob;
use super::index::PatternIndex;
use super::model::{Policy, Rule, SourceFile, Subject};
use super::pattern::{Pattern, Specificity, lookup_key};
use super::scope::{Scoped, Scopes};
use super::sigstore::{DOCKER_HUB, Glob};
use super::{containers_policy, native, openshift, sigstore};
use crate::image::{Digest, ImageName, quoted};
use crate::limits;
use crate::trust;
use crate::trust::source::RootSource;
use crate::yaml::{self, Document, Fault, Filled};

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

/// What tells dialects apart, and all that they say: the cluster's own records in an exported object may have nulls.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    #[serde(rename = "spec")]
    _spec: Option<Filled>,
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

#[derive(Default)]
struct Builder {
    policies: Vec<Policy>,
    native: PatternIndex<Scope>,
    labelled: PatternIndex<Scope>,
    denied: HashMap<Digest, Vec<Scope>>,
    denied_names: HashMap<Pattern, Vec<usize>>,
    sigstore: PatternIndex<SigstoreScope>,
    sigstore_all: Vec<usize>,
    scoped: Scoped,
    errors: Vec<PolicyError>,
    documents: usize,
    patterns: usize,
    /// Where each name was first given.
    names: BTreeMap<String, String>,
    trust_roots: Vec<RootSource>,
    /// The file with the node's containers-policy.json.
    node_file: Option<String>,
    /// Which policies have each pattern.
    owners: HashMap<Pattern, Vec<usize>>,
}

impl Builder {
    fn limit(&mut self, limit: &str, cap: usize, unit: &str) {
        let text = format!(
            "expected at most {cap} {unit} in all policy files (limit {limit}); split or remove policies"
        );
        self.errors.push(PolicyError { file: "policies".to_owned(), line: 0, text });
    }

    fn file(&mut self, file: &SourceFile, materials: &Materials<'_>) {
        let Ok(text) = std::str::from_utf8(&file.bytes) else {
            let text = "expected UTF-8 text; save the file as UTF-8".to_owned();
            self.errors.push(PolicyError { file: file.name.clone(), line: 1, text });
            return;
        };
        if containers_policy::is_one(&file.name, text) {
            if let Err(faults) = self.containers_policy(file, text, materials) {
                self.faults(file, faults);
            }
            return;
        }
        let documents = yaml::documents(text);
        if documents.is_empty() {
            let text = "expected at least one policy, found none; remove the file or write one".to_owned();
            self.errors.push(PolicyError { file: file.name.clone(), line: 1, text });
        }
        for document in documents {
            self.documents += 1;
            if self.documents > limits::POLICY_DOCUMENTS {
                self.limit("POLICY_DOCUMENTS", limits::POLICY_DOCUMENTS, "documents");
            }
            if self.errors.len() >= limits::POLICY_ERRORS || self.documents > limits::POLICY_DOCUMENTS {
                return;
            }
            if let Err(faults) = self.document(&document, &file.name) {
                self.faults(file, faults);
            }
        }
    }

    fn faults(&mut self, file: &SourceFile, faults: Vec<Fault>) {
        let error = |Fault { line, text }| PolicyError { file: file.name.clone(), line, text };
        self.errors.extend(faults.into_iter().map(error));
    }

    fn containers_policy(
        &mut self,
        file: &SourceFile,
        text: &str,
        materials: &Materials<'_>,
    ) -> Result<(), Vec<Fault>> {
        let compiled = containers_policy::compile(&file.name, text, materials)?;
        let fault = |text: String| vec![Fault { line: 1, text }];
        if let (None, Some(other)) = (&compiled.namespace, &self.node_file) {
            let folder = containers_policy::NAMESPACES;
            return Err(fault(format!(
                "expected one containers-policy.json for the node, found {other} too; keep one, or make it <namespace>.json in the folder {folder}"
            )));
        }
        self.own_roots(compiled.roots).map_err(fault)?;
        if !self.count(compiled.policies.len()) {
            return Ok(());
        }
        let mut scopes = Scopes::default();
        for (scope, policy) in compiled.policies {
            scopes.insert(scope, self.policies.len());
            self.policies.push(policy);
        }
        match compiled.namespace {
            Some(namespace) => {
                self.scoped.namespaces.insert(namespace, scopes);
            }
            None => {
                self.scoped.node = Some(scopes);
                self.node_file = Some(file.name.clone());
            }
        }
        Ok(())
    }

    /// Adds roots that policies brought with them; what is there already has the same name.
    fn own_roots(&mut self, roots: Vec<RootSource>) -> Result<(), String> {
        for root in roots {
            if self.trust_roots.iter().any(|other| other.name == root.name) {
                continue;
            }
            if self.trust_roots.len() == limits::TRUST_ROOTS {
                return Err(format!(
                    "expected at most {} TrustRoots and sets of keys of Fulcio and Rekor in all policies (limit TRUST_ROOTS); use the same keys in several policies",
                    limits::TRUST_ROOTS
                ));
            }
            self.trust_roots.push(root);
        }
        Ok(())
    }

    fn document(&mut self, document: &Document<'_>, file: &str) -> Result<(), Vec<Fault>> {
        let header: Header = document.read().map_err(|fault| vec![fault])?;
        let (compiled, name) = match (header.api_version.value.as_str(), header.kind.value.as_str()) {
            ("crivet.dev/v1alpha1", "ImagePolicy") => native::compile(document, file)?,
            ("policy.sigstore.dev/v1alpha1" | "policy.sigstore.dev/v1beta1", "ClusterImagePolicy") => {
                sigstore::compile(document, file)?
            }
            ("policy.sigstore.dev/v1alpha1", "TrustRoot") => {
                return self.trust_root(document, file).map_err(|fault| vec![fault]);
            }
            ("config.openshift.io/v1", "ClusterImagePolicy") => openshift::compile(document, file, false)?,
            ("config.openshift.io/v1", "ImagePolicy") => openshift::compile(document, file, true)?,
            ("crivet.dev/v1alpha1", "PolicyTest") => {
                let text = "expected a policy, found a PolicyTest; keep it outside the folder of policies, for crivet policy test FILE";
                return Err(vec![document.fault_at(&header.kind, text.to_owned())]);
            }
            (version, kind) => {
                let text = format!(
                    "expected crivet.dev/v1alpha1 ImagePolicy, policy.sigstore.dev/v1beta1 ClusterImagePolicy or v1alpha1 TrustRoot, config.openshift.io/v1 ClusterImagePolicy or ImagePolicy, found {} {}; other kinds are not supported",
                    quoted(version),
                    quoted(kind)
                );
                return Err(vec![document.fault_at(&header.kind, text)]);
            }
        };
        if !is_name(&name.value) {
            let text = format!(
                "metadata.name: expected a name of at most 253 lowercase letters, digits, - and ., found {}",
                quoted(&name.value)
            );
            return Err(vec![document.fault_at(&name, text)]);
        }
        let place = format!("{file}:{}", document.line_of(&name));
        let own = compiled.policy().name.clone();
        if let Some(first) = self.names.get(&own) {
            let text = format!(
                "metadata.name: expected a name of its own, found {} at {first} too; rename one",
                quoted(&own)
            );
            return Err(vec![document.fault_at(&name, text)]);
        }
        self.names.insert(own, place);
        match compiled {
            Compiled::Native { policy, patterns } => self.native(policy, patterns),
            Compiled::Sigstore { policy, globs } => {
                let at = self.policies.len();
                self.policies.push(policy);
                if !self.count(globs.len()) {
                    return Ok(());
                }
                for Glob { glob, covers_all, line } in globs {
                    if covers_all {
                        self.sigstore_all.push(at);
                    } else {
                        self.sigstore.insert(&glob.text(), SigstoreScope { glob, policy: at, line });
                    }
                }
                Ok(())
            }
            Compiled::OpenShift { policy, scopes, roots } => {
                self.own_roots(roots).map_err(|text| vec![document.fault_at(&name, text)])?;
                let at = self.policies.len();
                self.policies.push(policy);
                if self.count(scopes.len()) {
                    scopes.into_iter().for_each(|scope| self.scoped.openshift.insert(scope, at));
                }
                Ok(())
            }
        }
    }

    fn trust_root(&mut self, document: &Document<'_>, file: &str) -> Result<(), Fault> {
        let (root, name) = trust::document::read(document, file)?;
        if let Some(other) = self.trust_roots.iter().find(|other| other.name == root.name) {
            let text = format!(
                "metadata.name: expected a TrustRoot's name of its own, found {} at {} too; rename one",
                quoted(&name.value),
                other.document.as_deref().unwrap_or_default()
            );
            return Err(document.fault_at(&name, text));
        }
        if self.trust_roots.len() == limits::TRUST_ROOTS {
            let text = format!("expected at most {} TrustRoots (limit TRUST_ROOTS)", limits::TRUST_ROOTS);
            return Err(document.fault_at(&name, text));
        }
        self.trust_roots.push(root);
        Ok(())
    }

    /// Counts a policy's patterns; false if there are too many by now, which is told once.
    fn count(&mut self, patterns: usize) -> bool {
        let before = self.patterns;
        self.patterns += patterns;
        if before <= limits::POLICY_PATTERNS && self.patterns > limits::POLICY_PATTERNS {
            self.limit("POLICY_PATTERNS", limits::POLICY_PATTERNS, "image patterns");
        }
        self.patterns <= limits::POLICY_PATTERNS
    }

    fn native(&mut self, policy: Policy, patterns: Vec<(Pattern, u64)>) -> Result<(), Vec<Fault>> {
        let at = self.policies.len();
        if !self.count(patterns.len()) {
            return Ok(());
        }
        let mut faults = Vec::new();
        let adds = !policy.pod_labels.is_empty();
        for (pattern, line) in patterns {
            let owners = self.owners.entry(pattern.clone()).or_default();
            // The owner is this policy itself if the pattern stands there twice. One other is named, however many.
            let others = owners.iter().map(|owner| self.policies.get(*owner).unwrap_or(&policy));
            let tie = others.into_iter().find(|other| !adds && same_namespaces(other, &policy));
            if let Some(other) = tie {
                let text = format!(
                    "spec.images: expected {pattern} in one policy only, found it in {} ({}) too for the same namespaces; remove one, or make one more specific",
                    other.name, other.source
                );
                faults.push(Fault { line, text });
                continue;
            }
            if !adds {
                owners.push(at);
            }
            let specificity = pattern.specificity(policy.namespaces.is_some());
            let scope = Scope { pattern, specificity, policy: at, line };
            if let (Rule::Deny { .. }, Some(digest)) = (&policy.rule, scope.pattern.digest()) {
                self.denied.entry(digest).or_default().push(scope.clone());
                let policies = self.denied_names.entry(scope.pattern.name()).or_default();
                if policies.last() != Some(&at) {
                    policies.push(at);
                }
            }
            let index = if adds { &mut self.labelled } else { &mut self.native };
            index.insert(&scope.pattern.to_string(), scope);
        }
        self.policies.push(policy);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn finish(mut self, hash: Digest) -> Result<PolicySet, Vec<PolicyError>> {
        if !self.errors.is_empty() {
            self.errors.truncate(limits::POLICY_ERRORS);
            return Err(self.errors);
        }
        let mut denied_names = PatternIndex::default();
        for (pattern, policies) in self.denied_names {
            denied_names.insert(&pattern.to_string(), DeniedName { pattern, policies });
        }
        Ok(PolicySet {
            policies: self.policies,
            native: self.native,
            labelled: self.labelled,
            denied: self.denied,
            denied_names,
            sigstore: self.sigstore,
            sigstore_all: self.sigstore_all,
            scoped: self.scoped,
            trust_roots: self.trust_roots,
            hash,
        })
    }
}

/// Whether neither policy is the more specific one for some namespace.
fn same_namespaces(a: &Policy, b: &Policy) -> bool {
    match (&a.namespaces, &b.namespaces) {
        (None, None) => true,
        (Some(a), Some(b)) => a.intersection(b).next().is_some(),
        _ => false,
    }
}

/// RFC 1123 subdomain, as Kubernetes names objects.
fn is_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    plain && name.len() <= 253 && edge(name.chars().next()) && edge(name.chars().next_back())
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
