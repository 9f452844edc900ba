//! From a certificate to one that is trusted (RFC 5280, 6.1).

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use sigstore_verify::crypto::WEBPKI_VERIFICATION_ALGS;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

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
    let mut why = None;
    for issuer in issuers {
        if issuer.window.is_some_and(|window| !window.contains(time)) {
            why.get_or_insert_with(|| "one whose authority was not in use then".to_owned());
            continue;
        }
        match verify_with(leaf, extra, issuer, usage, time) {
            Ok(key) => return Ok(key),
            // Of several authorities the one that says more than "not mine".
            Err(error) if error != UNKNOWN => why = Some(error),
            Err(error) => drop(why.get_or_insert(error)),
        }
    }
    let found = why.unwrap_or_else(|| "no authority to hold it against".to_owned());
    Err(format!("expected a certificate that was good at {}, found {found}", rfc3339(time)))
}

const UNKNOWN: &str = "one by nobody who is trusted";

fn verify_with(
    leaf: &Certificate,
    extra: &[Certificate],
    issuer: &Issuer<'_>,
    usage: Usage,
    time: SystemTime,
) -> Result<Vec<u8>, String> {
    let anchor_der = CertificateDer::from(issuer.anchor);
    // webpki takes an anchor's word whatever its dates; here it ends with them.
    let anchor_certificate = Certificate::from_der(issuer.anchor)
        .map_err(|error| format!("an authority that cannot be read: {error}"))?;
    if !anchor_certificate.is_valid_at(time) {
        return Err("one whose authority's own certificate was not valid then".to_owned());
    }
    let anchor = anchor_from_trusted_cert(&anchor_der).map_err(said)?;
    let intermediates: Vec<CertificateDer<'_>> = issuer
        .intermediates
        .iter()
        .copied()
        .chain(extra.iter().map(Certificate::der))
        .map(CertificateDer::from)
        .collect();
    let leaf = CertificateDer::from(leaf.der());
    let end = EndEntityCert::try_from(&leaf).map_err(said)?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| "a time before 1970".to_owned())?;
    let usage = match usage {
        Usage::CodeSigning => KeyUsage::required(CODE_SIGNING),
        Usage::TimeStamping => KeyUsage::required(TIME_STAMPING),
    };
    let anchors = [anchor];
    let path = end
        .verify_for_usage(
            WEBPKI_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            UnixTime::since_unix_epoch(since),
            usage,
            None,
            None,
        )
        .map_err(said)?;
    Ok(match path.intermediate_certificates().next() {
        Some(issuer) => issuer.subject_public_key_info().as_ref().to_vec(),
        // An anchor has the content only.
        None => der::encode(der::SEQUENCE, path.anchor().subject_public_key_info.as_ref()),
    })
}

fn said(error: webpki::Error) -> String {
    use webpki::Error;
    match error {
        Error::UnknownIssuer => UNKNOWN.to_owned(),
        Error::CertExpired { .. } => "one that had expired".to_owned(),
        Error::CertNotValidYet { .. } => "one that was not valid yet".to_owned(),
        Error::RequiredEkuNotFoundContext(_) => {
            "one that is not for this use (extended key usage)".to_owned()
        }
        Error::CaUsedAsEndEntity => "one of an authority itself".to_owned(),
        Error::InvalidSignatureForPublicKey => "one that its authority did not sign".to_owned(),
        other => {
            // The name of the case, without what it holds.
            let text = format!("{other:?}");
            let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            format!("one that is refused ({name})")
        }
    }
}
