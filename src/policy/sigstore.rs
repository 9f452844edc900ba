//! `policy.sigstore.dev ClusterImagePolicy`, as policy-controller reads it.

mod matching;
mod policy;
mod signers;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

use self::matching::MatchResource;
use self::policy::WrittenPolicy;
use self::signers::{key, keyless};
use super::cel::Condition;
use super::compile::Compiled;
use super::glob::SigstoreGlob;
use super::model::{
    ClaimedRepository, Kind, Mode, NamedRepository, Need, Place, Policy, Requirement, Review, Reviewed, Rule,
    Signer, Wanted,
};
use super::native::{is_tag_prefix, not_a_repository, repository_named};
use super::signers::{Text, predicate_type_of};
use crate::image::{quoted, quoted_name};
use crate::limits;
use crate::yaml::{Document, Fault, Object};

/// A field that policies may have and crivet does not support.
type Unsupported = Option<Spanned<IgnoredAny>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    images: Vec<Image>,
    #[serde(default)]
    authorities: Vec<Authority>,
    mode: Option<WrittenMode>,
    policy: Option<WrittenPolicy>,
    r#match: Option<Spanned<Vec<MatchResource>>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenMode {
    Enforce,
    Warn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    glob: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Authority {
    name: Option<String>,
    key: Option<KeyRef>,
    r#static: Option<Static>,
    signature_format: Option<Text>,
    keyless: Option<KeylessRef>,
    #[serde(default)]
    source: Vec<Source>,
    ctlog: Option<Ctlog>,
    #[serde(default)]
    attestations: Vec<Attestation>,
    rfc3161timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeylessRef {
    url: Option<Text>,
    #[serde(default)]
    identities: Vec<IdentityRef>,
    trust_root_ref: Option<String>,
    #[serde(rename = "ca-cert")]
    ca_cert: Unsupported,
    #[serde(rename = "insecureIgnoreSCT")]
    insecure_ignore_sct: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdentityRef {
    issuer: Option<Text>,
    issuer_reg_exp: Option<Text>,
    subject: Option<Text>,
    subject_reg_exp: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Source {
    oci: Option<Text>,
    tag_prefix: Option<Text>,
    signature_pull_secrets: Unsupported,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ctlog {
    url: Option<Text>,
    trust_root_ref: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Attestation {
    name: Option<String>,
    predicate_type: Text,
    policy: Option<WrittenPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Timestamp {
    trust_root_ref: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyRef {
    data: Option<Text>,
    hash_algorithm: Option<Text>,
    secret_ref: Unsupported,
    kms: Unsupported,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Static {
    action: Action,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Pass,
    Fail,
}

pub(super) fn compile(document: &Document<'_>, file: &str) -> Result<(Compiled, Text), Vec<Fault>> {
    let written: Object<Spec> = document.read().map_err(|fault| vec![fault])?;
    let spec = &written.spec;
    let mut faults = Vec::new();
    let pod_labels = matching::read(document, spec.r#match.as_ref(), &mut faults);
    let mut globs = Vec::with_capacity(spec.images.len());
    for image in &spec.images {
        match read_glob(&image.glob.value) {
            Ok(glob) => globs.push(Glob { line: document.line_of(&image.glob), ..glob }),
            Err(why) => faults.push(document.fault_at(&image.glob, format!("spec.images.glob: {why}"))),
        }
    }
    if spec.images.is_empty() {
        let text = "spec.images: expected at least one glob, found none; write ** for all images";
        faults.push(document.fault_at_start(text.to_owned()));
    }
    let rule = match &spec.policy {
        None => rule(document, &spec.authorities, &mut faults),
        Some(written) => reviewed(document, &spec.authorities, written, &mut faults),
    };
    if !pod_labels.is_empty() && matches!(rule, Rule::Accept { .. }) {
        let text = "spec.match.selector: expected a policy that asks for something, found static: pass; a policy for labels only adds to what is asked, because the pod's author writes them";
        faults.push(document.fault_at_start(text.to_owned()));
    }
    let places = places(document, &spec.authorities, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let policy = Policy {
        kind: Kind::ClusterImagePolicy,
        name: written.metadata.name.value.clone(),
        source: format!("{file}:{}", document.line()),
        // policy-controller's default is to reject.
        mode: Some(match spec.mode {
            Some(WrittenMode::Warn) => Mode::Audit,
            Some(WrittenMode::Enforce) | None => Mode::Enforce,
        }),
        namespaces: None,
        places,
        rule,
        recheck: None,
        layers_checked_within: None,
        exemptions: Vec::new(),
        pod_labels,
    };
    Ok((Compiled::Sigstore { policy, globs }, written.metadata.name))
}

fn unsupported(
    document: &Document<'_>,
    key: &str,
    field: &Unsupported,
    instead: &str,
    faults: &mut Vec<Fault>,
) {
    if let Some(field) = field {
        faults.push(
            document.fault_at(field, format!("{key}: crivet does not support this field yet; {instead}")),
        );
    }
}

/// At least one authority has to hold, so one that always passes makes the others moot, and one that always fails
/// adds nothing beside others.
fn rule(document: &Document<'_>, authorities: &[Authority], faults: &mut Vec<Fault>) -> Rule {
    let (mut signers, mut alternatives, mut passes, mut message) = (Vec::new(), Vec::new(), false, None);
    counted(document, authorities, faults);
    for authority in authorities {
        let signer = match signs(document, authority, faults) {
            Some(By::Signer(signer)) => *signer,
            Some(By::Static(Static { action: Action::Pass, .. })) => {
                passes = true;
                continue;
            }
            Some(By::Static(Static { action: Action::Fail, message: said })) => {
                message = Some(said.clone().unwrap_or_default());
                continue;
            }
            None => continue,
        };
        if authority.attestations.is_empty() {
            signers.push(signer);
        } else {
            let wanted = attestations(document, authority, &signer, faults);
            alternatives.push(Need::All(wanted.into_iter().map(|(_, one)| Need::One(one)).collect()));
        }
    }
    if !signers.is_empty() {
        alternatives.insert(0, Need::One(signature(signers)));
    }
    match message {
        _ if passes => Rule::Accept { reason: "static action: pass".to_owned() },
        Some(message) if alternatives.is_empty() => {
            let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let message = Some(message).filter(|message| !message.trim().is_empty());
            Rule::Deny { reason: message.unwrap_or_else(|| "static action: fail".to_owned()) }
        }
        _ => Rule::Requires(Need::Any(alternatives)),
    }
}

/// What a policy of the whole looks at: each authority by itself, by its name.
fn reviewed(
    document: &Document<'_>,
    authorities: &[Authority],
    written: &WrittenPolicy,
    faults: &mut Vec<Fault>,
) -> Rule {
    let policy = policy::read(document, "spec.policy", written, "the Rego of spec.policy".to_owned(), faults);
    let (mut all, mut names) = (Vec::new(), BTreeSet::new());
    counted(document, authorities, faults);
    for (at, authority) in authorities.iter().enumerate() {
        // As policy-controller names those without one.
        let name = authority.name.clone().unwrap_or_else(|| format!("authority-{at}"));
        let mut fault = |text: String| faults.push(Fault { line: written_at(document, authority), text });
        if !names.insert(name.clone()) {
            fault(format!(
                "spec.authorities.name: expected one of its own beside spec.policy, found {} twice",
                quoted(&name)
            ));
        }
        if authority.attestations.iter().any(|attestation| attestation.name.is_none()) {
            fault(
                "spec.authorities.attestations.name: expected one beside spec.policy, found none; add it"
                    .to_owned(),
            );
        }
        let signer = match signs(document, authority, faults) {
            Some(By::Signer(signer)) => *signer,
            // It finds nothing that a policy could look at.
            Some(By::Static(Static { action: Action::Fail, .. })) => continue,
            Some(By::Static(Static { action: Action::Pass, .. })) => {
                let text = "spec.authorities.static: expected a key or keyless beside spec.policy, found pass; crivet gives a policy what authorities found, and this one finds nothing: leave the policy out";
                faults.push(document.fault_at_start(text.to_owned()));
                continue;
            }
            None => continue,
        };
        let wanted = match authority.attestations.is_empty() {
            true => vec![(None, signature(vec![signer]))],
            false => attestations(document, authority, &signer, faults)
                .into_iter()
                .map(|(name, one)| (Some(name.unwrap_or_default()), one))
                .collect(),
        };
        all.push(Reviewed { name, wanted });
    }
    match policy {
        Some(_) if all.is_empty() => Rule::Deny { reason: "static action: fail".to_owned() },
        Some(policy) => Rule::Requires(Need::Reviewed(Review { authorities: all, policy })),
        // Refused by now.
        None => Rule::Deny { reason: String::new() },
    }
}

fn counted(document: &Document<'_>, authorities: &[Authority], faults: &mut Vec<Fault>) {
    if authorities.is_empty() || authorities.len() > limits::POLICY_KEYS {
        let text = format!(
            "spec.authorities: expected one to {} authorities (limit POLICY_KEYS), found {}; add a key, or split the policy",
            limits::POLICY_KEYS,
            authorities.len()
        );
        faults.push(document.fault_at_start(text));
    }
}

/// By what an authority decides.
enum By<'a> {
    Signer(Box<Signer>),
    Static(&'a Static),
}

fn signs<'a>(document: &Document<'_>, authority: &'a Authority, faults: &mut Vec<Fault>) -> Option<By<'a>> {
    let format = authority.signature_format.as_ref();
    if let Some(format) = format.filter(|format| !["legacy", "bundle"].contains(&format.value.as_str())) {
        let text = format!(
            "spec.authorities.signatureFormat: expected legacy or bundle, found {}",
            quoted(&format.value)
        );
        faults.push(document.fault_at(format, text));
    }
    let signer = match (&authority.key, &authority.keyless, &authority.r#static) {
        (Some(written), None, None) => key(document, authority, written, faults),
        (None, Some(written), None) => keyless(document, authority, written, faults),
        (None, None, Some(action)) => return Some(By::Static(action)),
        _ => {
            let text = "spec.authorities: expected exactly one of key, keyless and static in each, found none or several; keep one";
            faults.push(document.fault_at_start(text.to_owned()));
            return None;
        }
    };
    let signer = Signer::new(signer?).at(written_at(document, authority));
    Some(By::Signer(Box::new(signer)))
}

fn signature(signers: Vec<Signer>) -> Requirement {
    let (wanted, conditions) = (Wanted::Signature, Vec::new());
    Requirement { wanted, signers, repository: any_repository(), max_age: None, conditions }
}

/// The line of an authority: that of its key, or of its first identity.
fn written_at(document: &Document<'_>, authority: &Authority) -> u64 {
    let key = authority.key.as_ref().and_then(|key| key.data.as_ref());
    let identity = authority.keyless.as_ref().and_then(|keyless| keyless.identities.first());
    let identity = identity.and_then(|identity| {
        let IdentityRef { issuer, issuer_reg_exp, subject, subject_reg_exp } = identity;
        [subject_reg_exp, subject, issuer_reg_exp, issuer].into_iter().flatten().next()
    });
    key.or(identity).map_or(document.line(), |text| document.line_of(text))
}

/// policy-controller does not look at the repository a signature claims.
fn any_repository() -> ClaimedRepository {
    ClaimedRepository { named: NamedRepository::Any, unnamed: true }
}

/// Each of the attestations, by its name, and no signature.
fn attestations(
    document: &Document<'_>,
    authority: &Authority,
    signer: &Signer,
    faults: &mut Vec<Fault>,
) -> Vec<(Option<String>, Requirement)> {
    const AT: &str = "spec.authorities.attestations";
    if authority.attestations.len() > limits::POLICY_ATTESTATIONS {
        let text = format!(
            "{AT}: expected at most {} (limit POLICY_ATTESTATIONS), found {}; split the policy",
            limits::POLICY_ATTESTATIONS,
            authority.attestations.len()
        );
        faults.push(document.fault_at_start(text));
    }
    let mut one = |attestation: &Attestation| {
        let written = attestation.predicate_type.value.as_str();
        if written.is_empty() {
            let text = format!("{AT}.predicateType: expected a type, found an empty text");
            faults.push(document.fault_at(&attestation.predicate_type, text));
        }
        let predicate_type = predicate_type_of(written).unwrap_or(written).to_owned();
        let name = attestation.name.as_deref().unwrap_or(written);
        let called = format!("the Rego of attestation {}", quoted_name(name));
        let policy = attestation.policy.as_ref();
        let conditions: Vec<Condition> = policy
            .and_then(|policy| policy::read(document, &format!("{AT}.policy"), policy, called, faults))
            .into_iter()
            .collect();
        let wanted = Wanted::Attestation(vec![predicate_type]);
        let (signers, repository) = (vec![signer.clone()], any_repository());
        let requirement = Requirement { wanted, signers, repository, max_age: None, conditions };
        (attestation.name.clone(), requirement)
    };
    authority.attestations.iter().take(limits::POLICY_ATTESTATIONS).map(&mut one).collect()
}

/// Where the policy's evidence is. Wherever one authority looks the others look too: a signature is the same anywhere.
fn places(document: &Document<'_>, authorities: &[Authority], faults: &mut Vec<Fault>) -> Vec<Place> {
    const AT: &str = "spec.authorities.source";
    let mut places: Vec<Place> = Vec::new();
    let mut add = |place| {
        if !places.contains(&place) {
            places.push(place);
        }
    };
    for authority in authorities {
        if authority.source.is_empty() {
            add(Place::OWN);
        }
        for source in &authority.source {
            let instead = "crivet shows a registry the pull's and the node's credentials";
            let key = format!("{AT}.signaturePullSecrets");
            unsupported(document, &key, &source.signature_pull_secrets, instead, faults);
            let repository = match &source.oci {
                None => None,
                Some(oci) => match repository_named(&oci.value) {
                    Some(repository) => Some(repository),
                    None => {
                        faults.push(
                            document.fault_at(oci, format!("{AT}.oci: {}", not_a_repository(&oci.value))),
                        );
                        continue;
                    }
                },
            };
            let tag_prefix = source.tag_prefix.as_ref().map_or("", |prefix| &prefix.value);
            if let Some(prefix) = source.tag_prefix.as_ref().filter(|_| !is_tag_prefix(tag_prefix)) {
                let text = format!(
                    "{AT}.tagPrefix: expected what a tag may begin with, found {}",
                    quoted(tag_prefix)
                );
                faults.push(document.fault_at(prefix, text));
            }
            add(Place { repository, tag_prefix: tag_prefix.to_owned() });
        }
    }
    if places.len() > limits::POLICY_PLACES {
        let text = format!(
            "{AT}: expected at most {} repositories (limit POLICY_PLACES), found {}; split the policy",
            limits::POLICY_PLACES,
            places.len()
        );
        faults.push(document.fault_at_start(text));
    }
    places
}

/// A glob.
pub(super) struct Glob {
    pub glob: SigstoreGlob,
    pub covers_all: bool,
    /// The line it is written on.
    pub line: u64,
}

/// Docker Hub as policy-controller writes it in the names that globs are held against.
pub(super) const DOCKER_HUB: &str = "index.docker.io/";

fn read_glob(written: &str) -> Result<Glob, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_:/*.@".contains(&b);
    if written.is_empty() || written.len() > limits::REFERENCE_BYTES || !written.bytes().all(plain) {
        return Err(format!("expected a glob of letters, digits and -_:/*.@, found {}", quoted(written)));
    }
    let glob = match written {
        // As policy-controller widens them.
        "*" => "index.docker.io/library/*".to_owned(),
        "*/*" => "index.docker.io/*/*".to_owned(),
        _ => match written.strip_prefix("docker.io/") {
            Some(rest) => format!("{DOCKER_HUB}{rest}"),
            None => written.to_owned(),
        },
    };
    // The controller also tries an image's unqualified spelling, which is gone by the time a node sees it.
    let first = glob.split('/').next().unwrap_or_default();
    let qualified = match glob.contains('/') {
        true => first.contains(['.', '*', ':']) || first == "localhost",
        false => glob.contains("**"),
    };
    if !qualified {
        return Err(format!(
            "expected a glob that begins with a registry, found {}; write {DOCKER_HUB}NAME for Docker Hub",
            quoted(written)
        ));
    }
    Ok(Glob { covers_all: glob == "**", glob: SigstoreGlob::new(&glob), line: 0 })
}
