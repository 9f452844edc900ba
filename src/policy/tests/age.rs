//! How old what holds may be.

use std::time::Duration;

use super::documented::says;
use super::*;
use crate::verify::fixture;

fn policy(requirements: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: p}}\nspec:\n  images: ['**']\n  requirements:\n    \
         claimedRepository: {{insecureAny: true}}\n{requirements}"
    )
}

/// By anybody's certificate of the trusted root.
const ANYBODY: &str = "    keyless: [{identities: [{issuerRegExp: '.*', subjectRegExp: '.*'}]}]\n";

/// By the fixture's key, with this asked for besides.
fn by_key(witnesses: &str) -> String {
    format!(
        "    keys:\n    - {witnesses}data: |\n        -----BEGIN PUBLIC KEY-----\n        …\n        -----END PUBLIC KEY-----\n"
    )
}

#[test]
fn signature_that_is_older_than_the_policy_allows_is_denied() {
    const HOURS: u64 = 1000;
    let text = policy(&format!("    maxAge: {HOURS}h\n{ANYBODY}"));
    for signed in ["keyless-rekor1-bundle", "keyless-rekor2-tsa-bundle"] {
        // Right after it was made, as far as it says.
        let Judgement::Satisfied { by, .. } = says(&text, "p", &[signed], SystemTime::UNIX_EPOCH) else {
            panic!()
        };
        let made = by[0].times.iter().map(|known| known.time).min().unwrap();
        let since = made + Duration::from_secs(HOURS * 3600);
        assert_eq!(by[0].until, Some(since), "a permit ends with it");
        let before = says(&text, "p", &[signed], since - Duration::from_secs(1));
        assert!(is_satisfied(&before), "{before:?}");
        let Judgement::Unsatisfied { why, found, expected, checks, .. } = says(&text, "p", &[signed], since)
        else {
            panic!()
        };
        assert_eq!(why, Shortfall::TooOld);
        assert!(found.contains(&format!("too old since {}", crate::audit::rfc3339(since))), "{found}");
        assert!(expected.ends_with(", not older than 1000h"), "{expected}");
        assert_eq!(checks[0].steps.last().unwrap().name, "age");
    }
}

#[test]
fn signature_whose_time_nobody_vouches_for_is_never_young_enough() {
    // Rekor v2 promises no time, and nobody looks at its timestamp.
    let logged =
        policy(&format!("    maxAge: 876000h\n{}", by_key("transparencyLogs: {threshold: 1}\n      ")));
    for (signed, dated) in [("key-rekor2-tsa-bundle", false), ("key-rekor1-bundle", true)] {
        match says(&logged, "p", &[signed], fixture::now()) {
            Judgement::Satisfied { .. } => assert!(dated, "{signed}"),
            Judgement::Unsatisfied { why, found, remedy, .. } => {
                assert!(!dated && why == Shortfall::TooOld, "{signed}: {found}");
                assert!(found.contains("no log and no timestamp authority vouches"), "{found}");
                assert!(remedy.contains("timestamp"), "{remedy}");
            }
            other => panic!("{other:?}"),
        }
    }
    let stamped = logged.replace("transparencyLogs: {threshold: 1}", "timestamps: {threshold: 1}");
    assert!(is_satisfied(&says(&stamped, "p", &["key-rekor2-tsa-bundle"], fixture::now())));
}

#[test]
fn age_of_an_attestation_is_its_own_and_else_the_one_around_it() {
    let attested = "attest-keyless-rekor2-tsa-bundle";
    let signed = "keyless-rekor2-tsa-bundle";
    let type_ = "https://slsa.dev/provenance/v1";
    let takes = |signature: &str, attestation: &str| {
        let text = policy(&format!(
            "{signature}{ANYBODY}    attestations: [{{predicateType: '{type_}'{attestation}}}]\n"
        ));
        match says(&text, "p", &[signed, attested], fixture::now()) {
            Judgement::Unsatisfied { why, .. } => Err(why),
            _ => Ok(()),
        }
    };
    let (young, old) = ("maxAge: 876000h", "maxAge: 60s");
    let (around, own) = (|age: &str| format!("    {age}\n"), |age: &str| format!(", {age}"));
    assert_eq!(takes("", ""), Ok(()));
    assert_eq!(takes(&around(young), ""), Ok(()));
    assert_eq!(takes("", &own(old)), Err(Shortfall::TooOld));
    assert_eq!(takes(&around(young), &own(old)), Err(Shortfall::TooOld));
    assert_eq!(takes(&around(old), &own(young)), Err(Shortfall::TooOld));
    assert_eq!(takes(&around(young), &own(young)), Ok(()));
}

#[test]
fn age_limit_that_nothing_can_keep_is_an_error() {
    let pem = Signer::new().pem().replace('\n', "\\n");
    let key = |more: &str| format!("    keys: [{{data: \"{pem}\"{more}}}]\n");
    for (requirements, expected) in [
        (
            format!("    maxAge: 1h\n{}", key("")),
            "spec.requirements.maxAge: expected timestamps or transparencyLogs",
        ),
        (format!("    maxAge: 59s\n{ANYBODY}"), "limit AGE_LEAST_SECONDS"),
        (
            format!("    maxAge: 30d\n{ANYBODY}"),
            "p.yaml:8: spec.requirements.maxAge: expected a duration such as",
        ),
        (
            format!("{}    attestations: [{{predicateType: 'https://a/b', maxAge: 1h}}]\n", key("")),
            "spec.requirements.attestations.maxAge: expected timestamps",
        ),
        (
            format!("    maxAge: 1h\n    anyOf: [{{{}}}]\n", key("").trim()),
            "spec.requirements.anyOf[0].maxAge",
        ),
    ] {
        let error = compile(&policy(&requirements)).expect_err(&requirements);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let dated = format!("    maxAge: 1h\n{}", key(", timestamps: {threshold: 1}"));
    assert!(compile(&policy(&dated)).is_ok());
}
