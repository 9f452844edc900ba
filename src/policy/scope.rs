//! Scopes of containers-policy.json(5), which OpenShift's policies have too: a registry, a part of one, one image.

use std::collections::{BTreeMap, HashMap};

use super::model::{Policy, Subject, comparable_registry, comparable_repository};
use crate::image::{ImageName, Reference, quoted};
use crate::limits;

/// The scope of everything.
pub(super) const ALL: &str = "";

/// The scope of images that a pod names by ID, or not at all. Nothing that is written is it.
pub(super) const NAMELESS: &str = "@";

/// Docker Hub in fully expanded names.
const DOCKER_HUB: &str = "docker.io";

/// Reads a scope into comparable form; the error says what to write instead.
///
/// containers/image takes any text and matches nothing by one that is wrong. Here that is an error: an image that a
/// scope was meant for would fall under a more general one.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let wrong = |why: &str| format!("expected a scope, found {}: {why}", quoted(text));
    if text.is_empty() || text.len() > limits::POLICY_SCOPE_BYTES {
        return Err(format!(
            "expected a scope of 1 to {} bytes (limit POLICY_SCOPE_BYTES), found {}",
            limits::POLICY_SCOPE_BYTES,
            text.len()
        ));
    }
    if let Some(domain) = text.strip_prefix("*.") {
        let plain =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !domain.split('.').all(plain) {
            return Err(wrong("after *. write a domain alone, without port and repository"));
        }
        return Ok(text.to_ascii_lowercase());
    }
    if text.contains('*') {
        return Err(wrong("a wildcard may only stand for subdomains, as in *.example.com"));
    }
    let (registry, path) =
        text.split_once('/').map_or((text, None), |(registry, path)| (registry, Some(path)));
    if !registry.contains(['.', ':']) && registry != "localhost" {
        return Err(wrong(&format!("write the name fully expanded, such as {DOCKER_HUB}/library/NAME")));
    }
    // With a segment more nothing is expanded.
    let probe = Reference::parse_as_written(&format!("{registry}/x/{}", path.unwrap_or("x")));
    let probe = probe.map_err(|error| wrong(&error.to_string()))?;
    if comparable_registry(registry) == "index.docker.io" {
        return Err(wrong(&format!("Docker Hub is {DOCKER_HUB} here")));
    }
    let registry = comparable_registry(registry);
    let Some(path) = path else { return Ok(registry) };
    if probe.tag().is_some() && probe.digest().is_some() {
        return Err(wrong("a tag or a digest; beside a digest the runtimes drop the tag"));
    }
    let is_image = probe.tag().is_some() || probe.digest().is_some();
    if is_image && registry == DOCKER_HUB && !path.contains('/') {
        return Err(wrong(&format!("write it fully expanded, {DOCKER_HUB}/library/{path}")));
    }
    Ok(format!("{registry}/{path}"))
}

/// Whether all images of a scope are in another one, or the two are the same.
pub(super) fn is_within(scope: &str, outer: &str) -> bool {
    if outer == ALL || scope == outer {
        return true;
    }
    if let Some(domain) = outer.strip_prefix('*') {
        let host = scope.split('/').next().unwrap_or_default();
        let host = host.split_once(':').map_or(host, |(host, _)| host);
        return host.trim_start_matches('*').ends_with(domain);
    }
    scope
        .strip_prefix(outer)
        .is_some_and(|rest| rest.starts_with(['/', ':', '@']) && outer.contains('/') || rest.starts_with('/'))
}

/// The scopes an image is in, the most specific one first.
fn scopes_of(name: &ImageName) -> Vec<String> {
    let ImageName::Reference(reference) = name else { return vec![NAMELESS.to_owned(), ALL.to_owned()] };
    let repository = comparable_repository(reference);
    let image = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Some(format!("{repository}@{digest}")),
        (None, tag) => tag.map(|tag| format!("{repository}:{tag}")),
    };
    let mut scopes: Vec<String> = image.into_iter().collect();
    let mut part = repository.as_str();
    loop {
        scopes.push(part.to_owned());
        let Some((before, _)) = part.rsplit_once('/') else { break };
        part = before;
    }
    let mut domain = part.split_once(':').map_or(part, |(host, _)| host);
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes.push(ALL.to_owned());
    scopes
}

/// Policies by their scopes.
#[derive(Debug, Clone, Default)]
pub(super) struct Scopes(HashMap<String, Vec<usize>>);

impl Scopes {
    /// Adds a policy (its place among all) for a scope in comparable form.
    pub fn insert(&mut self, scope: String, policy: usize) {
        self.0.entry(scope).or_default().push(policy);
    }

    /// The policies of the most specific scope that has any which count.
    fn most_specific(&self, name: &ImageName, counts: impl Fn(usize) -> bool) -> Vec<usize> {
        let found = |scope: String| -> Vec<usize> {
            self.0.get(&scope).into_iter().flatten().copied().filter(|policy| counts(*policy)).collect()
        };
        if self.0.is_empty() {
            return Vec::new();
        }
        scopes_of(name).into_iter().map(found).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// The scopes that an image is in and that have policies, the most specific one first.
    pub fn covering(&self, name: &ImageName) -> Vec<(String, &[usize])> {
        let found = |scope: String| Some((scope.clone(), self.0.get(&scope)?.as_slice()));
        scopes_of(name).into_iter().filter_map(found).collect()
    }

    /// All scopes, and their policies.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.0.iter().map(|(scope, policies)| (scope.as_str(), policies.as_slice()))
    }

