//! Signers and attestations of native policies.

use super::*;
use crate::verify::fixture::Fixture;
use crate::verify::{Authority, FulcioClaim};

fn policy(requirements: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: p}}\nspec:\n  images: ['**']\n  requirements: {{{requirements}}}\n"
    )
}

fn authority(requirements: &str) -> Authority {
    let set = compile(&policy(requirements)).unwrap();
    let requirements = set.policies()[0].requirements();
    requirements[0].signers[0].authority.clone()
}

const IDENTITY: &str = "issuer: https://i.example, subject: https://i.example/org/app";

#[test]
fn keyless_signer_wants_a_log_and_an_sct_unless_told_otherwise() {
    let Authority::Keyless(plain) = authority(&format!("keyless: [{{identities: [{{{IDENTITY}}}]}}]")) else {
        panic!()
    };
    assert_eq!((plain.root.as_str(), plain.sct), ("public-good", true));
    assert_eq!((plain.witnesses.logs.count, plain.witnesses.timestamps.count), (1, 0));
    let text = format!(
        "keyless: [{{trustRoot: corp, identities: [{{{IDENTITY}, claims: {{buildTrigger: push, sourceRepositoryRef: {{regExp: 'refs/tags/v.*'}}}}}}], \
         insecureIgnoreSCT: true, transparencyLogs: {{threshold: 0}}, timestamps: {{threshold: 2}}}}]"
    );
    let Authority::Keyless(corp) = authority(&text) else { panic!() };
    assert_eq!((corp.root.as_str(), corp.sct), ("corp", false));
    assert_eq!((corp.witnesses.logs.count, corp.witnesses.timestamps.count), (0, 2));
    assert_eq!(corp.witnesses.timestamps.root, None, "its own root");
    let claims: Vec<_> = corp.identities[0].claims.iter().map(|(claim, _)| *claim).collect();
    assert_eq!(claims, [FulcioClaim::BuildTrigger, FulcioClaim::SourceRepositoryRef]);
    assert!(corp.identities[0].claims[1].1.matches("refs/tags/v1"));
    assert!(!corp.identities[0].claims[1].1.matches("x/refs/tags/v1"));
}

#[test]
fn witnesses_of_a_key_are_those_of_a_named_root_or_the_public_ones() {
    let pem = Signer::new().pem().replace('\n', "\\n");
    let Authority::Key(plain) = authority(&format!("keys: [{{data: \"{pem}\"}}]")) else { panic!() };
    assert_eq!((plain.witnesses.logs.count, plain.witnesses.timestamps.count), (0, 0));
    let text = format!(
        "keys: [{{data: \"{pem}\", transparencyLogs: {{threshold: 1}}, timestamps: {{threshold: 1, trustRoot: corp}}}}]"
    );
    let set = compile(&policy(&text)).unwrap();
    let roots: Vec<_> = set.policies()[0].trust_roots().into_iter().collect();
    assert_eq!(roots, ["corp", "public-good"]);
}

#[test]
fn signer_that_leaves_something_open_is_an_error() {
    let pem = Signer::new().pem().replace('\n', "\\n");
    for (requirements, expected) in [
        ("".to_owned(), "found none; add one"),
        ("keyless: [{identities: []}]".to_owned(), "expected at least one identity"),
        (
            "keyless: [{identities: [{subject: a}]}]".to_owned(),
            "issuer: expected it or issuerRegExp, found neither",
        ),
        ("keyless: [{identities: [{issuer: a}]}]".to_owned(), "subject: expected it or subjectRegExp"),
        (
            format!("keyless: [{{identities: [{{{IDENTITY}, claims: {{other: x}}}}]}}]"),
            "expected one of githubWorkflowTrigger",
        ),
        (format!("keyless: [{{identities: [{{{IDENTITY}}}], insecureIgnoreSCT: false}}]"), "expected true"),
        (
            format!("keyless: [{{identities: [{{{IDENTITY}}}], transparencyLogs: {{threshold: 0}}}}]"),
            "vouch for the time",
        ),
        (
            format!("keyless: [{{identities: [{{{IDENTITY}}}], timestamps: {{threshold: 9}}}}]"),
            "limit WITNESSES",
        ),
        (format!("keys: [{{data: \"{pem}\"}}, {{data: \"{pem}\"}}]"), "expected each signer once"),
        (
            format!("keys: [{{data: \"{pem}\"}}], attestations: [{{predicateType: vuln}}]"),
            "write https://cosign.sigstore.dev/attestation/vuln/v1",
        ),
        ("attestations: [{predicateType: 'https://x/y'}]".to_owned(), "here or beside attestations"),
        (format!("keys: [{{data: \"{pem}\"}}], evidence: []"), "limit POLICY_PLACES"),
        (format!("keys: [{{data: \"{pem}\"}}], evidence: [{{repository: 'r.io/x:1'}}]"), "without tag"),
        (
            format!("keys: [{{data: \"{pem}\"}}], claimedRepository: {{insecureAny: true, unnamed: accept}}"),
            "insecureAny alone",
        ),
        (format!("keys: [{{data: \"{pem}\"}}], claimedRepository: {{unnamed: other}}"), "unknown variant"),
        (
            "certificates: [{roots: x, subjects: [{email: a@b}]}]".to_owned(),
            "spec.requirements.certificates.roots",
        ),
    ] {
        let error = compile(&policy(&requirements)).expect_err(&requirements);
        assert!(error.contains(expected), "{requirements}: {error}");
        assert!(!error.lines().any(str::is_empty), "{error}");
    }
}

