//! Bundles: format, signature, log, certificate, identity.

use serde_json::{Value, json};

use super::{at, changed, fails, flip, hits};
use crate::image::Digest;
use crate::limits;
use crate::trust::{Root, Trust};
use crate::verify::fixture::{Fixture, ROOT, now, trust_of};
use crate::verify::*;

const REKOR1: &str = "keyless-rekor1-bundle";
const REKOR1_TSA: &str = "keyless-rekor1-tsa-bundle";
const REKOR2: &str = "keyless-rekor2-tsa-bundle";
const KEY: &str = "key-none-bundle";
const KEY_LOG: &str = "key-rekor1-bundle";
const ENTRY: &str = "/verificationMaterial/tlogEntries/0";

fn entry(part: &str) -> String {
    format!("{ENTRY}/{part}")
}

/// A keyless fixture verified with a changed trusted root.
fn with_root(name: &str, change: impl FnOnce(&mut Value)) -> Result<Verified, Failure> {
    let fixture = Fixture::load(name);
    let mut root: Value =
        serde_json::from_slice(&std::fs::read(fixture.dir.join("trusted_root.json")).unwrap()).unwrap();
    change(&mut root);
    let trust = trust_of(Root::parse(root.to_string().as_bytes()).unwrap());
    let (evidence, authority) = fixture.one();
    verify(evidence, authority, &Sought::Signature, &fixture.digests, &trust, now())
}

#[track_caller]
fn fails_with_root(name: &str, step: Step, words: &str, change: impl FnOnce(&mut Value)) {
    assert!(with_root(name, |_| ()).is_ok(), "{name} itself");
    let failure = with_root(name, change).unwrap_err();
    assert_eq!(failure.step, step, "{failure}");
    assert!(failure.to_string().contains(words), "{failure}");
}

/// A keyless fixture verified with another authority.
fn with_authority(name: &str, change: impl FnOnce(&mut KeylessAuthority)) -> Result<Verified, Failure> {
    let fixture = Fixture::load(name);
    let (evidence, authority) = fixture.one();
    let Authority::Keyless(mut authority) = authority.clone() else { panic!("{name}") };
    change(&mut authority);
    fixture.verify(evidence, &Authority::Keyless(authority), &Sought::Signature)
}

#[test]
fn bundle_that_reads_two_ways_is_refused() {
    let fixture = Fixture::load(KEY);
    let text = fixture.bundle().to_string();
    for (from, to, words) in [
        ("{\"dsseEnvelope\":", "{\"dsseEnvelope\":{},\"dsseEnvelope\":", "duplicate key"),
        ("\"payload\":", "\"payload\":\"\",\"payload\":", "duplicate key"),
        ("\"payload\":", "\"Payload\":\"\",\"payload\":", "other readers take for the same key"),
        ("\"mediaType\":", "\"messageSignature\":{\"signature\":\"AA==\"},\"mediaType\":", "found 2"),
        ("\"publicKey\":", "\"certificate\":{\"rawBytes\":\"AA==\"},\"publicKey\":", "found 2"),
        ("\"dsseEnvelope\":", "\"other\":", "found 0"),
        ("\"publicKey\":", "\"other\":", "found 0"),
    ] {
        assert!(text.contains(from), "{from}");
        let evidence = Evidence::Bundle(text.replacen(from, to, 1).into());
        let failure = fixture.verify(&evidence, fixture.one().1, &Sought::Signature).unwrap_err();
        assert_eq!((failure.step, failure.undecided), (Step::Format, false), "{failure}");
        assert!(failure.to_string().contains(words), "{failure}");
    }
}

#[test]
fn other_media_type_is_refused() {
    for media_type in ["application/vnd.dev.sigstore.bundle+json;version=0.4", "application/json", ""] {
        fails(KEY, Step::Format, "version 0.1 to 0.3", |bundle| bundle["mediaType"] = media_type.into());
    }
    fails(KEY, Step::Format, "mediaType", |bundle| drop(bundle.as_object_mut().unwrap().remove("mediaType")));
}

#[test]
fn second_signature_in_the_envelope_is_refused() {
    fails(KEY, Step::Format, "expected one signature, found 2", |bundle| {
        let signatures = at(bundle, "/dsseEnvelope/signatures").as_array_mut().unwrap();
        signatures.push(signatures[0].clone());
    });
    fails(KEY, Step::Format, "expected one signature, found 0", |bundle| {
        *at(bundle, "/dsseEnvelope/signatures") = json!([]);
    });
}

