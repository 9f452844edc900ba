//! `config.openshift.io/v1 ClusterImagePolicy` and `ImagePolicy`, as OpenShift turns them into CRI-O's policies.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::compile::Compiled;
use super::model::{Kind, Labels, Need, Place, Policy, Rule};
use super::native::is_namespace;
use super::scope;
use super::signed_identity::SignedIdentity;
use super::signers::Text;
use super::sigstore_signed::{By, Pem, email, requirement};
use crate::image::quoted;
use crate::yaml::{Document, Fault, Metadata, Object};

/// As the custom resource's definition has it.
const SCOPES: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    scopes: Vec<Text>,
    policy: WrittenPolicy,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPolicy {
    root_of_trust: RootOfTrust,
    signed_identity: Option<WrittenIdentity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RootOfTrust {
    policy_type: Text,
    public_key: Option<KeyRoot>,
    #[serde(rename = "fulcioCAWithRekor")]
    fulcio: Option<FulcioRoot>,
    pki: Option<PkiRoot>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyRoot {
    key_data: Text,
    rekor_key_data: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FulcioRoot {
    #[serde(rename = "fulcioCAData")]
    authorities: Text,
    rekor_key_data: Text,
    fulcio_subject: FulcioSubject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FulcioSubject {
    oidc_issuer: Text,
    signed_email: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PkiRoot {
    ca_roots_data: Text,
    ca_intermediates_data: Option<Text>,
    pki_certificate_subject: PkiSubject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PkiSubject {
    email: Option<Text>,
    hostname: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenIdentity {
    match_policy: Text,
    exact_repository: Option<ExactRepository>,
    remap_identity: Option<RemapIdentity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExactRepository {
    repository: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RemapIdentity {
    prefix: Text,
    signed_prefix: Text,
}

/// Compiles a policy; `namespaced`: an ImagePolicy.
pub(super) fn compile(
    document: &Document<'_>,
    file: &str,
    namespaced: bool,
) -> Result<(Compiled, Text), Vec<Fault>> {
    let written: Object<Spec> = document.read().map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    let scopes = scopes(document, &written.spec.scopes, &mut faults);
    let namespace = namespace(document, &written.metadata, namespaced).map_err(|fault| faults.push(fault));
    let mut roots = Vec::new();
    let policy = &written.spec.policy;
    let need = by(document, &policy.root_of_trust).and_then(|(by, logs)| {
        let identity = match &policy.signed_identity {
            None => SignedIdentity::RepoDigestOrExact,
            Some(written) => signed_identity(document, written)?,
        };
        requirement(document, file, (by, &logs, identity), &mut roots)
    });
    let need = need.map_err(|fault| faults.push(fault));
    let (Ok(namespace), Ok(need), true) = (namespace, need, faults.is_empty()) else { return Err(faults) };
    // A name is unique within its namespace only.
    let name = written.metadata.name.value.clone();
    let policy = Policy {
        kind: if namespaced { Kind::OpenShiftImagePolicy } else { Kind::OpenShiftClusterImagePolicy },
        name: namespace.as_ref().map_or(name.clone(), |namespace| format!("{namespace}/{name}")),
        source: format!("{file}:{}", document.line()),
        mode: None,
        namespaces: namespace.map(|namespace| BTreeSet::from([namespace])),
        places: vec![Place::OWN],
        recheck: None,
        layers_checked_within: None,
        exemptions: Vec::new(),
        pod_labels: Labels::new(),
        rule: Rule::Requires(Need::One(need)),
    };
    Ok((Compiled::OpenShift { policy, scopes, roots }, written.metadata.name))
}

fn scopes(document: &Document<'_>, written: &[Text], faults: &mut Vec<Fault>) -> Vec<String> {
    if written.is_empty() || written.len() > SCOPES {
        let text = format!("spec.scopes: expected one to {SCOPES} scopes, found {}", written.len());
        faults.push(document.fault_at_start(text));
    }
    let mut scopes: Vec<String> = Vec::with_capacity(written.len());
    for text in written.iter().take(SCOPES) {
        match scope::parse(&text.value) {
            Ok(scope) if scopes.contains(&scope) => {
                let text = format!("spec.scopes: expected each scope once, found {scope} twice; remove one");
                faults.push(document.fault_at_start(text));
            }
            Ok(scope) => scopes.push(scope),
            Err(why) => faults.push(document.fault_at(text, format!("spec.scopes: {why}"))),
        }
    }
    scopes
}

fn namespace(
    document: &Document<'_>,
    metadata: &Metadata,
    namespaced: bool,
) -> Result<Option<String>, Fault> {
    const AT: &str = "metadata.namespace";
    match (&metadata.namespace, namespaced) {
        (Some(namespace), true) if is_namespace(&namespace.value) => Ok(Some(namespace.value.clone())),
        (Some(namespace), true) => {
            let text = format!("{AT}: expected a namespace's name, found {}", quoted(&namespace.value));
            Err(document.fault_at(namespace, text))
        }
        (None, true) => Err(document.fault_at(
            &metadata.name,
            format!("{AT}: expected the namespace that this ImagePolicy is for, found none; add it"),
        )),
        (Some(namespace), false) => Err(document.fault_at(
            namespace,
            format!("{AT}: a ClusterImagePolicy is for all namespaces; remove it, or write an ImagePolicy"),
        )),
        (None, false) => Ok(None),
    }
}

/// By whom, and the keys of Rekor.
fn by<'a>(document: &Document<'_>, root: &'a RootOfTrust) -> Result<(By<'a>, Vec<Pem<'a>>), Fault> {
    const AT: &str = "spec.policy.rootOfTrust";
    let pem = |key: &str, written: &'a Text| Pem::encoded(&format!("{AT}.{key}"), written, document);
    let kind = root.policy_type.value.as_str();
    match (kind, &root.public_key, &root.fulcio, &root.pki) {
        ("PublicKey", Some(key), None, None) => {
            let logs = key.rekor_key_data.as_ref().map(|log| pem("publicKey.rekorKeyData", log));
            let logs = logs.transpose()?.into_iter().collect();
            Ok((By::Keys(vec![pem("publicKey.keyData", &key.key_data)?]), logs))
        }
        ("FulcioCAWithRekor", None, Some(fulcio), None) => {
            let FulcioSubject { oidc_issuer: issuer, signed_email } = &fulcio.fulcio_subject;
            if !issuer.value.contains("://") {
                let text = format!(
                    "{AT}.fulcioCAWithRekor.fulcioSubject.oidcIssuer: expected a URL, found {}",
                    quoted(&issuer.value)
                );
                return Err(document.fault_at(issuer, text));
            }
            let at = format!("{AT}.fulcioCAWithRekor.fulcioSubject.signedEmail");
            let email = email(document, &at, signed_email)?;
            let authorities = pem("fulcioCAWithRekor.fulcioCAData", &fulcio.authorities)?;
            let logs = vec![pem("fulcioCAWithRekor.rekorKeyData", &fulcio.rekor_key_data)?];
            Ok((By::Fulcio { authorities, issuer, email }, logs))
        }
        ("PKI", None, None, Some(pki)) => {
            let PkiSubject { email: address, hostname } = &pki.pki_certificate_subject;
            let at = format!("{AT}.pki.pkiCertificateSubject");
            let hostname = hostname.as_ref().filter(|hostname| !hostname.value.is_empty());
            if address.is_none() && hostname.is_none() {
                let text = format!("{at}: expected email, hostname or both, found neither; write one");
                return Err(document.fault_at(&root.policy_type, text));
            }
            let email = address.as_ref().map(|address| email(document, &format!("{at}.email"), address));
            let intermediates =
                pki.ca_intermediates_data.as_ref().map(|data| pem("pki.caIntermediatesData", data));
            let roots = pem("pki.caRootsData", &pki.ca_roots_data)?;
            let intermediates = intermediates.transpose()?;
            Ok((By::Pki { roots, intermediates, email: email.transpose()?, hostname }, Vec::new()))
        }
        ("PublicKey" | "FulcioCAWithRekor" | "PKI", ..) => {
            let key = match kind {
                "PublicKey" => "publicKey",
                "PKI" => "pki",
                _ => "fulcioCAWithRekor",
            };
            let text = format!("{AT}: expected {key} alone beside policyType {kind}, found none or another");
            Err(document.fault_at(&root.policy_type, text))
        }
        _ => {
            let text = format!(
                "{AT}.policyType: expected PublicKey, FulcioCAWithRekor or PKI, found {}",
                quoted(kind)
            );
            Err(document.fault_at(&root.policy_type, text))
        }
    }
}

fn signed_identity(document: &Document<'_>, written: &WrittenIdentity) -> Result<SignedIdentity, Fault> {
    const AT: &str = "spec.policy.signedIdentity";
    let at = |key: &str, text: &Text, why: String| document.fault_at(text, format!("{AT}.{key}: {why}"));
    let kind = written.match_policy.value.as_str();
    match (kind, &written.exact_repository, &written.remap_identity) {
        ("MatchRepoDigestOrExact", None, None) => Ok(SignedIdentity::RepoDigestOrExact),
        ("MatchRepository", None, None) => Ok(SignedIdentity::Repository),
        ("ExactRepository", Some(ExactRepository { repository }), None) => {
            SignedIdentity::exact_repository(&repository.value)
                .map_err(|why| at("exactRepository.repository", repository, why))
        }
        ("RemapIdentity", None, Some(RemapIdentity { prefix, signed_prefix })) => {
            let read = |key: &str, text: &Text| {
                SignedIdentity::prefix(&text.value)
                    .map_err(|why| at(&format!("remapIdentity.{key}"), text, why))
            };
            Ok(SignedIdentity::Remap {
                prefix: read("prefix", prefix)?,
                signed_prefix: read("signedPrefix", signed_prefix)?,
            })
        }
        ("MatchRepoDigestOrExact" | "MatchRepository" | "ExactRepository" | "RemapIdentity", ..) => {
            let why = format!(
                "expected exactRepository beside ExactRepository, remapIdentity beside RemapIdentity, and nothing beside the others, found another with {kind}"
            );
            Err(at("matchPolicy", &written.match_policy, why))
        }
        _ => {
            let why = format!(
                "expected MatchRepoDigestOrExact, MatchRepository, ExactRepository or RemapIdentity, found {}",
                quoted(kind)
            );
            Err(at("matchPolicy", &written.match_policy, why))
        }
    }
}
