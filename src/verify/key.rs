//! Public keys of signers.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::der;
use crate::image::{Digest, quoted};
use crate::limits;
use crate::trust::Log;

/// Smallest and largest RSA modulus taken, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// AlgorithmIdentifier of rsaEncryption, with its NULL (RFC 8017, A.1).
const RSA_ENCRYPTION: &[u8] = &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];

/// What kind of key it is, and so which signatures it verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA over P-384 with SHA-256 (cosign 2) or SHA-384 (cosign 3).
    EcdsaP384,
    /// ECDSA over P-521 with SHA-256 (cosign 2) or SHA-512 (cosign 3).
    EcdsaP521,
    /// RSA PKCS#1 v1.5 or PSS with SHA-256, SHA-384 or SHA-512, and its modulus in bits.
    Rsa(usize),
    /// Ed25519, pure (cosign 2) or over the SHA-512 of the message (Ed25519ph, cosign 3).
    Ed25519,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::EcdsaP521 => f.write_str("ECDSA P-521"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// A public key that signatures are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    /// The subjectPublicKey bits, as aws-lc takes them.
    bits: Vec<u8>,
    /// All of SubjectPublicKeyInfo.
    der: Vec<u8>,
    fingerprint: Digest,
}

/// Why a text is no usable public key: a wrong configuration. Nothing of the text is repeated: it may be a private
/// key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Larger than [`limits::KEY_BYTES`].
    #[error("expected a public key of at most {} bytes (limit KEY_BYTES), found {found}", limits::KEY_BYTES)]
    TooLarge {
        /// Length found, bytes.
        found: usize,
    },
    /// A private key.
    #[error(
        "expected a public key, found a PRIVATE KEY; put the public key here (cosign public-key --key KEY) and replace the private key, which has been exposed"
    )]
    Private,
    /// A certificate.
    #[error(
        "expected a public key, found a CERTIFICATE; put its public key here (openssl x509 -pubkey -noout)"
    )]
    Certificate,
    /// A PEM block of another kind.
    #[error("expected a PEM block PUBLIC KEY, found {}; convert the key to SubjectPublicKeyInfo (openssl pkey -pubin)", quoted(.0))]
    Label(String),
    /// More than one PEM block.
    #[error("expected one PEM block, found {0}; give each key an entry of its own")]
    Several(usize),
    /// Not a PEM block, or text around one.
    #[error("expected one PEM block from -----BEGIN PUBLIC KEY----- to -----END PUBLIC KEY-----, found {0}")]
    Pem(&'static str),
    /// Not SubjectPublicKeyInfo.
    #[error("expected DER of SubjectPublicKeyInfo (RFC 5280, 4.1), found {0}; export the key anew")]
    Der(&'static str),
    /// An algorithm that is not supported.
    #[error("expected an ECDSA P-256, P-384 or P-521, RSA or Ed25519 key, found {0}; sign with such a key")]
    Algorithm(String),
    /// An RSA key outside the bounds.
    #[error("expected an RSA key of {} to {} bits, found {found} bits; sign with a key of that size", RSA_BITS.start(), RSA_BITS.end())]
    RsaBits {
        /// Bits of the modulus.
        found: usize,
    },
}

impl PublicKey {
    /// Reads one PEM block `PUBLIC KEY` (RFC 7468, 13) with nothing around it but white space.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.len() > limits::KEY_BYTES {
            return Err(KeyError::TooLarge { found: pem.len() });
        }
        let text = std::str::from_utf8(pem).map_err(|_| KeyError::Pem("bytes that are no text"))?;
        Self::from_der(&decode_pem(text.trim())?)
    }

    /// Reads DER of SubjectPublicKeyInfo (RFC 5280, 4.1).
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let (rest, spki) =
            SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Der("something else"))?;
        if !rest.is_empty() {
            return Err(KeyError::Der("bytes after it"));
        }
        let bits = spki.subject_public_key.data.to_vec();
        let algorithm = algorithm(&spki)?;
        Ok(Self { algorithm, bits, der: der.to_vec(), fingerprint: Digest::of(der) })
    }

    /// The key of a trusted root's log, which may be a bare RSAPublicKey (RFC 8017, A.1.1).
    pub(super) fn of_log(log: &Log) -> Result<Self, KeyError> {
        if !log.key_details.pkcs1 {
            return Self::from_der(&log.key);
        }
        let bits = der::encode(der::BIT_STRING, &[&[0], log.key.as_slice()].concat());
        Self::from_der(&der::encode(der::SEQUENCE, &[RSA_ENCRYPTION, &bits].concat()))
    }

    /// `sha256:<hex>` of the key's DER (SubjectPublicKeyInfo): the same as in cosign's key hints.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// Equal for one key, whatever else its SubjectPublicKeyInfo says: the parameters of an RSA key's algorithm are written
    /// in two ways. The key itself has one form here.
    pub fn identity(&self) -> Digest {
        Digest::of(&self.bits)
    }

    /// What kind of key it is.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key as SubjectPublicKeyInfo, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether `signature` (ECDSA: ASN.1 DER) is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        // cosign 2 signs the SHA-256 of the payload with every ECDSA key, cosign 3 takes the curve's own hash, and key
        // stores in clouds sign with PSS; all are sound, and the key alone does not say which tool signed.
        Hash::ALL.into_iter().any(|hash| self.verifies_with(hash, message, signature))
            || self.verifies_prehashed(message, signature)
    }

    /// Whether `signature` is this key's over the SHA-512 of `message`: Ed25519ph without context (RFC 8032, 5.1), which
    /// aws-lc-rs does not offer. Its signatures are never those of pure Ed25519 over another message: the hash begins
    /// with a prefix of its own.
    pub(super) fn verifies_prehashed(&self, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm != Algorithm::Ed25519 {
            return false;
        }
        let (Ok(key), Ok(signature)) =
            (VerifyingKey::try_from(&self.bits[..]), Signature::from_slice(signature))
        else {
            return false;
        };
        key.verify_prehashed_strict(Sha512::new_with_prefix(message), None, &signature).is_ok()
    }

    /// As [`PublicKey::verifies`], with this hash only. Ed25519 has no choice of hashes, and verifies with its own.
    pub(super) fn verifies_with(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        let holds = |algorithm: &&'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(*algorithm, &self.bits).verify(message, signature).is_ok()
        };
        self.schemes(hash).iter().any(holds)
    }

    /// Whether `signature` is this key's over the message that has this SHA-256; the message itself is not at hand.
    /// Ed25519 signs messages and not digests: never.
    pub(super) fn verifies_digest(&self, digest: &Digest, signature: &[u8]) -> bool {
        if self.algorithm == Algorithm::Ed25519 {
            return false;
        }
        let Ok(digest) = digest::Digest::import_less_safe(digest.raw(), &digest::SHA256) else {
            return false;
        };
        let holds = |algorithm: &&'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(*algorithm, &self.bits).verify_digest(&digest, signature).is_ok()
        };
        self.schemes(Hash::Sha256).iter().any(holds)
    }

    /// The ways in which this key may have signed something with this hash. A hash shorter than the curve is sound; one
    /// that is longer nobody makes.
    fn schemes(&self, hash: Hash) -> &'static [&'static dyn VerificationAlgorithm] {
        match (self.algorithm, hash) {
            (Algorithm::EcdsaP256, Hash::Sha256) => &[&signature::ECDSA_P256_SHA256_ASN1],
            (Algorithm::EcdsaP256, Hash::Sha384) => &[&signature::ECDSA_P256_SHA384_ASN1],
            (Algorithm::EcdsaP256, Hash::Sha512) => &[&signature::ECDSA_P256_SHA512_ASN1],
            (Algorithm::EcdsaP384, Hash::Sha256) => &[&signature::ECDSA_P384_SHA256_ASN1],
            (Algorithm::EcdsaP384, Hash::Sha384) => &[&signature::ECDSA_P384_SHA384_ASN1],
            (Algorithm::EcdsaP384, Hash::Sha512) => &[&signature::ECDSA_P384_SHA512_ASN1],
            (Algorithm::EcdsaP521, Hash::Sha256) => &[&signature::ECDSA_P521_SHA256_ASN1],
            (Algorithm::EcdsaP521, Hash::Sha384) => &[&signature::ECDSA_P521_SHA384_ASN1],
            (Algorithm::EcdsaP521, Hash::Sha512) => &[&signature::ECDSA_P521_SHA512_ASN1],
            (Algorithm::Rsa(_), Hash::Sha256) => {
                &[&signature::RSA_PKCS1_2048_8192_SHA256, &signature::RSA_PSS_2048_8192_SHA256]
            }
            (Algorithm::Rsa(_), Hash::Sha384) => {
                &[&signature::RSA_PKCS1_2048_8192_SHA384, &signature::RSA_PSS_2048_8192_SHA384]
            }
            (Algorithm::Rsa(_), Hash::Sha512) => {
                &[&signature::RSA_PKCS1_2048_8192_SHA512, &signature::RSA_PSS_2048_8192_SHA512]
            }
            // Its hash is its own.
            (Algorithm::Ed25519, _) => &[&signature::ED25519],
        }
    }
}

