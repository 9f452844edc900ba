//! RFC 3161 timestamps. The library's own verifier takes neither fractions of a second, which 2.4.2 allows, nor RSA keys;
//! here both hold, and its verdict on all others is the same (a test compares them).

use std::time::SystemTime;

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::Certificate;
use super::chain::{self, Issuer, Usage};
use super::der::{self, Element, Reader, context};
use super::key::Hash;
use super::outcome::Step;
use super::signed::Problem;
use crate::audit::rfc3339;
use crate::image::Digest;
use crate::trust::{Authority, Root};

/// signedData, `1.2.840.113549.1.7.2` (RFC 5652, 5.1).
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// id-ct-TSTInfo, `1.2.840.113549.1.9.16.1.4` (RFC 3161, 2.4.2).
const TST_INFO: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 1, 4];
/// contentType, `1.2.840.113549.1.9.3` (RFC 5652, 11.1).
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
/// messageDigest, `1.2.840.113549.1.9.4` (RFC 5652, 11.2).
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// signingCertificateV2, `1.2.840.113549.1.9.16.2.47` (RFC 5816).
const SIGNING_CERTIFICATE_V2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 2, 47];
/// SHA-256, SHA-384 and SHA-512, `2.16.840.1.101.3.4.2.1` to `.3`, without their last byte.
const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];

/// A time at which a signature was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub time: SystemTime,
    /// What tells the authority from others: the certificate that signed.
    pub authority: Digest,
}

/// The time of a timestamp over `message`, by an authority of the root; `None` if it is by another, which is no fault:
/// whoever signs may ask more authorities than this node knows.
pub(super) fn verify(token: &[u8], message: &[u8], root: &Root) -> Result<Option<Stamp>, Problem> {
    let fault = |text: String| Problem::new(Step::Timestamp, text);
    let token = Token::read(token)
        .ok_or_else(|| fault("expected a timestamp (RFC 3161, 2.4.2), found something else".to_owned()))?;
    let mut why = None;
    for authority in root.timestamp_authorities() {
        match token.by(authority, message) {
            Ok(None) => {}
            Ok(Some(stamp)) => return Ok(Some(stamp)),
            Err(text) => why = Some(text),
        }
    }
    match why {
        Some(text) => Err(fault(text)),
        None => Ok(None),
    }
}

/// A timestamp as it came, taken apart.
struct Token<'a> {
    /// TSTInfo.
    info: &'a [u8],
    /// Who says to have signed, SignerIdentifier.
    signer: Element<'a>,
    /// The hash that the signer used.
    hash: Hash,
    /// `[0]` SignedAttributes.
    attributes: Element<'a>,
    signature: &'a [u8],
    imprint_hash: Hash,
    imprint: &'a [u8],
    time: SystemTime,
}

