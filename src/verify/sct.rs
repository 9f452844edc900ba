//! Promises of certificate transparency logs in certificates (RFC 6962, 3).

use std::time::{Duration, UNIX_EPOCH};

use x509_parser::der_parser::Oid;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_CT_LIST_SCT;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::Certificate;
use super::der::{self, Reader};
use super::key::PublicKey;
use super::outcome::Step;
use super::signed::Problem;
use crate::image::{Digest, quoted};
use crate::limits;
use crate::trust::{Log, Root};

/// The last context tag of TBSCertificate: its extensions.
const EXTENSIONS: u8 = der::context(3);

/// Whether one of the root's CT logs has promised to log `leaf`, which `issuer` (SubjectPublicKeyInfo, DER) has issued: the
/// log's URL.
pub(super) fn verify<'r>(leaf: &Certificate, issuer: &[u8], root: &'r Root) -> Result<&'r str, Problem> {
    let fault = |found: &str| {
        Problem::new(Step::Sct, format!("expected a promise of a CT log in the certificate, found {found}"))
    };
    let (_, parsed) = X509Certificate::from_der(leaf.der()).map_err(|_| fault("no certificate"))?;
    let extension = parsed.get_extension_unique(&OID_CT_LIST_SCT).map_err(|_| fault("two lists of them"))?;
    let Some(extension) = extension else { return Err(fault("none")) };
    let ParsedExtension::SCT(promises) = extension.parsed_extension() else {
        return Err(fault("what cannot be read"));
    };
    if promises.len() > limits::CERTIFICATE_SCTS {
        let (cap, found) = (limits::CERTIFICATE_SCTS, promises.len());
        return Err(Problem::limit("promises of CT logs", "CERTIFICATE_SCTS", cap, found));
    }
    let logged = precertificate(leaf.der()).ok_or_else(|| fault("a certificate that cannot be read"))?;
    let mut why = fault("none by a CT log of the trusted root");
    for promise in promises {
        let Some(log) = root.ct_logs().iter().find(|log| log.id == *promise.id.key_id) else { continue };
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(promise.timestamp));
        match time {
            Some(time) if log.window.contains(time) => {}
            _ => {
                why = fault(&format!("one by {} from when that was not in use", quoted(&log.url)));
                continue;
            }
        }
        let signed = signed_data(promise.timestamp, promise.extensions.0, issuer, &logged)
            .ok_or_else(|| fault("a certificate of more than 16 MiB"))?;
        if holds(log, &signed, promise.signature.data) {
            return Ok(&log.url);
        }
        why = fault(&format!("one that the key of {} did not sign", quoted(&log.url)));
    }
    Err(why)
}

fn holds(log: &Log, signed: &[u8], signature: &[u8]) -> bool {
    PublicKey::of_log(log).is_ok_and(|key| key.verifies(signed, signature))
}

/// RFC 6962, 3.2: version v1, certificate_timestamp, the time, precert_entry, hash of the issuer's key, the
/// precertificate, extensions.
fn signed_data(timestamp: u64, extensions: &[u8], issuer: &[u8], logged: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(logged.len()).ok()?.to_be_bytes();
    let [0, length @ ..] = length else { return None };
    let mut out = vec![0, 0];
    out.extend(timestamp.to_be_bytes());
    out.extend([0, 1]);
    out.extend(Digest::of(issuer).raw());
    out.extend(length);
    out.extend(logged);
    out.extend(u16::try_from(extensions.len()).ok()?.to_be_bytes());
    out.extend(extensions);
    Some(out)
}

/// TBSCertificate without the extension that holds the promises (RFC 6962, 3.2); all other bytes as they are.
fn precertificate(certificate: &[u8]) -> Option<Vec<u8>> {
    let certificate = Reader::only(certificate, der::SEQUENCE)?;
    let mut tbs = certificate.reader().expect(der::SEQUENCE)?.reader();
    let mut kept = Vec::new();
    while let Some(element) = tbs.next() {
        if element.tag != EXTENSIONS {
            kept.extend_from_slice(element.raw);
            continue;
        }
        let mut extensions = Reader::only(element.content, der::SEQUENCE)?.reader();
        let mut others = Vec::new();
        while let Some(extension) = extensions.next() {
            let oid = extension.reader().expect(der::OBJECT_IDENTIFIER)?;
            if Oid::new(oid.content.into()) != OID_CT_LIST_SCT {
                others.extend_from_slice(extension.raw);
            }
        }
        if !extensions.is_empty() {
            return None;
        }
        kept.extend(der::encode(EXTENSIONS, &der::encode(der::SEQUENCE, &others)));
    }
    tbs.is_empty().then(|| der::encode(der::SEQUENCE, &kept))
}