/// A hash of the SHA-2 family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The hash of `message`.
    pub fn of(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha384 => Sha384::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }
}

/// The content of the one PEM block that `text` is.
fn decode_pem(text: &str) -> Result<Vec<u8>, KeyError> {
    const BEGIN: &str = "-----BEGIN ";
    let labels: Vec<&str> =
        text.split(BEGIN).skip(1).map(|rest| rest.split("-----").next().unwrap_or_default()).collect();
    // Asked first, so that a file with both keys is not taken for a pair of public ones. cosign's own label is
    // ENCRYPTED SIGSTORE PRIVATE KEY.
    if labels.iter().any(|label| label.contains("PRIVATE KEY")) {
        return Err(KeyError::Private);
    }
    match labels.as_slice() {
        [] => return Err(KeyError::Pem("none")),
        ["PUBLIC KEY"] => {}
        ["CERTIFICATE"] => return Err(KeyError::Certificate),
        [other] => return Err(KeyError::Label((*other).to_owned())),
        several => return Err(KeyError::Several(several.len())),
    }
    let block = text
        .strip_prefix("-----BEGIN PUBLIC KEY-----")
        .and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"))
        .ok_or(KeyError::Pem("text before or after it, or no end"))?;
    let body: String = block.split_ascii_whitespace().collect();
    STANDARD.decode(body).map_err(|_| KeyError::Pem("content that is no base64"))
}

