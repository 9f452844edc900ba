//! Globs and scopes as native patterns.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::policy::compile::PolicySet;
use crate::policy::model::{Kind, Policy, Rule};
use crate::policy::pattern::Pattern;
use crate::policy::scope::{ALL, NAMELESS, Scopes, is_within};
use crate::policy::sigstore::DOCKER_HUB;

impl PolicySet {
    /// The patterns of a policy of another dialect, sorted; what has none is told.
    fn patterns_of(&self, at: usize, said: &mut dyn FnMut(String)) -> Vec<String> {
        let mut found: Vec<String> =
            self.sigstore_all.iter().filter(|all| **all == at).map(|_| "**".to_owned()).collect();
        let mut globs: Vec<String> = self
            .sigstore
            .entries()
            .filter(|scope| scope.policy == at)
            .map(|scope| scope.glob.text())
            .collect();
        globs.sort();
        for glob in globs {
            match of_glob(&glob) {
                Some(pattern) => found.push(pattern),
                None => said(format!(
                    "glob {glob} has no pattern that covers the same images; write those that you mean"
                )),
            }
        }
        let node = self.scoped.node.iter().map(|scopes| (scopes, false));
        let namespaces = self.scoped.namespaces.values().map(|scopes| (scopes, true));
        let all = [(&self.scoped.openshift, false)].into_iter().chain(node).chain(namespaces);
        for (scopes, only_named) in all {
            let mut own: Vec<&str> = scopes
                .entries()
                .filter(|(_, policies)| policies.contains(&at))
                .map(|(scope, _)| scope)
                .collect();
            if only_named && !own.is_empty() {
                // A namespace's file is in the node's place: a policy of the node's for fewer images is not to come before it.
                own.extend(self.scoped.node.iter().flat_map(|node| in_place_of(node, scopes, at)));
            }
            own.sort_unstable();
            for scope in own {
                match self.never_counts(at, scope) {
                    Some(by) => said(format!("scope {scope} never counts beside ClusterImagePolicy {by}")),
                    // What is for images without a name is all that ** covers, beside what is for those with one.
                    None if only_named && scope == ALL => found.push("**/*".to_owned()),
                    None => found.extend(of_scope(scope)),
                }
            }
        }
        found.sort();
        found.dedup();
        found.retain(|pattern| Pattern::parse(pattern).is_ok());
        found
    }

    /// OpenShift's ImagePolicies within a ClusterImagePolicy's scope.
    fn never_counts(&self, at: usize, scope: &str) -> Option<&str> {
        self.policies.get(at).filter(|policy| policy.kind == Kind::OpenShiftImagePolicy)?;
        let mut outer: Vec<(&str, &Policy)> = self
            .scoped
            .openshift
            .entries()
            .flat_map(|(outer, policies)| policies.iter().map(move |at| (outer, *at)))
            .filter_map(|(outer, at)| Some((outer, self.policies.get(at)?)))
            .filter(|(outer, policy)| policy.namespaces.is_none() && is_within(scope, outer))
            .collect();
        outer.sort_by_key(|(outer, _)| *outer);
        outer.first().map(|(_, policy)| policy.name.as_str())
    }

    /// What every policy covers, in order, as patterns; what has none is told, by the policy's place.
    pub(super) fn covered(&self, said: &mut dyn FnMut(usize, String)) -> Vec<Vec<Pattern>> {
        let mut covered: Vec<Vec<Pattern>> = (0..self.policies.len())
            .map(|at| self.patterns_of(at, &mut |why| said(at, why)))
            .map(|patterns| patterns.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect())
            .collect();
        for scope in self.native.entries() {
            if let Some(patterns) = covered.get_mut(scope.policy) {
                patterns.push(scope.pattern.clone());
            }
        }
        covered
    }

    /// Another policy that has to hold beside this one for some images: of ImagePolicies one alone would.
    pub(super) fn holds_beside(&self, at: usize, covered: &[Vec<Pattern>]) -> Option<&str> {
        let policy = self.policies.get(at)?;
        let own = covered.get(at)?;
        self.policies.iter().zip(covered).enumerate().find_map(|(other, (found, theirs))| {
            let alone = other == at
                || found.kind.dialect() == policy.kind.dialect() && policy.kind != Kind::ClusterImagePolicy
                || matches!((&found.namespaces, &policy.namespaces), (Some(a), Some(b)) if a.is_disjoint(b));
            if alone {
                return None;
            }
            let lost = own.iter().any(|one| theirs.iter().any(|other| is_lost(policy, one, found, other)));
            lost.then_some(found.name.as_str())
        })
    }
}

