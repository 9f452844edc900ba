//! Sigstore bundles, v0.1 to v0.3, read strictly (sigstore bundle specification; protobuf-specs `sigstore_bundle.proto`).

use serde_json::Value;
use sigstore_verify::types::bundle::{SignatureContent, VerificationMaterialContent};
use sigstore_verify::types::{Bundle, HashAlgorithm, TransparencyLogEntry};

use super::certificate::Certificate;
use super::key::Hash;
use super::signed::{Content, Form, Material, Problem, Signed};
use crate::image::{json, quoted};
use crate::limits;

/// The media types of bundles, with their versions. v0.3 has two spellings.
const MEDIA_TYPES: [(&str, &str); 4] = [
    ("application/vnd.dev.sigstore.bundle+json;version=0.1", "0.1"),
    ("application/vnd.dev.sigstore.bundle+json;version=0.2", "0.2"),
    ("application/vnd.dev.sigstore.bundle+json;version=0.3", "0.3"),
    ("application/vnd.dev.sigstore.bundle.v0.3+json", "0.3"),
];

/// Kinds of log entries whose body can be held against a signature.
const ENTRY_KINDS: [(&str, &str); 4] =
    [("hashedrekord", "0.0.1"), ("hashedrekord", "0.0.2"), ("dsse", "0.0.1"), ("intoto", "0.0.2")];

/// Reads a bundle. All limits are held before the crates that know its parts see it: with 10,000 log entries one of
/// them took five seconds.
pub(super) fn read(bytes: &[u8]) -> Result<Signed, Problem> {
    let value = json::parse(bytes, "BUNDLE_BYTES", limits::BUNDLE_BYTES)
        .map_err(|error| Problem::json("bundle", &error))?;
    let version = media_type(&value)?;
    let material = value
        .get("verificationMaterial")
        .filter(|material| material.is_object())
        .ok_or_else(|| Problem::format("bundle: expected \"verificationMaterial\" to be an object"))?;
    one_of("bundle", &value, &["messageSignature", "dsseEnvelope"])?;
    one_of("verificationMaterial", material, &["certificate", "x509CertificateChain", "publicKey"])?;
    check_counts(material)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::format("bundle: expected UTF-8"))?;
    let bundle = Bundle::from_json(text)
        .map_err(|error| Problem::format(format!("bundle: {}", quoted(&error.to_string()))))?;
    let entries = bundle.verification_material.tlog_entries;
    for entry in &entries {
        check_entry(version, entry)?;
    }
    let timestamps = bundle.verification_material.timestamp_verification_data.rfc3161_timestamps;
    let (content, signature) = content(bundle.content)?;
    Ok(Signed {
        form: Form::Bundle(version),
        content,
        signature,
        material: read_material(bundle.verification_material.content)?,
        entries,
        timestamps: timestamps.into_iter().map(|found| found.signed_timestamp.into_bytes()).collect(),
        stamped: None,
    })
}

/// The version; one that is not named is none, though older readers took it for 0.1.
fn media_type(bundle: &Value) -> Result<&'static str, Problem> {
    let Some(found) = bundle.get("mediaType").and_then(Value::as_str) else {
        return Err(Problem::format("bundle: expected \"mediaType\" to be a string"));
    };
    let known = MEDIA_TYPES.iter().find(|(media_type, _)| *media_type == found);
    known.map(|(_, version)| *version).ok_or_else(|| {
        Problem::format(format!(
            "bundle: expected a media type of version 0.1 to 0.3, found {}",
            quoted(found)
        ))
    })
}

/// Of a oneof exactly one is there: which one a reader sees must not depend on the reader.
fn one_of(what: &str, value: &Value, keys: &[&str]) -> Result<(), Problem> {
    let found = keys.iter().filter(|key| value.get(**key).is_some()).count();
    match found {
        1 => Ok(()),
        n => Err(Problem::format(format!("{what}: expected one of {}, found {n}", keys.join(", ")))),
    }
}

