//! How a trusted root is read: each check that makes of a document a [`Root`](super::Root). No I/O.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sigstore_trust_root::trusted_root::PublicKey;
use sigstore_trust_root::{TimeRange, TrustedRoot};
use x509_parser::parse_x509_certificate;

use super::keys::KeyDetails;
use super::root::{Authority, Certificate, Log, MEDIA_TYPES, Material, RootError, Window};
use crate::image::json::JsonError;
use crate::image::{Digest, quoted};
use crate::limits;

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

fn entry(material: Material, n: usize, what: String) -> RootError {
    RootError::Entry { at: format!("{}[{n}]", material.key()), what }
}

pub(super) fn spelled_as_specified(value: &Value) -> Result<(), RootError> {
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

pub(super) fn media_type(value: &Value) -> Result<(), RootError> {
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
pub(super) fn check_logs(
    value: &mut Value,
    material: Material,
    left_out: &mut Vec<String>,
) -> Result<(), RootError> {
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

pub(super) fn check_authorities(value: &Value, material: Material) -> Result<(), RootError> {
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

pub(super) fn read_log(
    material: Material,
    n: usize,
    id: &[u8],
    url: &str,
    key: &PublicKey,
) -> Result<Log, RootError> {
    let wrong = |what| entry(material, n, what);
    // Messages say which log.
    at_most(format!("{}[{n}].baseUrl", material.key()), url.len(), "LOG_URL_BYTES", limits::LOG_URL_BYTES)?;
    if url.chars().any(char::is_control) {
        return Err(wrong(format!("expected baseUrl to be a URL, found {}", quoted(url))));
    }
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

pub(super) fn distinct(material: Material, logs: Vec<Log>) -> Result<Vec<Log>, RootError> {
    for (n, log) in logs.iter().enumerate() {
        if logs.iter().take(n).any(|other| other.id == log.id) {
            let what = "expected a logId that no other log has; which key is meant cannot be told".to_owned();
            return Err(entry(material, n, what));
        }
    }
    Ok(logs)
}

pub(super) fn read_authority<'a>(
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
pub(super) fn version(material: &TrustedRoot) -> Result<Digest, RootError> {
    fn lines<T: serde::Serialize>(material: Material, entries: &[T]) -> Result<Vec<String>, RootError> {
        let line = |entry: &T| Ok(format!("{} {}", material.key(), serde_json::to_string(entry)?));
        let lines: Result<Vec<String>, serde_json::Error> = entries.iter().map(line).collect();
        lines.map_err(|error| JsonError::Syntax { text: quoted(&error.to_string()), line: 0 }.into())
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
