//! Which policies cover an image, which of them decide and why, and what they ask for, in words.

mod ask;
mod takes;
mod text;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

pub use self::ask::{Ask, Leaf, SignedBy};
pub use self::takes::Named;
use super::compile::{PolicySet, Scope, sigstore_names};
use super::exemption::Exemption;
use super::model::{Mode, Policy, Rule, Subject};
use super::pattern::{Specificity, lookup_key};
use super::scope::{ALL, NAMELESS, Scopes};
use crate::config::spoken;
use crate::image::ImageName;

/// Version of the JSON form (docs/policy-explain.schema.json). It changes when a field's meaning does.
pub const SCHEMA_VERSION: u32 = 1;

/// What the policies say about an image's name, before any evidence is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Says {
    /// No policy covers it: `unmatched` of the daemon's configuration decides.
    Nothing,
    /// Nothing is asked.
    Accepts,
    /// It is denied, whatever is signed.
    Denies,
    /// Signatures or attestations decide.
    Asks,
}

impl Says {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Accepts => "accepts",
            Self::Denies => "denies",
            Self::Asks => "asks",
        }
    }
}

/// All there is to say about an image's policies.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The reference as it is looked up; absent for an image by ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What all that decide come to.
    pub says: Says,
    /// The policies that cover the image, those that decide first.
    pub policies: Vec<Covering>,
}

/// One policy that covers the image, or would.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Covering {
    /// Its name.
    pub name: String,
    /// Its dialect.
    pub kind: String,
    /// Where it is written, `file:line`.
    pub source: String,
    /// The pattern, glob or scope that covers the image.
    pub scope: String,
    /// The namespaces it is for; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// The labels of the pods it is for, each `KEY=VALUE`; empty: all pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod_labels: Vec<String>,
    /// Its exemptions that cover the image by its name: until when, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exemptions: Vec<String>,
    /// Whether it has to hold.
    pub decides: bool,
    /// Why it decides, or why not.
    pub why: String,
    /// Its own mode; absent: the daemon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What it says by the name alone.
    pub says: Says,
    /// The reason it gives, where it accepts or denies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<Ask>,
    /// Where its evidence is looked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// How old the registry's word on the tag may be, and what comes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recheck: Option<String>,
    /// What it asks of the layers on the node's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

impl PolicySet {
    /// Explains which policies cover an image, and what those that decide ask for. No evidence is looked at. `unmatched_runs`:
    /// the daemon lets through what no policy covers.
    pub fn explain(&self, subject: &Subject<'_>, unmatched_runs: bool) -> Explanation {
        let deciding = self.deciding(subject, unmatched_runs);
        let decides = |policy: &Policy| deciding.iter().any(|other| std::ptr::eq(*other, policy));
        let mut policies = self.explain_native(subject, &decides);
        policies.extend(self.explain_sigstore(subject, &decides));
        policies.extend(self.explain_scoped(subject, &decides));
        policies.extend(self.explain_labelled(subject, &decides));
        policies.sort_by_key(|covering| !covering.decides);
        let (reference, digest) = match subject.name {
            ImageName::Reference(reference) => (Some(lookup_key(reference)), reference.digest()),
            ImageName::Id(_) | ImageName::Empty => (None, None),
        };
        let by_digest = digest.and_then(|digest| self.denies(subject, &[digest], |_| true));
        let says = match () {
            () if by_digest.is_some() => Says::Denies,
            () if deciding.is_empty() => Says::Nothing,
            () if deciding.iter().any(|policy| says(policy) == Says::Denies) => Says::Denies,
            () if deciding.iter().any(|policy| says(policy) == Says::Asks) => Says::Asks,
            () => Says::Accepts,
        };
        Explanation {
            schema_version: SCHEMA_VERSION,
            reference,
            namespace: subject.namespace.map(str::to_owned),
            says,
            policies,
        }
    }

