//! Policies of other dialects as native ones.

mod node;
mod scopes;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::node::Node;
use super::cel::Condition;
use super::compile::PolicySet;
use super::model::{
    ClaimedRepository, Kind, Mode, NamedRepository, Need, Place, Policy, Requirement, Rule, SourceFile,
    Wanted,
};
use super::pattern::Pattern;
use super::signed_identity::SignedIdentity;
use crate::trust::Root;
use crate::trust::source::Given;
use crate::verify::{Authority, Certificate, Identity, Matcher, PkiSubject, PublicKey, Witness};

/// What came of an import.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The native policies, YAML, with comments on what changed.
    pub text: String,
    /// What has no native form, one line each: where it is written, and why.
    pub unsaid: Vec<String>,
}

impl PolicySet {
    /// Its policies of other dialects in the native form. What that cannot say is told, and left out whole: never half said.
    pub fn import(&self) -> Imported {
        let (mut texts, mut unsaid) = (Vec::new(), Vec::new());
        let mut owners: BTreeMap<(String, Option<BTreeSet<String>>), String> = BTreeMap::new();
        let mut names = BTreeSet::new();
        let mut roots = BTreeMap::new();
        let mut without_pattern: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let covered = self.covered(&mut |at, why| without_pattern.entry(at).or_default().push(why));
        for (at, policy) in self.policies.iter().enumerate() {
            if policy.kind == Kind::ImagePolicy {
                continue;
            }
            let mut said = |why: String| {
                unsaid.push(format!("{}: {} {}: {why}", policy.source, policy.kind, policy.name))
            };
            let written = match spec(policy) {
                Ok(written) => written,
                Err(why) => {
                    said(why);
                    continue;
                }
            };
            without_pattern.remove(&at).unwrap_or_default().into_iter().for_each(&mut said);
            let mut patterns = Vec::new();
            for pattern in covered.get(at).into_iter().flatten().map(Pattern::to_string) {
                let owner = owners
                    .entry((pattern.clone(), policy.namespaces.clone()))
                    .or_insert_with(|| policy.name.clone());
                if *owner == policy.name {
                    patterns.push(pattern);
                } else {
                    said(format!(
                        "{pattern} is {owner}'s too, and one ImagePolicy alone may have it: put what both ask for under allOf there"
                    ));
                }
            }
            if let Some(other) = self.holds_beside(at, &covered) {
                said(format!(
                    "{other} matches some of the same images; there both have to hold, of ImagePolicies the most specific one alone: keep both files as they are, or put what both ask for under allOf"
                ));
                continue;
            }
            if patterns.is_empty() {
                continue;
            }
            let written = document(policy, name(&policy.name, &mut names), &patterns, written);
            let own = self.own_roots(policy.trust_roots());
            // What is printed loads, whatever this file gets wrong.
            let whole = own.values().chain([&written]).map(String::as_str).collect::<String>();
            let whole = SourceFile { name: "imported".to_owned(), bytes: whole.into_bytes() };
            match Self::compile(&[whole]) {
                Ok(_) => {
                    roots.extend(own);
                    texts.push(written);
                }
                Err(errors) => {
                    let why = errors.first().map_or_else(String::new, |error| error.text.clone());
                    said(format!("as an ImagePolicy it does not load: {why}"));
                }
            }
        }
        let mut text = String::new();
        if !texts.is_empty() {
            text.push_str("# Imported by crivet policy import. crivet policy check and crivet policy explain say whether it is what you meant.\n");
            text.push_str("# Of ImagePolicies the most specific one alone counts; other files in the folder hold beside them, each dialect by itself:\n");
            text.push_str("# take the imported file's original out when you put this one in.\n");
        }
        for line in &unsaid {
            text.push_str(&format!("# NOT IMPORTED: {line}\n"));
        }
        text.extend(roots.into_values());
        text.extend(texts);
        Imported { text, unsaid }
    }

    /// TrustRoot documents of those among these roots that policies bring with them, by their names.
    fn own_roots(&self, used: BTreeSet<&str>) -> BTreeMap<String, String> {
        let own = self.trust_roots().iter().filter(|source| used.contains(source.name.as_str()));
        let own = own.filter_map(|source| match &source.given {
            Some(Given::Inline(bytes)) if source.name.starts_with(OWN) => {
                Some((source.name.clone(), trust_root(&source.name, &Root::parse(bytes).ok()?)))
            }
            _ => None,
        });
        own.collect()
    }
}

