//! Whether a log's entry is about this signature: otherwise any entry of any log would do (CVE-2022-36056,
//! CVE-2026-22703).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::certificate::Certificate;
use super::key::{Algorithm, Hash, PublicKey};
use super::log_entry::{Entry, Kind};
use super::outcome::Step;
use super::signed::Problem;
use crate::image::json;
use crate::image::{Digest, quoted};
use crate::limits;

/// What an entry has to be about.
pub(super) struct Expected<'a> {
    pub signature: &'a [u8],
    pub verifier: Verifier<'a>,
    pub message: Message<'a>,
    /// The payload of a DSSE envelope, and its type.
    pub envelope: Option<(&'a str, &'a [u8])>,
    /// The envelope as it was found.
    pub found: Option<&'a [u8]>,
}

/// With what the signature is verified.
#[derive(Clone, Copy)]
pub(super) enum Verifier<'a> {
    Key(&'a PublicKey),
    Certificate(&'a Certificate),
}

/// What was signed, as far as it is at hand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Message<'a> {
    Bytes(&'a [u8]),
    /// Its SHA-256.
    Digest(Digest),
}

impl Message<'_> {
    /// Its hash; `None` where only another one is known.
    pub fn hash(&self, hash: Hash) -> Option<Vec<u8>> {
        match (self, hash) {
            (Self::Bytes(bytes), hash) => Some(hash.of(bytes)),
            (Self::Digest(digest), Hash::Sha256) => Some(digest.raw().to_vec()),
            (Self::Digest(_), _) => None,
        }
    }
}

