//! Policies in Rego, on what real cosign signed and attested.

use super::given::{Signed, other_key};
use super::*;

const IMAGE: &str = "signed-and-attested-key-none-legacy";

/// An authority by this image's key, or by another one.
fn authority(name: &str, pem: &str, more: &str) -> String {
    format!("  - name: {name}\n    key:\n      data: |\n{}{more}", indented(pem, 8))
}

fn attestation(name: &str, predicate_type: &str, rego: &str) -> String {
    format!(
        "    - name: {name}\n      predicateType: {predicate_type}\n      policy:\n        type: rego\n        data: |\n{}",
        indented(rego, 10)
    )
}

fn policy(authorities: &[String], more: &str) -> String {
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: rego}}\nspec:\n  images:\n  - glob: '**'\n  authorities:\n{}{more}",
        authorities.concat()
    )
}

fn of_all(rego: &str) -> String {
    format!("  policy:\n    type: rego\n    data: |\n{}", indented(rego, 6))
}

fn key(signed: &Signed) -> String {
    pem(&signed.file("cosign.pub"))
}

fn pem(encoded: &str) -> String {
    use base64::Engine;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap()
}

fn rego(body: &str) -> String {
    format!("package sigstore\ndefault isCompliant = false\nisCompliant {{\n  {body}\n}}\n")
}

#[test]
fn attestation_has_to_meet_its_policy() {
    let signed = Signed::load(IMAGE);
    let with = |types: &[(&str, &str)]| {
        let all: String = types.iter().map(|(kind, body)| attestation("one", kind, &rego(body))).collect();
        compile(&policy(&[authority("key", &key(&signed), &format!("    attestations:\n{all}"))], ""))
            .unwrap()
    };
    let vuln = "input.predicateType == \"https://cosign.sigstore.dev/attestation/vuln/v1\"; input.predicate.scanner.version == \"1\"; startswith(input.subject[0].name, \"127.0.0.1:5909/\")";
    let slsa = "input.predicate.buildDefinition.externalParameters.ref == \"refs/heads/main\"";
    assert!(signed.holds(&with(&[("vuln", vuln)]), ":1"));
    assert!(signed.holds(&with(&[("vuln", vuln), ("https://slsa.dev/provenance/v1", slsa)]), ":1"));
    let unmet = with(&[
        ("vuln", vuln),
        (
            "https://slsa.dev/provenance/v1",
            "input.predicate.buildDefinition.externalParameters.ref == \"refs/tags/v1\"",
        ),
    ]);
    let said = signed.shortfall(&unmet, ":1");
    assert!(said.contains("of which condition the Rego of attestation \"one\" does not hold"), "{said}");
    // The signer is asked for as ever.
    let text = policy(
        &[authority(
            "key",
            &pem(&other_key()),
            &format!("    attestations:\n{}", attestation("one", "vuln", &rego(vuln))),
        )],
        "",
    );
    assert!(!signed.holds(&compile(&text).unwrap(), ":1"));
}

#[test]
fn policy_of_the_whole_sees_what_each_authority_found() {
    let signed = Signed::load(IMAGE);
    let any = attestation("scan", "vuln", &rego("true"))
        + &attestation("build", "https://slsa.dev/provenance/v1", &rego("true"));
    let authorities = [
        authority("ours", &key(&signed), ""),
        authority("attested", &key(&signed), &format!("    attestations:\n{any}")),
        authority("others", &pem(&other_key()), ""),
    ];
    let with = |body: &str| compile(&policy(&authorities, &of_all(&rego(body)))).unwrap();
    for (body, expected) in [
        ("count(input.authorityMatches.ours.signatures) == 1", true),
        (
            "count(input.authorityMatches.attested.attestations.scan) == 1; count(input.authorityMatches.attested.attestations) == 2",
            true,
        ),
        (
            "input.authorityMatches.attested.attestations.scan[_].predicateType == \"https://cosign.sigstore.dev/attestation/vuln/v1\"",
            true,
        ),
        (
            "is_string(input.authorityMatches.ours.signatures[0].id); not input.authorityMatches.ours.signatures[0].issuer",
            true,
        ),
        // What finds nothing is not there.
        ("not input.authorityMatches.others", true),
        ("input.authorityMatches.others", false),
        ("count(input.authorityMatches) == 2", true),
        ("count(input.authorityMatches) == 3", false),
        ("not input.config; not input.spec; not input.metadata; not input.typemeta", true),
    ] {
        assert_eq!(signed.holds(&with(body), ":1"), expected, "{body}");
    }
    let said = signed.shortfall(&with("count(input.authorityMatches) == 3"), ":1");
    assert!(
        said.contains("evidence for attested, ours, of which the Rego of spec.policy does not hold"),
        "{said}"
    );
    // At least one authority has to hold, whatever the policy says.
    let none = policy(&[authority("others", &pem(&other_key()), "")], &of_all(&rego("true")));
    assert!(!signed.holds(&compile(&none).unwrap(), ":1"));
    assert!(!Signed::load("unsigned").holds(&with("true"), ":1"));
    // An error of the module's is told.
    let told =
        "package sigstore\nisCompliant[r] {\n  r := {\"result\": false, \"error\": \"scan it first\"}\n}\n";
    let set = compile(&policy(&authorities, &of_all(told))).unwrap();
    assert!(signed.shortfall(&set, ":1").contains("the Rego of spec.policy does not hold: scan it first"));
    assert!(set.policies()[0].needs_all_evidence());
    let set = compile(&policy(&authorities, "")).unwrap();
    assert!(signed.holds(&set, ":1") && !set.policies()[0].needs_all_evidence());
}

#[test]
fn policy_of_the_whole_needs_authorities_that_it_can_tell_apart() {
    let pem = Signer::new().pem();
    let all = of_all(&rego("true"));
    for (authorities, said) in [
        (
            vec![authority("a", &pem, ""), authority("a", &pem, "")],
            "expected one of its own beside spec.policy, found \"a\" twice",
        ),
        (
            vec![authority("a", &pem, "    attestations: [{predicateType: vuln}]\n")],
            "spec.authorities.attestations.name: expected one beside spec.policy",
        ),
        (
            vec!["  - static: {action: pass}\n".to_owned()],
            "spec.authorities.static: expected a key or keyless beside spec.policy",
        ),
    ] {
        let error = compile(&policy(&authorities, &all)).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    // Without a name it has its number.
    let unnamed = policy(&[authority("a", &pem, "").replace("name: a\n    key", "key")], &all);
    let set = compile(&unnamed).unwrap();
    assert!(format!("{:?}", set.policies()[0]).contains("authority-0"));
    let text = set.import().unsaid.concat();
    assert!(text.contains("spec.policy: an ImagePolicy has no policies in Rego"), "{text}");
    let name = ImageName::parse("r.io/app:v1").unwrap();
    let explained =
        set.explain(&Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false }, true);
    let said = explained.to_string();
    assert!(said.contains("of which is true: the Rego of spec.policy, of all that is found"), "{said}");
}
