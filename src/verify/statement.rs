//! In-toto statements: what an attestation says about what.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::outcome::{Predicate, Step};
use super::signed::Problem;
use crate::image::json::{self, JsonError, Object};
use crate::image::{Digest, quoted};
use crate::limits;

/// The one type of payload (in-toto attestation spec, envelope).
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Versions of the statement. They differ in what names a subject, which nothing here reads.
const TYPES: [&str; 2] = ["https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"];
/// What cosign 3 signs images with (cosign BUNDLE_SPEC): the one predicate that says nothing but "signed".
pub const SIGNATURE_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// A statement, read strictly.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    subjects: Vec<Subject>,
    pub predicate: Predicate,
}

/// The digest of a subject, and the annotations that its signer gave it.
type Subject = (Digest, Map<String, Value>);

/// The predicate's bytes as they are.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    predicate: Option<&'a RawValue>,
}

impl Statement {
    /// Reads the payload of an envelope of this type.
    pub fn read(payload_type: &str, payload: &[u8]) -> Result<Self, Problem> {
        if payload_type != PAYLOAD_TYPE {
            let found = quoted(payload_type);
            return Err(claim(format!("expected the payload type {PAYLOAD_TYPE}, found {found}")));
        }
        let wrong = |error: JsonError| Problem {
            step: Step::Claim,
            text: format!("in-toto statement: {error}"),
            undecided: error.is_limit(),
        };
        let value = json::parse(payload, "BUNDLE_BYTES", limits::BUNDLE_BYTES).map_err(wrong)?;
        let known = ["_type", "subject", "predicateType", "predicate"];
        let object = Object::new(&value, "statement", &known).map_err(wrong)?;
        let statement = object.string("_type").map_err(wrong)?;
        if !TYPES.contains(&statement) {
            let (old, new) = (TYPES[0], TYPES[1]);
            return Err(claim(format!(
                "expected a statement of type {old} or {new}, found {}",
                quoted(statement)
            )));
        }
        let predicate_type = object.string("predicateType").map_err(wrong)?.to_owned();
        let subjects = object.array("subject").map_err(wrong)?;
        if subjects.len() > limits::STATEMENT_SUBJECTS {
            let cap = limits::STATEMENT_SUBJECTS;
            return Err(Problem::limit("subjects of a statement", "STATEMENT_SUBJECTS", cap, subjects.len()));
        }
        let mut found = Vec::new();
        for subject in subjects {
            found.extend(read_subject(subject).map_err(wrong)?);
        }
        let statement = Bytes::copy_from_slice(payload);
        let raw: Raw<'_> = serde_json::from_slice(&statement)
            .map_err(|error| claim(format!("in-toto statement: {}", quoted(&error.to_string()))))?;
        let bytes = match raw.predicate {
            Some(predicate) => statement.slice_ref(predicate.get().as_bytes()),
            None => Bytes::from_static(b"null"),
        };
        Ok(Self { subjects: found, predicate: Predicate { predicate_type, bytes, statement } })
    }

    /// The one of `digests` that it is about, and the annotations that its signer gave that.
    pub fn about(&self, digests: &[Digest]) -> Result<Subject, Problem> {
        let found = self.subjects.iter().find(|(digest, _)| digests.contains(digest));
        found.cloned().ok_or_else(|| {
            let claimed = match self.subjects.as_slice() {
                [] => "nothing that has a sha256 digest".to_owned(),
                [(one, _)] => one.to_string(),
                [(one, _), others @ ..] => format!("{one} and {} more", others.len()),
            };
            let expected: Vec<String> = digests.iter().map(Digest::to_string).collect();
            Problem::new(Step::Subject, format!("it is about {claimed}, expected {}", expected.join(" or ")))
        })
    }
}

/// A subject's sha256 digest, if it has one (in-toto ResourceDescriptor, DigestSet: any further digest is another name of
/// the same).
fn read_subject(value: &Value) -> Result<Option<Subject>, JsonError> {
    let object = Object::new(value, "subject", &["name", "digest", "annotations"])?;
    let digests = object.get("digest").ok_or(JsonError::Value { key: "digest", expected: "an object" })?;
    let digests = Object::new(digests, "digest", &["sha256"])?;
    let Some(hex) = digests.optional_string("sha256")? else { return Ok(None) };
    let wrong = JsonError::Value { key: "sha256", expected: "64 lowercase hex digits" };
    let digest = Digest::parse(&format!("sha256:{hex}")).map_err(|_| wrong)?;
    let annotations = match object.get("annotations") {
        None => Map::new(),
        Some(Value::Object(annotations)) => annotations.clone(),
        Some(_) => return Err(JsonError::Value { key: "annotations", expected: "an object" }),
    };
    Ok(Some((digest, annotations)))
}

fn claim(text: String) -> Problem {
    Problem::new(Step::Claim, text)
}