#[test]
fn attestations_are_asked_for_besides_the_signature_and_by_its_signers() {
    let pem = Signer::new().pem().replace('\n', "\\n");
    let other = Signer::new().pem().replace('\n', "\\n");
    let text = format!(
        "keys: [{{data: \"{pem}\"}}], attestations: [{{predicateType: 'https://a/b'}}, {{predicateType: 'https://c/d', keys: [{{data: \"{other}\"}}]}}]"
    );
    let set = compile(&policy(&text)).unwrap();
    let requirements = set.policies()[0].requirements();
    let signers: Vec<_> = requirements.iter().map(|one| one.signers[0].fingerprint).collect();
    assert_eq!(signers.len(), 3);
    assert!(signers[0] == signers[1] && signers[1] != signers[2]);
    assert_eq!(found(judge(&set, "r.io/a", &[])), "no signature");
}

#[test]
fn evidence_is_looked_for_where_the_policy_says() {
    let pem = Signer::new().pem().replace('\n', "\\n");
    let text =
        format!("keys: [{{data: \"{pem}\"}}], evidence: [{{repository: r.io/sigs, tagPrefix: p-}}, {{}}]");
    let set = compile(&policy(&text)).unwrap();
    let places = set.policies()[0].places();
    assert_eq!(places[0].repository.as_ref().unwrap().repo_name(), "r.io/sigs");
    assert_eq!((places[0].tag_prefix.as_str(), &places[1]), ("p-", &Place::OWN));
}

/// The steps of the one signature that was looked at, and what to do.
fn told(judgement: Judgement) -> (Vec<(&'static str, Outcome)>, String) {
    let (checks, remedy) = match judgement {
        Judgement::Satisfied { checks, .. } | Judgement::Exempted { checks, .. } => (checks, String::new()),
        Judgement::Unsatisfied { checks, remedy, .. } => (checks, remedy),
    };
    assert!(checks[0].steps.iter().all(|step| !step.clause.is_empty() && !step.detail.is_empty()));
    (checks[0].steps.iter().map(|step| (step.name, step.outcome)).collect(), remedy)
}

#[test]
fn each_check_of_a_signature_is_told_and_the_one_that_fails_is_the_last() {
    let signer = Signer::new();
    let set = compile(&signed(&signer.pem(), "")).unwrap();
    let signature = |repository| [signer.sign(claim_of(manifest(), repository).as_bytes())];
    let (passed, _) = told(judge(&set, "r.io/team/a", &signature("r.io/team/a")));
    assert!(passed.iter().all(|(_, outcome)| *outcome == Outcome::Passed));
    // What was not asked for is told, too.
    assert_eq!(passed.iter().filter(|(name, _)| *name == "thresholds").count(), 2, "{passed:?}");

    let (steps, _) = told(judge(&set, "r.io/team/a", &signature("r.io/team/b")));
    assert_eq!(steps[..passed.len()], passed[..]);
    assert_eq!(steps[passed.len()..], [("claimed repository", Outcome::Failed)]);

    let (steps, _) = told(judge(&set, "r.io/team/a", &[Signer::new().sign(b"x")]));
    assert_eq!(steps, [("format", Outcome::Passed), ("signature", Outcome::Failed)]);
}

#[test]
fn identity_that_is_not_the_policys_may_be_added_to_it() {
    let fixture = Fixture::load("keyless-rekor1-bundle");
    let judged = |subject: &str| {
        let text = format!(
            "claimedRepository: {{unnamed: accept}}, keyless: [{{trustRoot: given, identities: [{{issuer: 'https://token.actions.githubusercontent.com', subject: '{subject}'}}]}}]"
        );
        let set = compile(&policy(&text)).unwrap();
        let name = ImageName::parse("r.io/a").unwrap();
        let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
        set.policies()[0].judge(
            &subject,
            &fixture.digests,
            &fixture.evidence,
            &Conditions::at(verify::fixture::now()),
            &mut |evidence, signer, sought| fixture.verify(evidence, &signer.authority, sought),
        )
    };
    let own = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main";
    assert!(is_satisfied(&judged(own)));
    let (steps, remedy) = told(judged("https://github.com/acme/app"));
    assert_eq!(steps.last(), Some(&("identity", Outcome::Failed)));
    assert!(remedy.contains("or add the one found to the policy if it may sign"), "{remedy}");
    // One that is no signature at all offers none.
    let set = compile(&policy(&format!("keyless: [{{identities: [{{{IDENTITY}}}]}}]"))).unwrap();
    let Judgement::Unsatisfied { remedy, .. } = judge(&set, "r.io/a", &[]) else { panic!() };
    assert!(!remedy.contains("add the one found"), "{remedy}");
}
