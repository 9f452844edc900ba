//! Patterns, globs and scopes that cover nothing or everything, and policies that never count.

use std::time::Duration;

use super::Warning;
use crate::config::spoken;
use crate::image::{Digest, ImageName, Reference};
use crate::limits;
use crate::policy::compile::{PolicySet, Scope, sigstore_names};
use crate::policy::model::{Policy, Rule};
use crate::policy::pattern::{Pattern, lookup_key};
use crate::policy::scope::is_within;

/// What stands for a wildcard: good at each place of a name where something is.
const WORD: &str = "1";

/// Web sites that are taken for registries, and the registries that are meant.
const WEB_SITES: [(&str, &str); 4] = [
    ("hub.docker.com", "docker.io"),
    ("github.com", "ghcr.io"),
    ("gitlab.com", "registry.gitlab.com"),
    ("index.docker.com", "docker.io"),
];

impl PolicySet {
    pub(super) fn doubtful_scopes(&self) -> Vec<Warning> {
        let mut found = Vec::new();
        for scope in self.patterns() {
            let Some(policy) = self.policies.get(scope.policy) else { continue };
            let shown = scope.pattern.to_string();
            let mut warn =
                |text: String| found.push(Warning::at(policy, scope.line, format!("spec.images: {text}")));
            if let Some(why) = covers_nothing(&shown, |name, _| scope.pattern.matches(name)) {
                warn(format!("{shown} covers no image: {why}"));
            } else if matches!(policy.rule, Rule::Accept { .. }) && of_any_registry(&shown) {
                warn(format!(
                    "{shown} accepts images of any registry, whoever made them; name the registries"
                ));
            }
            if let Some(by) = self.always_denied(scope, policy) {
                warn(format!(
                    "{shown} never counts: policy {} ({}) denies that digest under every name; remove it",
                    by.name, by.source
                ));
            }
        }
        for scope in self.sigstore.entries() {
            let Some(policy) = self.policies.get(scope.policy) else { continue };
            let shown = scope.glob.text();
            let matches = |name: &ImageName, key: &str| {
                sigstore_names(name, key).iter().any(|name| scope.glob.matches(name))
            };
            let mut warn = |text: String| {
                found.push(Warning::at(policy, scope.line, format!("spec.images.glob: {text}")))
            };
            if let Some(why) = covers_nothing(&shown, matches) {
                warn(format!("{shown} covers no image: {why}"));
            } else if matches!(policy.rule, Rule::Accept { .. }) && of_any_registry(&shown) {
                warn(format!(
                    "{shown} passes images of any registry, whoever made them; name the registries"
                ));
            }
        }
        let all = self.sigstore_all.iter().filter_map(|at| self.policies.get(*at));
        for policy in all.filter(|policy| matches!(policy.rule, Rule::Accept { .. })) {
            let text = "spec.images.glob: ** passes every image, whoever made it; name the registries";
            found.push(Warning::at(policy, 0, text.to_owned()));
        }
        self.beside_the_clusters(&mut found);
        self.rechecks_of_digests(&mut found);
        self.checks_ahead_of_the_timer(&mut found);
        found
    }

    /// Of native policies, whatever pods they are for.
    fn patterns(&self) -> impl Iterator<Item = &Scope> {
        self.native.entries().chain(self.labelled.entries())
    }

    /// The policy that denies all that a pattern with a digest covers, wherever it may count.
    fn always_denied(&self, scope: &Scope, policy: &Policy) -> Option<&Policy> {
        let digest: Digest = scope.pattern.digest()?;
        if matches!(policy.rule, Rule::Deny { .. }) {
            return None;
        }
        let denying = self
            .denied
            .get(&digest)?
            .iter()
            .filter(|denying| denying.pattern.covers_names_of(&scope.pattern));
        let denying = denying.filter_map(|denying| self.policies.get(denying.policy));
        denying.into_iter().find(|denying| {
            denying.mode == policy.mode
                && denying.pod_labels.iter().all(|(key, value)| policy.pod_labels.get(key) == Some(value))
                && match (&denying.namespaces, &policy.namespaces) {
                    (None, _) => true,
                    (Some(denied), Some(own)) => own.is_subset(denied),
                    (Some(_), None) => false,
                }
        })
    }

