//! Sigstore bundles, v0.1 to v0.3, read strictly (sigstore bundle specification; protobuf-specs `sigstore_bundle.proto`).

use serde_json::Value;

use super::certificate::Certificate;
use super::key::Hash;
use super::log_entry::Entry;
use super::signed::{Content, Form, Material, Problem, Signed, at_most, decode, envelope};
use crate::image::json::{self, JsonError, Object};
use crate::image::quoted;
use crate::limits;

/// The media types of bundles, with their versions. v0.3 has two spellings.
const MEDIA_TYPES: [(&str, &str); 4] = [
    ("application/vnd.dev.sigstore.bundle+json;version=0.1", "0.1"),
    ("application/vnd.dev.sigstore.bundle+json;version=0.2", "0.2"),
    ("application/vnd.dev.sigstore.bundle+json;version=0.3", "0.3"),
    ("application/vnd.dev.sigstore.bundle.v0.3+json", "0.3"),
];

/// Reads a bundle.
pub(super) fn read(bytes: &[u8]) -> Result<Signed, Problem> {
    let value = json::parse(bytes, "BUNDLE_BYTES", limits::BUNDLE_BYTES).map_err(wrong)?;
    let known = ["mediaType", "verificationMaterial", "messageSignature", "dsseEnvelope"];
    let object = Object::new(&value, "bundle", &known).map_err(wrong)?;
    let version = version(object.string("mediaType").map_err(wrong)?)?;
    let found = object
        .get("verificationMaterial")
        .ok_or_else(|| wrong(JsonError::Value { key: "verificationMaterial", expected: "an object" }))?;
    let known =
        ["certificate", "x509CertificateChain", "publicKey", "tlogEntries", "timestampVerificationData"];
    let found = Object::new(found, "verificationMaterial", &known).map_err(wrong)?;
    let entries = list(&found, "tlogEntries")?;
    at_most("log entries", "LOG_ENTRIES", limits::LOG_ENTRIES, entries.len())?;
    let entries: Vec<Entry> = entries.iter().map(Entry::read).collect::<Result<_, _>>()?;
    for entry in &entries {
        check_entry(version, entry)?;
    }
    let (content, signature) = match one_of(&object, &["messageSignature", "dsseEnvelope"])? {
        ("messageSignature", value) => message_signature(value)?,
        (_, value) => {
            let (payload_type, payload, signature) = envelope(value)?;
            (Content::Envelope { payload_type, payload, attached: false }, signature)
        }
    };
    Ok(Signed {
        form: Form::Bundle(version),
        content,
        signature,
        material: material(&found)?,
        entries,
        timestamps: timestamps(&found)?,
        found: None,
    })
}

fn wrong(error: JsonError) -> Problem {
    Problem::json("bundle", &error)
}

/// The version; one that is not named is none, though older readers took it for 0.1.
fn version(media_type: &str) -> Result<&'static str, Problem> {
    let known = MEDIA_TYPES.iter().find(|(known, _)| *known == media_type);
    known.map(|(_, version)| *version).ok_or_else(|| {
        let found = quoted(media_type);
        Problem::format(format!("bundle: expected a media type of version 0.1 to 0.3, found {found}"))
    })
}

/// Of a oneof exactly one is there: which one a reader sees must not depend on the reader.
fn one_of<'a>(object: &Object<'a>, keys: &[&'static str]) -> Result<(&'static str, &'a Value), Problem> {
    let found: Vec<_> = keys.iter().filter_map(|key| Some((*key, object.get(key)?))).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        several => {
            let found = several.len();
            Err(Problem::format(format!("bundle: expected one of {}, found {found}", keys.join(", "))))
        }
    }
}

