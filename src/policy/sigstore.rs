//! `policy.sigstore.dev ClusterImagePolicy`, as policy-controller reads it.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

use super::compile::{Compiled, read_keys};
use super::glob::SigstoreGlob;
use super::model::{ClaimedRepository, Kind, Mode, Policy, Rule};
use crate::image::quoted;
use crate::yaml::{Document, Fault};

type Text = Spanned<String>;
/// A field that policies may have and crivet does not support.
type Unsupported = Option<Spanned<IgnoredAny>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: Spec,
    /// The cluster's own record in an exported policy; it says nothing about images.
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// An exported object's metadata has much that is the cluster's own.
#[derive(Deserialize)]
struct Metadata {
    name: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    images: Vec<Image>,
    #[serde(default)]
    authorities: Vec<Authority>,
    mode: Option<WrittenMode>,
    policy: Unsupported,
    r#match: Unsupported,
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
    keyless: Unsupported,
    source: Unsupported,
    ctlog: Unsupported,
    attestations: Unsupported,
    rfc3161timestamp: Unsupported,
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
    let written: Written = document.read().map_err(|fault| vec![fault])?;
    let spec = &written.spec;
    let mut faults = Vec::new();
    unsupported(document, "spec.policy", &spec.policy, "write what it checks as an ImagePolicy", &mut faults);
    let instead = "a node does not see the resource; use ImagePolicy's namespaces or leave match out";
    unsupported(document, "spec.match", &spec.r#match, instead, &mut faults);
    let mut globs = Vec::with_capacity(spec.images.len());
    for image in &spec.images {
        match read_glob(&image.glob.value) {
            Ok(glob) => globs.push(glob),
            Err(why) => faults.push(document.fault_at(&image.glob, format!("spec.images.glob: {why}"))),
        }
    }
    if spec.images.is_empty() {
        let text = "spec.images: expected at least one glob, found none; write ** for all images";
        faults.push(document.fault_at_start(text.to_owned()));
    }
    let rule = rule(document, &spec.authorities, &mut faults);
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
        rule,
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
    let (mut keys, mut passes, mut message) = (Vec::new(), false, None);
    for authority in authorities {
        let key = |field: &str| format!("spec.authorities.{field}");
        let use_a_key = "sign with a key and put its public key into key.data";
        unsupported(document, &key("keyless"), &authority.keyless, use_a_key, faults);
        unsupported(document, &key("source"), &authority.source, "keep signatures beside the image", faults);
        unsupported(document, &key("ctlog"), &authority.ctlog, "leave it out: a key needs no log", faults);
        unsupported(document, &key("attestations"), &authority.attestations, "leave them out", faults);
        unsupported(
            document,
            &key("rfc3161timestamp"),
            &authority.rfc3161timestamp,
            "leave it out: a key needs none",
            faults,
        );
        if let Some(format) = authority.signature_format.as_ref().filter(|format| format.value != "legacy") {
            let text = format!(
                "{}: expected legacy, found {}; crivet does not support bundles yet",
                key("signatureFormat"),
                quoted(&format.value)
            );
            faults.push(document.fault_at(format, text));
        }
        match (&authority.key, &authority.r#static) {
            (Some(written), None) => keys.extend(key_data(document, authority, written, faults)),
            (None, Some(Static { action: Action::Pass, .. })) => passes = true,
            (None, Some(Static { action: Action::Fail, message: said })) => {
                message = Some(said.clone().unwrap_or_default());
            }
            // keyless has had its error.
            (None, None) if authority.keyless.is_some() => {}
            _ => {
                let text = "spec.authorities: expected exactly one of key and static in each, found none or both; keep one";
                faults.push(document.fault_at_start(text.to_owned()));
            }
        }
    }
    if authorities.is_empty() {
        let text = "spec.authorities: expected at least one authority, found none; add a key";
        faults.push(document.fault_at_start(text.to_owned()));
    }
    match message {
        _ if passes => Rule::Accept { reason: "static action: pass".to_owned() },
        Some(message) if keys.is_empty() => {
            let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let message = Some(message).filter(|message| !message.trim().is_empty());
            Rule::Deny { reason: message.unwrap_or_else(|| "static action: fail".to_owned()) }
        }
        // policy-controller does not look at the repository a signature claims.
        _ => Rule::Signed {
            keys: read_keys(document, "spec.authorities.key.data", keys.into_iter(), faults),
            repository: ClaimedRepository::Any,
        },
    }
}

fn key_data<'a>(
    document: &Document<'_>,
    authority: &'a Authority,
    written: &'a KeyRef,
    faults: &mut Vec<Fault>,
) -> Option<(Option<String>, &'a Text)> {
    let instead = "put the public key itself into key.data";
    unsupported(document, "spec.authorities.key.secretRef", &written.secret_ref, instead, faults);
    unsupported(document, "spec.authorities.key.kms", &written.kms, instead, faults);
    if let Some(hash) = written.hash_algorithm.as_ref().filter(|hash| hash.value != "sha256") {
        let text = format!(
            "spec.authorities.key.hashAlgorithm: expected sha256, found {}; leave it out",
            quoted(&hash.value)
        );
        faults.push(document.fault_at(hash, text));
    }
    match &written.data {
        Some(data) => Some((authority.name.clone(), data)),
        None => {
            if written.secret_ref.is_none() && written.kms.is_none() {
                let text = "spec.authorities.key: expected data, found none; put the public key there";
                faults.push(document.fault_at_start(text.to_owned()));
            }
            None
        }
    }
}

/// A glob with the literal text that every name it covers begins with.
pub(super) struct Glob {
    pub glob: SigstoreGlob,
    pub prefix: String,
    pub covers_all: bool,
}

/// Docker Hub as policy-controller writes it in the names that globs are held against.
pub(super) const DOCKER_HUB: &str = "index.docker.io/";

fn read_glob(written: &str) -> Result<Glob, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_:/*.@".contains(&b);
    if written.is_empty() || written.len() > crate::limits::REFERENCE_BYTES || !written.bytes().all(plain) {
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
    let prefix = glob.split('*').next().unwrap_or_default().to_owned();
    Ok(Glob { prefix, covers_all: glob == "**", glob: SigstoreGlob::new(&glob) })
}