    fn explain_native(&self, subject: &Subject<'_>, decides: &dyn Fn(&Policy) -> bool) -> Vec<Covering> {
        // Of each policy the pattern that covers the image, the most specific one first; else one that does but for the
        // tag or digest.
        let mut of: BTreeMap<usize, (bool, &Scope)> = BTreeMap::new();
        for scope in self.native.entries().filter(|scope| scope.pattern.matches_name(subject.name)) {
            let found = (scope.pattern.matches(subject.name), scope);
            let place = |(whole, scope): &(bool, &Scope)| (*whole, rank(scope));
            of.entry(scope.policy)
                .and_modify(|best| {
                    if place(&found) > place(best) {
                        *best = found
                    }
                })
                .or_insert(found);
        }
        let mut found: Vec<(&Policy, bool, &Scope)> = of
            .into_iter()
            .filter_map(|(at, (whole, scope))| Some((self.policies.get(at)?, whole, scope)))
            .collect();
        found.sort_by_key(|(policy, whole, scope)| {
            Reverse((*whole && policy.covers_namespace(subject.namespace), scope.specificity))
        });
        let counts = |(policy, whole, _): &&(&Policy, bool, &Scope)| {
            *whole && policy.covers_namespace(subject.namespace)
        };
        let first = found.iter().find(counts);
        let second = found
            .iter()
            .filter(counts)
            .find(|(_, _, scope)| first.is_some_and(|(_, _, best)| scope.specificity < best.specificity));
        let winners = found.iter().filter(counts).filter(|(policy, _, _)| decides(policy)).count();
        found
            .iter()
            .map(|(policy, whole, scope)| {
                let denies_content = matches!(policy.rule, Rule::Deny { .. })
                    .then(|| scope.pattern.digest())
                    .flatten()
                    .filter(|_| policy.covers_namespace(subject.namespace));
                let why = match (decides(policy), first, second) {
                    (true, _, _) if winners > 1 => {
                        format!("one of {winners} ImagePolicies whose patterns are equally specific: each has to hold")
                    }
                    (true, _, Some((other, _, less))) => format!(
                        "the most specific pattern: {}, unlike {} of {}",
                        scope.specificity.advantage_over(&less.specificity),
                        less.pattern,
                        other.name
                    ),
                    (true, _, None) => "the only ImagePolicy that covers the image".to_owned(),
                    (false, _, _) if denies_content.is_some() => {
                        let digest = denies_content.map(|digest| digest.to_string()).unwrap_or_default();
                        format!("an image with this content ({digest}) is denied under every name, before all other policies")
                    }
                    (false, _, _) if !whole => {
                        "its pattern covers other tags or digests of this repository".to_owned()
                    }
                    (false, _, _) if !policy.covers_namespace(subject.namespace) => not_here(policy, subject),
                    (false, Some((other, _, best)), _) => format!(
                        "{} of {} is more specific: {}",
                        best.pattern,
                        other.name,
                        best.specificity.advantage_over(&scope.specificity)
                    ),
                    (false, None, _) => "another policy is more specific".to_owned(),
                };
                covering(policy, subject, scope.pattern.to_string(), decides(policy), why)
            })
            .collect()
    }

    /// Those for pods with labels: they only add.
    fn explain_labelled(&self, subject: &Subject<'_>, decides: &dyn Fn(&Policy) -> bool) -> Vec<Covering> {
        // Of each policy the most specific pattern that covers the image.
        let mut of: BTreeMap<usize, &Scope> = BTreeMap::new();
        for scope in self.labelled.entries().filter(|scope| scope.pattern.matches(subject.name)) {
            let best = of.entry(scope.policy).or_insert(scope);
            if rank(scope) > rank(best) {
                *best = scope;
            }
        }
        let covering_ones = of.into_iter().filter_map(|(at, scope)| Some((self.policies.get(at)?, scope)));
        covering_ones
            .map(|(policy, scope)| {
                let why = why_for_labels(policy, subject, decides);
                covering(policy, subject, scope.pattern.to_string(), decides(policy), why)
            })
            .collect()
    }

    fn explain_sigstore(&self, subject: &Subject<'_>, decides: &dyn Fn(&Policy) -> bool) -> Vec<Covering> {
        let why = |policy: &Policy| match policy.pod_labels.is_empty() {
            true => "every ClusterImagePolicy that matches has to hold".to_owned(),
            false => why_for_labels(policy, subject, decides),
        };
        let mut found: BTreeMap<usize, String> =
            self.sigstore_all.iter().map(|at| (*at, "**".to_owned())).collect();
        let key = match subject.name {
            ImageName::Reference(reference) => lookup_key(reference),
            ImageName::Id(_) | ImageName::Empty => String::new(),
        };
        let names = sigstore_names(subject.name, &key);
        let mut globs: Vec<_> = self.sigstore.entries().collect();
        globs.sort_by_key(|scope| (scope.policy, scope.line));
        for scope in globs {
            if names.iter().any(|name| scope.glob.matches(name)) {
                found.entry(scope.policy).or_insert_with(|| scope.glob.text());
            }
        }
        found
            .into_iter()
            .filter_map(|(at, glob)| {
                let policy = self.policies.get(at)?;
                Some(covering(policy, subject, glob, decides(policy), why(policy)))
            })
            .collect()
    }

    fn explain_scoped(&self, subject: &Subject<'_>, decides: &dyn Fn(&Policy) -> bool) -> Vec<Covering> {
        let of_namespace = self.scoped.of_namespace(subject);
        let own = subject.namespace.filter(|_| of_namespace.is_some());
        let mut found = self.explain_scopes(subject, decides, &self.scoped.openshift, None);
        found.extend(
            of_namespace.iter().flat_map(|scopes| self.explain_scopes(subject, decides, scopes, None)),
        );
        let node = self.scoped.node.iter();
        let beaten = own
            .map(|namespace| format!("namespace {namespace} has a file of its own, in place of the node's"));
        found
            .extend(node.flat_map(|scopes| self.explain_scopes(subject, decides, scopes, beaten.as_deref())));
        found
    }

