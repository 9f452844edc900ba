//! Entries of transparency logs as they come with signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sigstore_verify::types::{Checkpoint, Sha256Hash};

use super::signed::{Problem, at_most, decode};
use crate::image::json::{JsonError, Object};
use crate::image::quoted;
use crate::limits;

/// An entry, read and not verified.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub kind: Kind,
    /// The log's ID.
    pub log: Vec<u8>,
    /// Its place in all of the log's trees together (Rekor v1), or in the one there is (v2).
    pub index: u64,
    /// When the log took it: worth something only with the promise.
    pub time: Option<SystemTime>,
    pub promise: Option<Vec<u8>>,
    pub proof: Option<Proof>,
    pub body: Vec<u8>,
}

/// A proof of inclusion, with its checkpoint.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    pub index: u64,
    pub size: u64,
    pub root: Vec<u8>,
    pub hashes: Vec<Sha256Hash>,
    pub checkpoint: Checkpoint,
}

/// Kinds of entries whose body can be held against a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    HashedRekord1,
    HashedRekord2,
    Dsse1,
    Dsse2,
    Intoto1,
    Intoto2,
}

impl Kind {
    const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::HashedRekord1, "hashedrekord", "0.0.1"),
        (Self::HashedRekord2, "hashedrekord", "0.0.2"),
        (Self::Dsse1, "dsse", "0.0.1"),
        (Self::Dsse2, "dsse", "0.0.2"),
        (Self::Intoto1, "intoto", "0.0.1"),
        (Self::Intoto2, "intoto", "0.0.2"),
    ];

    /// The kind of that name and version.
    pub fn named(kind: &str, version: &str) -> Result<Self, Problem> {
        let known = Self::ALL.iter().find(|(_, name, number)| (*name, *number) == (kind, version));
        known.map(|(known, ..)| *known).ok_or_else(|| {
            let all: Vec<String> =
                Self::ALL.iter().map(|(_, name, number)| format!("{name} {number}")).collect();
            Problem::format(format!(
                "expected a log entry of kind {}, found {} {}, which is not supported",
                all.join(", "),
                quoted(kind),
                quoted(version)
            ))
        })
    }

    /// Name and version.
    pub fn name(self) -> (&'static str, &'static str) {
        let found = Self::ALL.iter().find(|(known, ..)| *known == self);
        found.map_or(("", ""), |(_, name, version)| (name, version))
    }

    /// Whether it is of Rekor v2, which promises nothing and has no times.
    pub fn is_v2(self) -> bool {
        matches!(self, Self::HashedRekord2 | Self::Dsse2)
    }
}

impl Entry {
    /// Reads an entry of a bundle (protobuf-specs `sigstore_rekor.proto`, TransparencyLogEntry).
    pub fn read(value: &Value) -> Result<Self, Problem> {
        const KEYS: [&str; 7] = [
            "logIndex",
            "logId",
            "kindVersion",
            "integratedTime",
            "inclusionPromise",
            "inclusionProof",
            "canonicalizedBody",
        ];
        let object = Object::new(value, "log entry", &KEYS).map_err(wrong)?;
        let kind = part(&object, "kindVersion", &["kind", "version"])?;
        let kind = Kind::named(kind.string("kind").map_err(wrong)?, kind.string("version").map_err(wrong)?)?;
        let log = part(&object, "logId", &["keyId"])?;
        let promise = match object.get("inclusionPromise") {
            None => None,
            Some(_) => {
                let promise = part(&object, "inclusionPromise", &["signedEntryTimestamp"])?;
                Some(bytes(&promise, "signedEntryTimestamp")?)
            }
        };
        let seconds = number(&object, "integratedTime")?;
        let body = object.string("canonicalizedBody").map_err(wrong)?;
        at_most("bytes in a log entry", "LOG_ENTRY_BYTES", limits::LOG_ENTRY_BYTES, body.len() / 4 * 3)?;
        Ok(Self {
            kind,
            log: bytes(&log, "keyId")?,
            index: number(&object, "logIndex")?,
            // 0 is what protobuf's JSON says for none.
            time: if seconds == 0 { None } else { Some(moment(seconds)?) },
            promise,
            proof: object.get("inclusionProof").map(Proof::read).transpose()?,
            body: decode("canonicalizedBody", body)?,
        })
    }
}

impl Proof {
    fn read(value: &Value) -> Result<Self, Problem> {
        let known = ["logIndex", "rootHash", "treeSize", "hashes", "checkpoint"];
        let object = Object::new(value, "inclusionProof", &known).map_err(wrong)?;
        let hashes = match object.get("hashes") {
            None => &[],
            Some(_) => object.array("hashes").map_err(wrong)?,
        };
        at_most("hashes in an inclusion proof", "INCLUSION_HASHES", limits::INCLUSION_HASHES, hashes.len())?;
        let hash = |value: &Value| {
            let bytes = value.as_str().map(|text| decode("hash", text)).transpose()?.unwrap_or_default();
            Sha256Hash::try_from(bytes.as_slice())
                .map_err(|_| Problem::format("expected a hash of 32 bytes in \"hashes\""))
        };
        let missing = || Problem::format("expected a checkpoint with the inclusion proof, found none");
        if object.get("checkpoint").is_none() {
            return Err(missing());
        }
        let checkpoint = part(&object, "checkpoint", &["envelope"])?;
        let checkpoint = checkpoint.optional_string("envelope").map_err(wrong)?.ok_or_else(missing)?;
        at_most("bytes in a checkpoint", "CHECKPOINT_BYTES", limits::CHECKPOINT_BYTES, checkpoint.len())?;
        let checkpoint = Checkpoint::from_text(checkpoint)
            .map_err(|error| Problem::format(format!("checkpoint: {}", quoted(&error.to_string()))))?;
        let root = object.optional_string("rootHash").map_err(wrong)?.unwrap_or_default();
        Ok(Self {
            index: number(&object, "logIndex")?,
            size: number(&object, "treeSize")?,
            root: decode("rootHash", root)?,
            hashes: hashes.iter().map(hash).collect::<Result<_, _>>()?,
            checkpoint,
        })
    }
}

/// A moment in seconds since 1970.
pub(super) fn moment(seconds: u64) -> Result<SystemTime, Problem> {
    let last = 253_402_300_799; // of the year 9999
    let moment = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).filter(|_| seconds <= last);
    moment.ok_or_else(|| Problem::format("expected \"integratedTime\" to be a time, found a number"))
}

fn wrong(error: JsonError) -> Problem {
    Problem::json("log entry", &error)
}

fn part<'a>(object: &Object<'a>, key: &'static str, known: &[&'static str]) -> Result<Object<'a>, Problem> {
    let value = object.get(key).ok_or(JsonError::Value { key, expected: "an object" }).map_err(wrong)?;
    Object::new(value, key, known).map_err(wrong)
}

fn bytes(object: &Object<'_>, key: &'static str) -> Result<Vec<u8>, Problem> {
    decode(key, object.string(key).map_err(wrong)?)
}

/// A number of 63 bits, which protobuf's JSON writes as a string, and 0 as nothing.
fn number(object: &Object<'_>, key: &'static str) -> Result<u64, Problem> {
    let number = match object.get(key) {
        None => Some(0),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Some(value) => value.as_u64(),
    };
    number
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or_else(|| wrong(JsonError::Value { key, expected: "a whole number of 63 bits, not negative" }))
}