/// What an entry has to have in this version (sigstore bundle specification). Since 0.2 that is the proof of inclusion
/// with its checkpoint, in 0.1 it was the promise. The proof is asked for in all of them: else a newer bundle, called an
/// older one and robbed of its proof, would pass.
fn check_entry(version: &str, entry: &Entry) -> Result<(), Problem> {
    if version == "0.1" && entry.promise.is_none() {
        return Err(Problem::format("expected an inclusion promise in a bundle of version 0.1, found none"));
    }
    if entry.proof.is_none() {
        return Err(Problem::format(format!(
            "expected an inclusion proof in a bundle of version {version}, found none; bundles with a promise alone are not taken"
        )));
    }
    Ok(())
}

fn message_signature(value: &Value) -> Result<(Content, Vec<u8>), Problem> {
    let object = Object::new(value, "messageSignature", &["messageDigest", "signature"]).map_err(wrong)?;
    let signature = decode("signature", object.string("signature").map_err(wrong)?)?;
    let Some(digest) = object.get("messageDigest") else { return Ok((Content::Artifact(None), signature)) };
    let digest = Object::new(digest, "messageDigest", &["algorithm", "digest"]).map_err(wrong)?;
    let hash = match digest.string("algorithm").map_err(wrong)? {
        "SHA2_256" => Hash::Sha256,
        "SHA2_384" => Hash::Sha384,
        "SHA2_512" => Hash::Sha512,
        other => {
            let found = quoted(other);
            return Err(Problem::format(format!(
                "bundle: expected a message digest by SHA-2, found {found}"
            )));
        }
    };
    let digest = decode("digest", digest.string("digest").map_err(wrong)?)?;
    Ok((Content::Artifact(Some((hash, digest))), signature))
}

fn material(found: &Object<'_>) -> Result<Material, Problem> {
    let certificate = |value: &Value| {
        let object = Object::new(value, "certificate", &["rawBytes"]).map_err(wrong)?;
        let der = decode("certificate", object.string("rawBytes").map_err(wrong)?)?;
        Certificate::from_der(&der).map_err(|error| Problem::certificate("signing certificate", &error))
    };
    match one_of(found, &["certificate", "x509CertificateChain", "publicKey"])? {
        // Its hint is no more than that: whoever verifies says which key.
        ("publicKey", _) => Ok(Material::Key),
        ("certificate", value) => {
            Ok(Material::Certificate { leaf: Box::new(certificate(value)?), chain: Vec::new() })
        }
        (_, value) => {
            let chain = Object::new(value, "x509CertificateChain", &["certificates"]).map_err(wrong)?;
            let certificates = chain.array("certificates").map_err(wrong)?;
            at_most("certificates", "CHAIN_CERTIFICATES", limits::CHAIN_CERTIFICATES, certificates.len())?;
            let mut chain = certificates.iter().map(certificate);
            let leaf = chain.next().ok_or_else(|| {
                Problem::format("bundle: expected a certificate in the chain, found none")
            })??;
            Ok(Material::Certificate { leaf: Box::new(leaf), chain: chain.collect::<Result<_, _>>()? })
        }
    }
}

fn timestamps(found: &Object<'_>) -> Result<Vec<Vec<u8>>, Problem> {
    let Some(data) = found.get("timestampVerificationData") else { return Ok(Vec::new()) };
    let data = Object::new(data, "timestampVerificationData", &["rfc3161Timestamps"]).map_err(wrong)?;
    let stamps = list(&data, "rfc3161Timestamps")?;
    at_most("timestamps", "TIMESTAMPS", limits::TIMESTAMPS, stamps.len())?;
    let read = |value: &Value| {
        let object = Object::new(value, "timestamp", &["signedTimestamp"]).map_err(wrong)?;
        let text = object.string("signedTimestamp").map_err(wrong)?;
        at_most("bytes in a timestamp", "TIMESTAMP_BYTES", limits::TIMESTAMP_BYTES, text.len() / 4 * 3)?;
        decode("timestamp", text)
    };
    stamps.iter().map(read).collect()
}

/// An array that may be absent.
fn list<'a>(object: &Object<'a>, key: &'static str) -> Result<&'a [Value], Problem> {
    match object.get(key) {
        None => Ok(&[]),
        Some(_) => object.array(key).map_err(wrong),
    }
}
