//! Signatures for tests that need others than cosign's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::{Annotations, PublicKey, SimpleSigning};
use crate::image::Digest;

/// A key that tests sign with.
pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self { pair, random }
    }

    pub fn pem(&self) -> String {
        // RFC 5480: what stands before the point in a SubjectPublicKeyInfo for P-256.
        let head = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
        let der = [&head[..], self.pair.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    pub fn key(&self) -> PublicKey {
        PublicKey::from_pem(self.pem().as_bytes()).unwrap()
    }

    pub fn sign(&self, payload: &[u8]) -> SimpleSigning {
        let signature = self.pair.sign(&self.random, payload).unwrap();
        SimpleSigning {
            payload: payload.to_vec(),
            signature: STANDARD.encode(signature),
            annotations: Annotations::default(),
        }
    }
}

/// What cosign signs.
pub(crate) fn claim_of(digest: Digest, repository: &str) -> String {
    json!({
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": {"env": "prod"},
    })
    .to_string()
}