impl Expected<'_> {
    /// Holds the entry's body against the signature.
    pub fn check(&self, entry: &Entry) -> Result<(), Problem> {
        self.body(entry).map_err(|text| Problem::new(Step::Entry, text))
    }

    fn body(&self, entry: &Entry) -> Result<(), String> {
        let value = json::parse(&entry.body, "LOG_ENTRY_BYTES", limits::LOG_ENTRY_BYTES)
            .map_err(|error| format!("log entry: {error}"))?;
        let (kind, version) = entry.kind.name();
        if text(&value, "/kind")? != kind || text(&value, "/apiVersion")? != version {
            return Err(format!(
                "expected a log entry of kind {kind} {version}, found a body of another kind"
            ));
        }
        match entry.kind {
            Kind::HashedRekord1 => self.hashedrekord1(&value),
            Kind::HashedRekord2 => self.hashedrekord2(&value),
            Kind::Dsse1 => self.dsse1(&value),
            Kind::Dsse2 => self.dsse2(&value),
            Kind::Intoto1 => self.intoto1(&value),
            Kind::Intoto2 => self.intoto2(&value),
        }
    }

    /// rekor `pkg/types/hashedrekord/v0.0.1`. Over a DSSE envelope the hash is that of its pre-authentication encoding.
    fn hashedrekord1(&self, body: &Value) -> Result<(), String> {
        let hash = hash_named(text(body, "/spec/data/hash/algorithm")?)?;
        self.message_hash(hash, &hex(text(body, "/spec/data/hash/value")?)?)?;
        self.over_hash(hash)?;
        self.signature(&base64(text(body, "/spec/signature/content")?)?)?;
        self.pem(&base64(text(body, "/spec/signature/publicKey/content")?)?)
    }

    /// rekor-tiles `hashedrekord.proto`. The algorithm is a protobuf enum's name.
    fn hashedrekord2(&self, body: &Value) -> Result<(), String> {
        const AT: &str = "/spec/hashedRekordV002";
        let at = |pointer: &str| text(body, &format!("{AT}{pointer}"));
        let hash = hash_named(at("/data/algorithm")?)?;
        self.message_hash(hash, &base64(at("/data/digest")?)?)?;
        self.over_hash(hash)?;
        self.signature(&base64(at("/signature/content")?)?)?;
        let verifier = body.pointer(&format!("{AT}/signature/verifier"));
        let has = |key| verifier.and_then(|verifier| verifier.get(key)).is_some();
        match (self.verifier, has("x509Certificate"), has("publicKey")) {
            (Verifier::Certificate(_), true, false) => {
                self.der(&base64(at("/signature/verifier/x509Certificate/rawBytes")?)?)
            }
            (Verifier::Key(_), false, true) => {
                self.der(&base64(at("/signature/verifier/publicKey/rawBytes")?)?)
            }
            _ => Err("expected a log entry of this kind of signer, found another".to_owned()),
        }
    }

    /// rekor `pkg/types/dsse/v0.0.1`. The hash of the whole envelope is that of a JSON text that nobody kept.
    fn dsse1(&self, body: &Value) -> Result<(), String> {
        let hash = hash_named(text(body, "/spec/payloadHash/algorithm")?)?;
        self.payload_hash(hash, &hex(text(body, "/spec/payloadHash/value")?)?)?;
        let one = only(body, "/spec/signatures")?;
        self.signature(&base64(text(one, "/signature")?)?)?;
        self.pem(&base64(text(one, "/verifier")?)?)
    }

    /// rekor-tiles `dsse.proto`.
    fn dsse2(&self, body: &Value) -> Result<(), String> {
        let hash = hash_named(text(body, "/spec/dsseV002/payloadHash/algorithm")?)?;
        self.payload_hash(hash, &base64(text(body, "/spec/dsseV002/payloadHash/digest")?)?)?;
        self.signature2(only(body, "/spec/dsseV002/signatures")?)
    }

    /// rekor `pkg/types/intoto/v0.0.1`. It has no signature, but the hash of the whole envelope, which has it: only where
    /// that is at hand byte for byte.
    fn intoto1(&self, body: &Value) -> Result<(), String> {
        let found =
            self.found.ok_or("a log entry of kind intoto 0.0.1 is supported under the tag .att only")?;
        let hash = hash_named(text(body, "/spec/content/hash/algorithm")?)?;
        if hash.of(found) != hex(text(body, "/spec/content/hash/value")?)? {
            return Err("expected a log entry of this envelope, found another".to_owned());
        }
        self.pem(&base64(text(body, "/spec/publicKey")?)?)
    }

    /// rekor `pkg/types/intoto/v0.0.2`, whose signature is in base64 twice.
    fn intoto2(&self, body: &Value) -> Result<(), String> {
        let hash = hash_named(text(body, "/spec/content/payloadHash/algorithm")?)?;
        self.payload_hash(hash, &hex(text(body, "/spec/content/payloadHash/value")?)?)?;
        let payload_type = text(body, "/spec/content/envelope/payloadType")?;
        if self.envelope.is_none_or(|(own, _)| own != payload_type) {
            return Err("expected a log entry of this type of payload, found another".to_owned());
        }
        let one = only(body, "/spec/content/envelope/signatures")?;
        let once = base64(text(one, "/sig")?)?;
        self.signature(&base64(std::str::from_utf8(&once).unwrap_or_default())?)?;
        self.pem(&base64(text(one, "/publicKey")?)?)
    }

    /// Signature and signer of Rekor v2, which says what kind of signer it is.
    fn signature2(&self, logged: &Value) -> Result<(), String> {
        self.signature(&base64(text(logged, "/content")?)?)?;
        let has = |key| logged.pointer("/verifier").and_then(|verifier| verifier.get(key)).is_some();
        match (self.verifier, has("x509Certificate"), has("publicKey")) {
            (Verifier::Certificate(_), true, false) => {
                self.der(&base64(text(logged, "/verifier/x509Certificate/rawBytes")?)?)
            }
            (Verifier::Key(_), false, true) => {
                self.der(&base64(text(logged, "/verifier/publicKey/rawBytes")?)?)
            }
            _ => Err("expected a log entry of this kind of signer, found another".to_owned()),
        }
    }

    fn payload_hash(&self, hash: Hash, logged: &[u8]) -> Result<(), String> {
        let (_, payload) =
            self.envelope.ok_or("expected a log entry of a signature, found one of an envelope")?;
        if hash.of(payload) == logged {
            return Ok(());
        }
        Err("expected a log entry of this payload, found one of another".to_owned())
    }

    fn message_hash(&self, hash: Hash, logged: &[u8]) -> Result<(), String> {
        match self.message.hash(hash) {
            Some(own) if own == logged => Ok(()),
            Some(_) => Err("expected a log entry of what was signed, found one of something else".to_owned()),
            None => Err(
                "a log entry with another hash than SHA-256 is not supported where only a digest was signed"
                    .to_owned(),
            ),
        }
    }

    /// A log that is given a hash can verify only what was signed over that hash. Of Ed25519 that is Ed25519ph: an entry of
    /// a pure signature is one that no log has verified.
    fn over_hash(&self, hash: Hash) -> Result<(), String> {
        let key = match self.verifier {
            Verifier::Key(key) => key.clone(),
            Verifier::Certificate(certificate) => certificate.key().map_err(|error| error.to_string())?,
        };
        let holds = match (key.algorithm(), self.message) {
            (Algorithm::Ed25519, Message::Bytes(bytes)) => {
                hash == Hash::Sha512 && key.verifies_prehashed(bytes, self.signature)
            }
            // Of those at hand as a digest only, the digest is what was verified.
            _ => true,
        };
        if holds {
            return Ok(());
        }
        Err("expected a log entry of a signature over its hash, found one of an Ed25519 signature over the message, which \
             a log cannot verify; sign with Ed25519ph, or with a key of another kind"
            .to_owned())
    }

    fn signature(&self, logged: &[u8]) -> Result<(), String> {
        if logged == self.signature {
            return Ok(());
        }
        Err("expected a log entry of this signature, found one of another".to_owned())
    }

    /// The key or certificate as PEM.
    fn pem(&self, logged: &[u8]) -> Result<(), String> {
        let pem = std::str::from_utf8(logged).map_err(|_| "expected PEM in the log entry, found no text")?;
        let der = match self.verifier {
            Verifier::Certificate(_) => {
                Certificate::from_pem(pem).ok().and_then(|found| match found.as_slice() {
                    [one] => Some(one.der().to_vec()),
                    _ => None,
                })
            }
            Verifier::Key(_) => PublicKey::from_pem(logged).ok().map(|key| key.der().to_vec()),
        };
        der.map_or_else(|| self.der(&[]), |der| self.der(&der))
    }

    fn der(&self, logged: &[u8]) -> Result<(), String> {
        match self.verifier {
            Verifier::Key(key) if key.der() == logged => Ok(()),
            Verifier::Certificate(certificate) if certificate.der() == logged => Ok(()),
            Verifier::Key(_) => {
                Err("expected a log entry with this key, found one with another signer".to_owned())
            }
            Verifier::Certificate(_) => {
                Err("expected a log entry with this certificate, found one with another signer".to_owned())
            }
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str, String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.ok_or_else(|| format!("expected {pointer} in the log entry, found none"))
}

fn only<'a>(value: &'a Value, pointer: &str) -> Result<&'a Value, String> {
    match value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice) {
        Some([one]) => Ok(one),
        _ => Err(format!("expected one signature at {pointer} in the log entry, found none or several")),
    }
}

