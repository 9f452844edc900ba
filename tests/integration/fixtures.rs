//! The sigstore fixtures are whole: what tests build on is what a registry would serve.

use crate::support::fixtures::{Case, Identity};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

#[test]
fn everything_stored_has_its_digest() {
    let cases = Case::all();
    assert!(cases.len() > 100, "{} cases", cases.len());
    for case in cases {
        for stored in &case.stored {
            assert_eq!(stored.digest, digest(&stored.bytes), "{}/{}", case.name, stored.file);
        }
    }
}

#[test]
fn what_a_manifest_names_is_stored_before_it() {
    for case in Case::all() {
        for (at, stored) in case.stored.iter().enumerate().filter(|(_, s)| s.media_type.is_some()) {
            let value: Value = serde_json::from_slice(&stored.bytes).unwrap();
            let lists = ["layers", "manifests"].into_iter().filter_map(|list| value[list].as_array());
            for named in lists.flatten().chain(value.get("config")) {
                let before = case.stored[..at].iter();
                let found = before.filter(|s| s.repository == stored.repository);
                let mut found = found.filter(|s| named["digest"] == s.digest);
                assert!(found.next().is_some(), "{}/{}: no {named}", case.name, stored.file);
            }
        }
    }
}

#[test]
fn every_case_has_its_image_and_says_who_signed() {
    for case in Case::all() {
        let image = case.get(&case.digest).unwrap_or_else(|| panic!("{} has no image", case.name));
        assert_eq!(image.repository, case.repository(), "{}", case.name);
        assert_eq!(image.bytes, case.bytes("manifest.json"), "{}", case.name);
        // Fulcio names an issuer, a private CA does not.
        let fulcio = case.file("ca-root.pem").is_none();
        let named = |who: &Identity| !who.subject.is_empty() && who.issuer.is_empty() != fulcio;
        let keyless = case.identity.as_ref().is_some_and(named);
        let signed = keyless || !case.keys().is_empty();
        assert!(signed || case.name == "unsigned", "{}: by whom?", case.name);
        if keyless {
            assert!(case.file("trusted_root.json").is_some(), "{}", case.name);
        }
    }
}
