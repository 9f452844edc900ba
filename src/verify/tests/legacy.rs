//! cosign's annotations.

use crate::limits;
use crate::verify::fixture::Fixture;
use crate::verify::*;

const KEYLESS: &str = "keyless-rekor1-legacy";
const KEYLESS_TSA: &str = "keyless-tsa-legacy";

fn simple(name: &str) -> SimpleSigning {
    match Fixture::load(name).one().0 {
        Evidence::Simple(signing) => signing.clone(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn changed(name: &str, change: impl FnOnce(&mut SimpleSigning)) -> Failure {
    let fixture = Fixture::load(name);
    let mut signing = simple(name);
    assert!(fixture.verify(&Evidence::Simple(signing.clone()), fixture.one().1, &Sought::Signature).is_ok());
    change(&mut signing);
    let failure =
        fixture.verify(&Evidence::Simple(signing), fixture.one().1, &Sought::Signature).unwrap_err();
    assert!(!failure.to_string().contains('\n'), "{failure}");
    failure
}

/// CVE-2022-23649, CVE-2022-36056: what another client took for a signature.
#[test]
fn annotations_of_another_image_and_no_signature_are_refused() {
    let other = simple("keyless-rekor1-tsa-legacy");
    let failure = changed(KEYLESS, |signing| {
        signing.annotations = other.annotations.clone();
        signing.signature = "bm90IGEgc2lnbmF0dXJl".to_owned();
    });
    assert_eq!(failure.step, Step::Signature);
    // With everything of the other image it is the other image's.
    let failure = changed(KEYLESS, |signing| *signing = other.clone());
    assert_eq!(failure.step, Step::Subject);
    // Its log entry beside this one's signature.
    let failure = changed(KEYLESS, |signing| signing.annotations.bundle = other.annotations.bundle.clone());
    assert!(matches!(failure.step, Step::Chain | Step::Entry), "{failure}");
    let failure =
        changed(KEYLESS, |signing| signing.annotations.certificate = other.annotations.certificate.clone());
    assert_eq!(failure.step, Step::Signature);
}

#[test]
fn log_entry_of_another_signature_by_the_same_key_is_refused() {
    let other = simple("key-rekor1-tsa-legacy");
    let failure = changed("key-rekor1-legacy", |signing| signing.annotations = other.annotations.clone());
    assert_eq!(failure.step, Step::Entry, "{failure}");
}

#[test]
fn missing_annotations_prove_nothing() {
    let missing =
        |change: &dyn Fn(&mut Annotations)| changed(KEYLESS, |signing| change(&mut signing.annotations)).step;
    assert_eq!(missing(&|annotations| annotations.certificate = None), Step::Kind);
    assert_eq!(missing(&|annotations| annotations.bundle = None), Step::Time);
    let failure = changed(KEYLESS_TSA, |signing| signing.annotations.rfc3161timestamp = None);
    assert_eq!(failure.step, Step::Time);
    let failure = changed("key-rekor1-legacy", |signing| signing.annotations.bundle = None);
    assert_eq!(failure.step, Step::Witnesses);
}

#[test]
fn forged_promise_is_refused() {
    let edit = |from: &'static str, to: &'static str| {
        changed(KEYLESS, |signing| {
            let bundle = signing.annotations.bundle.as_mut().unwrap();
            assert!(bundle.contains(from), "{bundle}");
            *bundle = bundle.replacen(from, to, 1);
        })
    };
    assert_eq!(edit("\"integratedTime\":1", "\"integratedTime\":2").step, Step::Promise);
    assert_eq!(edit("\"logIndex\":", "\"logIndex\":9").step, Step::Promise);
    assert_eq!(edit("\"SignedEntryTimestamp\":\"MEU", "\"SignedEntryTimestamp\":\"MEQ").step, Step::Promise);
    for (from, to) in [
        ("\"Payload\":", "\"Payload\":{},\"Payload\":"),
        ("\"Payload\":", "\"payload\":{},\"Payload\":"),
        ("\"logID\":\"", "\"logID\":\"x"),
        ("\"integratedTime\":", "\"integratedTime\":-"),
        ("\"integratedTime\":", "\"integratedTime\":9999999"),
        ("{", "["),
    ] {
        assert_eq!(edit(from, to).step, Step::Format, "{to}");
    }
}

#[test]
fn annotation_over_the_limit_is_undecided() {
    let long = || Some("x".repeat(limits::ANNOTATION_BYTES + 1));
    for change in [
        |annotations: &mut Annotations, long| annotations.certificate = long,
        |annotations: &mut Annotations, long| annotations.chain = long,
        |annotations: &mut Annotations, long| annotations.bundle = long,
        |annotations: &mut Annotations, long| annotations.rfc3161timestamp = long,
    ] {
        let failure = changed(KEYLESS, |signing| change(&mut signing.annotations, long()));
        assert!(failure.undecided && failure.to_string().contains("limit ANNOTATION_BYTES"), "{failure}");
    }
    let failure = changed(KEYLESS, |signing| signing.payload = vec![b' '; limits::PAYLOAD_BYTES + 1]);
    assert!(failure.undecided && failure.to_string().contains("limit PAYLOAD_BYTES"), "{failure}");
}

#[test]
fn payload_or_signature_changed_is_refused() {
    let failure = changed(KEYLESS, |signing| signing.payload[10] ^= 1);
    assert_eq!(failure.step, Step::Signature);
    let failure = changed(KEYLESS, |signing| signing.signature = "not base64!".to_owned());
    assert_eq!(failure.step, Step::Format);
}

#[test]
fn timestamp_of_an_attestation_is_over_the_whole_envelope() {
    let fixture = Fixture::load("attest-keyless-tsa-legacy");
    let types = ["https://slsa.dev/provenance/v1".to_owned()];
    let sought = Sought::Attestation { predicate_types: &types };
    let (evidence, authority) = fixture.one();
    assert!(fixture.verify(evidence, authority, &sought).is_ok());
    let Evidence::Attached(attached) = evidence else { panic!() };
    // The same envelope, written otherwise: the signature holds, the timestamp does not.
    let mut changed = attached.clone();
    changed.envelope = [&b" "[..], &attached.envelope].concat().into();
    let failure = fixture.verify(&Evidence::Attached(changed), authority, &sought).unwrap_err();
    assert_eq!(failure.step, Step::Timestamp, "{failure}");
}

/// Rekor v1 has verified no plain Ed25519 signature over a hash; without the log the same one holds.
#[test]
fn log_entry_that_no_log_can_have_verified_is_refused() {
    let fixture = Fixture::load("ed25519-rekor1-legacy");
    let (evidence, authority) = fixture.one();
    let failure = fixture.verify(evidence, authority, &Sought::Signature).unwrap_err();
    assert_eq!(failure.step, Step::Entry, "{failure}");
    assert!(failure.to_string().contains("which a log cannot verify"), "{failure}");
    let Authority::Key(mut alone) = authority.clone() else { panic!("{authority:?}") };
    alone.witnesses = Witnesses::default();
    assert!(fixture.verify(evidence, &Authority::Key(alone), &Sought::Signature).is_ok());
}