fn base64(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|_| format!("expected base64 in the log entry, found {}", quoted(text)))
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes().as_chunks::<2>();
    let read = |pair: &[u8; 2]| {
        let digits = std::str::from_utf8(pair).ok().filter(|digits| !digits.starts_with('+'))?;
        u8::from_str_radix(digits, 16).ok()
    };
    let decoded: Option<Vec<u8>> = bytes.0.iter().map(read).collect();
    match decoded {
        Some(decoded) if bytes.1.is_empty() => Ok(decoded),
        _ => Err(format!("expected hex in the log entry, found {}", quoted(text))),
    }
}

fn hash_named(name: &str) -> Result<Hash, String> {
    match name {
        "sha256" | "SHA2_256" => Ok(Hash::Sha256),
        "sha384" | "SHA2_384" => Ok(Hash::Sha384),
        "sha512" | "SHA2_512" => Ok(Hash::Sha512),
        other => Err(format!("expected a hash by SHA-2 in the log entry, found {}", quoted(other))),
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Digest as _, Signer as _};
    use sigstore_verify::types::pae;

    use super::*;
    use crate::verify::fixture::Fixture;
    use crate::verify::signed::{Content, Material};
    use crate::verify::{Authority, Evidence, bundle, legacy};

    /// Changes every text in a body, one at a time.
    fn texts(value: &Value, pointer: &str, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, item)| texts(item, &format!("{pointer}/{n}"), found));
            }
            Value::Object(map) => {
                map.iter().for_each(|(key, item)| texts(item, &format!("{pointer}/{key}"), found));
            }
            _ => found.push(pointer.to_owned()),
        }
    }

    /// A text of the same form with one bit changed, at `place` of its length.
    fn changed(text: &str, place: f64) -> String {
        if let Some(mut bytes) = STANDARD.decode(text).ok().filter(|bytes| bytes.len() > 20) {
            let at = (bytes.len() as f64 * place) as usize;
            // PEM: another letter of its base64.
            bytes[at] = if bytes.starts_with(b"-----") && bytes[at] == b'A' { b'B' } else { bytes[at] ^ 1 };
            return STANDARD.encode(bytes);
        }
        let mut bytes = text.as_bytes().to_vec();
        let at = (bytes.len() as f64 * place) as usize;
        bytes[at] ^= 1;
        String::from_utf8(bytes).unwrap()
    }

    /// What nobody can hold against anything: hashes of envelopes that are not at hand, and names of what the key or
    /// certificate says itself.
    const UNUSED: [&str; 5] =
        ["/spec/envelopeHash", "/spec/content/hash", "/keyDetails", "/keyid", "/spec/content/payloadHash"];

    #[test]
    fn every_part_of_a_log_entry_matters_by_itself() {
        for (name, kind) in [
            ("keyless-rekor1-legacy", Kind::HashedRekord1),
            ("key-rekor1-legacy", Kind::HashedRekord1),
            ("rsa-2048-rekor1-legacy", Kind::HashedRekord1),
            ("keyless-rekor2-tsa-bundle", Kind::HashedRekord2),
            ("key-rekor2-tsa-bundle", Kind::HashedRekord2),
            ("keyless-rekor1-bundle", Kind::Dsse1),
            ("key-rekor1-bundle", Kind::Dsse1),
            ("attest-npm-rekor2-tsa", Kind::Dsse2),
            ("attest-keyless-rekor1-intoto-legacy", Kind::Intoto1),
            ("attest-key-rekor1-intoto-legacy", Kind::Intoto1),
            ("attest-npm-rekor1-intoto", Kind::Intoto2),
        ] {
            let fixture = Fixture::load(name);
            let (evidence, authority) = fixture.one();
            let wanted = legacy::Wanted { certificate: true, log: true, timestamp: true };
            let signed = match evidence {
                Evidence::Simple(signing) => legacy::simple(signing, wanted),
                Evidence::Attached(attached) => legacy::attached(attached, wanted),
                Evidence::Bundle(bytes) => bundle::read(bytes),
            }
            .unwrap();
            let encoded;
            let (message, envelope) = match &signed.content {
                Content::Claim(payload) => (&payload[..], None),
                Content::Envelope { payload_type, payload, .. } => {
                    encoded = pae(payload_type, payload);
                    (&encoded[..], Some((payload_type.as_str(), &payload[..])))
                }
                Content::Artifact(_) => panic!("{name}"),
            };
            let verifier = match (&signed.material, authority) {
                (Material::Certificate { leaf, .. }, _) => Verifier::Certificate(leaf),
                (Material::Key, Authority::Key(authority)) => Verifier::Key(&authority.key),
                _ => panic!("{name}"),
            };
            let expected = Expected {
                signature: &signed.signature,
                verifier,
                message: Message::Bytes(message),
                envelope,
                found: signed.found.as_deref(),
            };
            let entry = &signed.entries[0];
            assert_eq!((entry.kind, expected.check(entry)), (kind, Ok(())), "{name}");
            let body: Value = serde_json::from_slice(&entry.body).unwrap();
            let mut pointers = Vec::new();
            texts(&body, "", &mut pointers);
            for (pointer, place) in pointers.iter().flat_map(|pointer| [(pointer, 0.3), (pointer, 0.8)]) {
                let mut body = body.clone();
                let value = body.pointer_mut(pointer).unwrap();
                *value = changed(value.as_str().unwrap(), place).into();
                let other = Entry { body: body.to_string().into_bytes(), ..entry.clone() };
                let unused = UNUSED.iter().any(|part| pointer.contains(part))
                    && (kind != Kind::Intoto1 || pointer.contains("/payloadHash"))
                    && (kind != Kind::Intoto2 || !pointer.contains("/payloadHash"));
                assert_eq!(expected.check(&other).is_ok(), unused, "{name} {pointer}");
            }
        }
    }

    #[test]
    fn entry_of_another_kind_of_signer_is_refused() {
        let body = |verifier: Value| {
            serde_json::json!({"signature": {"content": "", "verifier": verifier}})["signature"].clone()
        };
        let fixture = Fixture::load("key-rekor2-tsa-bundle");
        let Authority::Key(authority) = fixture.one().1 else { panic!() };
        let (verifier, message) = (Verifier::Key(&authority.key), Message::Bytes(b""));
        let expected = Expected { signature: b"", verifier, message, envelope: None, found: None };
        let raw = serde_json::json!({"rawBytes": STANDARD.encode(authority.key.der())});
        assert!(expected.signature2(&body(serde_json::json!({"publicKey": raw}))).is_ok());
        assert!(expected.signature2(&body(serde_json::json!({"x509Certificate": raw}))).is_err());
        assert!(
            expected
                .signature2(&body(serde_json::json!({"publicKey": raw, "x509Certificate": raw})))
                .is_err()
        );
        assert!(expected.signature2(&body(serde_json::json!({}))).is_err());
    }

    /// Ed25519ph, as cosign 3 signs with such keys, is over a hash; pure Ed25519 is not, and over no other hash either.
    #[test]
    fn entry_of_an_ed25519_signature_is_one_over_its_hash() {
        let signer = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let spki =
            [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", &signer.verifying_key().to_bytes()[..]]
                .concat();
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&spki));
        let key = PublicKey::from_pem(pem.as_bytes()).unwrap();
        let message = b"what is signed";
        let over_hash =
            signer.sign_prehashed(sha2::Sha512::new_with_prefix(message), None).unwrap().to_bytes();
        let pure = signer.sign(message).to_bytes();
        let outcome = |signature: &[u8], name: &str, hash: Hash| {
            let hex: String = hash.of(message).iter().map(|byte| format!("{byte:02x}")).collect();
            let body = serde_json::json!({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
                "data": {"hash": {"algorithm": name, "value": hex}},
                "signature": {"content": STANDARD.encode(signature),
                    "publicKey": {"content": STANDARD.encode(&pem)}}}});
            let (verifier, message) = (Verifier::Key(&key), Message::Bytes(message));
            Expected { signature, verifier, message, envelope: None, found: None }.hashedrekord1(&body)
        };
        assert_eq!(outcome(&over_hash, "sha512", Hash::Sha512), Ok(()));
        for (signature, name, hash) in [
            (&pure, "sha512", Hash::Sha512),
            (&pure, "sha256", Hash::Sha256),
            (&over_hash, "sha256", Hash::Sha256),
        ] {
            let error = outcome(signature, name, hash).unwrap_err();
            assert!(error.contains("which a log cannot verify"), "{error}");
        }
    }
}
