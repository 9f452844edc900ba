//! Statements that are signed properly and say something else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::image::Digest;
use crate::limits;
use crate::trust::Trust;
use crate::verify::fixture::now;
use crate::verify::testing::Signer;
use crate::verify::*;

const IN_TOTO: &str = "application/vnd.in-toto+json";
const SLSA: &str = "https://slsa.dev/provenance/v1";
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

fn image() -> Digest {
    Digest::of(b"image")
}

fn statement(predicate_type: &str) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "app", "digest": {"sha256": image().hex()}, "annotations": {"env": "prod"}}],
        "predicateType": predicate_type,
        "predicate": {"b": 1, "a": 18446744073709551615_u64},
    })
}

/// A bundle, or an attachment, around a payload that the key did sign.
fn evidence(signer: &Signer, payload_type: &str, payload: &str, attached: bool) -> Evidence {
    let pae = format!("DSSEv1 {} {payload_type} {} {payload}", payload_type.len(), payload.len());
    let signature = signer.sign(pae.as_bytes()).signature;
    let envelope = json!({
        "payloadType": payload_type,
        "payload": STANDARD.encode(payload),
        "signatures": [{"sig": signature}],
    });
    if attached {
        let annotations = Annotations::default();
        return Evidence::Attached(Attached { envelope: envelope.to_string().into(), annotations });
    }
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}},
        "dsseEnvelope": envelope,
    });
    Evidence::Bundle(bundle.to_string().into())
}

fn said(payload_type: &str, payload: &str, sought: &Sought<'_>, attached: bool) -> Result<Verified, Failure> {
    let signer = Signer::new();
    let authority = KeyAuthority { name: None, key: signer.key(), witnesses: Witnesses::default() };
    let evidence = evidence(&signer, payload_type, payload, attached);
    let trust = Trust::default();
    verify(&evidence, &Authority::Key(authority), sought, &[Digest::of(b"index"), image()], &trust, now())
}

fn sought(types: &[String]) -> Sought<'_> {
    Sought::Attestation { predicate_types: types }
}

#[track_caller]
fn refused(payload: &str, step: Step, words: &str) {
    let types = [SLSA.to_owned()];
    let failure = said(IN_TOTO, payload, &sought(&types), false).unwrap_err();
    assert_eq!(failure.step, step, "{failure}");
    assert!(failure.to_string().contains(words), "{failure}");
}

#[test]
fn attestation_is_found_by_its_exact_type_and_its_predicate_is_returned_as_it_is() {
    let payload = statement(SLSA).to_string().replace("{\"a\"", "{ \"a\"");
    let types = ["x".to_owned(), SLSA.to_owned()];
    for attached in [false, true] {
        let verified = said(IN_TOTO, &payload, &sought(&types), attached).unwrap();
        let predicate = verified.predicate.unwrap();
        assert_eq!(predicate.predicate_type, SLSA);
        assert_eq!(&predicate.bytes[..], b"{ \"a\":18446744073709551615,\"b\":1}");
        assert_eq!(verified.annotations["env"], "prod");
        assert_eq!(verified.digest, image());
    }
    let old = payload.replace("Statement/v1", "Statement/v0.1");
    assert!(said(IN_TOTO, &old, &sought(&types), true).is_ok());
}

/// CVE-2022-35929, CVE-2022-35930, CVE-2026-39395.
#[test]
fn attestation_of_another_type_is_refused() {
    let payload = statement(SLSA).to_string();
    for other in ["https://slsa.dev/provenance/v1 ", "https://slsa.dev/provenance", "slsaprovenance1", ""] {
        let types = [other.to_owned()];
        let failure = said(IN_TOTO, &payload, &sought(&types), false).unwrap_err();
        assert_eq!(failure.step, Step::Type, "{other}");
        assert!(
            failure.to_string().contains(&format!("found an attestation of type \"{SLSA}\"")),
            "{failure}"
        );
    }
    assert_eq!(said(IN_TOTO, &payload, &sought(&[]), false).unwrap_err().step, Step::Type);
}

#[test]
fn attestation_is_no_signature_and_a_signature_no_attestation() {
    let (slsa, sign) = (statement(SLSA).to_string(), statement(SIGN).to_string());
    assert!(said(IN_TOTO, &sign, &Sought::Signature, false).is_ok());
    assert_eq!(said(IN_TOTO, &slsa, &Sought::Signature, false).unwrap_err().step, Step::Type);
    // What is found as an attestation signs nothing, whatever it says to be; nor is a signature an attestation, even if
    // asked for by its type.
    assert_eq!(said(IN_TOTO, &sign, &Sought::Signature, true).unwrap_err().step, Step::Type);
    let types = [SIGN.to_owned()];
    for attached in [false, true] {
        assert_eq!(said(IN_TOTO, &sign, &sought(&types), attached).unwrap_err().step, Step::Type);
    }
}