/// What the names of trusted roots begin with that were made of a policy's own keys (`trust::own`).
const OWN: &str = "policy-";

/// The name that such a root has in the imported file: beside the original both are there.
fn root_name(name: &str) -> String {
    match name.strip_prefix(OWN) {
        Some(hash) => format!("imported-{hash}"),
        None => name.to_owned(),
    }
}

fn document(policy: &Policy, name: String, patterns: &[String], spec: Vec<(&'static str, Node)>) -> String {
    let mut text = format!("---\n# From {} {} ({}).\n", policy.kind, policy.name, policy.source);
    if policy.kind == Kind::ContainersPolicy && policy.namespaces.is_some() {
        text.push_str("# There the pause image of these pods goes by the node's file. Here it falls under this: see crivet policy explain for it.\n");
    }
    text.push_str("apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\n");
    let images = patterns.iter().cloned().map(Node::Text).collect();
    let mut all = vec![("images", Node::List(images))];
    if let Some(namespaces) = &policy.namespaces {
        all.push(("namespaces", Node::List(namespaces.iter().cloned().map(Node::Text).collect())));
    }
    if !policy.pod_labels.is_empty() {
        all.push(("podLabels", Node::Labels(policy.pod_labels.clone().into_iter().collect())));
    }
    match policy.mode {
        None => {}
        Some(Mode::Audit) => all.push(("mode", Node::Text("audit".to_owned()))),
        Some(Mode::Enforce) => all.push(("mode", Node::Text("enforce".to_owned()))),
    }
    all.extend(spec);
    let whole = vec![("metadata", Node::Map(vec![("name", Node::Text(name))])), ("spec", Node::Map(all))];
    text.push_str(&Node::Map(whole).yaml());
    text
}

/// A name as Kubernetes has them.
fn name(written: &str, taken: &mut BTreeSet<String>) -> String {
    let plain: String = written
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(200)
        .collect();
    let plain = plain.trim_matches(['-', '.']);
    let base = if plain.is_empty() { "imported" } else { plain };
    let mut name = base.to_owned();
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}

/// What is asked for.
fn spec(policy: &Policy) -> Result<Vec<(&'static str, Node)>, String> {
    let reason = |reason: &str| Node::Map(vec![("reason", Node::Text(reason.to_owned()))]);
    Ok(match &policy.rule {
        Rule::Accept { reason: why } => vec![("insecureAcceptAnything", reason(why))],
        Rule::Deny { reason: why } => vec![("deny", reason(why))],
        Rule::Requires(wanted) => {
            let mut requirements = need(wanted)?;
            if policy.places != [Place::OWN] {
                requirements.insert(0, ("evidence", Node::List(policy.places.iter().map(place).collect())));
            }
            vec![("requirements", Node::Map(requirements))]
        }
    })
}

fn place(place: &Place) -> Node {
    let mut map = Vec::new();
    if let Some(repository) = &place.repository {
        map.push(("repository", Node::Text(repository.repo_name())));
    }
    if !place.tag_prefix.is_empty() {
        map.push(("tagPrefix", Node::Text(place.tag_prefix.clone())));
    }
    Node::Map(map)
}

fn need(wanted: &Need) -> Result<Vec<(&'static str, Node)>, String> {
    let branches = |needs: &[Need]| {
        needs.iter().map(|one| Ok(Node::Map(need(one)?))).collect::<Result<Vec<_>, String>>()
    };
    match wanted {
        Need::One(requirement) => one(requirement),
        Need::All(needs) | Need::Any(needs) if needs.len() == 1 => {
            needs.first().map_or_else(|| Err("it asks for nothing".to_owned()), need)
        }
        Need::All(needs) if is_plain(needs) => {
            let mut attestations = Vec::new();
            let mut all = Vec::new();
            for (key, node) in
                needs.iter().map(need).collect::<Result<Vec<_>, String>>()?.into_iter().flatten()
            {
                match node {
                    Node::List(items) if key == "attestations" => attestations.extend(items),
                    node => all.push((key, node)),
                }
            }
            all.push(("attestations", Node::List(attestations)));
            Ok(all)
        }
        Need::All(needs) => Ok(vec![("allOf", Node::List(branches(needs)?))]),
        Need::Any(needs) => Ok(vec![("anyOf", Node::List(branches(needs)?))]),
        Need::AtLeast { .. } => Err("no other dialect asks for at least so many".to_owned()),
        Need::Reviewed(_) => Err(format!("spec.policy: {REGO}")),
    }
}

/// Whether one block of requirements says all of it: at most one signature, which comes first, and attestations.
fn is_plain(needs: &[Need]) -> bool {
    let attestation = |need: &Need| match need {
        Need::One(Requirement { wanted: Wanted::Attestation(types), .. }) => types.len() == 1,
        _ => false,
    };
    let signature = |need: &Need| matches!(need, Need::One(Requirement { wanted: Wanted::Signature, .. }));
    match needs {
        [first, rest @ ..] => (signature(first) || attestation(first)) && rest.iter().all(attestation),
        [] => false,
    }
}

/// Why a policy in Rego is not imported.
const REGO: &str = "an ImagePolicy has no policies in Rego; write what it checks as conditions in CEL (docs/conditions.md), or keep the file as it is";

fn one(requirement: &Requirement) -> Result<Vec<(&'static str, Node)>, String> {
    if requirement.conditions.iter().any(Condition::is_rego) {
        return Err(format!("spec.authorities.attestations.policy: {REGO}"));
    }
    let by = signers(requirement)?;
    match &requirement.wanted {
        Wanted::Signature => {
            let claim = claim(&requirement.repository)?;
            Ok(claim.into_iter().chain(by).collect())
        }
        Wanted::Attestation(types) => {
            let of = |predicate_type: &String| {
                let typed = [("predicateType", Node::Text(predicate_type.clone()))];
                Node::Map(typed.into_iter().chain(by.clone()).collect())
            };
            match types.as_slice() {
                [only] if only.contains(':') => Ok(vec![("attestations", Node::List(vec![of(only)]))]),
                [only] => Err(format!(
                    "predicate type {only} is no URI, and attestations of ImagePolicies have one"
                )),
                several => {
                    let branch = |one| Node::Map(vec![("attestations", Node::List(vec![of(one)]))]);
                    Ok(vec![("anyOf", Node::List(several.iter().map(branch).collect()))])
                }
            }
        }
    }
}

/// Which repository a signature may name.
fn claim(claimed: &ClaimedRepository) -> Result<Option<(&'static str, Node)>, String> {
    let ClaimedRepository { named, unnamed } = claimed;
    let names = |names: &[String]| ("oneOf", Node::List(names.iter().cloned().map(Node::Text).collect()));
    let mut map = match named {
        NamedRepository::Any => {
            return Ok(Some(("claimedRepository", Node::Map(vec![("insecureAny", Node::True)]))));
        }
        NamedRepository::Same | NamedRepository::Signed(SignedIdentity::Repository) => Vec::new(),
        NamedRepository::OneOf(all) => vec![names(all)],
        NamedRepository::Signed(SignedIdentity::ExactRepository(one)) => {
            vec![names(std::slice::from_ref(one))]
        }
        NamedRepository::Signed(_) => {
            return Err("its signedIdentity asks for a tag or digest in the signature, or maps one name to another; an ImagePolicy asks for the repository alone (write matchRepository or exactRepository there, if that will do)".to_owned());
        }
    };
    if *unnamed {
        map.push(("unnamed", Node::Text("accept".to_owned())));
    }
    Ok((!map.is_empty()).then_some(("claimedRepository", Node::Map(map))))
}

fn signers(requirement: &Requirement) -> Result<Vec<(&'static str, Node)>, String> {
    let (mut keys, mut keyless, mut certificates) = (Vec::new(), Vec::new(), Vec::new());
    for signer in &requirement.signers {
        let mut map = Vec::new();
        if let Some(name) = signer.authority.name() {
            map.push(("name", Node::Text(name.to_owned())));
        }
        let witnesses = signer.authority.witnesses();
        let logs = threshold("transparencyLogs", &witnesses.logs);
        let timestamps =
            threshold("timestamps", &witnesses.timestamps).filter(|_| witnesses.timestamps.count > 0);
        match &signer.authority {
            Authority::Key(key) => {
                map.extend(logs.filter(|_| witnesses.logs.count > 0));
                map.extend(timestamps);
                map.push(("data", Node::Block(key_pem(&key.key))));
                keys.push(Node::Map(map));
            }
            Authority::Keyless(one) => {
                map.push(("trustRoot", Node::Text(root_name(&one.root))));
                if !one.sct {
                    map.push(("insecureIgnoreSCT", Node::True));
                }
                map.extend(logs);
                map.extend(timestamps);
                map.push(("identities", Node::List(one.identities.iter().map(identity).collect())));
                keyless.push(Node::Map(map));
            }
            Authority::Pki(pki) => {
                map.extend(logs.filter(|_| witnesses.logs.count > 0));
                map.extend(timestamps);
                map.push(("roots", Node::Block(pems(&pki.roots))));
                if !pki.intermediates.is_empty() {
                    map.push(("intermediates", Node::Block(pems(&pki.intermediates))));
                }
                map.push(("subjects", Node::List(pki.subjects.iter().map(subject).collect())));
                certificates.push(Node::Map(map));
            }
        }
    }
    let all = [("keys", keys), ("keyless", keyless), ("certificates", certificates)];
    Ok(all.into_iter().filter(|(_, of)| !of.is_empty()).map(|(key, of)| (key, Node::List(of))).collect())
}

fn threshold(key: &'static str, witness: &Witness) -> Option<(&'static str, Node)> {
    let mut map = vec![("threshold", Node::Number(u64::from(witness.count)))];
    if let Some(root) = &witness.root {
        map.push(("trustRoot", Node::Text(root_name(root))));
    }
    Some((key, Node::Map(map)))
}

fn identity(identity: &Identity) -> Node {
    let mut map = vec![matcher("issuer", "issuerRegExp", &identity.issuer)];
    map.push(match &identity.subject {
        Matcher::Exact(email) if identity.by_email => ("email", Node::Text(email.clone())),
        subject => matcher("subject", "subjectRegExp", subject),
    });
    Node::Map(map)
}

fn subject(subject: &PkiSubject) -> Node {
    let mut map = Vec::new();
    map.extend(subject.subject.as_ref().map(|subject| matcher("subject", "subjectRegExp", subject)));
    map.extend(subject.email.clone().map(|email| ("email", Node::Text(email))));
    map.extend(subject.hostname.clone().map(|hostname| ("hostname", Node::Text(hostname))));
    Node::Map(map)
}

fn matcher(exact: &'static str, expression: &'static str, matcher: &Matcher) -> (&'static str, Node) {
    match matcher {
        Matcher::Exact(text) => (exact, Node::Text(text.clone())),
        Matcher::Regex(pattern) => (expression, Node::Text(pattern.written().to_owned())),
    }
}

fn key_pem(key: &PublicKey) -> String {
    pem("PUBLIC KEY", key.der())
}

fn pems(certificates: &[Certificate]) -> String {
    certificates.iter().map(|certificate| pem("CERTIFICATE", certificate.der())).collect()
}

/// RFC 7468: lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..encoded.len()).step_by(64).filter_map(|at| encoded.get(at..encoded.len().min(at + 64))).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A TrustRoot document of a root that was made of a policy's own keys.
fn trust_root(name: &str, root: &Root) -> String {
    let text = |text: &str| Node::Text(text.to_owned());
    let authorities = root.authorities().iter().map(|authority| {
        let chain: String =
            authority.chain.iter().map(|certificate| pem("CERTIFICATE", &certificate.der)).collect();
        Node::Map(vec![
            ("subject", Node::Map(vec![("organization", text("")), ("commonName", text(""))])),
            ("uri", text("")),
            ("certChain", Node::Text(STANDARD.encode(chain))),
        ])
    });
    let logs = root.logs().iter().map(|log| {
        Node::Map(vec![
            ("baseURL", text("")),
            ("hashAlgorithm", text("sha-256")),
            ("publicKey", Node::Text(STANDARD.encode(pem("PUBLIC KEY", &log.key)))),
        ])
    });
    let mut keys = vec![("tLogs", Node::List(logs.collect()))];
    if !root.authorities().is_empty() {
        keys.insert(0, ("certificateAuthorities", Node::List(authorities.collect())));
    }
    let whole = Node::Map(vec![
        ("metadata", Node::Map(vec![("name", Node::Text(root_name(name)))])),
        ("spec", Node::Map(vec![("sigstoreKeys", Node::Map(keys))])),
    ]);
    format!(
        "---\n# The keys that policies below bring with them.\napiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRoot\n{}",
        whole.yaml()
    )
}