impl<'a> Token<'a> {
    /// TimeStampResp (RFC 3161, 2.4.2), or the token in it alone.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let outer = Reader::only(bytes, der::SEQUENCE)?;
        let mut parts = outer.reader();
        let first = parts.next()?;
        if first.tag != der::SEQUENCE {
            return Self::content_info(&outer);
        }
        // PKIStatusInfo: granted, or granted with modifications.
        let status = first.reader().expect(der::INTEGER)?;
        if !matches!(status.content, [0 | 1]) {
            return None;
        }
        let token = parts.expect(der::SEQUENCE)?;
        if parts.is_empty() { Self::content_info(&token) } else { None }
    }

    /// ContentInfo of SignedData of TSTInfo (RFC 5652, 3 and 5.1), with one signer.
    fn content_info(info: &Element<'a>) -> Option<Self> {
        let mut parts = info.reader();
        if parts.expect(der::OBJECT_IDENTIFIER)?.content != SIGNED_DATA {
            return None;
        }
        let data = Reader::only(parts.expect(context(0))?.content, der::SEQUENCE)?;
        if !parts.is_empty() {
            return None;
        }
        let mut data = data.reader();
        data.expect(der::INTEGER)?;
        data.expect(der::SET)?;
        let mut content = data.expect(der::SEQUENCE)?.reader();
        if content.expect(der::OBJECT_IDENTIFIER)?.content != TST_INFO {
            return None;
        }
        let info = Reader::only(content.expect(context(0))?.content, der::OCTET_STRING)?.content;
        // Certificates and revocation lists that came along are nobody's word.
        data.optional(context(0));
        data.optional(context(1));
        let signer = Reader::only(data.expect(der::SET)?.content, der::SEQUENCE)?;
        if !content.is_empty() || !data.is_empty() {
            return None;
        }
        let mut signer = signer.reader();
        signer.expect(der::INTEGER)?;
        let identifier = signer.next()?;
        let hash = algorithm(signer.expect(der::SEQUENCE)?)?;
        let attributes = signer.expect(context(0))?;
        signer.expect(der::SEQUENCE)?;
        let signature = signer.expect(der::OCTET_STRING)?.content;
        signer.optional(context(1));
        if !signer.is_empty() {
            return None;
        }
        let (imprint_hash, imprint, time) = tst_info(info)?;
        Some(Self { info, signer: identifier, hash, attributes, signature, imprint_hash, imprint, time })
    }

    /// Whether this authority signed it, over `message`, and was in use then. `None`: it does not say so.
    fn by(&self, authority: &Authority, message: &[u8]) -> Result<Option<Stamp>, String> {
        let Some((leaf, issuers)) = authority.chain.split_first() else { return Ok(None) };
        let leaf =
            Certificate::from_der(&leaf.der).map_err(|error| format!("timestamp authority: {error}"))?;
        if !self.names(&leaf) {
            return Ok(None);
        }
        // RFC 3161, 2.4.2, messageImprint: the hash of what was to be stamped.
        if self.imprint_hash.of(message) != self.imprint {
            return Err("expected a timestamp of this signature, found one of something else".to_owned());
        }
        self.attributes_hold(&leaf)?;
        // RFC 5652, 5.4: over the attributes as a SET, whatever tag they have here.
        let signed = der::encode(der::SET, self.attributes.content);
        let key = leaf.key().map_err(|error| format!("timestamp authority: {error}"))?;
        if !key.verifies_with(self.hash, &signed, self.signature) {
            return Err(
                "expected a timestamp by the authority, found one that its key did not sign".to_owned()
            );
        }
        if authority.window.is_some_and(|window| !window.contains(self.time)) {
            let time = rfc3339(self.time);
            return Err(format!(
                "expected a timestamp from when the authority was in use, found one of {time}"
            ));
        }
        only_for_timestamps(&leaf)?;
        self.chain_holds(&leaf, issuers)?;
        Ok(Some(Stamp { time: self.time, authority: leaf.fingerprint() }))
    }

    /// The certificate that signed is the authority's own, and nothing that came with the timestamp decides about it
    /// (CVE-2026-39984).
    fn chain_holds(&self, leaf: &Certificate, issuers: &[crate::trust::Certificate]) -> Result<(), String> {
        let Some((anchor, intermediates)) = issuers.split_last() else {
            // An authority that is its own anchor.
            if leaf.is_valid_at(self.time) {
                return Ok(());
            }
            return Err(
                "expected a timestamp authority that was valid then, found one that was not".to_owned()
            );
        };
        let issuer = Issuer {
            anchor: &anchor.der,
            intermediates: intermediates.iter().map(|certificate| certificate.der.as_slice()).collect(),
            window: None,
        };
        let held = chain::verify(leaf, &[], &[issuer], Usage::TimeStamping, self.time);
        held.map(drop).map_err(|text| format!("timestamp authority: {text}"))
    }

    /// Whether SignerIdentifier (RFC 5652, 5.3) is this certificate's.
    fn names(&self, certificate: &Certificate) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate.der()) else { return false };
        match self.signer.tag {
            der::SEQUENCE => {
                let mut parts = self.signer.reader();
                let (Some(issuer), Some(serial)) = (parts.expect(der::SEQUENCE), parts.expect(der::INTEGER))
                else {
                    return false;
                };
                parts.is_empty()
                    && issuer.raw == parsed.issuer().as_raw()
                    && serial.content == parsed.tbs_certificate.raw_serial()
            }
            // [0] SubjectKeyIdentifier, primitive.
            0x80 => parsed.extensions().iter().any(|extension| {
                matches!(extension.parsed_extension(),
                    ParsedExtension::SubjectKeyIdentifier(id) if id.0 == self.signer.content)
            }),
            _ => false,
        }
    }

    /// RFC 5652, 11: content type and digest are those of the content; RFC 5816: the certificate is the one named.
    fn attributes_hold(&self, leaf: &Certificate) -> Result<(), String> {
        let wrong = || "expected signed attributes of a timestamp, found others".to_owned();
        let (mut content_type, mut digest, mut certificate) = (None, None, None);
        let mut attributes = self.attributes.reader();
        while let Some(attribute) = attributes.next() {
            let mut parts = attribute.reader();
            let (Some(oid), Some(values)) = (parts.expect(der::OBJECT_IDENTIFIER), parts.expect(der::SET))
            else {
                return Err(wrong());
            };
            let slot = match oid.content {
                CONTENT_TYPE => &mut content_type,
                MESSAGE_DIGEST => &mut digest,
                SIGNING_CERTIFICATE_V2 => &mut certificate,
                _ => continue,
            };
            if slot.replace(values.content).is_some() {
                return Err(wrong());
            }
        }
        if !attributes.is_empty() {
            return Err(wrong());
        }
        let value = |values: Option<&'a [u8]>, tag| Reader::only(values?, tag).map(|element| element.content);
        if value(content_type, der::OBJECT_IDENTIFIER) != Some(TST_INFO)
            || value(digest, der::OCTET_STRING) != Some(self.hash.of(self.info).as_slice())
        {
            return Err("expected a timestamp whose digest is signed, found another digest".to_owned());
        }
        match certificate.map(|values| signing_certificate(values, leaf)) {
            None | Some(Some(true)) => Ok(()),
            Some(_) => {
                Err("expected a timestamp that names its certificate, found one that names another"
                    .to_owned())
            }
        }
    }
}