#[test]
fn newer_bundle_called_an_older_one_and_robbed_of_its_proof_is_refused() {
    for version in ["0.1", "0.2"] {
        fails(REKOR1, Step::Format, "expected an inclusion proof", |bundle| {
            bundle["mediaType"] =
                format!("application/vnd.dev.sigstore.bundle+json;version={version}").into();
            at(bundle, ENTRY).as_object_mut().unwrap().remove("inclusionProof");
        });
    }
    fails(REKOR1, Step::Format, "expected an inclusion proof", |bundle| {
        at(bundle, ENTRY).as_object_mut().unwrap().remove("inclusionProof");
    });
    fails(REKOR2, Step::Format, "expected an inclusion promise in a bundle of version 0.1", |bundle| {
        bundle["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1".into();
    });
}

#[test]
fn limits_are_undecided_and_named_before_anything_is_verified() {
    let repeat = |pointer: &'static str, n: usize| {
        move |bundle: &mut Value| {
            let list = at(bundle, pointer).as_array_mut().unwrap();
            let one = list[0].clone();
            list.resize(n, one);
        }
    };
    // CVE-2024-29902, CVE-2024-29903.
    hits(REKOR1, "LOG_ENTRIES", repeat("/verificationMaterial/tlogEntries", 500));
    hits(REKOR1, "LOG_ENTRIES", repeat("/verificationMaterial/tlogEntries", limits::LOG_ENTRIES + 1));
    let stamps = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps";
    hits(REKOR2, "TIMESTAMPS", repeat(stamps, limits::TIMESTAMPS + 1));
    let text = |length: usize| Value::from("A".repeat(length));
    hits(REKOR2, "TIMESTAMP_BYTES", |bundle| {
        *at(bundle, &format!("{stamps}/0/signedTimestamp")) = text(2 * limits::TIMESTAMP_BYTES);
    });
    hits(REKOR1, "INCLUSION_HASHES", |bundle| {
        let hash = Value::from("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        *at(bundle, &entry("inclusionProof/hashes")) = vec![hash; limits::INCLUSION_HASHES + 1].into();
    });
    hits(REKOR1, "CHECKPOINT_BYTES", |bundle| {
        *at(bundle, &entry("inclusionProof/checkpoint/envelope")) = text(limits::CHECKPOINT_BYTES + 1);
    });
    hits(REKOR1, "LOG_ENTRY_BYTES", |bundle| {
        *at(bundle, &entry("canonicalizedBody")) = text(2 * limits::LOG_ENTRY_BYTES);
    });
    hits(REKOR1, "CERTIFICATE_BYTES", |bundle| {
        *at(bundle, "/verificationMaterial/certificate/rawBytes") = text(2 * limits::CERTIFICATE_BYTES);
    });
    hits(REKOR1, "CHAIN_CERTIFICATES", |bundle| {
        let material = at(bundle, "/verificationMaterial").as_object_mut().unwrap();
        let one = material.remove("certificate").unwrap();
        let many = vec![one; limits::CHAIN_CERTIFICATES + 1];
        material.insert("x509CertificateChain".to_owned(), json!({ "certificates": many }));
    });
    hits(KEY, "BUNDLE_BYTES", |bundle| bundle["more"] = text(limits::BUNDLE_BYTES));
    hits(KEY, "JSON_VALUES", |bundle| bundle["more"] = vec![0; limits::JSON_VALUES].into());
}

#[test]
fn signature_over_something_else_is_refused() {
    for name in [KEY, REKOR1, REKOR2, KEY_LOG] {
        fails(name, Step::Signature, "does not verify", |bundle| flip(at(bundle, "/dsseEnvelope/payload")));
        fails(name, Step::Signature, "does not verify", |bundle| {
            flip(at(bundle, "/dsseEnvelope/signatures/0/sig"));
        });
        fails(name, Step::Signature, "does not verify", |bundle| {
            *at(bundle, "/dsseEnvelope/payloadType") = "application/vnd.in-toto+JSON".into();
        });
    }
}

#[test]
fn signature_by_a_key_is_none_with_a_certificate_and_the_other_way_round() {
    let (key, keyless) = (Fixture::load(KEY), Fixture::load(REKOR1));
    let failure = key.verify(keyless.one().0, key.one().1, &Sought::Signature).unwrap_err();
    assert_eq!(failure.step, Step::Kind);
    // The error says whose the certificate says to be, and that nobody has verified that.
    assert!(
        failure.to_string().contains("it says that it is by \"https://github.com/acme/app/"),
        "{failure}"
    );
    let failure = keyless.verify(key.one().0, keyless.one().1, &Sought::Signature).unwrap_err();
    assert_eq!(failure.step, Step::Kind);
}

#[test]
fn forged_promise_is_refused() {
    for part in ["inclusionPromise/signedEntryTimestamp", "canonicalizedBody"] {
        fails(REKOR1, Step::Promise, "its key did not sign", |bundle| flip(at(bundle, &entry(part))));
    }
    for (part, value) in [("integratedTime", "1795336169"), ("logIndex", "0")] {
        fails(REKOR1, Step::Promise, "its key did not sign", |bundle| {
            *at(bundle, &entry(part)) = value.into()
        });
    }
    fails(REKOR1, Step::Promise, "expected a time", |bundle| {
        *at(bundle, &entry("integratedTime")) = "0".into()
    });
    fails(REKOR1, Step::Format, "integratedTime", |bundle| {
        *at(bundle, &entry("integratedTime")) = "-1".into()
    });
}

/// CVE-2024-55655.
#[test]
fn integrated_time_without_a_promise_is_no_time() {
    fails(REKOR1, Step::Time, "found none", |bundle| {
        at(bundle, ENTRY).as_object_mut().unwrap().remove("inclusionPromise");
    });
}

#[test]
fn log_entry_that_the_log_does_not_have_is_refused() {
    for name in [REKOR2, KEY_LOG] {
        let step = if name == REKOR2 { Step::Inclusion } else { Step::Promise };
        fails(name, step, "expected", |bundle| flip(at(bundle, &entry("canonicalizedBody"))));
    }
    for name in [REKOR1, REKOR2] {
        let hash = entry("inclusionProof/hashes/0");
        if changed(name, |_| ()).is_ok() && Fixture::load(name).bundle().pointer(&hash).is_some() {
            fails(name, Step::Inclusion, "expected a proof of inclusion", |bundle| flip(at(bundle, &hash)));
        }
        let checkpoint = entry("inclusionProof/checkpoint/envelope");
        let edit = |bundle: &mut Value, edit: &dyn Fn(&str) -> String| {
            let value = at(bundle, &checkpoint);
            *value = edit(value.as_str().unwrap()).into();
        };
        // Another tree size: signed, and in the proof.
        let grown = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines[1] = (lines[1].parse::<u64>().unwrap() + 1_000_000).to_string();
            format!("{}\n", lines.join("\n"))
        };
        fails(name, Step::Inclusion, "expected", |bundle| edit(bundle, &grown));
        // Another root hash.
        fails(name, Step::Inclusion, "expected", |bundle| {
            edit(bundle, &|text| {
                let mut lines: Vec<&str> = text.lines().collect();
                lines[2] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
                format!("{}\n", lines.join("\n"))
            });
        });
        // More text, which the signature does not cover.
        fails(name, Step::Inclusion, "expected a checkpoint with its signature", |bundle| {
            edit(bundle, &|text| text.replacen("\n\n", "\nmore\n\n", 1));
        });
    }
}