/// Whether one of two policies that both hold would be lost if the most specific pattern alone counted. Not if it is the more general
/// one, and asks for nothing.
fn is_lost(policy: &Policy, one: &Pattern, found: &Policy, other: &Pattern) -> bool {
    let rank = |policy: &Policy, pattern: &Pattern| pattern.specificity(policy.namespaces.is_some());
    let accepts = |policy: &Policy| {
        matches!(policy.rule, Rule::Accept { .. })
            && policy.recheck.is_none()
            && policy.layers_checked_within.is_none()
    };
    let may_go = match rank(policy, one).cmp(&rank(found, other)) {
        Ordering::Less => accepts(policy),
        Ordering::Greater => accepts(found),
        Ordering::Equal => false,
    };
    !may_go && one.meets(other)
}

/// The node's scopes that a namespace's file has not, and that this policy of it decides about.
fn in_place_of<'a>(node: &'a Scopes, own: &'a Scopes, at: usize) -> impl Iterator<Item = &'a str> {
    let names: BTreeSet<&str> = own.entries().map(|(scope, _)| scope).collect();
    let decides = move |scope: &str| {
        let outer = own.entries().filter(|(outer, _)| *outer != NAMELESS && is_within(scope, outer));
        // Scopes that one is in are in each other.
        let inmost = outer.reduce(|a, b| if is_within(a.0, b.0) { a } else { b });
        inmost.is_some_and(|(_, policies)| policies.contains(&at))
    };
    node.entries().map(|(scope, _)| scope).filter(move |scope| !names.contains(scope) && decides(scope))
}

/// The pattern that covers what a glob of policy-controller's does.
fn of_glob(glob: &str) -> Option<String> {
    let glob = match glob.strip_prefix(DOCKER_HUB) {
        Some(rest) => format!("docker.io/{rest}"),
        None => glob.to_owned(),
    };
    let (before, last) = glob.rsplit_once('/')?;
    // A glob's ** is any text, a pattern's whole segments.
    let whole = |segment: &str| !segment.contains("**") || segment == "**";
    if !before.split('/').all(whole) {
        return None;
    }
    let pattern = match (last.split_once('@'), last.split_once(':')) {
        (Some((_, digest)), _) if digest.contains('*') && digest != "*" && digest != "sha256:*" => {
            return None;
        }
        // Any digest, and so any tag.
        (Some((name, digest)), _) if digest.contains('*') && !name.contains('*') => {
            format!("{before}/{name}")
        }
        (Some((name, _)), _) if !name.contains('*') => glob.clone(),
        (None, Some((name, tag))) if !name.contains("**") && !tag.contains("**") => glob.clone(),
        // Tag or digest are part of what the last star stands for.
        (None, None) if last == "**" || last.ends_with('*') && last.matches('*').count() == 1 => glob.clone(),
        _ => return None,
    };
    // What is completed as an image of Docker Hub would be is another name.
    let depth = |text: &str| text.matches('/').count();
    let read = Pattern::parse(&pattern).ok()?.to_string();
    (depth(&read) == depth(&pattern)).then_some(read)
}

/// The patterns that cover what a scope does.
fn of_scope(scope: &str) -> Vec<String> {
    if [ALL, NAMELESS].contains(&scope) {
        return vec!["**".to_owned()];
    }
    if scope.starts_with("*.") {
        return vec![format!("{scope}/**"), format!("{scope}:*/**")];
    }
    let Some((registry, path)) = scope.split_once('/') else { return vec![format!("{scope}/**")] };
    if path.contains([':', '@']) {
        return vec![scope.to_owned()];
    }
    let below = format!("{scope}/**");
    // On Docker Hub no image has one segment alone.
    if registry == "docker.io" && !path.contains('/') { vec![below] } else { vec![scope.to_owned(), below] }
}
