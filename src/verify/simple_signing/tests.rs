//! Signatures made by cosign, and valid ones with one thing broken.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::verify::testing::{Signer, claim_of};
use crate::verify::{SIGNATURE_MEDIA_TYPE, SignatureManifest};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/simple-signing")
}

fn key(path: &Path) -> PublicKey {
    PublicKey::from_pem(&fs::read(path).unwrap()).unwrap()
}

/// The signatures of a fixture, each with its payload, found by digest.
fn signings(case: &Path) -> Vec<SimpleSigning> {
    let payloads: Vec<Vec<u8>> = fs::read_dir(case)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("payload"))
        .map(|path| fs::read(path).unwrap())
        .collect();
    SignatureManifest::parse(SIGNATURE_MEDIA_TYPE, &fs::read(case.join("signatures.json")).unwrap())
        .unwrap()
        .into_iter()
        .map(|layer| {
            let payload = payloads.iter().find(|p| Digest::of(p) == layer.descriptor.digest).unwrap();
            SimpleSigning {
                payload: payload.clone(),
                signature: layer.signature,
                annotations: layer.annotations,
            }
        })
        .collect()
}

impl Signer {
    /// The error that verifying a properly signed but broken payload gives.
    fn broken(&self, payload: &str) -> ClaimError {
        match verify_simple(&self.key(), &self.sign(payload.as_bytes())).unwrap_err() {
            VerifyError::Claim { key, error } => {
                assert_eq!(key, self.key().fingerprint());
                error
            }
            other => panic!("{other}"),
        }
    }
}

fn payload() -> String {
    claim_of(Digest::of(b"image"), "registry.example/team/app")
}

#[test]
fn signatures_made_by_cosign_verify_and_are_about_their_image() {
    let mut kinds = Vec::new();
    for case in fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()) {
        if !case.join("cosign.pub").exists() {
            continue;
        }
        let key = key(&case.join("cosign.pub"));
        let image = Digest::of(&fs::read(case.join("manifest.json")).unwrap());
        for signing in signings(&case) {
            match verify_simple(&key, &signing) {
                Ok(claim) => {
                    assert_eq!(claim.about(&[Digest::of(b"other"), image]), Ok(()), "{}", case.display());
                    kinds.push(key.algorithm());
                }
                Err(error) => assert!(case.ends_with("three-keys"), "{}: {error}", case.display()),
            }
        }
    }
    let all = [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Ed25519, Algorithm::Rsa(2048)];
    for kind in all.into_iter().chain([Algorithm::Rsa(3072), Algorithm::Rsa(4096)]) {
        assert!(kinds.iter().filter(|found| **found == kind).count() >= 2, "{kind} by cosign 2 and 3");
    }
}

#[test]
fn signature_by_another_key_proves_nothing() {
    let signing = &signings(&fixtures().join("ecdsa-p256"))[0];
    let others =
        ["ecdsa-p384", "rsa-2048", "ed25519"].map(|name| key(&fixtures().join(name).join("cosign.pub")));
    for key in others.into_iter().chain([Signer::new().key()]) {
        let (fingerprint, algorithm) = (key.fingerprint(), key.algorithm());
        assert_eq!(verify_simple(&key, signing), Err(VerifyError::Signature { key: fingerprint, algorithm }));
    }
}

#[test]
fn each_of_three_keys_finds_its_own_signature() {
    let case = fixtures().join("three-keys");
    let signings = signings(&case);
    for name in ["cosign.pub", "cosign-1.pub", "cosign-2.pub"] {
        let Ok(pem) = fs::read(case.join(name)) else { continue };
        let key = PublicKey::from_pem(&pem).unwrap();
        assert_eq!(
            signings.iter().filter(|signing| verify_simple(&key, signing).is_ok()).count(),
            1,
            "{name}"
        );
    }
}

#[test]
fn payload_with_one_bit_changed_is_refused() {
    let signer = Signer::new();
    let good = signer.sign(payload().as_bytes());
    assert!(verify_simple(&signer.key(), &good).is_ok());
    for at in 0..good.payload.len() {
        let mut bad = good.clone();
        bad.payload[at] ^= 1;
        assert!(
            matches!(verify_simple(&signer.key(), &bad), Err(VerifyError::Signature { .. })),
            "byte {at}"
        );
    }
}