fn algorithm(spki: &SubjectPublicKeyInfo<'_>) -> Result<Algorithm, KeyError> {
    let oid = &spki.algorithm.algorithm;
    if *oid == OID_SIG_ED25519 {
        return match spki.subject_public_key.data.len() {
            32 => Ok(Algorithm::Ed25519),
            _ => Err(KeyError::Der("an Ed25519 key of another length than 32 bytes")),
        };
    }
    if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let (algorithm, length) = match curve {
            Some(curve) if curve == OID_EC_P256 => (Algorithm::EcdsaP256, 65),
            Some(curve) if curve == OID_NIST_EC_P384 => (Algorithm::EcdsaP384, 97),
            Some(curve) if curve == OID_NIST_EC_P521 => (Algorithm::EcdsaP521, 133),
            Some(curve) => return Err(KeyError::Algorithm(format!("ECDSA on the curve {curve}"))),
            None => return Err(KeyError::Algorithm("ECDSA without a named curve".to_owned())),
        };
        // SEC 1, 2.3.3: 4 stands for an uncompressed point, the only form taken: two would be two names of one key.
        let point = &spki.subject_public_key.data;
        return match point.first() {
            Some(4) if point.len() == length => Ok(algorithm),
            _ => Err(KeyError::Der("an ECDSA key that is no uncompressed point")),
        };
    }
    if *oid == OID_PKCS1_RSAENCRYPTION {
        return match spki.parsed() {
            Ok(Parsed::RSA(key)) => {
                let bits = bit_length(key.modulus);
                if RSA_BITS.contains(&bits) {
                    Ok(Algorithm::Rsa(bits))
                } else {
                    Err(KeyError::RsaBits { found: bits })
                }
            }
            _ => Err(KeyError::Der("an RSA key without modulus and exponent")),
        };
    }
    Err(KeyError::Algorithm(format!("the algorithm {oid}")))
}