    fn explain_scopes(
        &self,
        subject: &Subject<'_>,
        decides: &dyn Fn(&Policy) -> bool,
        scopes: &Scopes,
        beaten: Option<&str>,
    ) -> Vec<Covering> {
        let mut found: Vec<Covering> = Vec::new();
        let mut winner: Option<(String, String)> = None;
        for (scope, policies) in scopes.covering(subject.name) {
            for policy in policies.iter().filter_map(|at| self.policies.get(*at)) {
                // Of several scopes of one policy the most specific one is told.
                if found.iter().any(|other| other.name == policy.name && other.source == policy.source) {
                    continue;
                }
                let decides = decides(policy);
                let shown = match scope.as_str() {
                    ALL => "all images".to_owned(),
                    NAMELESS => "images without a name".to_owned(),
                    scope => scope.to_owned(),
                };
                let why = match (decides, beaten, &winner) {
                    (true, _, _) => "the most specific scope".to_owned(),
                    (false, Some(beaten), _) => beaten.to_owned(),
                    (false, None, _) if !policy.covers_namespace(subject.namespace) => {
                        not_here(policy, subject)
                    }
                    (false, None, Some((scope, name))) => format!("{scope} of {name} is more specific"),
                    // A namespace's within the cluster's: the cluster's comes further down.
                    (false, None, None) => {
                        "within or equal to the scope of a ClusterImagePolicy, beside which it does not count"
                            .to_owned()
                    }
                };
                if decides && winner.is_none() {
                    winner = Some((shown.clone(), policy.name.clone()));
                }
                found.push(covering(policy, subject, shown, decides, why));
            }
        }
        found
    }
}

/// By which one of a policy's patterns is told: of equally specific ones the first, and on one line the first by its text.
fn rank(scope: &Scope) -> (Specificity, Reverse<u64>, Reverse<String>) {
    (scope.specificity, Reverse(scope.line), Reverse(scope.pattern.to_string()))
}

/// Why a policy for pods with labels decides, or does not.
fn why_for_labels(policy: &Policy, subject: &Subject<'_>, decides: &dyn Fn(&Policy) -> bool) -> String {
    match decides(policy) {
        true => "the pod has its labels: it has to hold besides".to_owned(),
        false if !policy.covers_namespace(subject.namespace) => not_here(policy, subject),
        false if !policy.covers_pod(subject) => match subject.labels.is_empty() {
            true => "it is for pods with labels; none were given".to_owned(),
            false => "it is for pods with labels; those given are others".to_owned(),
        },
        false => "no other policy covers the image; it has to hold where unmatched is allow".to_owned(),
    }
}

fn not_here(policy: &Policy, subject: &Subject<'_>) -> String {
    let names: Vec<&str> = policy.namespaces.iter().flatten().map(String::as_str).collect();
    let here =
        subject.namespace.map_or("no namespace was given".to_owned(), |name| format!("this is {name}"));
    format!("it is for namespace {}; {here}", names.join(", "))
}

fn says(policy: &Policy) -> Says {
    match policy.rule {
        Rule::Accept { .. } => Says::Accepts,
        Rule::Deny { .. } => Says::Denies,
        Rule::Requires(_) => Says::Asks,
    }
}

fn covering(policy: &Policy, subject: &Subject<'_>, scope: String, decides: bool, why: String) -> Covering {
    let (reason, asks) = match &policy.rule {
        Rule::Accept { reason } | Rule::Deny { reason } => (Some(reason.clone()), None),
        Rule::Requires(need) => (None, Some(ask::words(need, policy, subject))),
    };
    let evidence = policy.places.iter().filter(|_| policy.needs_evidence()).map(|place| {
        let repository = place
            .repository
            .as_ref()
            .map_or("the image's own repository".to_owned(), |repository| repository.repo_name());
        match place.tag_prefix.as_str() {
            "" => repository,
            prefix => format!("{repository}, tags that begin with {prefix}"),
        }
    });
    let recheck = policy.recheck.map(|recheck| {
        format!(
            "the registry's word on the tag may be {}s old; if the tag has moved: {}",
            recheck.interval.as_secs(),
            recheck.on_drift.as_str()
        )
    });
    let content = policy.layers_checked_within.map(|within| {
        format!("a check of the node's disk has found the layers whole within the last {}", spoken(within))
    });
    Covering {
        name: policy.name.clone(),
        kind: policy.kind.to_string(),
        source: policy.source(),
        scope,
        namespaces: policy.namespaces.as_ref().map(|names| names.iter().cloned().collect()),
        pod_labels: policy.pod_labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        exemptions: policy.exemptions_of(subject).map(Exemption::told).collect(),
        decides,
        why,
        mode: policy.mode,
        says: says(policy),
        reason,
        asks,
        evidence: evidence.collect(),
        recheck,
        content,
    }
}
