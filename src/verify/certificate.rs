//! Certificates of signers and of those who issue them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Version;

use super::claims::FulcioClaim;
use super::der::{self, Reader};
use super::key::{KeyError, PublicKey};
use crate::image::Digest;
use crate::limits;

/// Fulcio's arc, `1.3.6.1.4.1.57264.1` (fulcio `docs/oid-info.md`).
const FULCIO: [u64; 8] = [1, 3, 6, 1, 4, 1, 57264, 1];
/// Fulcio's user names, as an otherName among the subject alternative names.
const FULCIO_OTHER_NAME: u64 = 7;
/// The issuer: bare text, and since 2022 DER of a UTF8String.
const FULCIO_ISSUER: [u64; 2] = [1, 8];

/// An X.509 certificate, read, and not trusted for that.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// SubjectPublicKeyInfo, DER.
    key: Vec<u8>,
    names: Vec<AltName>,
    issuer: Option<String>,
    claims: BTreeMap<FulcioClaim, String>,
    /// `subject`, as text.
    subject: String,
}

/// A subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AltName {
    /// An e-mail address.
    Email(String),
    /// A URI: a workload.
    Uri(String),
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(String),
    /// Fulcio's user name.
    Other(String),
}

impl AltName {
    /// The name, whatever its kind.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Email(text) | Self::Uri(text) | Self::Dns(text) | Self::Ip(text) | Self::Other(text) => {
                text
            }
        }
    }
}

/// Why bytes are no certificate that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More bytes than a limit allows.
    #[error(
        "expected a certificate of at most {} bytes (limit CERTIFICATE_BYTES), found {found}",
        limits::CERTIFICATE_BYTES
    )]
    TooLarge {
        /// Length found, bytes.
        found: usize,
    },
    /// More certificates than a limit allows.
    #[error(
        "expected at most {} certificates (limit CHAIN_CERTIFICATES), found {found}",
        limits::CHAIN_CERTIFICATES
    )]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// More names than a limit allows.
    #[error(
        "expected at most {} subject alternative names (limit CERTIFICATE_NAMES), found {found}",
        limits::CERTIFICATE_NAMES
    )]
    Names {
        /// How many there are.
        found: usize,
    },
    /// Not a certificate.
    #[error("expected a certificate (RFC 5280, 4.1), found {0}")]
    Malformed(&'static str),
    /// PEM that holds no certificates, or something besides.
    #[error("expected PEM blocks CERTIFICATE, found {0}")]
    Pem(&'static str),
}

impl CertificateError {
    /// Whether it is a limit that was hit: nothing is known then.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::TooMany { .. } | Self::Names { .. })
    }
}