/// Whether the first ESSCertIDv2 is of this certificate (RFC 5035, 4); `None` if it cannot be read.
fn signing_certificate(values: &[u8], leaf: &Certificate) -> Option<bool> {
    let mut parts = Reader::only(values, der::SEQUENCE)?.reader();
    let mut first = parts.expect(der::SEQUENCE)?.reader().expect(der::SEQUENCE)?.reader();
    let mut next = first.next()?;
    let mut hash = Hash::Sha256;
    if next.tag == der::SEQUENCE {
        hash = algorithm(next)?;
        next = first.next()?;
    }
    Some(next.tag == der::OCTET_STRING && next.content == hash.of(leaf.der()))
}

/// AlgorithmIdentifier of a hash.
fn algorithm(element: Element<'_>) -> Option<Hash> {
    let oid = element.reader().expect(der::OBJECT_IDENTIFIER)?;
    match oid.content.strip_prefix(SHA_2)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        _ => None,
    }
}

/// The message's imprint and the time (RFC 3161, 2.4.2). A critical extension is not understood, and so not taken.
fn tst_info(bytes: &[u8]) -> Option<(Hash, &[u8], SystemTime)> {
    let mut info = Reader::only(bytes, der::SEQUENCE)?.reader();
    if info.expect(der::INTEGER)?.content != [1] {
        return None;
    }
    info.expect(der::OBJECT_IDENTIFIER)?;
    let mut imprint = info.expect(der::SEQUENCE)?.reader();
    let hash = algorithm(imprint.expect(der::SEQUENCE)?)?;
    let imprint = imprint.expect(der::OCTET_STRING)?.content;
    info.expect(der::INTEGER)?;
    let time = der::generalized_time(info.expect(der::GENERALIZED_TIME)?.content)?;
    while let Some(element) = info.next() {
        if element.tag != context(1) {
            continue;
        }
        let mut extensions = element.reader();
        while let Some(extension) = extensions.next() {
            let mut parts = extension.reader();
            parts.expect(der::OBJECT_IDENTIFIER)?;
            if parts.next()?.tag != der::OCTET_STRING {
                return None;
            }
        }
    }
    info.is_empty().then_some((hash, imprint, time))
}