fn bit_length(number: &[u8]) -> usize {
    let mut significant = number.iter().skip_while(|byte| **byte == 0);
    let first = significant.next().map_or(0, |byte| 8 - byte.leading_zeros() as usize);
    first + 8 * significant.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = include_str!("../../tests/fixtures/simple-signing/ecdsa-p256/cosign.pub");
    const ED25519: &str = include_str!("../../tests/fixtures/simple-signing/ed25519/cosign.pub");

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    fn error(text: &str) -> KeyError {
        PublicKey::from_pem(text.as_bytes()).unwrap_err()
    }

    /// A SubjectPublicKeyInfo of an RSA key whose modulus has so many bits.
    fn rsa(bits: usize) -> Vec<u8> {
        let tagged = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], &length[..], content].concat()
        };
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] = if bits.is_multiple_of(8) { 0xff } else { (1 << (bits % 8)) - 1 };
        if modulus[0] > 0x7f {
            modulus.insert(0, 0);
        }
        let key = tagged(0x30, &[tagged(2, &modulus), tagged(2, &[1, 0, 1])].concat());
        let algorithm = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
        tagged(0x30, &[&algorithm[..], &tagged(3, &[&[0], key.as_slice()].concat())].concat())
    }

    #[test]
    fn keys_made_by_cosign_are_read() {
        assert_eq!(PublicKey::from_pem(P256.as_bytes()).unwrap().algorithm(), Algorithm::EcdsaP256);
        assert_eq!(PublicKey::from_pem(ED25519.as_bytes()).unwrap().algorithm(), Algorithm::Ed25519);
        // White space and indentation, as YAML block scalars leave it, change nothing.
        let spaced = format!("\n  {}\n\n", P256.trim().replace('\n', "\r\n"));
        assert_eq!(PublicKey::from_pem(spaced.as_bytes()), PublicKey::from_pem(P256.as_bytes()));
    }

    #[test]
    fn fingerprint_is_the_hash_of_the_der() {
        let body: String = P256.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        assert_eq!(PublicKey::from_pem(P256.as_bytes()).unwrap().fingerprint(), Digest::of(&der));
    }

    #[test]
    fn rsa_keys_outside_the_bounds_are_refused_by_name() {
        for bits in [2048, 3072, 4096, 8192] {
            let key = PublicKey::from_pem(pem(&rsa(bits)).as_bytes()).unwrap();
            assert_eq!(key.algorithm(), Algorithm::Rsa(bits));
        }
        for bits in [1024, 2047, 8193, 16384] {
            assert_eq!(error(&pem(&rsa(bits))), KeyError::RsaBits { found: bits });
        }
        assert!(KeyError::RsaBits { found: 1024 }.to_string().contains("2048 to 8192 bits, found 1024"));
    }

    #[test]
    fn private_key_is_refused_without_being_repeated() {
        for label in
            ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY", "OPENSSH PRIVATE KEY"]
        {
            let private = P256.replace("PUBLIC KEY", label);
            for text in [private.clone(), format!("{P256}{private}"), format!("{private}{P256}")] {
                let error = error(&text);
                assert_eq!(error, KeyError::Private);
                assert!(!error.to_string().contains("MFkw"));
            }
        }
    }

    #[test]
    fn what_is_not_one_public_key_is_refused() {
        assert_eq!(error(&P256.replace("PUBLIC KEY", "CERTIFICATE")), KeyError::Certificate);
        assert_eq!(
            error(&P256.replace("PUBLIC KEY", "RSA PUBLIC KEY")),
            KeyError::Label("RSA PUBLIC KEY".to_owned())
        );
        assert_eq!(error(&format!("{P256}{ED25519}")), KeyError::Several(2));
        assert!(matches!(error(&format!("{P256}junk")), KeyError::Pem(_)));
        assert!(matches!(error(&format!("junk{P256}")), KeyError::Pem(_)));
        assert!(matches!(error(&P256.replace("-----END", "-----")), KeyError::Pem(_)));
        assert!(matches!(error(&P256.replacen("MFkw", "M*kw", 1)), KeyError::Pem(_)));
        assert!(matches!(error(""), KeyError::Pem(_)));
        assert!(matches!(error(&"x".repeat(limits::KEY_BYTES + 1)), KeyError::TooLarge { .. }));
        assert!(matches!(PublicKey::from_pem(&[0xff]), Err(KeyError::Pem(_))));
    }

    #[test]
    fn broken_der_is_refused() {
        let der = STANDARD.decode(P256.lines().filter(|l| !l.starts_with('-')).collect::<String>()).unwrap();
        assert!(PublicKey::from_pem(pem(&der).as_bytes()).is_ok());
        assert!(matches!(error(&pem(&der[..der.len() - 1])), KeyError::Der(_)));
        assert!(matches!(error(&pem(&[&der[..], &[0]].concat())), KeyError::Der("bytes after it")));
        let compressed = [&der[..26], &[2], &der[27..]].concat();
        assert!(matches!(error(&pem(&compressed)), KeyError::Der(_)));
        // The last byte of the curve's OID: P-256 becomes another curve.
        let other_curve = [&der[..22], &[6], &der[23..]].concat();
        assert!(matches!(error(&pem(&other_curve)), KeyError::Algorithm(_)));
    }

    #[test]
    fn rsa_pss_by_openssl_verifies_with_each_hash_and_only_over_its_message() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/certificates");
        let read = |name: &str| std::fs::read(format!("{dir}/{name}")).unwrap();
        let (key, message) = (PublicKey::from_pem(&read("pss.pub")).unwrap(), read("payload.json"));
        for hash in ["sha256", "sha384", "sha512"] {
            let signature = STANDARD.decode(read(&format!("pss-{hash}.sig"))).unwrap();
            assert!(key.verifies(&message, &signature), "{hash}");
            assert!(!key.verifies(b"other", &signature), "{hash}");
            assert_eq!(key.verifies_digest(&Digest::of(&message), &signature), hash == "sha256");
        }
        assert!(
            !key.verifies_digest(&Digest::of(b"other"), &STANDARD.decode(read("pss-sha256.sig")).unwrap())
        );
    }
}
