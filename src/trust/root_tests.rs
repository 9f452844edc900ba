use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use sigstore_trust_root::{SIGSTORE_GITHUB_TRUSTED_ROOT, SIGSTORE_STAGING_TRUSTED_ROOT};

use super::*;

fn production() -> Value {
    serde_json::from_str(SIGSTORE_PRODUCTION_TRUSTED_ROOT).unwrap()
}

fn parse(value: &Value) -> Result<Root, String> {
    Root::parse(value.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// The production root with one thing changed is refused, and the message is one line.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut value = production();
    assert!(parse(&value).is_ok());
    change(&mut value);
    let error = parse(&value).unwrap_err();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn embedded_root_is_the_public_good_one_whole() {
    let root = Root::embedded().unwrap();
    let urls: Vec<_> = root.logs().iter().map(|log| log.url.as_str()).collect();
    assert_eq!(urls, ["https://rekor.sigstore.dev", "https://log2025-1.rekor.sigstore.dev"]);
    assert_eq!(root.logs()[1].key_details.shape, super::super::KeyShape::Ed25519);
    assert_eq!((root.ct_logs().len(), root.authorities().len()), (2, 2));
    assert_eq!(root.timestamp_authorities().len(), 1);
    assert_eq!(root.authorities()[1].chain.len(), 2);
    assert_eq!(root.left_out(), [] as [String; 0]);
    assert_eq!(root.material().tlogs.len(), 2);
    // Fulcio's intermediate ends on 2031-10-05 at 13:56:58, its root with it.
    assert_eq!(root.ends(Material::Authorities).map(seconds), Some(1_948_975_018));
    assert_eq!(root.ends(Material::Logs), None);
    // log2025-1 counts from 2025-09-23.
    assert_eq!(root.newest().map(seconds), Some(1_758_585_600));
}

#[test]
fn roots_of_other_instances_are_read() {
    for text in [SIGSTORE_STAGING_TRUSTED_ROOT, SIGSTORE_GITHUB_TRUSTED_ROOT] {
        let root = Root::parse(text.as_bytes()).unwrap();
        assert_eq!(root.left_out(), [] as [String; 0]);
        assert!(!root.authorities().is_empty() && !root.timestamp_authorities().is_empty());
    }
}

#[test]
fn version_is_of_the_material_and_not_of_its_order() {
    let root = Root::embedded().unwrap();
    let mut value = production();
    value["tlogs"].as_array_mut().unwrap().reverse();
    value["mediaType"] = json!("application/vnd.dev.sigstore.trustedroot.v0.2+json");
    assert_eq!(parse(&value).unwrap().version(), root.version());
    value["ctlogs"].as_array_mut().unwrap().pop();
    assert_ne!(parse(&value).unwrap().version(), root.version());
    // The same entry as another kind of thing is another root.
    let mut value = production();
    value["timestampAuthorities"] = json!([]);
    let without = parse(&value).unwrap().version();
    value["timestampAuthorities"] = json!([value["certificateAuthorities"][1]]);
    value["certificateAuthorities"].as_array_mut().unwrap().pop();
    assert_ne!(parse(&value).unwrap().version(), without);
}

#[test]
fn duplicate_key_is_refused() {
    let text = SIGSTORE_PRODUCTION_TRUSTED_ROOT.replacen("\"tlogs\"", "\"tlogs\": [], \"tlogs\"", 1);
    let error = Root::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("duplicate key \"tlogs\""), "{error}");
}

#[test]
fn validity_window_in_another_spelling_is_refused() {
    let error = refused(|root| {
        let ca = root["certificateAuthorities"][0].as_object_mut().unwrap();
        let window = ca.remove("validFor").unwrap();
        ca.insert("valid_for".to_owned(), window);
    });
    assert!(error.contains("expected the key \"validFor\", found \"valid_for\""), "{error}");
}

#[test]
fn other_media_type_is_refused() {
    for other in [json!("application/vnd.dev.sigstore.bundle.v0.3+json"), json!(1), json!(null)] {
        let error = refused(|root| root["mediaType"] = other);
        assert!(error.starts_with("expected a trusted root, of mediaType "), "{error}");
    }
    assert!(Root::parse(b"[]").is_err());
}

#[test]
fn log_without_start_is_refused() {
    for window in [json!({}), json!(null), json!({"end": "2030-01-01T00:00:00Z"})] {
        for list in ["tlogs", "ctlogs"] {
            let error = refused(|root| root[list][1]["publicKey"]["validFor"] = window.clone());
            assert!(error.starts_with(&format!("{list}[1]: expected validFor.start, found none")), "{error}");
        }
    }
}

#[test]
fn window_that_ends_before_it_starts_is_refused() {
    let error = refused(|root| {
        root["timestampAuthorities"][0]["validFor"]["end"] = json!("2025-07-03T23:59:59Z");
    });
    assert_eq!(error, "timestampAuthorities[0]: expected validFor.end after validFor.start");
    let error = refused(|root| root["certificateAuthorities"][0]["validFor"] = json!({"end": null}));
    assert!(error.starts_with("certificateAuthorities[0]: expected validFor.start"), "{error}");
}

#[test]
fn log_whose_url_cannot_be_told_in_one_line_is_refused() {
    let error = refused(|root| root["tlogs"][0]["baseUrl"] = json!("https://log\u{0}\n"));
    assert_eq!(error, "tlogs[0]: expected baseUrl to be a URL, found \"https://log\\u{0}\\u{a}\"");
    let error = refused(|root| root["ctlogs"][0]["baseUrl"] = json!("x".repeat(513)));
    assert_eq!(error, "ctlogs[0].baseUrl: expected at most 512 (limit LOG_URL_BYTES), found 513");
}

#[test]
fn key_that_is_not_what_it_is_said_to_be_is_refused() {
    let error = refused(|root| root["tlogs"][0]["publicKey"]["keyDetails"] = json!("PKIX_ED25519"));
    assert_eq!(error, "tlogs[0]: expected an Ed25519 key as DER of SubjectPublicKeyInfo for PKIX_ED25519");
    let error = refused(|root| root["ctlogs"][0]["publicKey"]["rawBytes"] = json!("AAAA"));
    assert!(error.starts_with("ctlogs[0]: expected an ECDSA key on P-256"), "{error}");
}

#[test]
fn log_with_an_unknown_kind_of_key_or_hash_is_left_out_and_told() {
    for (pointer, value) in [("/publicKey/keyDetails", "ML_DSA_65"), ("/hashAlgorithm", "SHA3_256")] {
        let mut root = production();
        *root["tlogs"][0].pointer_mut(pointer).unwrap() = json!(value);
        let read = parse(&root).unwrap();
        assert_eq!((read.logs().len(), read.material().tlogs.len()), (1, 1));
        assert_eq!(read.logs()[0].url, "https://log2025-1.rekor.sigstore.dev");
        assert!(read.left_out()[0].contains(value), "{:?}", read.left_out());
    }
}

#[test]
fn two_logs_of_one_id_are_refused() {
    let error = refused(|root| root["tlogs"][1] = root["tlogs"][0].clone());
    assert!(error.starts_with("tlogs[1]: expected a logId that no other log has"), "{error}");
}

#[test]
fn log_id_of_another_length_is_refused() {
    let error = refused(|root| root["tlogs"][0]["logId"]["keyId"] = json!("AQIDBA=="));
    assert_eq!(error, "tlogs[0]: expected logId.keyId of 32 bytes, found 4");
}

#[test]
fn chain_that_is_empty_broken_or_in_another_order_is_refused() {
    let chain = |change: fn(&mut Vec<Value>)| {
        refused(|root| {
            let ca = &mut root["certificateAuthorities"][1];
            change(ca["certChain"]["certificates"].as_array_mut().unwrap());
        })
    };
    assert!(chain(Vec::clear).contains("expected certChain.certificates, found none"));
    assert!(chain(|chain| chain.reverse()).contains("each certificate is issued by the next"));
    assert!(chain(|chain| chain[0] = json!({"rawBytes": "AAAA"})).contains("expected certificates as DER"));
    assert!(chain(|chain| *chain = vec![chain[1].clone(); 11]).contains("limit TRUSTED_ROOT_CHAIN"));
}

#[test]
fn root_with_too_much_or_nothing_in_it_is_refused() {
    let error = refused(|root| root["ctlogs"] = vec![root["ctlogs"][0].clone(); 129].into());
    assert_eq!(error, "ctlogs: expected at most 128 (limit TRUSTED_ROOT_ENTRIES), found 129");
    let huge = " ".repeat(limits::TRUSTED_ROOT_BYTES + 1);
    assert!(Root::parse(huge.as_bytes()).unwrap_err().to_string().contains("TRUSTED_ROOT_BYTES"));
    let empty = json!({"mediaType": MEDIA_TYPES[1], "tlogs": null});
    assert_eq!(parse(&empty).unwrap_err(), RootError::Empty.to_string());
}

#[test]
fn ends_of_windows_count() {
    let root = Root::embedded().unwrap();
    let log = &root.ct_logs()[0].window;
    assert!(log.contains(log.start) && log.contains(log.end.unwrap()));
    assert!(!log.contains(log.start - Duration::from_nanos(1)));
    assert!(!log.contains(log.end.unwrap() + Duration::from_nanos(1)));
}