#[test]
fn signature_that_is_no_signature_is_refused() {
    let signer = Signer::new();
    let good = signer.sign(payload().as_bytes());
    let with = |signature: String| verify_simple(&signer.key(), &SimpleSigning { signature, ..good.clone() });
    assert!(matches!(with("not base64!".to_owned()), Err(VerifyError::Encoding { .. })));
    assert!(matches!(with(format!("{}\n", good.signature)), Err(VerifyError::Encoding { .. })));
    for nothing in ["", "bm90IGEgc2lnbmF0dXJl"] {
        assert!(matches!(with(nothing.to_owned()), Err(VerifyError::Signature { .. })));
    }
}

#[test]
fn claim_about_another_image_is_refused_naming_both_digests() {
    let signer = Signer::new();
    let claim = verify_simple(&signer.key(), &signer.sign(payload().as_bytes())).unwrap();
    assert_eq!(claim.about(&[Digest::of(b"image")]), Ok(()));
    let expected = vec![Digest::of(b"a"), Digest::of(b"b")];
    let error = claim.about(&expected).unwrap_err();
    assert_eq!(error, ClaimError::OtherDigest { claimed: Digest::of(b"image"), expected });
    assert!(error.to_string().contains(&Digest::of(b"b").to_string()));
    // Absence never means yes.
    assert!(claim.about(&[]).is_err());
}

#[test]
fn claim_of_another_type_is_refused() {
    let signer = Signer::new();
    for other in ["atomic container signature", "cosign container image signature ", ""] {
        let error = signer.broken(&payload().replace(CLAIM_TYPE, other));
        assert_eq!(error, ClaimError::Type(other.to_owned()));
    }
}

#[test]
fn signed_payload_that_can_be_read_two_ways_is_refused() {
    let signer = Signer::new();
    let with = |from: &str, to: &str| signer.broken(&payload().replacen(from, to, 1));
    assert!(matches!(with("\"critical\":", "\"critical\":{},\"critical\":"), ClaimError::Json(_)));
    assert!(matches!(with("\"critical\":", "\"Critical\":{},\"critical\":"), ClaimError::Json(_)));
    assert!(matches!(with("\"image\":", "\"IMAGE\":{},\"image\":"), ClaimError::Json(_)));
    assert_eq!(with("\"image\":", "\"more\":{},\"image\":"), ClaimError::UnknownKey("more".to_owned()));
    assert!(matches!(with("{\"critical\"", "{\"x\":1,\"critical\""), ClaimError::UnknownKey(_)));
    assert!(matches!(
        with("\"docker-manifest-digest\":\"", "\"docker-manifest-digest\":\"x"),
        ClaimError::Digest(_)
    ));
    for payload in ["", "{}", "[]", "null", "{\"critical\":null}", "{}{}"] {
        assert!(matches!(signer.broken(payload), ClaimError::Json(_)), "{payload}");
    }
}

#[test]
fn payload_over_the_limit_is_refused_by_name() {
    let signing = SimpleSigning {
        payload: vec![b' '; limits::PAYLOAD_BYTES + 1],
        signature: String::new(),
        annotations: Annotations::default(),
    };
    let error = verify_simple(&Signer::new().key(), &signing).unwrap_err();
    assert!(error.to_string().contains("limit PAYLOAD_BYTES"));
}

#[test]
fn claim_tells_repository_and_annotations() {
    let signer = Signer::new();
    let claim = |payload: String| verify_simple(&signer.key(), &signer.sign(payload.as_bytes())).unwrap();
    let good = claim(payload());
    assert_eq!(good.repository().unwrap().repo_name(), "registry.example/team/app");
    assert_eq!(good.optional()["env"], "prod");
    assert_eq!(good.digest(), Digest::of(b"image"));
    assert!(claim(payload().replace("registry.example/team/app", "")).repository().is_none());
    assert!(claim(payload().replace("{\"env\":\"prod\"}", "null")).optional().is_empty());
}
