//! A trusted root: whose certificates, logs and timestamps count, and when. No I/O.
//!
//! The form is sigstore's `TrustedRoot` (protobuf-specs, `sigstore_trustroot.proto`) as JSON.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sigstore_trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TimeRange, TrustedRoot};
use x509_parser::parse_x509_certificate;

use super::keys::KeyDetails;
use crate::image::json::{self, JsonError};
use crate::image::{Digest, quoted};
use crate::limits;

/// Media types that a trusted root may have.
const MEDIA_TYPES: [&str; 2] = [
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];

/// Every key that is read. Other spellings of them, which protobuf's own readers take for the same, are refused: a
/// validity window that is not seen is no window.
const KEYS: &[&str] = &[
    "mediaType",
    "tlogs",
    "ctlogs",
    "certificateAuthorities",
    "timestampAuthorities",
    "baseUrl",
    "hashAlgorithm",
    "publicKey",
    "logId",
    "keyId",
    "rawBytes",
    "keyDetails",
    "validFor",
    "start",
    "end",
    "subject",
    "uri",
    "certChain",
    "certificates",
];

/// Hash algorithms of logs that are known.
const HASHES: [&str; 3] = ["SHA2_256", "SHA2_384", "SHA2_512"];

/// The kinds of thing a trusted root holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Material {
    /// Certificate authorities (Fulcio).
    Authorities,
    /// Certificate transparency logs.
    CtLogs,
    /// Transparency logs (Rekor).
    Logs,
    /// Timestamp authorities.
    TimestampAuthorities,
}

impl Material {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 4] = [Self::Authorities, Self::CtLogs, Self::Logs, Self::TimestampAuthorities];

    /// The list's name in the document.
    pub fn key(self) -> &'static str {
        match self {
            Self::Authorities => "certificateAuthorities",
            Self::CtLogs => "ctlogs",
            Self::Logs => "tlogs",
            Self::TimestampAuthorities => "timestampAuthorities",
        }
    }

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorities => "certificate_authorities",
            Self::CtLogs => "ct_logs",
            Self::Logs => "transparency_logs",
            Self::TimestampAuthorities => "timestamp_authorities",
        }
    }
}

/// Why bytes are no trusted root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Not strict JSON, or too large.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// A key in a spelling that other readers take for a known one.
    #[error("expected the key \"{expected}\", found {}, which other readers take for the same key", quoted(.found))]
    Spelling {
        /// The key as specified.
        expected: &'static str,
        /// The key as found.
        found: String,
    },
    /// Another kind of document.
    #[error("expected a trusted root, of mediaType {} or {}, found {found}", MEDIA_TYPES[0], MEDIA_TYPES[1])]
    MediaType {
        /// The media type found, quoted, or what was found instead.
        found: String,
    },
    /// More than a limit allows.
    #[error("{at}: expected at most {cap} (limit {limit}), found {found}")]
    Limit {
        /// Where.
        at: String,
        /// The limit's name in [`limits`].
        limit: &'static str,
        /// The limit.
        cap: usize,
        /// What was found.
        found: usize,
    },
    /// An entry that is not as it has to be.
    #[error("{at}: {what}")]
    Entry {
        /// Where: list, position from 0, and key.
        at: String,
        /// What was expected and found.
        what: String,
    },
    /// Nothing in it that could vouch for anything.
    #[error(
        "expected a log, a certificate authority or a timestamp authority, found none that crivet knows how to use"
    )]
    Empty,
}

/// When something counts; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From when on.
    pub start: SystemTime,
    /// Until when; `None`: no end is known.
    pub end: Option<SystemTime>,
}

impl Window {
    /// Whether a moment is in it.
    pub fn contains(&self, time: SystemTime) -> bool {
        self.start <= time && self.end.is_none_or(|end| time <= end)
    }
}

/// A log, of entries (Rekor) or of certificates (CT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// What entries name it by.
    pub id: [u8; 32],
    /// Its base URL; a Rekor v2 log's host is the origin of its checkpoints.
    pub url: String,
    /// What its key is.
    pub key_details: KeyDetails,
    /// The key's bytes.
    pub key: Vec<u8>,
    /// When its key counts.
    pub window: Window,
}

/// A certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its bytes.
    pub der: Vec<u8>,
    /// Its own window (notBefore, notAfter).
    pub window: Window,
}

/// An authority that issues certificates or timestamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its address, where there is one.
    pub uri: Option<String>,
    /// Its chain: the issuing (or signing) certificate first, the root last. Never empty.
    pub chain: Vec<Certificate>,
    /// When it counts; `None`: as long as its certificates.
    pub window: Option<Window>,
}