impl Certificate {
    /// Reads DER.
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        use CertificateError::Malformed;
        if bytes.len() > limits::CERTIFICATE_BYTES {
            return Err(CertificateError::TooLarge { found: bytes.len() });
        }
        let (rest, parsed) = X509Certificate::from_der(bytes).map_err(|_| Malformed("something else"))?;
        if !rest.is_empty() {
            return Err(Malformed("bytes after it"));
        }
        if parsed.version != X509Version::V3 {
            return Err(Malformed("one of another version than 3"));
        }
        // An extension that is there twice means one thing to one reader and another to the next (RFC 5280, 4.2).
        parsed.extensions_map().map_err(|_| Malformed("an extension that is there twice"))?;
        let time = |time: x509_parser::time::ASN1Time| {
            u64::try_from(time.timestamp()).ok().and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s)))
        };
        let (Some(not_before), Some(not_after)) =
            (time(parsed.validity.not_before), time(parsed.validity.not_after))
        else {
            return Err(Malformed("a time before 1970"));
        };
        let (mut names, mut claims) = (Vec::new(), BTreeMap::new());
        let mut issuers: [Option<String>; 2] = [None, None];
        for extension in parsed.extensions() {
            if let ParsedExtension::SubjectAlternativeName(found) = extension.parsed_extension() {
                if found.general_names.len() > limits::CERTIFICATE_NAMES {
                    return Err(CertificateError::Names { found: found.general_names.len() });
                }
                for name in &found.general_names {
                    names.extend(alt_name(name)?);
                }
            } else if extension.oid == x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME {
                return Err(Malformed("subject alternative names that cannot be read"));
            }
            let Some(number) = fulcio_number(&extension.oid) else { continue };
            for (slot, known) in issuers.iter_mut().zip(FULCIO_ISSUER) {
                if number == known {
                    let text = text(extension.value, number == 1);
                    *slot = Some(text.ok_or(Malformed("a Fulcio issuer that is no text"))?);
                }
            }
            if let Some(claim) = FulcioClaim::ALL.iter().find(|claim| claim.number() == number) {
                let text = text(extension.value, claim.is_bare());
                claims.insert(*claim, text.ok_or(Malformed("a Fulcio claim that is no text"))?);
            }
        }
        let [bare, current] = issuers;
        if let (Some(bare), Some(current)) = (&bare, &current)
            && bare != current
        {
            return Err(Malformed("two different Fulcio issuers"));
        }
        Ok(Self {
            der: bytes.to_vec(),
            not_before,
            not_after,
            key: parsed.public_key().raw.to_vec(),
            names,
            issuer: current.or(bare),
            claims,
            subject: parsed.subject().to_string(),
        })
    }

    /// Reads PEM blocks `CERTIFICATE` (RFC 7468, 5) with nothing but white space around them; at least one.
    pub fn from_pem(pem: &str) -> Result<Vec<Self>, CertificateError> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        const END: &str = "-----END CERTIFICATE-----";
        let blocks: Vec<&str> = pem.split_inclusive(END).filter(|block| !block.trim().is_empty()).collect();
        match blocks.len() {
            0 => return Err(CertificateError::Pem("none")),
            found if found > limits::CHAIN_CERTIFICATES => return Err(CertificateError::TooMany { found }),
            _ => {}
        }
        let read = |block: &str| {
            let body = block.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
            let body = body.ok_or(CertificateError::Pem("something besides"))?;
            if body.len() > 2 * limits::CERTIFICATE_BYTES {
                return Err(CertificateError::TooLarge { found: body.len() });
            }
            let body: String = body.split_ascii_whitespace().collect();
            let der =
                STANDARD.decode(body).map_err(|_| CertificateError::Pem("content that is no base64"))?;
            Self::from_der(&der)
        };
        blocks.into_iter().map(read).collect()
    }

    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The first moment it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it is valid at that moment (RFC 5280, 4.1.2.5: both ends included).
    pub fn is_valid_at(&self, time: SystemTime) -> bool {
        // notAfter is a second, and lasts until its end.
        self.not_before <= time && time < self.not_after + Duration::from_secs(1)
    }

    /// Its key.
    pub fn key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::from_der(&self.key)
    }

    /// Its key as SubjectPublicKeyInfo, DER.
    pub fn key_der(&self) -> &[u8] {
        &self.key
    }

    /// `sha256:<hex>` of its DER.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.der)
    }

    /// All subject alternative names, of the kinds that identify somebody.
    pub fn names(&self) -> &[AltName] {
        &self.names
    }

    /// Who issued the OIDC token, says Fulcio.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// What else Fulcio says.
    pub fn claims(&self) -> &BTreeMap<FulcioClaim, String> {
        &self.claims
    }

    /// Its subject's distinguished name.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

/// The last part of an OID in Fulcio's arc.
fn fulcio_number(oid: &x509_parser::der_parser::Oid<'_>) -> Option<u64> {
    let parts: Vec<u64> = oid.iter()?.collect();
    match parts.split_last() {
        Some((number, arc)) if arc == FULCIO => Some(*number),
        _ => None,
    }
}

/// An extension's text, bare or as DER of a UTF8String.
fn text(value: &[u8], bare: bool) -> Option<String> {
    let text = if bare { value } else { Reader::only(value, der::UTF8_STRING)?.content };
    let text = std::str::from_utf8(text).ok()?;
    (text.len() <= limits::CERTIFICATE_NAME_BYTES).then(|| text.to_owned())
}

/// A name that identifies somebody; `None` for the other kinds.
fn alt_name(name: &GeneralName<'_>) -> Result<Option<AltName>, CertificateError> {
    use CertificateError::Malformed;
    let long = |text: &str| {
        // A NUL ends a name for readers in C.
        if text.len() > limits::CERTIFICATE_NAME_BYTES || text.contains('\0') {
            return Err(Malformed("a subject alternative name that is no name"));
        }
        Ok(text.to_owned())
    };
    Ok(Some(match name {
        GeneralName::RFC822Name(text) => AltName::Email(long(text)?),
        GeneralName::URI(text) => AltName::Uri(long(text)?),
        GeneralName::DNSName(text) => AltName::Dns(long(text)?),
        GeneralName::IPAddress(bytes) => {
            if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                AltName::Ip(Ipv4Addr::from(four).to_string())
            } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                AltName::Ip(Ipv6Addr::from(sixteen).to_string())
            } else {
                return Err(Malformed("an IP address of another length"));
            }
        }
        GeneralName::OtherName(oid, value) if fulcio_number(oid) == Some(FULCIO_OTHER_NAME) => {
            // RFC 5280, 4.2.1.6: value [0] EXPLICIT; a UTF8String.
            let inner = Reader::only(value, der::context(0)).map_or(*value, |wrapped| wrapped.content);
            let text = text(inner, false).ok_or(Malformed("a Fulcio user name that is no text"))?;
            AltName::Other(long(&text)?)
        }
        _ => return Ok(None),
    }))
}
