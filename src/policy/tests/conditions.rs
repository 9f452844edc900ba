//! Conditions in policies, from the document to the judgement; those of docs/conditions.md among them.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::policy::cel::fuzzing;
use crate::verify::{Annotations, Attached, Failure, Step};

/// An attestation as cosign keeps it under `.att`.
fn attested(signer: &Signer, predicate_type: &str, predicate: &Value) -> Evidence {
    const TYPE: &str = "application/vnd.in-toto+json";
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "app", "digest": {"sha256": manifest().hex()}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    });
    let payload = statement.to_string();
    let pae = format!("DSSEv1 {} {TYPE} {} {payload}", TYPE.len(), payload.len());
    let signature = signer.sign(pae.as_bytes()).signature;
    let envelope = json!({
        "payloadType": TYPE,
        "payload": STANDARD.encode(payload),
        "signatures": [{"keyid": "", "sig": signature}],
    });
    Evidence::Attached(Attached {
        envelope: envelope.to_string().into(),
        annotations: Annotations::default(),
    })
}

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// A policy that asks for one attestation by this signer; `more` are keys of its entry.
fn policy(signer: &Signer, entry: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: p}}\nspec:\n  images: ['ghcr.io/acme/app']\n  \
         requirements:\n    attestations:\n{}        keys:\n        - data: |\n{}",
        indented(entry, 6),
        indented(&signer.pem(), 12)
    )
}

fn entry(conditions: &[&str]) -> String {
    let conditions: String = conditions.iter().map(|cel| format!("  - cel: {}\n", json!(cel))).collect();
    format!("- predicateType: {PROVENANCE}\n  conditions:\n{conditions}")
}