    /// A name in each scope, with `word` for what a scope leaves open, and the policy it is of.
    fn samples(&self, word: &str) -> impl Iterator<Item = (String, usize)> {
        let sample = move |scope: &str| match scope.strip_prefix("*.") {
            Some(domain) => format!("{word}.{domain}/{word}"),
            None if scope.contains('/') => scope.to_owned(),
            None => format!("{scope}/{word}"),
        };
        let named = self.0.iter().filter(|(scope, _)| ![ALL, NAMELESS].contains(&scope.as_str()));
        named.flat_map(move |(scope, policies)| policies.iter().map(move |policy| (sample(scope), *policy)))
    }
}

/// The dialects with scopes, each as it combines.
#[derive(Debug, Clone, Default)]
pub(super) struct Scoped {
    /// OpenShift's, cluster-wide and of namespaces.
    pub openshift: Scopes,
    /// The node's containers-policy.json.
    pub node: Option<Scopes>,
    /// Those of single namespaces, each in place of the node's, as CRI-O has it.
    pub namespaces: BTreeMap<String, Scopes>,
}

impl Scoped {
    /// The places among `policies` of those that all have to hold for an image.
    pub fn applicable(&self, policies: &[Policy], subject: &Subject<'_>) -> Vec<usize> {
        let cluster = |at: usize| policies.get(at).is_some_and(|policy| policy.namespaces().is_none());
        let own = |at: usize| policies.get(at).is_some_and(|policy| policy.covers_pod(subject));
        // Scopes that cover one image are nested in each other. A namespace's within or equal to the cluster's does not
        // count, and the cluster's within a namespace's is the more specific one: the cluster's comes first either way.
        let mut found = self.openshift.most_specific(subject.name, cluster);
        if found.is_empty() {
            found = self.openshift.most_specific(subject.name, own);
        }
        if let Some(file) = self.of_namespace(subject).or(self.node.as_ref()) {
            found.extend(file.most_specific(subject.name, |_| true));
        }
        found
    }

    /// The namespace's own file, where it has one. CRI-O holds the pause image to the node's file, whatever the pod
    /// (`CreatePodSandbox` is given the server's own context).
    pub fn of_namespace(&self, subject: &Subject<'_>) -> Option<&Scopes> {
        let namespace = subject.namespace.filter(|_| !subject.is_pause)?;
        self.namespaces.get(namespace)
    }

    /// A name in each scope, and the place of the policy it is of.
    pub fn samples(&self, word: &str) -> Vec<(String, usize)> {
        let files = self.node.iter().chain(self.namespaces.values());
        std::iter::once(&self.openshift).chain(files).flat_map(|scopes| scopes.samples(word)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn scopes_of_an_image_go_from_the_image_to_everything() {
        let of = |name: &str| scopes_of(&ImageName::parse(name).unwrap());
        assert_eq!(
            of("Reg.a.example:5000/ns/app:v1"),
            [
                "reg.a.example:5000/ns/app:v1",
                "reg.a.example:5000/ns/app",
                "reg.a.example:5000/ns",
                "reg.a.example:5000",
                "*.a.example",
                "*.example",
                ""
            ]
        );
        assert_eq!(
            of("busybox"),
            [
                "docker.io/library/busybox:latest",
                "docker.io/library/busybox",
                "docker.io/library",
                "docker.io",
                "*.io",
                ""
            ]
        );
        // Beside a digest the tag is dropped.
        let by_digest = of(&format!("r.io/a:v1@sha256:{HEX}"));
        assert_eq!(by_digest[..2], [format!("r.io/a@sha256:{HEX}"), "r.io/a".to_owned()]);
        assert_eq!(of("r.io:443/a")[1], "r.io/a");
        assert_eq!(of("localhost/a"), ["localhost/a:latest", "localhost/a", "localhost", ""]);
        assert_eq!([of(""), of(&format!("sha256:{HEX}"))], [[NAMELESS, ALL], [NAMELESS, ALL]]);
        assert!(parse(NAMELESS).is_err());
    }

    #[test]
    fn scope_is_taken_in_comparable_form() {
        for (written, expected) in [
            ("docker.io", "docker.io"),
            ("docker.io/openshift", "docker.io/openshift"),
            ("docker.io/library/busybox:latest", "docker.io/library/busybox:latest"),
            ("Registry.example:443/Ns", ""),
            ("Registry.example:443/ns", "registry.example/ns"),
            ("host:5000/ns/app", "host:5000/ns/app"),
            ("localhost", "localhost"),
            ("*.Example.com", "*.example.com"),
        ] {
            assert_eq!(parse(written).unwrap_or_default(), expected, "{written}");
        }
        assert!(parse(&format!("r.io/a@sha256:{HEX}")).is_ok());
    }

    #[test]
    fn scope_that_could_cover_nothing_is_an_error_that_says_what_to_write() {
        for (written, expected) in [
            ("", "1 to 512 bytes"),
            (&format!("r.io/{}", "a".repeat(508)), "limit POLICY_SCOPE_BYTES"),
            ("busybox", "docker.io/library/NAME"),
            ("team/app", "fully expanded"),
            ("docker.io/busybox:latest", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox", "Docker Hub is docker.io here"),
            ("example*.com", "only stand for subdomains"),
            ("r.io/team/*", "only stand for subdomains"),
            ("*.", "a domain alone"),
            ("*.example.com:5000", "a domain alone"),
            ("*.example.com/ns", "a domain alone"),
            ("r.io/", "expected"),
            ("r.io//a", "expected"),
            ("r.io/A", "expected"),
            ("r.io/a:b:c", "expected"),
            ("r.io/a@sha256:00", "expected"),
            (&format!("r.io/a:v1@sha256:{HEX}"), "the runtimes drop the tag"),
        ] {
            let error = parse(written).unwrap_err();
            assert!(error.contains(expected), "{written}: {error}");
        }
    }
}
