//! Signers and attestations of native policies.

use super::*;
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