    /// OpenShift's ImagePolicies within a ClusterImagePolicy's scope.
    fn beside_the_clusters(&self, found: &mut Vec<Warning>) {
        let mut cluster: Vec<(&str, &Policy)> = Vec::new();
        let mut own: Vec<(&str, &Policy)> = Vec::new();
        for (scope, policies) in self.scoped.openshift.entries() {
            for policy in policies.iter().filter_map(|at| self.policies.get(*at)) {
                let side = if policy.namespaces.is_none() { &mut cluster } else { &mut own };
                side.push((scope, policy));
            }
        }
        cluster.sort_by_key(|(scope, policy)| (*scope, policy.name.as_str()));
        for (scope, policy) in own {
            if let Some((outer, by)) = cluster.iter().find(|(outer, _)| is_within(scope, outer)) {
                let text = format!(
                    "spec.scopes: {scope} never counts: it is within {outer} of ClusterImagePolicy {} ({}); remove it, or narrow that one",
                    by.name, by.source
                );
                found.push(Warning::at(policy, 0, text));
            }
        }
    }

    fn rechecks_of_digests(&self, found: &mut Vec<Warning>) {
        for (at, policy) in self.policies.iter().enumerate().filter(|(_, policy)| policy.recheck.is_some()) {
            let mut patterns = self.patterns().filter(|scope| scope.policy == at);
            if patterns.all(|scope| scope.pattern.digest().is_some()) {
                let text = "spec.recheck: all patterns name a digest, and a digest cannot move; remove it";
                found.push(Warning::at(policy, 0, text.to_owned()));
            }
        }
    }

    fn checks_ahead_of_the_timer(&self, found: &mut Vec<Warning>) {
        const TIMER: Duration = Duration::from_secs(limits::CONTENT_TIMER_SECONDS);
        let asks = |policy: &&Policy| policy.layers_checked_within.is_some_and(|within| within < TIMER);
        for policy in self.policies.iter().filter(asks) {
            let text = format!(
                "spec.content.layersCheckedWithin: shorter than {}, the longest that crivet-content.timer leaves between two checks; containers wait for a check of their own then; write more, or have the timer run more often",
                spoken(TIMER)
            );
            found.push(Warning::at(policy, 0, text));
        }
    }
}

impl Pattern {
    /// Whether it covers all names that another one covers, as far as that can be told by names that stand for them.
    fn covers_names_of(&self, other: &Self) -> bool {
        let other = other.to_string();
        let name = other.split('@').next().unwrap_or_default();
        ["1", "2/2"].iter().all(|word| sample(name, word).is_some_and(|(name, _)| self.matches_name(&name)))
    }
}

/// Whether a pattern or glob leaves the registry open.
fn of_any_registry(shown: &str) -> bool {
    let first = shown.split(['/', '@']).next().unwrap_or_default();
    ["*", "**"].contains(&first)
}

/// A name that a pattern or glob without a mistake covers, and the key it is looked up by.
fn sample(shown: &str, many: &str) -> Option<(ImageName, String)> {
    let (name, digest) = shown.split_once('@').unwrap_or((shown, ""));
    let text = name.replace("**", many).replace('*', WORD);
    let text = match text.split_once('/') {
        // A wildcard that stands for the registry.
        Some((first, rest)) if shown.starts_with('*') && !first.contains(['.', ':']) => {
            format!("{first}.example/{rest}")
        }
        None if shown.starts_with('*') => format!("{text}.example/{text}"),
        _ => text,
    };
    let text = match digest.split_once('*') {
        None if digest.is_empty() => text,
        None => format!("{text}@{digest}"),
        Some((begun, _)) => {
            let begun = begun.strip_prefix("sha256:").unwrap_or_default();
            format!("{text}@sha256:{begun:0<64}")
        }
    };
    let reference = Reference::parse(&text).ok()?;
    let key = lookup_key(&reference);
    Some((ImageName::Reference(reference), key))
}

/// Why no image can have a name that is covered.
fn covers_nothing(shown: &str, matches: impl Fn(&ImageName, &str) -> bool) -> Option<String> {
    if shown == "**" {
        return None;
    }
    let registry = shown.split_once('/').map_or("", |(registry, _)| registry);
    if let Some((_, meant)) = WEB_SITES.iter().find(|(site, _)| registry.eq_ignore_ascii_case(site)) {
        return Some(format!("{registry} is a web site; write {meant}"));
    }
    let port = registry.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(['*', ']']));
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Some(format!("{registry} has no port that there is; correct it"));
    }
    let Some((name, key)) = sample(shown, WORD) else {
        let text = shown.replace("**", WORD).replace('*', WORD);
        let why = Reference::parse(&text)
            .err()
            .map_or_else(|| "no name is such".to_owned(), |error| error.to_string());
        return Some(why);
    };
    if matches(&name, &key) {
        return None;
    }
    Some(format!("such an image is looked up as {key}; write what covers that"))
}
