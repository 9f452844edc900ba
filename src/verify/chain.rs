//! From a certificate to one that is trusted (RFC 5280, 6.1).

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use sigstore_verify::crypto::WEBPKI_VERIFICATION_ALGS;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::Certificate;
use super::der;
use crate::audit::rfc3339;
use crate::trust::Window;

/// Signing code, `1.3.6.1.5.5.7.3.3` (RFC 5280, 4.2.1.12).
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];
/// Stamping time, `1.3.6.1.5.5.7.3.8`.
const TIME_STAMPING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];

/// What a certificate has to be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    CodeSigning,
    TimeStamping,
}

/// Somebody who issues certificates.
pub(super) struct Issuer<'a> {
    /// The one that is trusted, and the only one whose word is taken for it. What stands between it and the signer is
    /// checked like any other certificate: an expired issuing certificate issues nothing (CVE-2026-24122).
    pub anchor: &'a [u8],
    /// What may stand between.
    pub intermediates: Vec<&'a [u8]>,
    /// When it counts.
    pub window: Option<Window>,
}

/// Whether one of `issuers` has issued `leaf`, and all certificates on the way were valid at `time`; the key of the
/// direct issuer, SubjectPublicKeyInfo in DER. `extra` came with the signature.
pub(super) fn verify(
    leaf: &Certificate,
    extra: &[Certificate],
    issuers: &[Issuer<'_>],
    usage: Usage,
    time: SystemTime,
) -> Result<Vec<u8>, String> {
    let mut nearest = Refusal::None;
    if !usage.is_of(leaf) {
        nearest = Refusal::Other("one that is not for this use (extended key usage)".to_owned());
    } else {
        for issuer in issuers {
            match verify_with(leaf, extra, issuer, usage, time) {
                Ok(key) => return Ok(key),
                Err(refusal) => nearest = nearest.max(refusal),
            }
        }
    }
    let found = match nearest {
        Refusal::None => "no authority to hold it against".to_owned(),
        Refusal::Unknown => "one by nobody who is trusted".to_owned(),
        Refusal::Unused => "one whose authority was not in use then".to_owned(),
        Refusal::Anchor => "one whose authority's own certificate was not valid then".to_owned(),
        Refusal::Other(text) => text,
    };
    Err(format!("expected a certificate that was good at {}, found {found}", rfc3339(time)))
}

/// Why an authority does not vouch; of several the last says most.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    /// There is no authority.
    None,
    /// It is by somebody else.
    Unknown,
    /// The authority was not in use.
    Unused,
    /// Its own certificate was not valid.
    Anchor,
    /// Anything else, in words.
    Other(String),
}

impl Usage {
    const fn oid(self) -> &'static [u8] {
        match self {
            Self::CodeSigning => CODE_SIGNING,
            Self::TimeStamping => TIME_STAMPING,
        }
    }

    fn is_among(self, usage: &ExtendedKeyUsage<'_>) -> bool {
        match self {
            Self::CodeSigning => usage.code_signing,
            Self::TimeStamping => usage.time_stamping,
        }
    }

    /// Whether an anchor's certificate is one of an authority that may issue such certificates, with so many others `between`
    /// (RFC 5280, 4.2.1.3, 4.2.1.9 and 4.2.1.12). To webpki an anchor is a name and a key; Go, and with it cosign and
    /// containers/image, holds it to what it says of itself.
    fn may_issue(self, anchor: &[u8], between: usize) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(anchor) else { return false };
        let (basic, key, extended) =
            (parsed.basic_constraints(), parsed.key_usage(), parsed.extended_key_usage());
        let (Ok(Some(basic)), Ok(key), Ok(extended)) = (basic, key, extended) else { return false };
        let most = basic.value.path_len_constraint;
        basic.value.ca
            && most.is_none_or(|most| u32::try_from(between).is_ok_and(|between| between <= most))
            && key.is_none_or(|usage| usage.value.key_cert_sign())
            && extended.is_none_or(|usage| usage.value.any || self.is_among(usage.value))
    }

    /// Whether the certificate says that it is for this. Authorities need not say anything (RFC 5280, 4.2.1.12), and what
    /// they do say is looked at with the chain.
    fn is_of(self, certificate: &Certificate) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate.der()) else { return false };
        matches!(parsed.extended_key_usage(), Ok(Some(usage)) if self.is_among(usage.value))
    }
}

fn verify_with(
    leaf: &Certificate,
    extra: &[Certificate],
    issuer: &Issuer<'_>,
    usage: Usage,
    time: SystemTime,
) -> Result<Vec<u8>, Refusal> {
    if issuer.window.is_some_and(|window| !window.contains(time)) {
        return Err(Refusal::Unused);
    }
    let anchor_der = CertificateDer::from(issuer.anchor);
    // webpki takes an anchor's word whatever its dates; here it ends with them.
    let anchor_certificate = Certificate::from_der(issuer.anchor)
        .map_err(|error| Refusal::Other(format!("an authority that cannot be read: {error}")))?;
    if !anchor_certificate.is_valid_at(time) {
        return Err(Refusal::Anchor);
    }
    let anchor = anchor_from_trusted_cert(&anchor_der).map_err(said)?;
    let intermediates: Vec<CertificateDer<'_>> = issuer
        .intermediates
        .iter()
        .copied()
        .chain(extra.iter().map(Certificate::der))
        .map(CertificateDer::from)
        .collect();
    let leaf_der = CertificateDer::from(leaf.der());
    let end = EndEntityCert::try_from(&leaf_der).map_err(said)?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| Refusal::Other("one before 1970".to_owned()))?;
    let anchors = [anchor];
    let path = end
        .verify_for_usage(
            WEBPKI_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            UnixTime::since_unix_epoch(since),
            KeyUsage::required_if_present(usage.oid()),
            None,
            None,
        )
        .map_err(said)?;
    // A signer's own certificate may be the one that is trusted: then it issues nothing.
    if leaf.der() != issuer.anchor
        && !usage.may_issue(issuer.anchor, path.intermediate_certificates().count())
    {
        let text =
            "one whose authority's own certificate is not for issuing such (basic constraints, key usage)";
        return Err(Refusal::Other(text.to_owned()));
    }
    Ok(match path.intermediate_certificates().next() {
        Some(issuer) => issuer.subject_public_key_info().as_ref().to_vec(),
        // An anchor has the content only.
        None => der::encode(der::SEQUENCE, path.anchor().subject_public_key_info.as_ref()),
    })
}

fn said(error: webpki::Error) -> Refusal {
    use webpki::Error;
    Refusal::Other(match error {
        Error::UnknownIssuer => return Refusal::Unknown,
        Error::CertExpired { .. } => "one that had expired".to_owned(),
        Error::CertNotValidYet { .. } => "one that was not valid yet".to_owned(),
        Error::RequiredEkuNotFoundContext(_) => "one whose authority is not for this use".to_owned(),
        Error::CaUsedAsEndEntity => "one of an authority itself".to_owned(),
        Error::InvalidSignatureForPublicKey => "one that its authority did not sign".to_owned(),
        other => {
            // The name of the case, without what it holds.
            let text = format!("{other:?}");
            let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            format!("one that is refused ({name})")
        }
    })
}