/// RFC 3161, 2.3: the key stamps time and does nothing else, and who reads the certificate has to understand that.
fn only_for_timestamps(certificate: &Certificate) -> Result<(), String> {
    let wrong = || "expected a timestamp authority for nothing but timestamps, found another".to_owned();
    let (_, parsed) = X509Certificate::from_der(certificate.der()).map_err(|_| wrong())?;
    match parsed.extended_key_usage() {
        Ok(Some(usage)) => {
            let other = &usage.value;
            let only = other.time_stamping
                && other.other.is_empty()
                && !(other.any || other.server_auth || other.client_auth || other.code_signing)
                && !(other.email_protection || other.ocsp_signing);
            if usage.critical && only { Ok(()) } else { Err(wrong()) }
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;
    use sigstore_verify::tsa::verify_timestamp_for_authority;

    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/certificates").join(name)
    }

    fn certificate(name: &str) -> Certificate {
        Certificate::from_pem(&fs::read_to_string(file(name)).unwrap()).unwrap().remove(0)
    }

    fn root(chain: &[&str]) -> Root {
        let raw = |name: &&str| json!({"rawBytes": STANDARD.encode(certificate(name).der())});
        let authority = json!({
            "certChain": {"certificates": chain.iter().map(raw).collect::<Vec<_>>()},
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        });
        let document = json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "timestampAuthorities": [authority],
        });
        Root::parse(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn timestamp_by_openssl_with_an_rsa_key_and_a_fraction_of_a_second_holds() {
        let (token, message) = (fs::read(file("tsa.tsr")).unwrap(), fs::read(file("payload.json")).unwrap());
        let root = root(&["tsa.pem", "root.pem"]);
        let stamp = verify(&token, &message, &root).unwrap().unwrap();
        assert_eq!(stamp.authority, certificate("tsa.pem").fingerprint());
        let since = stamp.time.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_ne!(since.subsec_micros(), 0);
        // The library takes neither: should it one day, this code can go.
        let authority = &root.material().tsa_authorities()[0];
        assert!(verify_timestamp_for_authority(&token.clone().into(), &message.into(), authority).is_err());
        assert!(verify(&token, b"other", &root).is_err());
    }

    #[test]
    fn authority_that_did_not_sign_is_another() {
        let (token, message) = (fs::read(file("tsa.tsr")).unwrap(), fs::read(file("payload.json")).unwrap());
        // Alone it is its own anchor: whoever wrote the root trusts it by itself.
        assert!(verify(&token, &message, &root(&["tsa.pem"])).unwrap().is_some());
        assert_eq!(verify(&token, &message, &root(&["tsa-and-more.pem", "root.pem"])), Ok(None));
    }

    #[test]
    fn authority_whose_certificate_had_expired_is_refused() {
        let (token, message) =
            (fs::read(file("expired-tsa.tsr")).unwrap(), fs::read(file("payload.json")).unwrap());
        let problem = verify(&token, &message, &root(&["expired-tsa.pem", "root.pem"])).unwrap_err();
        assert!(problem.text.contains("one that had expired"), "{}", problem.text);
        let problem = verify(&token, &message, &root(&["expired-tsa.pem"])).unwrap_err();
        assert!(problem.text.contains("valid then"), "{}", problem.text);
    }

    /// The same key, name and number, with a certificate for signing code too.
    #[test]
    fn timestamp_under_another_certificate_of_the_same_key_is_refused() {
        let message = fs::read(file("payload.json")).unwrap();
        let twin = root(&["tsa-twin.pem", "root.pem"]);
        let verify = |name: &str, root: &Root| verify(&fs::read(file(name)).unwrap(), &message, root);
        let problem = verify("tsa.tsr", &twin).unwrap_err();
        assert!(problem.text.contains("names another"), "{}", problem.text);
        assert!(verify("old-tsa.tsr", &root(&["tsa.pem", "root.pem"])).unwrap().is_some());
        let problem = verify("old-tsa.tsr", &twin).unwrap_err();
        assert!(problem.text.contains("nothing but timestamps"), "{}", problem.text);
    }

    /// RFC 3161, 2.3.
    #[test]
    fn authority_for_more_than_timestamps_is_refused() {
        assert!(only_for_timestamps(&certificate("tsa.pem")).is_ok());
        for other in ["tsa-and-more.pem", "tsa-not-critical.pem", "signer.pem", "root.pem"] {
            assert!(only_for_timestamps(&certificate(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn every_byte_of_a_timestamp_changed_leaves_its_time_or_nothing() {
        let (token, message) = (fs::read(file("tsa.tsr")).unwrap(), fs::read(file("payload.json")).unwrap());
        let root = root(&["tsa.pem", "root.pem"]);
        let before = verify(&token, &message, &root).unwrap().unwrap();
        for n in 0..token.len() {
            let mut changed = token.clone();
            changed[n] ^= 1 << (n % 8);
            if let Ok(Some(after)) = verify(&changed, &message, &root) {
                assert_eq!(after, before, "byte {n}");
            }
        }
        for end in 0..token.len() {
            assert!(verify(&token[..end], &message, &root).is_err(), "{end}");
        }
    }
}