/// CVE-2022-36056, CVE-2026-22703: a valid entry of the same log, for another signature.
#[test]
fn log_entry_of_another_signature_is_refused() {
    // The subject and key are the same in each: only what was signed differs.
    for (name, other) in
        [(KEY_LOG, "attest-key-rekor1-bundle"), (KEY_LOG, REKOR1), (KEY_LOG, "rsa-2048-rekor1-bundle")]
    {
        let other = Fixture::load(other).bundle();
        let stolen = other.pointer(ENTRY).unwrap().clone();
        fails(name, Step::Entry, "expected a log entry", |bundle| *at(bundle, ENTRY) = stolen);
    }
    // With a certificate the entry's own time is outside the other certificate's validity, or it is at the entry that
    // it fails; never does it hold.
    for (name, other) in [
        (REKOR1, "attest-keyless-rekor1-bundle"),
        (REKOR1_TSA, REKOR1),
        (REKOR2, "attest-keyless-rekor2-tsa-bundle"),
    ] {
        let other = Fixture::load(other).bundle();
        let stolen = other.pointer(ENTRY).unwrap().clone();
        let failure = changed(name, |bundle| *at(bundle, ENTRY) = stolen).unwrap_err();
        assert!(matches!(failure.step, Step::Chain | Step::Entry), "{failure}");
    }
}