#[test]
fn statement_about_another_image_is_refused() {
    let with = |subject: Value| {
        let mut statement = statement(SLSA);
        statement["subject"] = subject;
        statement.to_string()
    };
    let other = Digest::of(b"other");
    refused(&with(json!([{"digest": {"sha256": other.hex()}}])), Step::Subject, &other.to_string());
    refused(&with(json!([])), Step::Subject, "nothing that has a sha256 digest");
    refused(&with(json!([{"digest": {"sha512": image().hex()}}])), Step::Subject, "nothing that has");
    refused(&with(json!([{"name": image().hex()}])), Step::Claim, "digest");
    refused(&with(json!([{"digest": {"sha256": image().hex().to_uppercase()}}])), Step::Claim, "sha256");
    refused(&with(json!([{"digest": {"SHA256": image().hex()}}])), Step::Claim, "sha256");
    // One of several is enough.
    let two = with(json!([{"digest": {"sha256": other.hex()}}, {"digest": {"sha256": image().hex()}}]));
    assert!(said(IN_TOTO, &two, &sought(&[SLSA.to_owned()]), false).is_ok());
    let many =
        with(vec![json!({"digest": {"sha256": image().hex()}}); limits::STATEMENT_SUBJECTS + 1].into());
    refused(&many, Step::Format, "limit STATEMENT_SUBJECTS");
}

#[test]
fn statement_that_reads_two_ways_is_refused() {
    let payload = statement(SLSA).to_string();
    for (from, to) in [
        ("\"predicateType\":", "\"predicateType\":\"x\",\"predicateType\":"),
        ("\"predicateType\":", "\"PredicateType\":\"x\",\"predicateType\":"),
        ("\"subject\":", "\"subject\":[],\"subject\":"),
        ("\"sha256\":", "\"sha256\":\"00\",\"sha256\":"),
        ("{\"a\":", "{\"b\":2,\"a\":"),
    ] {
        assert!(payload.contains(from), "{from}");
        refused(&payload.replacen(from, to, 1), Step::Claim, "key");
    }
    refused(&format!("{payload}{payload}"), Step::Claim, "strict JSON");
    refused(&payload.replace("Statement/v1", "Statement/v2"), Step::Claim, "expected a statement of type");
    refused("{}", Step::Claim, "_type");
}

#[test]
fn payload_of_another_type_is_refused() {
    let payload = statement(SLSA).to_string();
    for other in
        ["application/json", "application/vnd.in-toto+json ", "", "application/vnd.in-toto.provenance+dsse"]
    {
        let failure = said(other, &payload, &sought(&[SLSA.to_owned()]), false).unwrap_err();
        assert_eq!(failure.step, Step::Claim, "{failure}");
        assert!(failure.to_string().contains("expected the payload type"), "{failure}");
    }
}

#[test]
fn bundle_over_an_images_digest_is_a_signature_on_that_image_only() {
    let signer = Signer::new();
    let authority =
        Authority::Key(KeyAuthority { name: None, key: signer.key(), witnesses: Witnesses::default() });
    let bundle = |digest: Value| {
        let signature = signer.sign(b"image").signature;
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {}},
            "messageSignature": {"signature": signature, "messageDigest": digest},
        });
        Evidence::Bundle(bundle.to_string().into())
    };
    let verify = |evidence: &Evidence, digests: &[Digest]| {
        verify(evidence, &authority, &Sought::Signature, digests, &Trust::default(), now())
    };
    let named = |hash: &str| json!({"algorithm": "SHA2_256", "digest": hash});
    let right = bundle(named(&STANDARD.encode(image().raw())));
    for evidence in [&right, &bundle(Value::Null)] {
        // Which of the image's digests it is about is found out.
        let verified = verify(evidence, &[Digest::of(b"index"), image()]).unwrap();
        assert_eq!((verified.digest, verified.docker_reference), (image(), None));
        assert_eq!(verify(evidence, &[Digest::of(b"index")]).unwrap_err().step, Step::Signature);
        assert_eq!(verify(evidence, &[]).unwrap_err().step, Step::Signature);
    }
    // The hash beside it contradicts.
    let wrong = bundle(named(&STANDARD.encode(Digest::of(b"index").raw())));
    assert_eq!(verify(&wrong, &[Digest::of(b"index"), image()]).unwrap_err().step, Step::Signature);
    assert_eq!(
        verify(&bundle(json!({"algorithm": "SHA1", "digest": ""})), &[image()]).unwrap_err().step,
        Step::Format
    );
}