impl Authority {
    /// When the authority and all of its certificates end, whichever is first.
    pub fn end(&self) -> Option<SystemTime> {
        let window = self.window.and_then(|window| window.end);
        self.chain.iter().filter_map(|certificate| certificate.window.end).chain(window).min()
    }
}

/// A trusted root, checked.
#[derive(Clone)]
pub struct Root {
    material: TrustedRoot,
    version: Digest,
    logs: Vec<Log>,
    ct_logs: Vec<Log>,
    authorities: Vec<Authority>,
    timestamp_authorities: Vec<Authority>,
    left_out: Vec<String>,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Root {
    /// Reads a `trusted_root.json`. Logs whose kind of key or hash is not known here are left out, and told
    /// by [`Root::left_out`]: what cannot be verified with vouches for nothing, and must not keep a root from being
    /// exchanged that takes back another key. Everything else that is not as specified is an error.
    ///
    /// # Errors
    /// One line: where, what was expected, what was found.
    pub fn parse(bytes: &[u8]) -> Result<Self, RootError> {
        let mut value = json::parse(bytes, "TRUSTED_ROOT_BYTES", limits::TRUSTED_ROOT_BYTES)?;
        spelled_as_specified(&value)?;
        media_type(&value)?;
        let mut left_out = Vec::new();
        for material in [Material::Logs, Material::CtLogs] {
            check_logs(&mut value, material, &mut left_out)?;
        }
        for material in [Material::Authorities, Material::TimestampAuthorities] {
            check_authorities(&value, material)?;
        }
        let material: TrustedRoot =
            serde_json::from_value(value).map_err(|error| JsonError::Syntax(quoted(&error.to_string())))?;
        let logs = material.tlogs.iter().enumerate().map(|(n, log)| {
            let key = &log.public_key;
            read_log(Material::Logs, n, log.log_id.key_id.as_bytes(), &log.base_url, key)
        });
        let logs = distinct(Material::Logs, logs.collect::<Result<_, _>>()?)?;
        let ct_logs = material.ctlogs.iter().enumerate().map(|(n, log)| {
            let key = &log.public_key;
            read_log(Material::CtLogs, n, log.log_id.key_id.as_bytes(), &log.base_url, key)
        });
        let ct_logs = distinct(Material::CtLogs, ct_logs.collect::<Result<_, _>>()?)?;
        let authorities = material.certificate_authorities.iter().enumerate().map(|(n, ca)| {
            let chain = ca.cert_chain.certificates.iter().map(|entry| entry.raw_bytes.as_bytes());
            read_authority(Material::Authorities, n, Some(&ca.uri), chain, ca.valid_for.as_ref())
        });
        let authorities: Vec<_> = authorities.collect::<Result<_, _>>()?;
        let timestamp_authorities = material.timestamp_authorities.iter().enumerate().map(|(n, tsa)| {
            let chain = tsa.cert_chain.certificates.iter().map(|entry| entry.raw_bytes.as_bytes());
            let uri = tsa.uri.as_deref();
            read_authority(Material::TimestampAuthorities, n, uri, chain, tsa.valid_for.as_ref())
        });
        let timestamp_authorities: Vec<_> = timestamp_authorities.collect::<Result<_, _>>()?;
        if logs.is_empty() && authorities.is_empty() && timestamp_authorities.is_empty() {
            return Err(RootError::Empty);
        }
        let version = version(&material)?;
        Ok(Self { material, version, logs, ct_logs, authorities, timestamp_authorities, left_out })
    }

    /// The public-good root of sigstore.dev that is part of this binary.
    ///
    /// # Errors
    /// None, as a test holds.
    pub fn embedded() -> Result<Self, RootError> {
        Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes())
    }

    /// The material as the sigstore crates take it.
    pub fn material(&self) -> &TrustedRoot {
        &self.material
    }

    /// The trust version: a hash of the material. The same for the same entries in any order.
    pub fn version(&self) -> Digest {
        self.version
    }

    /// Transparency logs (Rekor); no two have the same ID.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// Certificate transparency logs; no two have the same ID.
    pub fn ct_logs(&self) -> &[Log] {
        &self.ct_logs
    }

    /// Certificate authorities (Fulcio).
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// Timestamp authorities.
    pub fn timestamp_authorities(&self) -> &[Authority] {
        &self.timestamp_authorities
    }

