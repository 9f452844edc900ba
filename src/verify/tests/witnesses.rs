//! Timestamps, and thresholds of logs and timestamp authorities.

use serde_json::{Value, json};

use super::{at, changed, fails, flip};
use crate::trust::Root;
use crate::verify::fixture::{Fixture, now, trust_of};
use crate::verify::*;

const TSA: &str = "keyless-tsa-bundle";
const KEY_TSA: &str = "key-tsa-bundle";
const REKOR1_TSA: &str = "keyless-rekor1-tsa-bundle";
const STAMP: &str = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";

fn with_counts(
    name: &str,
    logs: u8,
    timestamps: u8,
    change: impl FnOnce(&mut Value),
) -> Result<Verified, Failure> {
    let fixture = Fixture::load(name);
    let mut bundle = fixture.bundle();
    change(&mut bundle);
    let mut authority = fixture.one().1.clone();
    let witnesses = match &mut authority {
        Authority::Key(KeyAuthority { witnesses, .. })
        | Authority::Keyless(KeylessAuthority { witnesses, .. })
        | Authority::Pki(PkiAuthority { witnesses, .. }) => witnesses,
    };
    (witnesses.logs.count, witnesses.timestamps.count) = (logs, timestamps);
    fixture.verify(&Evidence::Bundle(bundle.to_string().into()), &authority, &Sought::Signature)
}

fn with_tsa(name: &str, change: impl Fn(&mut Value)) -> Result<Verified, Failure> {
    let fixture = Fixture::load(name);
    let mut root: Value =
        serde_json::from_slice(&std::fs::read(fixture.dir.join("trusted_root.json")).unwrap()).unwrap();
    root["timestampAuthorities"].as_array_mut().unwrap().iter_mut().for_each(change);
    let trust = trust_of(Root::parse(root.to_string().as_bytes()).unwrap());
    let (evidence, authority) = fixture.one();
    verify(evidence, authority, &Sought::Signature, &fixture.digests, &trust, now())
}

#[test]
fn timestamp_of_another_signature_is_refused() {
    let other = Fixture::load("keyless-rekor2-tsa-bundle").bundle();
    for name in [TSA, KEY_TSA, REKOR1_TSA] {
        let stolen = other.pointer(STAMP).unwrap().clone();
        fails(name, Step::Timestamp, "found one of something else", |bundle| *at(bundle, STAMP) = stolen);
    }
}

#[test]
fn timestamp_that_is_none_is_refused() {
    for text in ["", "AAAA", "MAA=", "MAMCAQA="] {
        fails(TSA, Step::Timestamp, "expected a timestamp (RFC 3161", |bundle| {
            *at(bundle, STAMP) = text.into()
        });
    }
    let failure = changed(TSA, |bundle| flip(at(bundle, STAMP))).unwrap_err();
    assert!(matches!(failure.step, Step::Timestamp | Step::Time), "{failure}");
}

#[test]
fn timestamp_authority_that_nobody_knows_does_not_count() {
    // CVE-2026-39984: what came with the timestamp decides nothing.
    let fixture = Fixture::load(TSA);
    let mut root: Value =
        serde_json::from_slice(&std::fs::read(fixture.dir.join("trusted_root.json")).unwrap()).unwrap();
    root["timestampAuthorities"] = json!([]);
    let trust = trust_of(Root::parse(root.to_string().as_bytes()).unwrap());
    let verify = |fixture: &Fixture| {
        let (evidence, authority) = fixture.one();
        verify(evidence, authority, &Sought::Signature, &fixture.digests, &trust, now()).unwrap_err()
    };
    assert_eq!(verify(&fixture).step, Step::Time);
    assert_eq!(verify(&Fixture::load(KEY_TSA)).step, Step::Witnesses);
    assert_eq!(verify(&Fixture::load(REKOR1_TSA)).step, Step::Witnesses);
}

#[test]
fn timestamp_authority_that_was_not_in_use_then_is_refused() {
    assert!(with_tsa(TSA, |_| ()).is_ok());
    for window in [
        json!({"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"}),
        json!({"start": "2100-01-01T00:00:00Z"}),
    ] {
        let failure = with_tsa(TSA, |authority| authority["validFor"] = window.clone()).unwrap_err();
        assert_eq!(failure.step, Step::Timestamp);
        assert!(failure.to_string().contains("when the authority was in use"), "{failure}");
    }
}

#[test]
fn fraction_of_a_second_is_part_of_the_time() {
    let fixture = Fixture::load("attest-npm-rekor2-precise-tsa");
    let (evidence, authority) = fixture.one();
    let types = ["https://slsa.dev/provenance/v1".to_owned()];
    let sought = Sought::Attestation { predicate_types: &types };
    let verified = fixture.verify(evidence, authority, &sought).unwrap();
    let since = verified.times[0].time.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_ne!(since.subsec_nanos(), 0);
}

#[test]
fn thresholds_count_distinct_witnesses() {
    let twice = |pointer: &'static str| {
        move |bundle: &mut Value| {
            let list = at(bundle, pointer).as_array_mut().unwrap();
            list.push(list[0].clone());
        }
    };
    let (entries, stamps) = (
        twice("/verificationMaterial/tlogEntries"),
        twice("/verificationMaterial/timestampVerificationData/rfc3161Timestamps"),
    );
    assert!(with_counts(REKOR1_TSA, 1, 1, |_| ()).is_ok());
    // GHSA-9vcr-p3rj-q5q6: twice the same is one.
    assert!(with_counts(REKOR1_TSA, 1, 1, entries).is_ok());
    let failure = with_counts(REKOR1_TSA, 2, 1, entries).unwrap_err();
    assert_eq!(failure.step, Step::Witnesses);
    assert!(
        failure.to_string().contains("expected 2 distinct transparency logs of the trusted root, found 1"),
        "{failure}"
    );
    let failure = with_counts(REKOR1_TSA, 1, 2, stamps).unwrap_err();
    assert!(failure.to_string().contains("expected 2 distinct timestamp authorities"), "{failure}");
    // The same for keys.
    assert!(with_counts("key-rekor1-tsa-bundle", 1, 1, |_| ()).is_ok());
    assert!(with_counts("key-rekor1-tsa-bundle", 2, 0, entries).is_err());
    assert!(with_counts("key-rekor1-tsa-bundle", 0, 2, stamps).is_err());
    assert!(with_counts("key-none-bundle", 1, 0, |_| ()).is_err());
    assert!(with_counts("key-none-bundle", 0, 1, |_| ()).is_err());
}

#[test]
fn witness_that_nobody_asked_for_may_be_anything_with_a_key() {
    // A policy of keys alone has no trusted root to hold the entry against.
    let broken = |bundle: &mut Value| {
        flip(at(bundle, "/verificationMaterial/tlogEntries/0/inclusionPromise/signedEntryTimestamp"));
    };
    assert!(with_counts("key-rekor1-tsa-bundle", 0, 0, broken).is_ok());
    assert_eq!(with_counts("key-rekor1-tsa-bundle", 1, 0, broken).unwrap_err().step, Step::Promise);
    // With a certificate it is a time, asked for or not.
    assert_eq!(with_counts(REKOR1_TSA, 0, 0, broken).unwrap_err().step, Step::Promise);
}
