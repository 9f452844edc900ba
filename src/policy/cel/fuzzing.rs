//! What the fuzz target `condition` holds conditions to, and what tests evaluate them on.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::eval::{Run, Stop};
use super::{About, Answer, Condition, Facts, answer};
use crate::fuzzing::one_line;
use crate::image::{Digest, ImageName};
use crate::limits;
use crate::policy::NO_LABELS;
use crate::policy::model::Subject;
use crate::verify::{Predicate, Signer, TimeSource, Verified, VerifiedTime};

/// 2026-08-01T12:00:00Z.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_585_600)
}

/// What is the case for an attestation with this predicate.
pub(super) fn facts(about: About, predicate: &[u8]) -> Facts {
    let name = ImageName::parse("ghcr.io/acme/app:v1").unwrap();
    let subject = Subject { name: &name, namespace: Some("shop"), labels: &NO_LABELS, is_pause: false };
    let digest = Digest::of(b"index");
    let verified = Verified {
        signer: Signer::Key(Digest::of(b"key")),
        key: Digest::of(b"key"),
        authority: None,
        digest,
        docker_reference: Some("ghcr.io/acme/app".to_owned()),
        annotations: Map::from_iter([("env".to_owned(), Json::from("prod"))]),
        times: vec![VerifiedTime {
            time: now() - Duration::from_secs(3600),
            source: TimeSource::Log(digest),
        }],
        logs: Vec::new(),
        timestamp_authorities: Vec::new(),
        predicate: Some(Predicate {
            predicate_type: "https://example.com/p".to_owned(),
            bytes: Bytes::copy_from_slice(predicate),
            statement: Bytes::new(),
        }),
        checks: Vec::new(),
        until: None,
    };
    Facts::new(about, &subject, &[digest], &verified, now())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs one input: a condition, and behind a line `---` the predicate it is about.
pub(crate) fn condition(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (text, predicate) = text.split_once("\n---\n").unwrap_or((text, "null"));
    let mut accepted = false;
    for about in [About::Signature, About::Attestation] {
        let condition = match Condition::compile(text, None, about) {
            Ok(condition) => condition,
            Err(why) => {
                one_line(&why);
                continue;
            }
        };
        accepted = true;
        assert!(text.len() <= limits::CONDITION_BYTES);
        one_line(&condition.shown());
        let read = serde_json::from_str::<Json>(predicate).is_ok();
        for predicate in [predicate, "null", r#"{"a": [1, "b", {"c": null}], "b": {}}"#] {
            let facts = facts(about, predicate.as_bytes());
            let once = answer(std::slice::from_ref(&condition), &facts);
            assert_eq!(once, answer(std::slice::from_ref(&condition), &facts), "two answers to {text}");
            match &once[..] {
                [Answer::Holds] => assert!(read || predicate == "null" || predicate.starts_with('{')),
                [Answer::Fails(found) | Answer::Unknown(found)] => one_line(found),
                other => panic!("{other:?}"),
            }
        }
        not_both(text, about, predicate);
    }
    accepted
}

/// What holds does not hold negated, and what cannot be told cannot be told negated either.
fn not_both(text: &str, about: About, predicate: &str) {
    let Ok(predicate_value) = serde_json::from_str::<Json>(predicate) else { return };
    let Ok(opposite) = Condition::compile(&format!("!({text}\n)"), None, about) else { return };
    let one = Condition::compile(text, None, about).unwrap();
    let facts = facts(about, predicate.as_bytes());
    let value = |condition: &Condition| {
        let outcome = Run::new(&facts, &predicate_value).bool(condition.code().unwrap());
        outcome.map_err(|stop| matches!(stop, Stop::Limit(_)))
    };
    match (value(&one), value(&opposite)) {
        (Ok(one), Ok(other)) => assert_ne!(one, other, "{text}"),
        // The negation is a step more.
        (_, Err(true)) => {}
        (one, other) => assert_eq!(one, other, "{text}"),
    }
}

/// The conditions of the documentation, each with a predicate, and hostile ones.
pub(crate) fn condition_seeds() -> Vec<Vec<u8>> {
    let page = fs::read_to_string(root().join("docs/conditions.md")).unwrap();
    let predicates = root().join("tests/fixtures/predicates");
    let mut seeds = Vec::new();
    for (condition, file) in [
        (
            "attestation.predicate.buildDefinition.externalParameters.workflow.ref == 'refs/heads/main'",
            "slsa-v1.json",
        ),
        ("attestation.predicate.materials.all(m, size(m.digest) > 0)", "slsa-v0.2.json"),
        (
            r"attestation.predicate.packages.all(p, !p.licenseConcluded.matches(r'^(.*[^L])?GPL.*$'))",
            "spdx.json",
        ),
        ("attestation.predicate.components.map(c, has(c.licenses), c.name).size() == 3", "cyclonedx.json"),
        (
            "attestation.predicate.scanner.result.Results.filter(r, has(r.Vulnerabilities)).size() == 1",
            "vuln.json",
        ),
        ("attestation.predicate.statements.exists_one(s, s.status in ['fixed'])", "openvex.json"),
    ] {
        assert!(condition.contains("attestation") && page.contains("attestation"));
        let predicate = fs::read_to_string(predicates.join(file)).unwrap();
        seeds.push(format!("{condition}\n---\n{predicate}").into_bytes());
    }
    let predicate = json!({"a": [1, 2.5, "b", {"c": null}], "t": "2026-08-01T12:00:00Z", "n": -3});
    for condition in [
        "now - timestamp(attestation.predicate.t) < duration('1h30m') && attestation.predicate.n % 2 == -1",
        "[1, 2.5, 'b'] == attestation.predicate.a || attestation.predicate.a[0] == 1",
        "'a' in attestation.predicate ? attestation.predicate['a'][2] + 'x' == 'bx' : false // why",
        "!!attestation.predicateType.startsWith(\"https\\u003a//\") || has(attestation.time)",
        "double(attestation.predicate.n) * -2.0e0 >= 6.0 && string(attestation.predicate.n) != '0x3'",
        "signature.subject.annotations.env == 'prod' && signature.repository.endsWith(image.repository)",
        "attestation.signer.subjects.all(s, s.contains('@')) && image.tag != 'latest' && pod.namespace == 'shop'",
    ] {
        seeds.push(format!("{condition}\n---\n{predicate}").into_bytes());
    }
    seeds
}