#[test]
fn log_that_nobody_knows_does_not_count() {
    // Its time neither: with the timestamp alone it holds where no log is asked for, and not where one is.
    let unknown = |bundle: &mut Value| flip(at(bundle, &entry("logId/keyId")));
    fails(REKOR1, Step::Time, "found none", unknown);
    fails(
        REKOR1_TSA,
        Step::Witnesses,
        "expected 1 distinct transparency logs of the trusted root, found 0",
        unknown,
    );
    fails(KEY_LOG, Step::Witnesses, "found 0", unknown);
}

#[test]
fn log_that_was_not_in_use_then_does_not_count() {
    let ended = |root: &mut Value| {
        for log in root["tlogs"].as_array_mut().unwrap() {
            log["publicKey"]["validFor"] =
                json!({"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"});
        }
    };
    fails_with_root(REKOR1, Step::Promise, "within its use", ended);
    // Rekor v2 has no times of its own: the timestamp's counts.
    fails_with_root(REKOR2, Step::Inclusion, "within its use", ended);
    // A key with Rekor v2 and nothing else: a log that is no longer in use is still good, one that is not yet is not.
    assert!(with_root("key-rekor2-bundle", ended).is_ok());
    fails_with_root("key-rekor2-bundle", Step::Inclusion, "within its use", |root| {
        for log in root["tlogs"].as_array_mut().unwrap() {
            log["publicKey"]["validFor"] = json!({"start": "2100-01-01T00:00:00Z"});
        }
    });
}

#[test]
fn issuing_authority_that_was_not_in_use_then_is_refused() {
    fails_with_root(REKOR1, Step::Chain, "authority was not in use then", |root| {
        for authority in root["certificateAuthorities"].as_array_mut().unwrap() {
            authority["validFor"] = json!({"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"});
        }
    });
    fails_with_root(REKOR1, Step::Chain, "no authority to hold it against", |root| {
        root["certificateAuthorities"] = json!([]);
    });
}

#[test]
fn certificate_with_a_byte_changed_is_refused() {
    for name in [REKOR1, REKOR2] {
        let failure = changed(name, |bundle| flip(at(bundle, "/verificationMaterial/certificate/rawBytes")))
            .unwrap_err();
        assert!(failure.step < Step::Claim, "{failure}");
    }
}

#[test]
fn ct_log_that_did_not_promise_is_refused() {
    fails_with_root(REKOR1, Step::Sct, "none by a CT log of the trusted root", |root| {
        root["ctlogs"] = json!([])
    });
    fails_with_root(REKOR1, Step::Sct, "was not in use", |root| {
        for log in root["ctlogs"].as_array_mut().unwrap() {
            log["publicKey"]["validFor"] =
                json!({"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"});
        }
    });
    // Another log's key under the same ID.
    fails_with_root(REKOR1, Step::Sct, "did not sign", |root| {
        let tlogs = root["tlogs"].as_array().unwrap().clone();
        let other =
            tlogs.iter().find(|log| log["publicKey"]["keyDetails"] == "PKIX_ECDSA_P256_SHA_256").unwrap();
        for log in root["ctlogs"].as_array_mut().unwrap() {
            log["publicKey"]["rawBytes"] = other["publicKey"]["rawBytes"].clone();
            log["publicKey"]["keyDetails"] = other["publicKey"]["keyDetails"].clone();
        }
    });
    // Instances whose certificates have no such promise.
    assert!(with_authority(REKOR1, |authority| authority.sct = false).is_ok());
}

#[test]
fn signature_on_another_image_is_refused_naming_both() {
    // CVE-2023-33959, CVE-2022-23649.
    let fixture = Fixture::load(REKOR1);
    let (evidence, authority) = fixture.one();
    let other = [Digest::of(b"other")];
    for (digests, words) in [(&other[..], "expected sha256:"), (&[][..], "it is about sha256:")] {
        let failure =
            verify(evidence, authority, &Sought::Signature, digests, &fixture.trust, now()).unwrap_err();
        assert_eq!(failure.step, Step::Subject);
        assert!(failure.to_string().contains(words), "{failure}");
        // Whose it is is known.
        assert!(failure.signer.unwrap().verified);
    }
}

