//! `crivet.dev/v1alpha1 ImagePolicy`, as written.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::compile::{Compiled, read_keys, required_reason};
use super::model::{ClaimedRepository, Kind, Mode, Policy, Rule, comparable_repository};
use super::pattern::Pattern;
use crate::image::{Reference, quoted};
use crate::yaml::{Document, Fault};

type Text = Spanned<String>;

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
    mode: Option<Mode>,
    requirements: Option<Requirements>,
    insecure_accept_anything: Option<Reason>,
    deny: Option<Reason>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Requirements {
    keys: Vec<Key>,
    claimed_repository: Option<WrittenClaim>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: Option<String>,
    data: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenClaim {
    one_of: Option<Vec<Text>>,
    insecure_any: Option<Spanned<bool>>,
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
    let rule = rule(document, spec, &mut faults);
    match rule {
        Some(rule) if faults.is_empty() => {
            let policy = Policy {
                kind: Kind::ImagePolicy,
                name: written.metadata.name.value.clone(),
                source: format!("{file}:{}", document.line()),
                mode: spec.mode,
                namespaces,
                rule,
            };
            Ok((Compiled::Native { policy, patterns }, written.metadata.name))
        }
        _ => Err(faults),
    }
}

fn rule(document: &Document<'_>, spec: &Spec, faults: &mut Vec<Fault>) -> Option<Rule> {
    match (&spec.requirements, &spec.insecure_accept_anything, &spec.deny) {
        (Some(requirements), None, None) => {
            let keys = requirements.keys.iter().map(|key| (key.name.clone(), &key.data));
            let keys = read_keys(document, "spec.requirements.keys", keys, faults);
            let repository = claimed_repository(document, requirements.claimed_repository.as_ref(), faults);
            Some(Rule::Signed { keys, repository: repository? })
        }
        (None, Some(Reason { reason }), None) => {
            let reason = required_reason(document, "spec.insecureAcceptAnything.reason", reason, faults);
            Some(Rule::Accept { reason })
        }
        (None, None, Some(Reason { reason })) => {
            Some(Rule::Deny { reason: required_reason(document, "spec.deny.reason", reason, faults) })
        }
        _ => {
            let text = "spec: expected exactly one of requirements, deny and insecureAcceptAnything, found none or several; keep one";
            faults.push(document.fault_at_start(text.to_owned()));
            None
        }
    }
}

fn claimed_repository(
    document: &Document<'_>,
    written: Option<&WrittenClaim>,
    faults: &mut Vec<Fault>,
) -> Option<ClaimedRepository> {
    const KEY: &str = "spec.requirements.claimedRepository";
    let Some(written) = written else { return Some(ClaimedRepository::Same) };
    match (&written.one_of, &written.insecure_any) {
        (None, Some(any)) if any.value => Some(ClaimedRepository::Any),
        (None, Some(any)) => {
            let text = format!(
                "{KEY}.insecureAny: expected true, found false; leave claimedRepository out to require the image's own repository"
            );
            faults.push(document.fault_at(any, text));
            None
        }
        (Some(names), None) if !names.is_empty() => {
            let mut repositories = Vec::with_capacity(names.len());
            for name in names {
                match Reference::parse_as_written(&name.value) {
                    Ok(reference) if reference.tag().is_none() && reference.digest().is_none() => {
                        repositories.push(comparable_repository(&reference));
                    }
                    _ => {
                        let text = format!(
                            "{KEY}.oneOf: expected a repository without tag, digest and wildcards, found {}",
                            quoted(&name.value)
                        );
                        faults.push(document.fault_at(name, text));
                    }
                }
            }
            Some(ClaimedRepository::OneOf(repositories))
        }
        _ => {
            let text = format!(
                "{KEY}: expected either oneOf with at least one repository or insecureAny: true; leave it out to require the image's own repository"
            );
            faults.push(document.fault_at_start(text));
            None
        }
    }
}

/// RFC 1123 label, as Kubernetes names namespaces.
fn is_namespace(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !name.is_empty() && name.len() <= 63 && plain && !name.starts_with('-') && !name.ends_with('-')
}
