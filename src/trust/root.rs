//! A trusted root: whose certificates, logs and timestamps count, and when. No I/O.
//!
//! The form is sigstore's `TrustedRoot` (protobuf-specs, `sigstore_trustroot.proto`) as JSON.

use std::fmt;
use std::time::SystemTime;

use sigstore_trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TrustedRoot};

use super::keys::KeyDetails;
use super::read::{
    check_authorities, check_logs, distinct, media_type, read_authority, read_log, spelled_as_specified,
    version,
};
use crate::image::json::{self, JsonError};
use crate::image::{Digest, quoted};
use crate::limits;

/// Media types that a trusted root may have.
pub(super) const MEDIA_TYPES: [&str; 2] = [
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
];

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
        let material: TrustedRoot = serde_json::from_value(value)
            .map_err(|error| JsonError::Syntax { text: quoted(&error.to_string()), line: 0 })?;
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

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