    /// Logs that were left out, one line each.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// When the last of a kind of material ends, so that nothing newer than that can be verified with this root.
    /// `None`: there is none of it, or no end is known.
    pub fn ends(&self, material: Material) -> Option<SystemTime> {
        let last = |ends: Vec<Option<SystemTime>>| {
            // One without an end outlives all others.
            ends.into_iter().collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max())
        };
        match material {
            Material::Logs => last(self.logs.iter().map(|log| log.window.end).collect()),
            Material::CtLogs => last(self.ct_logs.iter().map(|log| log.window.end).collect()),
            Material::Authorities => last(self.authorities.iter().map(Authority::end).collect()),
            Material::TimestampAuthorities => {
                last(self.timestamp_authorities.iter().map(Authority::end).collect())
            }
        }
    }

    /// When the newest of its entries began to count: an embedded root is at least as new as that.
    pub fn newest(&self) -> Option<SystemTime> {
        let logs = self.logs.iter().chain(&self.ct_logs).map(|log| log.window.start);
        let authorities = self.authorities.iter().chain(&self.timestamp_authorities);
        let windows = authorities.filter_map(|authority| authority.window).map(|window| window.start);
        logs.chain(windows).max()
    }
}

fn entry(material: Material, n: usize, what: String) -> RootError {
    RootError::Entry { at: format!("{}[{n}]", material.key()), what }
}

fn spelled_as_specified(value: &Value) -> Result<(), RootError> {
    let plain = |key: &str| key.chars().filter(|c| *c != '_').collect::<String>().to_lowercase();
    match value {
        Value::Array(items) => items.iter().try_for_each(spelled_as_specified),
        Value::Object(map) => map.iter().try_for_each(|(key, value)| {
            if !KEYS.contains(&key.as_str())
                && let Some(expected) = KEYS.iter().find(|known| plain(known) == plain(key))
            {
                return Err(RootError::Spelling { expected, found: key.clone() });
            }
            spelled_as_specified(value)
        }),
        _ => Ok(()),
    }
}

fn media_type(value: &Value) -> Result<(), RootError> {
    let found = match value.get("mediaType") {
        Some(Value::String(text)) if MEDIA_TYPES.contains(&text.as_str()) => return Ok(()),
        Some(Value::String(text)) => quoted(text),
        Some(_) => "something that is no string".to_owned(),
        None if value.is_object() => "none".to_owned(),
        None => "something that is no object".to_owned(),
    };
    Err(RootError::MediaType { found })
}

/// A list of the document, held to its limit. Absent or `null`: nothing.
fn list(value: &Value, material: Material) -> Result<&[Value], RootError> {
    let list = match value.get(material.key()) {
        None | Some(Value::Null) => return Ok(&[]),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(JsonError::Value { key: material.key(), expected: "an array" }.into()),
    };
    at_most(material.key().to_owned(), list.len(), "TRUSTED_ROOT_ENTRIES", limits::TRUSTED_ROOT_ENTRIES)?;
    Ok(list)
}

fn at_most(at: String, found: usize, limit: &'static str, cap: usize) -> Result<(), RootError> {
    if found > cap { Err(RootError::Limit { at, limit, cap, found }) } else { Ok(()) }
}

/// Refuses a window without a start; one without an end is open.
fn check_window(window: &Value) -> Result<(), String> {
    match window.get("start") {
        Some(Value::String(_)) => Ok(()),
        _ => Err("expected validFor.start, found none; say from when on it counts".to_owned()),
    }
}

/// Refuses logs without a start, and takes out those whose kind of key or hash is not known.
fn check_logs(value: &mut Value, material: Material, left_out: &mut Vec<String>) -> Result<(), RootError> {
    let mut unknown = Vec::new();
    for (n, log) in list(value, material)?.iter().enumerate() {
        let window = log.pointer("/publicKey/validFor").unwrap_or(&Value::Null);
        check_window(window).map_err(|what| entry(material, n, what))?;
        let text = |pointer| log.pointer(pointer).and_then(Value::as_str);
        let why = match (text("/publicKey/keyDetails"), text("/hashAlgorithm")) {
            (Some(key), _) if KeyDetails::named(key).is_none() => format!("keyDetails {}", quoted(key)),
            (_, Some(hash)) if !HASHES.contains(&hash) => format!("hashAlgorithm {}", quoted(hash)),
            _ => continue,
        };
        left_out.push(format!("{}[{n}]: crivet cannot verify with {why}", material.key()));
        unknown.push(n);
    }
    if let Some(Value::Array(logs)) = value.get_mut(material.key()) {
        let mut n = 0;
        logs.retain(|_| {
            n += 1;
            !unknown.contains(&(n - 1))
        });
    }
    null_is_absent(value, material);
    Ok(())
}

/// Protobuf's JSON writes nothing as `null`, too.
fn null_is_absent(value: &mut Value, material: Material) {
    if let Some(map) = value.as_object_mut()
        && map.get(material.key()).is_some_and(Value::is_null)
    {
        map.remove(material.key());
    }
}

fn check_authorities(value: &Value, material: Material) -> Result<(), RootError> {
    for (n, authority) in list(value, material)?.iter().enumerate() {
        if let Some(window) = authority.get("validFor").filter(|window| !window.is_null()) {
            check_window(window).map_err(|what| entry(material, n, what))?;
        }
    }
    Ok(())
}

