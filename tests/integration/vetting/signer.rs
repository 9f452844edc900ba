//! Signatures as cosign makes them, by keys that a test makes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

/// A key that a test signs with.
pub struct Signer {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    random: SystemRandom,
}

/// A payload and its signature, base64.
#[derive(Clone)]
pub struct Signed {
    pub payload: Vec<u8>,
    pub signature: String,
}

impl Signer {
    pub fn new() -> Signer {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pkcs8 = pkcs8.as_ref().to_vec();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random).unwrap();
        Signer { pair, pkcs8, random }
    }

    /// The public key.
    pub fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki())
    }

    /// The private key, which no policy may hold.
    pub fn private_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// As messages name the key: the digest of its SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> String {
        crivet::image::Digest::of(&self.spki()).to_string()
    }

    fn spki(&self) -> Vec<u8> {
        // RFC 5480: what stands before the point in a SubjectPublicKeyInfo for P-256.
        let head = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
        [&head[..], self.pair.public_key().as_ref()].concat()
    }

    /// The claim that `digest` is `repository`'s, signed.
    pub fn sign(&self, digest: &str, repository: &str) -> Signed {
        self.sign_payload(claim(digest, repository).into_bytes())
    }

    pub fn sign_payload(&self, payload: Vec<u8>) -> Signed {
        let signature = STANDARD.encode(self.pair.sign(&self.random, &payload).unwrap());
        Signed { payload, signature }
    }
}

/// What cosign signs.
pub fn claim(digest: &str, repository: &str) -> String {
    json!({
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}