fn judged(text: &str, evidence: &[Evidence], conditions: &Conditions) -> Judgement {
    let set = compile(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    let name = ImageName::parse("ghcr.io/acme/app:v1").unwrap();
    let subject = Subject { name: &name, namespace: Some("payments"), labels: &NO_LABELS, is_pause: false };
    let digests = [index(), manifest()];
    set.policies()[0].judge(&subject, &digests, evidence, conditions, &mut |evidence, signer, sought| {
        verify::verify(evidence, &signer.authority, sought, &digests, &Trust::default(), fuzzing::now())
    })
}

fn now() -> Conditions {
    Conditions::at(fuzzing::now())
}

/// What does not hold: why, what was found, and the checks.
fn unmet(judgement: Judgement) -> (Shortfall, String, Vec<Check>) {
    match judgement {
        Judgement::Unsatisfied { why, expected, found, remedy, checks } => {
            let line = format!("{expected} {found} {remedy}");
            assert!(!line.contains(char::is_control), "{line}");
            (why, found, checks)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn attestation_has_to_meet_each_condition() {
    let signer = Signer::new();
    let good = attested(&signer, PROVENANCE, &json!({"ref": "main", "n": 1}));
    let text =
        policy(&signer, &entry(&["attestation.predicate.ref == 'main'", "attestation.predicate.n == 1"]));
    let Judgement::Satisfied { checks, .. } = judged(&text, std::slice::from_ref(&good), &now()) else {
        panic!()
    };
    let steps: Vec<_> = checks[0].steps.iter().filter(|step| step.name == "condition").collect();
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[0].detail, "\"attestation.predicate.ref == 'main'\"");
    assert!(steps.iter().all(|step| step.outcome == Outcome::Passed));

    let other = attested(&signer, PROVENANCE, &json!({"ref": "feature", "n": 1}));
    let (why, found, checks) = unmet(judged(&text, &[other], &now()));
    assert_eq!(why, Shortfall::Condition);
    let key = signer.key().fingerprint();
    assert_eq!(
        found,
        format!(
            "1 attestation: one by key {key}, of which condition \"attestation.predicate.ref == 'main'\" does not hold: attestation.predicate.ref is \"feature\""
        )
    );
    let steps: Vec<_> = checks[0].steps.iter().filter(|step| step.name == "condition").collect();
    assert_eq!((steps[0].outcome, steps[1].outcome), (Outcome::Failed, Outcome::Passed));
    assert!(steps[0].detail.contains("is \"feature\""), "{}", steps[0].detail);
}

#[test]
fn two_attestations_that_meet_half_each_do_not_count() {
    let signer = Signer::new();
    let text = policy(&signer, &entry(&["attestation.predicate.a", "attestation.predicate.b"]));
    let with = |a: bool, b: bool| attested(&signer, PROVENANCE, &json!({"a": a, "b": b}));
    let halves = [with(true, false), with(false, true)];
    assert_eq!(unmet(judged(&text, &halves, &now())).0, Shortfall::Condition);
    let [one, two] = halves;
    assert!(is_satisfied(&judged(&text, &[one, with(true, true), two], &now())));
}

#[test]
fn condition_is_asked_of_what_its_own_signer_says() {
    let (signer, other) = (Signer::new(), Signer::new());
    let text = policy(&signer, &entry(&["attestation.predicate.ok"]));
    let lies = attested(&other, PROVENANCE, &json!({"ok": true}));
    let honest = attested(&signer, PROVENANCE, &json!({"ok": false}));
    assert_eq!(unmet(judged(&text, std::slice::from_ref(&lies), &now())).0, Shortfall::OtherKey);
    assert_eq!(unmet(judged(&text, &[lies, honest], &now())).0, Shortfall::Condition);
    let of_another_type = attested(&signer, "https://example.com/x", &json!({"ok": true}));
    assert_eq!(unmet(judged(&text, &[of_another_type], &now())).0, Shortfall::NoAttestation);
}

#[test]
fn message_of_a_condition_is_said_in_the_denial() {
    let signer = Signer::new();
    let text = policy(
        &signer,
        &format!(
            "- predicateType: {PROVENANCE}\n  conditions:\n  - cel: attestation.predicate.ok\n    message: built on main only\n"
        ),
    );
    let (_, found, _) = unmet(judged(&text, &[attested(&signer, PROVENANCE, &json!({"ok": false}))], &now()));
    assert!(
        found.ends_with("condition \"attestation.predicate.ok\" (built on main only) does not hold: attestation.predicate.ok is false"),
        "{found}"
    );
}

#[test]
fn condition_that_hits_a_limit_is_undecided() {
    let signer = Signer::new();
    let slow = "attestation.predicate.list.all(e, attestation.predicate.list.all(f, e == f))";
    assert!(compile(&policy(&signer, &entry(&[slow]))).unwrap_err().contains("limit"));
    let text = policy(
        &signer,
        &entry(&[
            "attestation.predicate.list.all(e, e + e + e + e + e + e + e + e + e + e + e + e + e + e + e + e == 16)",
        ]),
    );
    let evidence = [attested(&signer, PROVENANCE, &json!({"list": vec![1; 190_000]}))];
    let (why, found, _) = unmet(judged(&text, &evidence, &now()));
    assert_eq!(why, Shortfall::Limit);
    assert!(found.contains("cannot be told to hold") && found.contains("limit CONDITION_STEPS"), "{found}");
    // What fails for certain is told, and final.
    let text = policy(
        &signer,
        &entry(&[
            "attestation.predicate.list.all(e, e + e + e + e + e + e + e + e == 8)",
            "image.tag == 'v2'",
        ]),
    );
    assert_eq!(unmet(judged(&text, &evidence, &now())).0, Shortfall::Condition);
}

#[test]
fn predicate_that_reads_in_two_ways_reaches_no_condition() {
    let signer = Signer::new();
    let text = policy(&signer, &entry(&["attestation.predicate.ok"]));
    let Evidence::Attached(Attached { envelope, annotations }) =
        attested(&signer, PROVENANCE, &json!({"ok": true, "no": 1}))
    else {
        panic!()
    };
    let mut value: Value = serde_json::from_slice(&envelope).unwrap();
    let payload = String::from_utf8(STANDARD.decode(value["payload"].as_str().unwrap()).unwrap()).unwrap();
    let twice = payload.replace("\"no\":1", "\"ok\":false");
    let pae = format!("DSSEv1 28 application/vnd.in-toto+json {} {twice}", twice.len());
    value["payload"] = STANDARD.encode(&twice).into();
    value["signatures"][0]["sig"] = signer.sign(pae.as_bytes()).signature.into();
    let evidence = Evidence::Attached(Attached { envelope: value.to_string().into(), annotations });
    let (why, found, _) = unmet(judged(&text, &[evidence], &now()));
    assert_eq!(why, Shortfall::Malformed);
    assert!(found.contains("duplicate key"), "{found}");
}

#[test]
fn condition_on_the_time_ends_what_rests_on_it() {
    let signer = Signer::new();
    let evidence = [attested(&signer, PROVENANCE, &json!({"t": "2026-08-01T11:30:00Z"}))];
    let until = |cel: &str, at: &Conditions| match judged(&policy(&signer, &entry(&[cel])), &evidence, at) {
        Judgement::Satisfied { by, .. } => by[0].until,
        other => panic!("{cel}: {other:?}"),
    };
    let fresh = "now - timestamp(attestation.predicate.t) < duration('1h')";
    let end = fuzzing::now() + std::time::Duration::from_secs(limits::CONDITION_NOW_SECONDS);
    assert_eq!(until(fresh, &now()), Some(end));
    assert_eq!(until("has(attestation.predicate.t)", &now()), None);
    let later = Conditions::at(fuzzing::now() + std::time::Duration::from_secs(1800));
    let (why, found, _) = unmet(judged(&policy(&signer, &entry(&[fresh])), &evidence, &later));
    assert_eq!(why, Shortfall::Condition);
    assert!(found.contains("now is 2026-08-01T12:30:00.000Z"), "{found}");
}

#[test]
fn judgement_made_with_open_questions_is_undecided_and_with_their_answers_the_same() {
    let signer = Signer::new();
    let text = policy(&signer, &entry(&["attestation.predicate.ok"]));
    for (ok, holds) in [(true, true), (false, false)] {
        let evidence = [attested(&signer, PROVENANCE, &json!({"ok": ok}))];
        let conditions = Conditions::deferred(fuzzing::now());
        let (why, ..) = unmet(judged(&text, &evidence, &conditions));
        assert!(why.is_undecided());
        let open = conditions.take_open();
        assert_eq!(open.len(), 1);
        for question in open {
            let answers = question.answer();
            conditions.answered(question, answers);
        }
        let settled = judged(&text, &evidence, &conditions);
        assert!(conditions.take_open().is_empty());
        assert_eq!(is_satisfied(&settled), holds);
        assert_eq!(settled, judged(&text, &evidence, &now()));
    }
}

#[test]
fn conditions_on_signatures_are_about_the_signature() {
    let signer = Signer::new();
    let text = |cel: &str| signed(&signer.pem(), &format!("    conditions:\n    - cel: {}\n", json!(cel)));
    let signature = [signer.sign(claim_of(manifest(), "r.io/team/app").as_bytes())];
    let why = |cel: &str| match judge(&compile(&text(cel)).unwrap(), "r.io/team/app:v1", &signature) {
        Judgement::Unsatisfied { why, found, .. } => Some((why, found)),
        Judgement::Satisfied { .. } | Judgement::Exempted { .. } => None,
    };
    assert_eq!(
        why("signature.subject.annotations.env == 'prod' && signature.repository == 'r.io/team/app'"),
        None
    );
    let (reason, found) = why("signature.subject.annotations.env == 'test'").unwrap();
    assert_eq!(reason, Shortfall::Condition);
    assert!(found.ends_with("signature.subject.annotations.env is \"prod\""), "{found}");
    let (_, found) = why("signature.time < now").unwrap();
    assert!(found.contains("no log and no timestamp authority vouches for one"), "{found}");
    assert!(
        compile(&text("attestation.predicate.a == 1"))
            .unwrap_err()
            .contains("stand in attestations[].conditions")
    );
}

#[test]
fn conditions_at_fault_are_refused_with_their_line() {
    let signer = Signer::new();
    let fault = |text: &str| compile(text).unwrap_err();
    let said =
        fault(&policy(&signer, &entry(&["attestation.predicate.a == 1", "attestation.predicat.a == 1"])));
    assert!(
        said.starts_with("p.yaml:11: spec.requirements.attestations.conditions.cel: expected one of "),
        "{said}"
    );
    assert!(said.ends_with("found \"attestation.predicat.a\" (character 22)"), "{said}");
    let many = entry(&vec!["attestation.predicate.a == 1"; limits::POLICY_CONDITIONS + 1]);
    assert!(fault(&policy(&signer, &many)).contains("limit POLICY_CONDITIONS"));
    for message in ["''", "\"a\\nb\"", &format!("'{}'", "x".repeat(400))] {
        let text = format!(
            "- predicateType: {PROVENANCE}\n  conditions:\n  - cel: attestation.predicate.a\n    message: {message}\n"
        );
        assert!(
            fault(&policy(&signer, &text)).contains("conditions.message: expected one line"),
            "{message}"
        );
    }
    let alone = policy(&signer, &entry(&[]))
        .replace("    attestations:", "    conditions: [{cel: now == now}]\n    attestations:");
    assert!(
        fault(&alone.replace("  conditions:\n        keys", "  keys"))
            .contains("conditions: expected keys, keyless or certificates beside them")
    );
}

/// The examples of the page: their titles and blocks.
fn examples() -> Vec<(String, String)> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conditions.md")).unwrap();
    let (_, page) = page.split_once("\n## Examples\n").unwrap();
    let (page, _) = page.split_once("\n## Limits\n").unwrap();
    let parts = page.split("\n### ").skip(1).map(|part| {
        let (title, part) = part.split_once('\n').unwrap();
        let block = part.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        (title.to_owned(), block.to_owned())
    });
    parts.collect()
}

fn predicate(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/predicates").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// An example's title, the predicate that meets it, and changes after which it does not.
type Example = (&'static str, &'static str, Vec<(&'static str, Value)>);

/// For each example: a predicate that meets it, and what has to be changed in it so that it does not (`null`: taken out).
fn expected() -> Vec<Example> {
    vec![
        (
            "Built by this workflow on main (SLSA 1)",
            "slsa-v1.json",
            vec![
                ("/buildDefinition/externalParameters/workflow/ref", json!("refs/heads/feature")),
                ("/buildDefinition/externalParameters/workflow/path", json!(".github/workflows/other.yml")),
                (
                    "/buildDefinition/externalParameters/workflow/repository",
                    json!("https://github.com/evil/app"),
                ),
                ("/buildDefinition/externalParameters/workflow", Value::Null),
            ],
        ),
        (
            "Built by this workflow on main (SLSA 0.2)",
            "slsa-v0.2.json",
            vec![
                ("/invocation/configSource/uri", json!("git+https://github.com/acme/app@refs/heads/x")),
                ("/invocation/configSource/entryPoint", json!("Makefile")),
                ("/invocation", Value::Null),
            ],
        ),
        (
            "By this builder",
            "slsa-v0.2.json",
            vec![
                (
                    "/builder/id",
                    json!(
                        "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/generator_container_slsa3.yml@refs/heads/main"
                    ),
                ),
                (
                    "/builder/id",
                    json!(
                        "https://evil.example/https://github.com/slsa-framework/slsa-github-generator/.github/workflows/generator_container_slsa3.yml@refs/tags/v2.1.0"
                    ),
                ),
                ("/builder/id", json!(7)),
            ],
        ),
        (
            "On a runner of GitHub's, from our organisation",
            "slsa-v1.json",
            vec![
                ("/buildDefinition/internalParameters/github/runner_environment", json!("self-hosted")),
                (
                    "/buildDefinition/externalParameters/workflow/repository",
                    json!("https://github.com/acme-evil/app"),
                ),
            ],
        ),
        (
            "From sources that are pinned",
            "slsa-v1.json",
            vec![
                ("/buildDefinition/resolvedDependencies/0/digest", Value::Null),
                ("/buildDefinition/resolvedDependencies/0/digest", json!({})),
                ("/buildDefinition/resolvedDependencies", Value::Null),
            ],
        ),
        (
            "Reproducible, with all its materials",
            "slsa-v0.2.json",
            vec![
                ("/metadata/reproducible", json!(false)),
                ("/metadata/completeness/materials", json!("true")),
                ("/materials", json!([])),
                ("/materials/1/digest", Value::Null),
            ],
        ),
        (
            "SBOM present and no GPL (SPDX)",
            "spdx.json",
            vec![
                ("/packages/0/licenseConcluded", json!("GPL-2.0-only")),
                ("/packages/0/licenseConcluded", json!("MIT AND GPL-3.0-or-later")),
                ("/packages/1/licenseConcluded", json!("AGPL-3.0-only")),
                ("/packages/1/licenseConcluded", Value::Null),
                ("/packages", json!([])),
            ],
        ),
        (
            "SBOM present and no GPL (CycloneDX)",
            "cyclonedx.json",
            vec![
                ("/components/0/licenses/0/license/id", json!("GPL-3.0-only")),
                ("/components/1/licenses/0/expression", json!("MIT OR GPL-2.0-only")),
                ("/components/2/licenses/0/license/name", json!("GNU GPL")),
                ("/components/2/licenses", Value::Null),
                ("/components", json!([])),
            ],
        ),
        (
            "No critical vulnerability older than 7 days",
            "vuln.json",
            vec![
                ("/scanner/result/Results/0/Vulnerabilities/0/PublishedDate", json!("2026-07-25T11:59:59Z")),
                ("/scanner/result/Results/0/Vulnerabilities/1/Severity", json!("CRITICAL")),
                ("/scanner/result/Results/0/Vulnerabilities/0/PublishedDate", Value::Null),
                ("/scanner/result/Results", Value::Null),
            ],
        ),
        (
            "Scanned within the last day",
            "vuln.json",
            vec![
                ("/metadata/scanFinishedOn", json!("2026-07-31T11:59:59Z")),
                ("/metadata/scanFinishedOn", json!("yesterday")),
                ("/metadata", Value::Null),
            ],
        ),
        (
            "These vulnerabilities do not matter here (OpenVEX)",
            "openvex.json",
            vec![
                ("/statements/1/status", json!("affected")),
                ("/statements/0/vulnerability/name", json!("CVE-2026-9999")),
                ("/statements", json!([])),
            ],
        ),
        (
            "Stricter in one namespace",
            "slsa-v1.json",
            vec![("/buildDefinition/internalParameters/github/event_name", json!("workflow_dispatch"))],
        ),
    ]
}

fn changed(mut predicate: Value, pointer: &str, value: &Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = predicate.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(map), Value::Null) => assert!(map.remove(key).is_some(), "{pointer}"),
        (parent, value) => *parent.get_mut(key).unwrap_or_else(|| panic!("{pointer}")) = value.clone(),
    }
    predicate
}

#[test]
fn documented_conditions_hold_of_what_they_are_for_and_of_nothing_else() {
    let signer = Signer::new();
    let page = examples();
    let expected = expected();
    let titles = |all: &mut dyn Iterator<Item = &str>| all.map(str::to_owned).collect::<Vec<_>>();
    let of_attestations = page.iter().filter(|(_, block)| block.starts_with("- predicateType"));
    assert_eq!(
        titles(&mut of_attestations.map(|(title, _)| title.as_str())),
        titles(&mut expected.iter().map(|(title, ..)| *title))
    );
    for (title, file, broken) in expected {
        let (_, block) = page.iter().find(|(found, _)| found == title).unwrap();
        let text = policy(&signer, block);
        let predicate_type = block.lines().next().unwrap().strip_prefix("- predicateType: ").unwrap();
        let good = predicate(file);
        let answer =
            |predicate: &Value| judged(&text, &[attested(&signer, predicate_type, predicate)], &now());
        assert!(is_satisfied(&answer(&good)), "{title}: {:?}", answer(&good));
        for (pointer, value) in broken {
            let (why, found, _) = unmet(answer(&changed(good.clone(), pointer, &value)));
            assert_eq!(why, Shortfall::Condition, "{title}: {pointer}: {found}");
        }
    }
}

#[test]
fn documented_condition_on_a_signature_holds_of_one_with_the_annotation() {
    let (_, block) = examples().pop().unwrap();
    let signer = Signer::new();
    let set = compile(&signed(&signer.pem(), &indented(&block, 4))).unwrap();
    let with = |claim: String| [signer.sign(claim.as_bytes())];
    let claim = claim_of(manifest(), "r.io/team/app");
    assert!(is_satisfied(&judge(&set, "r.io/team/app", &with(claim.clone()))));
    assert!(!is_satisfied(&judge(&set, "r.io/team/app", &with(claim.replace("prod", "test")))));
    assert!(!is_satisfied(&judge(&set, "r.io/team/app", &with(claim.replace("\"env\"", "\"other\"")))));
}

/// What verifying says is not looked at further than to where it fails.
#[test]
fn attestation_that_does_not_hold_is_not_asked() {
    let signer = Signer::new();
    let set = compile(&policy(&signer, &entry(&["attestation.predicate.ok"]))).unwrap();
    let name = ImageName::parse("ghcr.io/acme/app").unwrap();
    let conditions = Conditions::deferred(fuzzing::now());
    let evidence = [attested(&signer, PROVENANCE, &json!({"ok": true}))];
    let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
    let judged = set.policies()[0].judge(&subject, &[index()], &evidence, &conditions, &mut |_, _, _| {
        let text = "it does not".to_owned();
        Err(Failure { step: Step::Signature, text, undecided: false, signer: None, checks: Vec::new() })
    });
    assert_eq!(unmet(judged).0, Shortfall::OtherKey);
    assert!(conditions.take_open().is_empty());
}

/// What real cosign attested, keyless: the signer and the time are those of the certificate and the timestamp.
#[test]
fn conditions_on_signer_and_time_hold_of_what_real_cosign_attested() {
    let fixture = verify::fixture::Fixture::load("attest-keyless-rekor2-tsa-bundle");
    let judged = |cel: &str| {
        let text = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: p}}\nspec:\n  images: ['r.io/a']\n  requirements:\n    \
             attestations:\n    - predicateType: {PROVENANCE}\n      keyless: [{{trustRoot: given, identities: [{{issuer: 'https://token.actions.githubusercontent.com', subjectRegExp: '.*'}}]}}]\n      \
             conditions: [{{cel: {}}}]\n",
            json!(cel)
        );
        let set = compile(&text).unwrap_or_else(|why| panic!("{why}"));
        let name = ImageName::parse("r.io/a").unwrap();
        let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
        let conditions = Conditions::at(verify::fixture::now());
        set.policies()[0].judge(
            &subject,
            &fixture.digests,
            &fixture.evidence,
            &conditions,
            &mut |evidence, signer, sought| fixture.verify(evidence, &signer.authority, sought),
        )
    };
    for cel in [
        "attestation.predicate.buildDefinition.externalParameters.ref == 'refs/heads/main'",
        "attestation.signer.issuer == 'https://token.actions.githubusercontent.com' && attestation.signer.key == ''",
        "'https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main' in attestation.signer.subjects",
        "attestation.signer.subjects.all(s, s.startsWith('https://github.com/acme/'))",
        "attestation.time <= now && attestation.time > timestamp('2020-01-01T00:00:00Z')",
        "attestation.subject.digest in [image.digest]",
    ] {
        let judgement = judged(cel);
        assert!(is_satisfied(&judgement), "{cel}: {judgement:?}");
    }
    for cel in [
        "attestation.predicate.buildDefinition.externalParameters.ref == 'refs/heads/other'",
        "attestation.signer.issuer == 'https://accounts.google.com'",
        "attestation.time > now",
    ] {
        assert_eq!(unmet(judged(cel)).0, Shortfall::Condition, "{cel}");
    }
}
