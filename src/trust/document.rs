//! `policy.sigstore.dev TrustRoot`, as policy-controller reads it. No I/O.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use serde_saphyr::Spanned;
use sigstore_tuf::TrustedMetadataSet;
use x509_parser::pem::Pem;

use super::keys::KeyDetails;
use super::root::Root;
use super::source::{self, Anchor, Given, Mirror, RootSource, TARGETS, TRUSTED_ROOT_TARGET, TufSource};
use super::unpack::unpack;
use crate::image::{Digest, quoted};
use crate::limits;
use crate::yaml::{Document, Fault, Object};

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    remote: Option<Remote>,
    repository: Option<Repository>,
    sigstore_keys: Option<SigstoreKeys>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Remote {
    root: Text,
    mirror: Text,
    targets: Option<Text>,
    trusted_root_target: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Repository {
    root: Text,
    #[serde(rename = "mirrorFS")]
    mirror_fs: Text,
    targets: Option<Text>,
    trusted_root_target: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SigstoreKeys {
    #[serde(default)]
    certificate_authorities: Vec<Authority>,
    #[serde(default)]
    t_logs: Vec<Log>,
    #[serde(default)]
    ct_logs: Vec<Log>,
    #[serde(default)]
    timestamp_authorities: Vec<Authority>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Authority {
    subject: Subject,
    uri: Text,
    cert_chain: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Subject {
    organization: String,
    common_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Log {
    #[serde(rename = "baseURL")]
    base_url: Text,
    hash_algorithm: Text,
    public_key: Text,
}

/// Reads a TrustRoot document. `file` is its name for messages. Also returns where its name is written.
///
/// # Errors
/// Faults with their lines.
pub fn read(document: &Document<'_>, file: &str) -> Result<(RootSource, Spanned<String>), Fault> {
    let written: Object<Spec> = document.read()?;
    let name = written.metadata.name;
    let within = Within { document };
    let named = within.of("metadata.name", &name, source::name)?;
    let mut source = RootSource {
        name: named,
        given: None,
        tuf: None,
        document: Some(format!("{file}:{}", document.line_of(&name))),
    };
    match (&written.spec.remote, &written.spec.repository, &written.spec.sigstore_keys) {
        (Some(remote), None, None) => {
            source.tuf = Some(TufSource {
                mirror: within.of("spec.remote.mirror", &remote.mirror, web)?,
                anchor: within.anchor("spec.remote.root", &remote.root)?,
                targets: within.path("spec.remote.targets", &remote.targets, TARGETS)?,
                target: within.path(
                    "spec.remote.trustedRootTarget",
                    &remote.trusted_root_target,
                    TRUSTED_ROOT_TARGET,
                )?,
            });
        }
        (None, Some(repository), None) => {
            let files = within
                .of("spec.repository.mirrorFS", &repository.mirror_fs, |text| unpack(&decoded(text)?))?;
            source.tuf = Some(TufSource {
                mirror: Mirror::Packed(Arc::new(files)),
                anchor: within.anchor("spec.repository.root", &repository.root)?,
                targets: within.path("spec.repository.targets", &repository.targets, TARGETS)?,
                target: within.path(
                    "spec.repository.trustedRootTarget",
                    &repository.trusted_root_target,
                    TRUSTED_ROOT_TARGET,
                )?,
            });
        }
        (None, None, Some(keys)) => {
            let bytes = Bytes::from(within.keys(keys)?.to_string());
            Root::parse(&bytes)
                .map_err(|error| document.fault_at(&name, format!("spec.sigstoreKeys: {error}")))?;
            source.given = Some(Given::Inline(bytes));
        }
        _ => {
            let text = "spec: expected one of remote, repository and sigstoreKeys, found none or several";
            return Err(document.fault_at(&name, text.to_owned()));
        }
    }
    Ok((source, name))
}

/// As [`Mirror::parse`], from the web: a document from elsewhere names no folders of this node.
fn web(text: &str) -> Result<Mirror, String> {
    match Mirror::parse(text)? {
        Mirror::Http(address) => Ok(Mirror::Http(address)),
        _ => Err(format!("expected a TUF repository as https://host/path, found {}", quoted(text))),
    }
}

/// Kubernetes' `[]byte`: base64, here with line breaks.
fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let packed: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(packed).map_err(|_| "expected base64, found something else".to_owned())
}

struct Within<'a> {
    document: &'a Document<'a>,
}

impl Within<'_> {
    fn of<T>(&self, key: &str, value: &Text, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Fault> {
        parse(&value.value).map_err(|why| self.document.fault_at(value, format!("{key}: {why}")))
    }

    fn path(&self, key: &str, value: &Option<Text>, default: &str) -> Result<String, Fault> {
        value.as_ref().map_or_else(|| Ok(default.to_owned()), |value| self.of(key, value, source::relative))
    }

    /// A `root.json` that its own keys signed.
    fn anchor(&self, key: &str, value: &Text) -> Result<Anchor, Fault> {
        self.of(key, value, |text| {
            let bytes = decoded(text)?;
            if bytes.len() > limits::TUF_ROOT_BYTES {
                let cap = limits::TUF_ROOT_BYTES;
                return Err(format!(
                    "expected at most {cap} bytes (limit TUF_ROOT_BYTES), found {}",
                    bytes.len()
                ));
            }
            TrustedMetadataSet::from_root(&bytes).map_err(|error| {
                format!("expected a TUF root.json, found: {}", quoted(&error.to_string()))
            })?;
            Ok(Anchor::Inline(bytes.into()))
        })
    }

    /// The same as a `trusted_root.json`. The form has no validity windows: keys count from the beginning, certificates
    /// as long as they say themselves.
    fn keys(&self, keys: &SigstoreKeys) -> Result<Value, Fault> {
        let logs = |key: &str, logs: &[Log]| {
            logs.iter().map(|log| self.log(key, log)).collect::<Result<Vec<_>, Fault>>()
        };
        let authorities = |key: &str, all: &[Authority]| {
            all.iter().map(|authority| self.authority(key, authority)).collect::<Result<Vec<_>, Fault>>()
        };
        Ok(json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": logs("spec.sigstoreKeys.tLogs", &keys.t_logs)?,
            "ctlogs": logs("spec.sigstoreKeys.ctLogs", &keys.ct_logs)?,
            "certificateAuthorities":
                authorities("spec.sigstoreKeys.certificateAuthorities", &keys.certificate_authorities)?,
            "timestampAuthorities":
                authorities("spec.sigstoreKeys.timestampAuthorities", &keys.timestamp_authorities)?,
        }))
    }

    fn log(&self, key: &str, log: &Log) -> Result<Value, Fault> {
        let hash = self.of(&format!("{key}.hashAlgorithm"), &log.hash_algorithm, |text| {
            match text.to_ascii_lowercase().replace('-', "").as_str() {
                "sha256" => Ok("SHA2_256"),
                "sha384" => Ok("SHA2_384"),
                "sha512" => Ok("SHA2_512"),
                _ => Err(format!("expected sha-256, sha-384 or sha-512, found {}", quoted(text))),
            }
        })?;
        let (spki, details) = self.of(&format!("{key}.publicKey"), &log.public_key, |text| {
            let wrong =
                || "expected one PEM block PUBLIC KEY of ECDSA, Ed25519 or RSA, base64-encoded".to_owned();
            let [block] = <[Pem; 1]>::try_from(blocks(text)?).map_err(|_| wrong())?;
            let details = KeyDetails::of_spki(&block.contents).filter(|_| block.label == "PUBLIC KEY");
            Ok((block.contents, details.ok_or_else(wrong)?))
        })?;
        Ok(json!({
            "baseUrl": log.base_url.value,
            "hashAlgorithm": hash,
            "publicKey": {
                "rawBytes": STANDARD.encode(&spki),
                "keyDetails": details.name,
                "validFor": {"start": "1970-01-01T00:00:00Z"},
            },
            // RFC 6962, 3.2; Rekor v1 the same.
            "logId": {"keyId": STANDARD.encode(Digest::of(&spki).raw())},
        }))
    }

    fn authority(&self, key: &str, authority: &Authority) -> Result<Value, Fault> {
        let chain = self.of(&format!("{key}.certChain"), &authority.cert_chain, |text| {
            let blocks = blocks(text)?;
            if blocks.is_empty() || blocks.iter().any(|block| block.label != "CERTIFICATE") {
                return Err("expected PEM blocks CERTIFICATE, base64-encoded".to_owned());
            }
            Ok(blocks
                .iter()
                .map(|block| json!({"rawBytes": STANDARD.encode(&block.contents)}))
                .collect::<Vec<_>>())
        })?;
        Ok(json!({
            "subject": {
                "organization": authority.subject.organization,
                "commonName": authority.subject.common_name,
            },
            "uri": authority.uri.value,
            "certChain": {"certificates": chain},
        }))
    }
}

fn blocks(text: &str) -> Result<Vec<Pem>, String> {
    let pem = decoded(text)?;
    let blocks: Result<Vec<Pem>, _> = Pem::iter_from_buffer(&pem).collect();
    blocks.map_err(|_| "expected PEM, base64-encoded".to_owned())
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
