//! What cosign keeps under `.sig` and `.att`, in the one form: its annotations as a bundle's parts.

use super::certificate::Certificate;
use super::evidence::{Annotations, Attached};
use super::log_entry::{Entry, Kind, moment};
use super::signed::{Content, Form, Material, Problem, Signed, decode, envelope};
use super::simple_signing::SimpleSigning;
use crate::image::Digest;
use crate::image::json::{self, JsonError, Object};
use crate::limits;

/// What of the annotations is read: what nobody asks for cannot spoil a signature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub certificate: bool,
    pub log: bool,
    pub timestamp: bool,
}

/// A signature under `.sig`.
pub(super) fn simple(signing: &SimpleSigning, wanted: Wanted) -> Result<Signed, Problem> {
    if signing.payload.len() > limits::PAYLOAD_BYTES {
        let cap = limits::PAYLOAD_BYTES;
        return Err(Problem::limit("bytes in a signed payload", "PAYLOAD_BYTES", cap, signing.payload.len()));
    }
    let signature = decode("signature", &signing.signature)?;
    let content = Content::Claim(signing.payload.clone());
    with_annotations(content, signature, None, &signing.annotations, wanted)
}

/// An attestation under `.att`.
pub(super) fn attached(attached: &Attached, wanted: Wanted) -> Result<Signed, Problem> {
    let value = json::parse(&attached.envelope, "BUNDLE_BYTES", limits::BUNDLE_BYTES)
        .map_err(|error| Problem::json("DSSE envelope", &error))?;
    let (payload_type, payload, signature) = envelope(&value)?;
    let content = Content::Envelope { payload_type, payload, attached: true };
    // cosign has the whole envelope stamped, and not its signature (cosign pkg/cosign/verify.go,
    // VerifyRFC3161Timestamp).
    let found = Some(attached.envelope.to_vec());
    with_annotations(content, signature, found, &attached.annotations, wanted)
}

fn with_annotations(
    content: Content,
    signature: Vec<u8>,
    found: Option<Vec<u8>>,
    annotations: &Annotations,
    wanted: Wanted,
) -> Result<Signed, Problem> {
    let material = match text("certificate", &annotations.certificate)? {
        Some(pem) if wanted.certificate => certificates(pem, text("chain", &annotations.chain)?)?,
        _ => Material::Key,
    };
    let entries = match text("bundle", &annotations.bundle)? {
        Some(bundle) if wanted.log => vec![entry(bundle)?],
        _ => Vec::new(),
    };
    let timestamps = match text("rfc3161timestamp", &annotations.rfc3161timestamp)? {
        Some(stamp) if wanted.timestamp => vec![timestamp(stamp)?],
        _ => Vec::new(),
    };
    Ok(Signed { form: Form::Annotations, content, signature, material, entries, timestamps, found })
}

/// An annotation within its limit.
fn text<'a>(name: &str, annotation: &'a Option<String>) -> Result<Option<&'a str>, Problem> {
    match annotation.as_deref() {
        Some(text) if text.len() > limits::ANNOTATION_BYTES => {
            let what = format!("bytes in the annotation {name}");
            Err(Problem::limit(&what, "ANNOTATION_BYTES", limits::ANNOTATION_BYTES, text.len()))
        }
        found => Ok(found.filter(|text| !text.is_empty())),
    }
}

fn certificates(leaf: &str, chain: Option<&str>) -> Result<Material, Problem> {
    let read = |what: &str, pem: &str| {
        Certificate::from_pem(pem).map_err(|error| Problem::certificate(what, &error))
    };
    let mut leaves = read("annotation certificate", leaf)?.into_iter();
    let (Some(leaf), None) = (leaves.next(), leaves.next()) else {
        return Err(Problem::format("annotation certificate: expected one certificate, found several"));
    };
    let chain = chain.map(|chain| read("annotation chain", chain)).transpose()?.unwrap_or_default();
    Ok(Material::Certificate { leaf: Box::new(leaf), chain })
}

/// Rekor's answer as cosign keeps it: `{"SignedEntryTimestamp":…,"Payload":{"body":…,"integratedTime":…,"logIndex":…,
/// "logID":…}}` (cosign pkg/cosign/bundle/rekor.go).
fn entry(text: &str) -> Result<Entry, Problem> {
    let wrong = |error: JsonError| Problem::json("annotation bundle", &error);
    let bad = |what: &str| Problem::format(format!("annotation bundle: expected {what}"));
    let value = json::parse(text.as_bytes(), "ANNOTATION_BYTES", limits::ANNOTATION_BYTES).map_err(wrong)?;
    let object = Object::new(&value, "bundle", &["SignedEntryTimestamp", "Payload"]).map_err(wrong)?;
    let promise = decode("promise", object.string("SignedEntryTimestamp").map_err(wrong)?)?;
    let payload = object.get("Payload").ok_or_else(|| bad("\"Payload\""))?;
    let known = ["body", "integratedTime", "logIndex", "logID"];
    let payload = Object::new(payload, "Payload", &known).map_err(wrong)?;
    let body = decode("log entry", payload.string("body").map_err(wrong)?)?;
    let time = payload.size("integratedTime").map_err(wrong)?;
    let index = payload.size("logIndex").map_err(wrong)?;
    let log = payload.string("logID").map_err(wrong)?;
    // 32 bytes in hex, as Digest reads them.
    let log = Digest::parse(&format!("sha256:{log}")).map_err(|_| bad("\"logID\" in hex"))?;
    let value = json::parse(&body, "LOG_ENTRY_BYTES", limits::LOG_ENTRY_BYTES).map_err(wrong)?;
    let object = Object::new(&value, "log entry", &["kind", "apiVersion", "spec"]).map_err(wrong)?;
    let kind = (object.string("kind").map_err(wrong)?, object.string("apiVersion").map_err(wrong)?);
    Ok(Entry {
        kind: Kind::named(kind.0, kind.1)?,
        log: log.raw().to_vec(),
        index,
        time: Some(moment(time)?),
        promise: Some(promise),
        proof: None,
        body,
    })
}

/// `{"SignedRFC3161Timestamp":…}` (cosign pkg/cosign/bundle/tsa.go).
fn timestamp(text: &str) -> Result<Vec<u8>, Problem> {
    let wrong = |error: JsonError| Problem::json("annotation rfc3161timestamp", &error);
    let value = json::parse(text.as_bytes(), "ANNOTATION_BYTES", limits::ANNOTATION_BYTES).map_err(wrong)?;
    let object = Object::new(&value, "rfc3161timestamp", &["SignedRFC3161Timestamp"]).map_err(wrong)?;
    let stamp = decode("timestamp", object.string("SignedRFC3161Timestamp").map_err(wrong)?)?;
    if stamp.len() > limits::TIMESTAMP_BYTES {
        return Err(Problem::limit(
            "bytes in a timestamp",
            "TIMESTAMP_BYTES",
            limits::TIMESTAMP_BYTES,
            stamp.len(),
        ));
    }
    Ok(stamp)
}