fn check_counts(material: &Value) -> Result<(), Problem> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).map_or(0, Vec::len);
    let entries = material.get("tlogEntries").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let at_most = |what: &str, limit: &str, cap: usize, found: usize| {
        if found > cap { Err(Problem::limit(what, limit, cap, found)) } else { Ok(()) }
    };
    at_most("log entries", "LOG_ENTRIES", limits::LOG_ENTRIES, entries.len())?;
    let timestamps = material.pointer("/timestampVerificationData/rfc3161Timestamps");
    at_most("timestamps", "TIMESTAMPS", limits::TIMESTAMPS, list(timestamps))?;
    for timestamp in timestamps.and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
        let length = timestamp.get("signedTimestamp").and_then(Value::as_str).map_or(0, str::len);
        at_most("bytes in a timestamp", "TIMESTAMP_BYTES", limits::TIMESTAMP_BYTES, length / 4 * 3)?;
    }
    let chain = list(material.pointer("/x509CertificateChain/certificates"));
    at_most("certificates", "CHAIN_CERTIFICATES", limits::CHAIN_CERTIFICATES, chain)?;
    for entry in entries {
        let hashes = list(entry.pointer("/inclusionProof/hashes"));
        at_most("hashes in an inclusion proof", "INCLUSION_HASHES", limits::INCLUSION_HASHES, hashes)?;
        let length = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).map_or(0, str::len);
        let checkpoint = length("/inclusionProof/checkpoint/envelope");
        at_most("bytes in a checkpoint", "CHECKPOINT_BYTES", limits::CHECKPOINT_BYTES, checkpoint)?;
        let body = length("/canonicalizedBody") / 4 * 3;
        at_most("bytes in a log entry", "LOG_ENTRY_BYTES", limits::LOG_ENTRY_BYTES, body)?;
        let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = (text("/kindVersion/kind"), text("/kindVersion/version"));
        if !ENTRY_KINDS.contains(&kind) {
            return Err(unknown_kind(kind.0, kind.1));
        }
    }
    Ok(())
}

/// A log entry of a kind that cannot be held against the signature.
pub(super) fn unknown_kind(kind: &str, version: &str) -> Problem {
    let known = ENTRY_KINDS.map(|(kind, version)| format!("{kind} {version}")).join(", ");
    Problem::format(format!(
        "expected a log entry of kind {known}, found {} {}",
        quoted(kind),
        quoted(version)
    ))
}

/// What an entry has to have in this version (sigstore bundle specification). Since 0.2 that is the proof of inclusion
/// with its checkpoint, in 0.1 it was the promise. The proof is asked for in all of them: else a newer bundle, called an
/// older one and robbed of its proof, would pass.
fn check_entry(version: &str, entry: &TransparencyLogEntry) -> Result<(), Problem> {
    if version == "0.1" && entry.inclusion_promise.is_none() {
        return Err(Problem::format("expected an inclusion promise in a bundle of version 0.1, found none"));
    }
    match &entry.inclusion_proof {
        Some(proof) if !proof.checkpoint.is_empty() => Ok(()),
        Some(_) => Err(Problem::format("expected a checkpoint with the inclusion proof, found none")),
        None => Err(Problem::format(format!(
            "expected an inclusion proof in a bundle of version {version}, found none; bundles with a promise alone are not taken"
        ))),
    }
}

fn content(content: SignatureContent) -> Result<(Content, Vec<u8>), Problem> {
    match content {
        SignatureContent::MessageSignature(message) => {
            let digest = match message.message_digest {
                None => None,
                Some(digest) => {
                    let hash = match digest.algorithm {
                        HashAlgorithm::Sha2256 => Hash::Sha256,
                        HashAlgorithm::Sha2384 => Hash::Sha384,
                        HashAlgorithm::Sha2512 => Hash::Sha512,
                        _ => {
                            return Err(Problem::format("expected a message digest by SHA-2, found another"));
                        }
                    };
                    Some((hash, digest.digest.into_bytes()))
                }
            };
            Ok((Content::Artifact(digest), message.signature.into_bytes()))
        }
        // Exactly one signature, or the type would not have been made.
        SignatureContent::DsseEnvelope(envelope) => Ok((
            Content::Envelope {
                payload_type: envelope.payload_type,
                payload: envelope.payload.into_bytes(),
                attached: false,
            },
            envelope.signature.sig.into_bytes(),
        )),
        _ => Err(Problem::format("expected a message signature or a DSSE envelope, found something else")),
    }
}

fn read_material(content: VerificationMaterialContent) -> Result<Material, Problem> {
    let certificate = |der: &[u8]| {
        Certificate::from_der(der).map_err(|error| Problem::certificate("signing certificate", &error))
    };
    match content {
        VerificationMaterialContent::PublicKey(_) => Ok(Material::Key),
        VerificationMaterialContent::Certificate(found) => Ok(Material::Certificate {
            leaf: Box::new(certificate(found.raw_bytes.as_bytes())?),
            chain: Vec::new(),
        }),
        VerificationMaterialContent::X509CertificateChain { certificates } => {
            let mut chain = certificates.iter().map(|found| certificate(found.raw_bytes.as_bytes()));
            let leaf = chain.next().ok_or_else(|| {
                Problem::format("expected a certificate in \"x509CertificateChain\", found none")
            })??;
            Ok(Material::Certificate { leaf: Box::new(leaf), chain: chain.collect::<Result<_, _>>()? })
        }
        _ => Err(Problem::format("expected a certificate or a public key, found something else")),
    }
}
