//! From documents to a set of policies, one document after the other.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Compiled, DeniedName, PolicyError, PolicySet, Scope, SigstoreScope};
use crate::image::{Digest, quoted};
use crate::limits;
use crate::policy::containers_policy::{self, Materials};
use crate::policy::index::PatternIndex;
use crate::policy::model::{Policy, Rule, SourceFile};
use crate::policy::pattern::Pattern;
use crate::policy::scope::{Scoped, Scopes};
use crate::policy::sigstore::Glob;
use crate::policy::{native, openshift, sigstore};
use crate::trust;
use crate::trust::source::RootSource;
use crate::yaml::{self, Document, Fault, Filled};

/// What tells dialects apart, and all that they say: the cluster's own records in an exported object may have nulls.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    #[serde(rename = "spec")]
    _spec: Option<Filled>,
}

#[derive(Default)]
pub(super) struct Builder {
    policies: Vec<Policy>,
    native: PatternIndex<Scope>,
    labelled: PatternIndex<Scope>,
    denied: HashMap<Digest, Vec<Scope>>,
    denied_names: HashMap<Pattern, Vec<usize>>,
    sigstore: PatternIndex<SigstoreScope>,
    sigstore_all: Vec<usize>,
    scoped: Scoped,
    pub(super) errors: Vec<PolicyError>,
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
    pub(super) fn limit(&mut self, limit: &str, cap: usize, unit: &str) {
        let text = format!(
            "expected at most {cap} {unit} in all policy files (limit {limit}); split or remove policies"
        );
        self.errors.push(PolicyError { file: "policies".to_owned(), line: 0, text });
    }

    pub(super) fn file(&mut self, file: &SourceFile, materials: &Materials<'_>) {
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

    pub(super) fn finish(mut self, hash: Digest) -> Result<PolicySet, Vec<PolicyError>> {
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