fn window(range: &TimeRange) -> Result<Window, String> {
    let window = Window { start: range.start.into(), end: range.end.map(SystemTime::from) };
    match window.end {
        Some(end) if end < window.start => Err("expected validFor.end after validFor.start".to_owned()),
        _ => Ok(window),
    }
}

fn read_log(
    material: Material,
    n: usize,
    id: &[u8],
    url: &str,
    key: &sigstore_trust_root::trusted_root::PublicKey,
) -> Result<Log, RootError> {
    let wrong = |what| entry(material, n, what);
    let id = <[u8; 32]>::try_from(id)
        .map_err(|_| wrong(format!("expected logId.keyId of 32 bytes, found {}", id.len())))?;
    let details = KeyDetails::named(key.key_details.as_str())
        .ok_or_else(|| wrong(format!("expected keyDetails, found {}", quoted(key.key_details.as_str()))))?;
    details.check(key.raw_bytes.as_bytes()).map_err(wrong)?;
    let range = key.valid_for.as_ref().ok_or_else(|| wrong("expected validFor, found none".to_owned()))?;
    Ok(Log {
        id,
        url: url.to_owned(),
        key_details: details,
        key: key.raw_bytes.as_bytes().to_vec(),
        window: window(range).map_err(wrong)?,
    })
}

fn distinct(material: Material, logs: Vec<Log>) -> Result<Vec<Log>, RootError> {
    for (n, log) in logs.iter().enumerate() {
        if logs.iter().take(n).any(|other| other.id == log.id) {
            let what = "expected a logId that no other log has; which key is meant cannot be told".to_owned();
            return Err(entry(material, n, what));
        }
    }
    Ok(logs)
}

fn read_authority<'a>(
    material: Material,
    n: usize,
    uri: Option<&str>,
    chain: impl Iterator<Item = &'a [u8]> + Clone,
    range: Option<&TimeRange>,
) -> Result<Authority, RootError> {
    let wrong = |what| entry(material, n, what);
    let at = format!("{}[{n}].certChain", material.key());
    at_most(at, chain.clone().count(), "TRUSTED_ROOT_CHAIN", limits::TRUSTED_ROOT_CHAIN)?;
    let mut read: Vec<Certificate> = Vec::new();
    let mut issuer: Option<Vec<u8>> = None;
    for der in chain {
        let (rest, certificate) = parse_x509_certificate(der)
            .map_err(|_| wrong("expected certificates as DER of X.509 (RFC 5280)".to_owned()))?;
        if !rest.is_empty() {
            return Err(wrong("expected nothing after a certificate".to_owned()));
        }
        if issuer.is_some_and(|issuer| issuer != certificate.subject().as_raw()) {
            let what = "expected a chain in which each certificate is issued by the next, the root last";
            return Err(wrong(what.to_owned()));
        }
        issuer = Some(certificate.issuer().as_raw().to_vec());
        let validity = certificate.validity();
        let end = validity.not_after.timestamp();
        let window = Window { start: moment(validity.not_before.timestamp()), end: Some(moment(end)) };
        read.push(Certificate { der: der.to_vec(), window });
    }
    if read.is_empty() {
        return Err(wrong("expected certChain.certificates, found none".to_owned()));
    }
    let window = range.map(window).transpose().map_err(wrong)?;
    Ok(Authority { uri: uri.map(str::to_owned), chain: read, window })
}

/// The moment so many seconds after 1970, before it if negative.
fn moment(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment =
        if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moment.unwrap_or(UNIX_EPOCH)
}

/// Each entry is written the same way whatever its document looked like, and the entries are sorted.
fn version(material: &TrustedRoot) -> Result<Digest, RootError> {
    fn lines<T: serde::Serialize>(material: Material, entries: &[T]) -> Result<Vec<String>, RootError> {
        let line = |entry: &T| Ok(format!("{} {}", material.key(), serde_json::to_string(entry)?));
        let lines: Result<Vec<String>, serde_json::Error> = entries.iter().map(line).collect();
        lines.map_err(|error| JsonError::Syntax(quoted(&error.to_string())).into())
    }
    let mut all = lines(Material::Logs, &material.tlogs)?;
    all.extend(lines(Material::CtLogs, &material.ctlogs)?);
    all.extend(lines(Material::Authorities, &material.certificate_authorities)?);
    all.extend(lines(Material::TimestampAuthorities, &material.timestamp_authorities)?);
    all.sort();
    let mut hash = Sha256::new();
    for line in all {
        // JSON in one line holds no line break.
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    Ok(Digest::from_raw(hash.finalize().into()))
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
