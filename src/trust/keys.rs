//! The kinds of key that a trusted root names, and whether a key is of the kind that it is said to be. No I/O.

use x509_parser::der_parser::ber::BerObject;
use x509_parser::der_parser::parse_der;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Smallest and largest RSA modulus taken, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What a log signs with (protobuf-specs, `sigstore_common.proto`, `PublicKeyDetails`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDetails {
    /// The specification's name, such as `PKIX_ECDSA_P256_SHA_256`.
    pub name: &'static str,
    /// The kind of key.
    pub shape: KeyShape,
    /// The bytes are a bare RSAPublicKey (RFC 8017, A.1.1) and no SubjectPublicKeyInfo.
    pub pkcs1: bool,
}

/// A kind of key, without the hash that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyShape {
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
    /// ECDSA over P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
}

impl KeyShape {
    fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "an ECDSA key on P-256",
            Self::P384 => "an ECDSA key on P-384",
            Self::P521 => "an ECDSA key on P-521",
            Self::Ed25519 => "an Ed25519 key",
            Self::Rsa => "an RSA key of 2048 to 8192 bits",
        }
    }
}

/// The names of keys that something here can verify with.
const KNOWN: &[(&str, KeyShape, bool)] = &[
    ("PKIX_ECDSA_P256_SHA_256", KeyShape::P256, false),
    ("PKIX_ECDSA_P256_HMAC_SHA_256", KeyShape::P256, false),
    ("PKIX_ECDSA_P384_SHA_384", KeyShape::P384, false),
    ("PKIX_ECDSA_P384_SHA_256", KeyShape::P384, false),
    ("PKIX_ECDSA_P521_SHA_512", KeyShape::P521, false),
    ("PKIX_ECDSA_P521_SHA_256", KeyShape::P521, false),
    ("PKIX_ED25519", KeyShape::Ed25519, false),
    ("PKIX_ED25519_PH", KeyShape::Ed25519, false),
    ("PKIX_RSA_PKCS1V5", KeyShape::Rsa, false),
    ("PKIX_RSA_PKCS1V15_2048_SHA256", KeyShape::Rsa, false),
    ("PKIX_RSA_PKCS1V15_3072_SHA256", KeyShape::Rsa, false),
    ("PKIX_RSA_PKCS1V15_4096_SHA256", KeyShape::Rsa, false),
    ("PKIX_RSA_PSS_2048_SHA256", KeyShape::Rsa, false),
    ("PKIX_RSA_PSS_3072_SHA256", KeyShape::Rsa, false),
    ("PKIX_RSA_PSS_4096_SHA256", KeyShape::Rsa, false),
    ("PKIX_RSA_PSS", KeyShape::Rsa, false),
    ("PKCS1_RSA_PKCS1V5", KeyShape::Rsa, true),
    ("PKCS1_RSA_PSS", KeyShape::Rsa, true),
];

impl KeyDetails {
    /// The kind of key of this name; `None` if it is one that nothing here can verify with.
    pub fn named(name: &str) -> Option<Self> {
        let &(name, shape, pkcs1) = KNOWN.iter().find(|(known, ..)| *known == name)?;
        Some(Self { name, shape, pkcs1 })
    }

    /// The name for a SubjectPublicKeyInfo that comes without one.
    pub(super) fn of_spki(der: &[u8]) -> Option<Self> {
        let mut names = KNOWN.iter().filter(|(.., pkcs1)| !pkcs1);
        names.find_map(|(name, ..)| Self::named(name).filter(|details| details.check(der).is_ok()))
    }

    /// Whether `der` is such a key. The error says what was expected.
    pub(super) fn check(self, der: &[u8]) -> Result<(), String> {
        let wrong = || {
            let form = if self.pkcs1 { "RSAPublicKey (PKCS#1)" } else { "SubjectPublicKeyInfo" };
            format!("expected {} as DER of {form} for {}", self.shape.as_str(), self.name)
        };
        if self.pkcs1 {
            return is_pkcs1(der).then_some(()).ok_or_else(wrong);
        }
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| wrong())?;
        (rest.is_empty() && is_of_shape(&spki, self.shape)).then_some(()).ok_or_else(wrong)
    }
}

fn is_of_shape(spki: &SubjectPublicKeyInfo<'_>, shape: KeyShape) -> bool {
    let oid = &spki.algorithm.algorithm;
    let bits = &spki.subject_public_key.data;
    let on_curve = |curve, bytes: usize| {
        let named = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        // SEC 1, 2.3.3: 4 stands for an uncompressed point.
        *oid == OID_KEY_TYPE_EC_PUBLIC_KEY
            && named == Some(curve)
            && bits.first() == Some(&4)
            && bits.len() == 1 + 2 * bytes
    };
    match shape {
        KeyShape::P256 => on_curve(OID_EC_P256, 32),
        KeyShape::P384 => on_curve(OID_NIST_EC_P384, 48),
        KeyShape::P521 => on_curve(OID_NIST_EC_P521, 66),
        KeyShape::Ed25519 => *oid == OID_SIG_ED25519 && bits.len() == 32,
        KeyShape::Rsa => {
            let modulus = match spki.parsed() {
                Ok(PublicKey::RSA(key)) => modulus_bits(key.modulus),
                _ => 0,
            };
            *oid == OID_PKCS1_RSAENCRYPTION && RSA_BITS.contains(&modulus)
        }
    }
}

fn is_pkcs1(der: &[u8]) -> bool {
    let numbers = |key: &BerObject<'_>| {
        let [modulus, exponent] = key.as_sequence().ok()?.as_slice() else { return None };
        exponent.as_slice().ok()?;
        Some(modulus_bits(modulus.as_slice().ok()?))
    };
    parse_der(der)
        .is_ok_and(|(rest, key)| rest.is_empty() && numbers(&key).is_some_and(|n| RSA_BITS.contains(&n)))
}

fn modulus_bits(modulus: &[u8]) -> usize {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros).map_or(8, |byte| byte.leading_zeros() as usize);
    (modulus.len() - zeros) * 8 - first.min((modulus.len() - zeros) * 8)
}
