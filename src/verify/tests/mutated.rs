//! Every value of a bundle changed, and every byte of what is signed: none is there for nothing. And the library's own
//! verifier beside ours.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sigstore_verify::types::{Bundle, Sha256Hash};
use sigstore_verify::{VerificationPolicy, Verifier};

use super::at;
use crate::trust::Trust;
use crate::verify::fixture::{Fixture, ROOT, names, now};
use crate::verify::*;

/// Pointers to all values that are no objects or arrays.
fn leaves(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| leaves(item, &format!("{pointer}/{n}"), found));
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, item)| leaves(item, &format!("{pointer}/{key}"), found));
        }
        _ => found.push(pointer.to_owned()),
    }
}

/// A value with one thing changed, of the same form where there is one.
fn change(value: &mut Value) {
    let text = value.as_str().unwrap().to_owned();
    let bytes = STANDARD.decode(&text);
    *value = match (text.parse::<u64>(), bytes) {
        (Ok(number), _) => (number + 1).to_string().into(),
        (_, Ok(mut bytes)) if !bytes.is_empty() => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            STANDARD.encode(bytes).into()
        }
        _ => {
            let mut text = text.into_bytes();
            let middle = text.len() / 2;
            text[middle] ^= 1;
            String::from_utf8(text).unwrap().into()
        }
    };
}

/// What no signature covers and nothing depends on.
fn is_hint(pointer: &str, rekor2: bool) -> bool {
    let unsigned = ["/publicKey/hint", "/keyid"];
    // Rekor v2 signs a checkpoint, and what stands beside it is a copy.
    let copies = ["/inclusionProof/logIndex", "/inclusionProof/rootHash", "/inclusionProof/treeSize"];
    unsigned.iter().any(|end| pointer.ends_with(end))
        || rekor2 && copies.iter().any(|end| pointer.ends_with(end))
}

fn library(fixture: &Fixture, bundle: &Value) -> bool {
    let root = fixture.trust.root(ROOT).unwrap();
    let Ok(bundle) = Bundle::from_json(&bundle.to_string()) else { return false };
    let policy = VerificationPolicy::any_identity();
    let digest = Sha256Hash::new(*fixture.digests[0].raw());
    Verifier::new(root.material()).unwrap().verify(digest, &bundle, &policy).is_ok()
}

#[test]
fn every_value_in_a_bundle_matters_and_the_library_agrees() {
    let mut seen = 0;
    for name in ["keyless-rekor1-tsa-bundle", "keyless-rekor2-tsa-bundle", "keyless-rekor1-bundle"] {
        let fixture = Fixture::load(name);
        let good = fixture.bundle();
        assert!(library(&fixture, &good), "{name}");
        let mut pointers = Vec::new();
        leaves(&good, "", &mut pointers);
        for pointer in pointers {
            let mut bundle = good.clone();
            change(at(&mut bundle, &pointer));
            let evidence = Evidence::Bundle(bundle.to_string().into());
            let holds = fixture.verify(&evidence, fixture.one().1, &Sought::Signature).is_ok();
            assert_eq!(holds, is_hint(&pointer, name.contains("rekor2")), "{name} {pointer}");
            // Ours never takes what the library does not.
            assert!(!holds || library(&fixture, &bundle), "{name} {pointer}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn every_byte_of_a_certificate_matters() {
    every_byte("keyless-rekor1-bundle", "/verificationMaterial/certificate/rawBytes", 5);
}

#[test]
fn no_byte_of_a_timestamp_changes_its_time() {
    let pointer = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    every_byte("keyless-tsa-bundle", pointer, 3);
}

/// Flips bits in every `step`th byte; what still holds says the same about who and when.
fn every_byte(name: &str, pointer: &str, step: usize) {
    let fixture = Fixture::load(name);
    let good = fixture.bundle();
    let before = fixture.verify(fixture.one().0, fixture.one().1, &Sought::Signature).unwrap();
    let bytes = STANDARD.decode(good.pointer(pointer).unwrap().as_str().unwrap()).unwrap();
    for n in (0..bytes.len()).step_by(step) {
        let mut changed = bytes.clone();
        changed[n] ^= 1 << (n % 8);
        let mut bundle = good.clone();
        *at(&mut bundle, pointer) = STANDARD.encode(changed).into();
        let evidence = Evidence::Bundle(bundle.to_string().into());
        if let Ok(after) = fixture.verify(&evidence, fixture.one().1, &Sought::Signature) {
            assert_eq!((&after.signer, &after.times), (&before.signer, &before.times), "byte {n}");
            assert!(pointer.contains("Timestamp"), "byte {n} of a certificate");
        }
    }
}

#[test]
fn library_takes_what_it_can_and_its_gaps_are_the_known_ones() {
    let mut refused = Vec::new();
    for name in names() {
        let fixture = Fixture::load(&name);
        let ([Evidence::Bundle(_)], [Authority::Keyless(_)]) =
            (&fixture.evidence[..], &fixture.authorities[..])
        else {
            continue;
        };
        if !library(&fixture, &fixture.bundle()) {
            refused.push(name);
        }
    }
    // No log at all; DSSE entries in Rekor v2. When this list changes, docs/verification.md does.
    assert_eq!(
        refused,
        [
            "attest-keyless-tsa-bundle",
            "attest-npm-rekor2-precise-tsa",
            "attest-npm-rekor2-tsa",
            "keyless-tsa-bundle"
        ]
    );
}

#[test]
fn nothing_panics_on_cut_bundles() {
    for name in ["keyless-rekor1-tsa-bundle", "key-none-bundle", "attest-npm-rekor2-tsa"] {
        let fixture = Fixture::load(name);
        let (Evidence::Bundle(bytes), authority) = fixture.one() else { panic!() };
        for end in (0..bytes.len()).step_by(97) {
            let evidence = Evidence::Bundle(bytes.slice(..end));
            let failure =
                verify(&evidence, authority, &Sought::Signature, &fixture.digests, &Trust::default(), now());
            assert_eq!(failure.unwrap_err().step, Step::Format);
        }
    }
}