#[test]
fn other_identity_is_refused_and_named() {
    let exact = |text: &str| Matcher::Exact(text.to_owned());
    let failure = with_authority(REKOR1, |authority| {
        authority.identities[0].issuer = exact("https://accounts.google.com")
    })
    .unwrap_err();
    assert_eq!(failure.step, Step::Identity);
    let said = failure.to_string();
    for words in [
        "by issuer \"https://accounts.google.com\"",
        "found \"https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main\" (issuer \"https://token.actions.githubusercontent.com\")",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let refused = |change: &dyn Fn(&mut KeylessAuthority)| {
        let failure = with_authority(REKOR1, change).unwrap_err();
        assert_eq!(failure.step, Step::Identity, "{failure}");
    };
    refused(&|authority| authority.identities.clear());
    refused(&|authority| authority.identities[0].subject = exact("https://github.com/acme/app"));
    refused(&|authority| {
        authority.identities[0].subject = Matcher::regex("https://github.com/acme").unwrap()
    });
    // Issuer of the one and subject of the other make no identity (facts, step 14).
    refused(&|authority| {
        let mut other = authority.identities[0].clone();
        other.issuer = exact("https://accounts.google.com");
        authority.identities[0].subject = exact("somebody else");
        authority.identities.push(other);
    });
    let matched = with_authority(REKOR1, |authority| {
        authority.identities[0].subject =
            Matcher::regex("https://github\\.com/acme/.*@refs/heads/main").unwrap();
    });
    assert!(matched.is_ok());
}

#[test]
fn claims_of_the_certificate_have_to_hold_all() {
    let asked = |claims: &[(FulcioClaim, &str)]| {
        let claims: Vec<_> =
            claims.iter().map(|(claim, text)| (*claim, Matcher::Exact((*text).to_owned()))).collect();
        with_authority(REKOR1, |authority| authority.identities[0].claims = claims)
    };
    let repository = (FulcioClaim::SourceRepositoryUri, "https://github.com/acme/app");
    let trigger = (FulcioClaim::BuildTrigger, "push");
    let old = (FulcioClaim::GithubWorkflowTrigger, "push");
    assert!(asked(&[repository, trigger, old]).is_ok());
    let failure = asked(&[repository, (FulcioClaim::BuildTrigger, "pull_request")]).unwrap_err();
    assert_eq!(failure.step, Step::Identity);
    assert!(failure.to_string().contains("buildTrigger \"pull_request\" (found \"push\")"), "{failure}");
    // A claim that is not there matches nothing, not even what matches everything.
    let absent = with_authority(REKOR1, |authority| {
        let anything = Matcher::regex("(?s).*").unwrap();
        authority.identities[0].claims = vec![(FulcioClaim::DeploymentEnvironment, anything)];
    });
    assert!(absent.unwrap_err().to_string().contains("found none"));
}

#[test]
fn trusted_root_that_is_not_there_is_undecided() {
    let fixture = Fixture::load(REKOR1);
    let (evidence, authority) = fixture.one();
    let verify =
        |trust: &Trust| verify(evidence, authority, &Sought::Signature, &fixture.digests, trust, now());
    let failure = verify(&Trust::default()).unwrap_err();
    assert!(failure.undecided && failure.to_string().contains(ROOT), "{failure}");
    // What a policy does not ask for it does not need.
    let key = Fixture::load(KEY_LOG);
    let Authority::Key(mut authority) = key.one().1.clone() else { panic!() };
    authority.witnesses = Witnesses::default();
    let authority = Authority::Key(authority);
    let sought = Sought::Signature;
    assert!(
        crate::verify::verify(key.one().0, &authority, &sought, &key.digests, &Trust::default(), now())
            .is_ok()
    );
}

#[test]
fn what_was_verified_is_told_with_its_clauses() {
    let verified = changed(REKOR1_TSA, |_| ()).unwrap();
    let steps: Vec<Step> = verified.checks.iter().map(|check| check.step).collect();
    for step in [
        Step::Format,
        Step::Signature,
        Step::Promise,
        Step::Timestamp,
        Step::Time,
        Step::Chain,
        Step::Sct,
        Step::Inclusion,
        Step::Witnesses,
        Step::Entry,
        Step::Claim,
        Step::Subject,
        Step::Type,
        Step::Identity,
    ] {
        assert!(steps.contains(&step), "{step}");
        assert!(!step.clause().is_empty() && !step.name().is_empty());
    }
    assert!(verified.checks.iter().all(|check| !check.detail.is_empty() && !check.detail.contains('\n')));
    assert_eq!((verified.times.len(), verified.logs.len(), verified.timestamp_authorities.len()), (2, 1, 1));
    let Signer::Certificate(signer) = &verified.signer else { panic!() };
    assert_eq!(signer.claims[&FulcioClaim::RunnerEnvironment], "github-hosted");
    assert_eq!((verified.until, verified.docker_reference), (None, None));
}
