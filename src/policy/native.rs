//! `crivet.dev/v1alpha1 ImagePolicy`, as written.

mod tree;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use self::tree::{AtLeast, Inherited, Tree};
use super::age::{self, MaxAge};
use super::cel::About;
use super::compile::{Compiled, required_reason};
use super::conditions::{self, Written as WrittenCondition};
use super::content::{self, Written as WrittenContent};
use super::exemption::{self, Written as WrittenExemption};
use super::model::{
    ClaimedRepository, Kind, Labels, Mode, NamedRepository, Need, Place, Policy, Requirement, Rule, Signer,
    Wanted, comparable_repository,
};
use super::pattern::Pattern;
use super::recheck::{self, Written as WrittenRecheck};
use super::signers::{Certificates, Key, Keyless, Reader, Text, Written as Signers, predicate_type_of};
use crate::image::{Reference, quoted};
use crate::limits;
use crate::yaml::{Document, Fault};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    images: Vec<Text>,
    namespaces: Option<Vec<Text>>,
    pod_labels: Option<BTreeMap<String, Text>>,
    mode: Option<Mode>,
    requirements: Option<Requirements>,
    insecure_accept_anything: Option<Reason>,
    deny: Option<Reason>,
    recheck: Option<WrittenRecheck>,
    content: Option<WrittenContent>,
    #[serde(default)]
    exemptions: Vec<WrittenExemption>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Requirements {
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    keyless: Vec<Keyless>,
    #[serde(default)]
    certificates: Vec<Certificates>,
    claimed_repository: Option<WrittenClaim>,
    max_age: Option<Text>,
    #[serde(default)]
    attestations: Vec<Attestation>,
    #[serde(default)]
    conditions: Vec<WrittenCondition>,
    evidence: Option<Vec<WrittenPlace>>,
    all_of: Option<Vec<Requirements>>,
    any_of: Option<Vec<Requirements>>,
    at_least: Option<AtLeast>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenClaim {
    one_of: Option<Vec<Text>>,
    insecure_any: Option<Spanned<bool>>,
    unnamed: Option<Unnamed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unnamed {
    Accept,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Attestation {
    predicate_type: Text,
    max_age: Option<Text>,
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    keyless: Vec<Keyless>,
    #[serde(default)]
    certificates: Vec<Certificates>,
    #[serde(default)]
    conditions: Vec<WrittenCondition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPlace {
    repository: Option<Text>,
    tag_prefix: Option<Text>,
}

pub(super) fn compile(document: &Document<'_>, file: &str) -> Result<(Compiled, Text), Vec<Fault>> {
    let written: Written = document.read().map_err(|fault| vec![fault])?;
    let spec = &written.spec;
    let mut faults = Vec::new();
    let mut patterns = Vec::with_capacity(spec.images.len());
    for text in &spec.images {
        match Pattern::parse(&text.value) {
            Ok(pattern) => patterns.push((pattern, document.line_of(text))),
            Err(why) => faults.push(document.fault_at(text, format!("spec.images: {why}"))),
        }
    }
    if spec.images.is_empty() {
        faults.push(document.fault_at_start(
            "spec.images: expected at least one pattern, found none; write ** for all images".to_owned(),
        ));
    }
    let namespaces = match &spec.namespaces {
        Some(names) if names.is_empty() => {
            let text =
                "spec.namespaces: expected at least one namespace, found none; leave the key out for all";
            faults.push(document.fault_at_start(text.to_owned()));
            None
        }
        Some(names) => {
            for name in names.iter().filter(|name| !is_namespace(&name.value)) {
                let text =
                    format!("spec.namespaces: expected a namespace's name, found {}", quoted(&name.value));
                faults.push(document.fault_at(name, text));
            }
            Some(names.iter().map(|name| name.value.clone()).collect())
        }
        None => None,
    };
    let pod_labels = pod_labels(document, spec.pod_labels.as_ref(), &mut faults);
    if let (false, Some(Reason { reason })) = (pod_labels.is_empty(), &spec.insecure_accept_anything) {
        let text = "spec.podLabels: expected requirements or deny beside it, found insecureAcceptAnything; labels only add to what is asked for, as the pod's author writes them";
        faults.push(document.fault_at(reason, text.to_owned()));
    }
    let recheck = spec.recheck.as_ref().and_then(|written| recheck::read(document, written, &mut faults));
    if spec.recheck.is_some() && spec.requirements.is_none() {
        let text = "spec.recheck: expected requirements beside it, found none; what nothing is asked of has no vetted digest to hold its tag to";
        faults.push(document.fault_at_start(text.to_owned()));
    }
    let content = spec.content.as_ref();
    let layers_checked_within = content.and_then(|written| content::read(document, written, &mut faults));
    if spec.content.is_some() && spec.requirements.is_none() {
        let text = "spec.content: expected requirements beside it, found none; what nothing is asked of is not looked at on the disk";
        faults.push(document.fault_at_start(text.to_owned()));
    }
    let exemptions = exemption::read(document, &spec.exemptions, &mut faults);
    if !spec.exemptions.is_empty() && spec.requirements.is_none() {
        let text =
            "spec.exemptions: expected requirements beside them, found none; there is nothing to exempt from";
        faults.push(document.fault_at_start(text.to_owned()));
    }
    let rule = rule(document, spec, &mut faults);
    match rule {
        Some((rule, places)) if faults.is_empty() => {
            let policy = Policy {
                kind: Kind::ImagePolicy,
                name: written.metadata.name.value.clone(),
                source: format!("{file}:{}", document.line()),
                mode: spec.mode,
                namespaces,
                pod_labels,
                places,
                rule,
                recheck,
                layers_checked_within,
                exemptions,
            };
            Ok((Compiled::Native { policy, patterns }, written.metadata.name))
        }
        _ => Err(faults),
    }
}

fn rule(document: &Document<'_>, spec: &Spec, faults: &mut Vec<Fault>) -> Option<(Rule, Vec<Place>)> {
    let rule = match (&spec.requirements, &spec.insecure_accept_anything, &spec.deny) {
        (Some(requirements), None, None) => {
            let need = Tree { document, faults, nodes: 0 }.read(requirements);
            let places = places(document, requirements.evidence.as_deref(), faults);
            return Some((Rule::Requires(need?), places));
        }
        (None, Some(Reason { reason }), None) => {
            let reason = required_reason(document, "spec.insecureAcceptAnything.reason", reason, faults);
            Rule::Accept { reason }
        }
        (None, None, Some(Reason { reason })) => {
            Rule::Deny { reason: required_reason(document, "spec.deny.reason", reason, faults) }
        }
        _ => {
            let text = "spec: expected exactly one of requirements, deny and insecureAcceptAnything, found none or several; keep one";
            faults.push(document.fault_at_start(text.to_owned()));
            return None;
        }
    };
    Some((rule, vec![Place::OWN]))
}

/// A signature by any of the signers, and each of the attestations; without signers the attestations alone.
fn need(
    document: &Document<'_>,
    key: &str,
    written: &Requirements,
    inherited: &Inherited,
    faults: &mut Vec<Fault>,
) -> Option<Need> {
    let read = |at: &str, signers: &Signers<'_>, faults: &mut Vec<Fault>| {
        Reader { document, at, faults }.signers(signers)
    };
    let own = Signers { keys: &written.keys, keyless: &written.keyless, certificates: &written.certificates };
    let signers: Vec<Signer> = read(key, &own, faults);
    let repository = &inherited.repository;
    let mut needs = Vec::new();
    if own.is_empty() && written.attestations.is_empty() {
        let text = format!(
            "{key}: expected a signer under keys, keyless or certificates, attestations, allOf, anyOf or atLeast, found none; add one"
        );
        faults.push(document.fault_at_start(text));
    }
    if !own.is_empty() {
        let (wanted, signers) = (Wanted::Signature, signers.clone());
        let max_age = inherited.max_age.clone();
        dated(document, key, &signers, max_age.as_ref(), faults);
        let conditions = conditions::read(document, key, &written.conditions, About::Signature, faults);
        let repository = repository.clone();
        needs.push(Need::One(Requirement { wanted, signers, repository, max_age, conditions }));
    }
    if written.attestations.len() > limits::POLICY_ATTESTATIONS {
        let text = format!(
            "{key}.attestations: expected at most {} (limit POLICY_ATTESTATIONS), found {}; split the policy",
            limits::POLICY_ATTESTATIONS,
            written.attestations.len()
        );
        faults.push(document.fault_at_start(text));
        return None;
    }
    for attestation in &written.attestations {
        let at = format!("{key}.attestations");
        let theirs = Signers {
            keys: &attestation.keys,
            keyless: &attestation.keyless,
            certificates: &attestation.certificates,
        };
        let by = if theirs.is_empty() { signers.clone() } else { read(&at, &theirs, faults) };
        if theirs.is_empty() && own.is_empty() {
            let text = format!(
                "{at}: expected a signer under keys, keyless or certificates, here or beside attestations, found none; add one"
            );
            faults.push(document.fault_at(&attestation.predicate_type, text));
        }
        let predicate_type = attestation.predicate_type.value.clone();
        let plain = !predicate_type.chars().any(|c| c.is_control() || c.is_whitespace());
        if !predicate_type.contains(':') || !plain {
            let meant =
                predicate_type_of(&predicate_type).map_or(String::new(), |uri| format!("; write {uri}"));
            let text =
                format!("{at}.predicateType: expected a URI, found {}{meant}", quoted(&predicate_type));
            faults.push(document.fault_at(&attestation.predicate_type, text));
        }
        let wanted = Wanted::Attestation(vec![predicate_type]);
        let max_age = match &attestation.max_age {
            Some(written) => MaxAge::read(document, &at, written, faults),
            None => inherited.max_age.clone(),
        };
        dated(document, &at, &by, max_age.as_ref(), faults);
        let conditions = conditions::read(document, &at, &attestation.conditions, About::Attestation, faults);
        let repository = repository.clone();
        needs.push(Need::One(Requirement { wanted, signers: by, repository, max_age, conditions }));
    }
    Some(Need::All(needs))
}

/// What the kubelet sets on each pod, over what its author wrote.
const OF_THE_KUBELET: &str = "io.kubernetes.";

fn pod_labels(
    document: &Document<'_>,
    written: Option<&BTreeMap<String, Text>>,
    faults: &mut Vec<Fault>,
) -> Labels {
    const AT: &str = "spec.podLabels";
    let Some(written) = written else { return Labels::new() };
    if written.is_empty() || written.len() > limits::POLICY_LABELS {
        let text = format!(
            "{AT}: expected one to {} labels (limit POLICY_LABELS), found {}; leave it out for all pods",
            limits::POLICY_LABELS,
            written.len()
        );
        faults.push(document.fault_at_start(text));
    }
    for (key, value) in written {
        let text = if key.starts_with(OF_THE_KUBELET) {
            format!(
                "{AT}: expected a label of the pod's author, found {}; the kubelet sets it, use namespaces",
                quoted(key)
            )
        } else if !is_label_key(key) {
            format!("{AT}: expected a label's key such as app.kubernetes.io/part-of, found {}", quoted(key))
        } else if !is_label_value(&value.value) {
            format!(
                "{AT}: expected a label's value of at most 63 letters, digits, -, _ and ., found {}",
                quoted(&value.value)
            )
        } else {
            continue;
        };
        faults.push(document.fault_at(value, text));
    }
    written.iter().map(|(key, value)| (key.clone(), value.value.clone())).collect()
}

/// As Kubernetes has it: a name, with or without a DNS subdomain and a slash before it.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let is_prefix = |prefix: &str| {
        (1..=253).contains(&prefix.len()) && prefix.bytes().all(plain) && !prefix.starts_with(['-', '.'])
    };
    prefix.is_none_or(is_prefix) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    value.len() <= 63 && plain && !value.starts_with(['-', '_', '.']) && !value.ends_with(['-', '_', '.'])
}

/// A signer whose signatures nobody has to date could never be young enough.
fn dated(
    document: &Document<'_>,
    at: &str,
    signers: &[Signer],
    max_age: Option<&MaxAge>,
    faults: &mut Vec<Fault>,
) {
    if max_age.is_some() && !signers.iter().all(age::is_dated) {
        let text = format!(
            "{at}.maxAge: expected timestamps or transparencyLogs of each of its signers, so that somebody vouches for the time, found one without; write timestamps: {{threshold: 1}} there"
        );
        faults.push(document.fault_at_start(text));
    }
}

/// Where evidence is; the image's own repository unless the policy says otherwise.
fn places(document: &Document<'_>, written: Option<&[WrittenPlace]>, faults: &mut Vec<Fault>) -> Vec<Place> {
    const AT: &str = "spec.requirements.evidence";
    let Some(written) = written else { return vec![Place::OWN] };
    if written.is_empty() || written.len() > limits::POLICY_PLACES {
        let text = format!(
            "{AT}: expected one to {} repositories (limit POLICY_PLACES), found {}; leave it out for the image's own",
            limits::POLICY_PLACES,
            written.len()
        );
        faults.push(document.fault_at_start(text));
        return Vec::new();
    }
    let mut places = Vec::with_capacity(written.len());
    for place in written {
        let repository = match &place.repository {
            Some(name) => match repository_named(&name.value) {
                Some(reference) => Some(reference),
                None => {
                    let text = format!("{AT}.repository: {}", not_a_repository(&name.value));
                    faults.push(document.fault_at(name, text));
                    continue;
                }
            },
            None => None,
        };
        let tag_prefix = place.tag_prefix.as_ref().map_or("", |prefix| &prefix.value);
        if let Some(written) = place.tag_prefix.as_ref().filter(|_| !is_tag_prefix(tag_prefix)) {
            let text = format!(
                "{AT}.tagPrefix: expected at most 40 letters, digits, _, . and -, not beginning with . or -, found {}",
                quoted(tag_prefix)
            );
            faults.push(document.fault_at(written, text));
        }
        places.push(Place { repository, tag_prefix: tag_prefix.to_owned() });
    }
    places
}

/// What a tag may begin with, and still leaves room for `sha256-<hex>.sig` (OCI distribution, "Pulling manifests").
pub(super) fn is_tag_prefix(prefix: &str) -> bool {
    let plain = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    plain && prefix.len() <= 40 && !prefix.starts_with(['.', '-'])
}

/// A repository by its name alone.
pub(super) fn repository_named(name: &str) -> Option<Reference> {
    let reference = Reference::parse_as_written(name).ok()?;
    (reference.tag().is_none() && reference.digest().is_none()).then_some(reference)
}

pub(super) fn not_a_repository(found: &str) -> String {
    format!("expected a repository without tag, digest and wildcards, found {}", quoted(found))
}

fn claimed_repository(
    document: &Document<'_>,
    at: &str,
    written: &WrittenClaim,
    faults: &mut Vec<Fault>,
) -> Option<ClaimedRepository> {
    let key = format!("{at}.claimedRepository");
    let unnamed = matches!(written.unnamed, Some(Unnamed::Accept));
    let named = match (&written.one_of, &written.insecure_any) {
        (None, Some(any)) if any.value && !unnamed => NamedRepository::Any,
        (None, Some(any)) if any.value => {
            let text = format!(
                "{key}: expected insecureAny alone, found unnamed too; insecureAny accepts those as well"
            );
            faults.push(document.fault_at(any, text));
            return None;
        }
        (None, Some(any)) => {
            let text = format!(
                "{key}.insecureAny: expected true, found false; leave claimedRepository out to require the image's own repository"
            );
            faults.push(document.fault_at(any, text));
            return None;
        }
        (Some(names), None) if !names.is_empty() => {
            let mut repositories = Vec::with_capacity(names.len());
            for name in names {
                match repository_named(&name.value) {
                    Some(reference) => repositories.push(comparable_repository(&reference)),
                    None => {
                        let text = format!("{key}.oneOf: {}", not_a_repository(&name.value));
                        faults.push(document.fault_at(name, text));
                    }
                }
            }
            NamedRepository::OneOf(repositories)
        }
        (None, None) if unnamed => NamedRepository::Same,
        _ => {
            let text = format!(
                "{key}: expected oneOf with at least one repository, unnamed: accept, both, or insecureAny: true; leave it out to require the image's own repository"
            );
            faults.push(document.fault_at_start(text));
            return None;
        }
    };
    Some(ClaimedRepository { named, unnamed })
}

/// RFC 1123 label, as Kubernetes names namespaces.
pub(super) fn is_namespace(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !name.is_empty() && name.len() <= 63 && plain && !name.starts_with('-') && !name.ends_with('-')
}
