//! Globs and scopes as native patterns.

use crate::image::{ImageName, Reference};
use crate::policy::compile::{PolicySet, sigstore_names};
use crate::policy::model::{Kind, Policy};
use crate::policy::pattern::{Pattern, lookup_key};
use crate::policy::scope::{ALL, NAMELESS, is_within};
use crate::policy::sigstore::DOCKER_HUB;

impl PolicySet {
    /// The patterns of a policy, sorted; what has none is told.
    pub(super) fn patterns_of(&self, at: usize, said: &mut dyn FnMut(String)) -> Vec<String> {
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

    /// Another policy that holds beside this one for some images: of ImagePolicies one alone would.
    pub(super) fn holds_beside(&self, at: usize) -> Option<&str> {
        let policy = self.policies.get(at)?;
        let mut silent = |_: String| {};
        let own = self.patterns_of(at, &mut silent);
        let names: Vec<ImageName> = own.iter().flat_map(|pattern| samples(pattern)).collect();
        self.policies.iter().enumerate().find_map(|(other, found)| {
            if other == at || found.kind != policy.kind {
                return None;
            }
            let both = match policy.kind {
                Kind::ClusterImagePolicy => {
                    names.iter().any(|name| self.matches_sigstore(other, name))
                        || self
                            .patterns_of(other, &mut silent)
                            .iter()
                            .flat_map(|pattern| samples(pattern))
                            .any(|name| self.matches_sigstore(at, &name))
                }
                _ => false,
            };
            both.then_some(found.name.as_str())
        })
    }

    fn matches_sigstore(&self, at: usize, name: &ImageName) -> bool {
        let ImageName::Reference(reference) = name else { return self.sigstore_all.contains(&at) };
        let names = sigstore_names(name, &lookup_key(reference));
        self.sigstore_all.contains(&at)
            || self
                .sigstore
                .entries()
                .filter(|scope| scope.policy == at)
                .any(|scope| names.iter().any(|name| scope.glob.matches(name)))
    }
}

/// Names that a pattern covers.
fn samples(pattern: &str) -> Vec<ImageName> {
    let of = |many: &str, one: &str| {
        let text = pattern.replace("**", many).replace('*', one);
        let text = match text.split_once('/') {
            Some((first, rest)) if !first.contains(['.', ':']) && first != "localhost" => {
                format!("{first}.example/{rest}")
            }
            None => format!("{text}.example/{text}"),
            _ => text,
        };
        Reference::parse(&text).ok().map(ImageName::Reference)
    };
    [("1", "1"), ("2/2", "1"), ("1", "22")].into_iter().filter_map(|(many, one)| of(many, one)).collect()
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
    Pattern::parse(&pattern).ok().map(|pattern| pattern.to_string())
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
