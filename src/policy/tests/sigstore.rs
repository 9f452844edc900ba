//! ClusterImagePolicies.

use super::*;

fn sigstore(pem: &str) -> String {
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: cip, generation: 3}}\nspec:\n  \
         images:\n  - glob: r.io/team/**\n  authorities:\n  - name: a\n    key:\n      hashAlgorithm: sha256\n      data: |\n{}",
        indented(pem, 8)
    )
}

#[test]
fn sigstore_policies_all_have_to_hold_beside_the_native_one() {
    let pem = Signer::new().pem();
    let other = sigstore(&pem).replace("name: cip", "name: other").replace("r.io/team/**", "r.io/team/app*");
    let all = sigstore(&pem).replace("name: cip", "name: everything").replace("r.io/team/**", "'**'");
    let text = [sigstore(&pem), other, all, denying("native", "images: ['r.io/**']")].join("---\n");
    let set = compile(&text).unwrap();
    assert_eq!(applicable(&set, "r.io/team/app:v1", None), ["cip", "other", "everything", "native"]);
    assert_eq!(applicable(&set, "r.io/team/x", None), ["cip", "everything", "native"]);
    assert_eq!(applicable(&set, "nginx", None), ["everything"]);
    assert_eq!(applicable(&set, "", None), ["everything"]);
}

#[test]
fn sigstore_globs_are_held_against_the_names_the_controller_sees() {
    let covers = |glob: &str, image: &str| {
        let set =
            compile(&sigstore(&Signer::new().pem()).replace("r.io/team/**", &format!("'{glob}'"))).unwrap();
        !applicable(&set, image, None).is_empty()
    };
    for (glob, image, expected) in [
        ("*", "nginx", true),
        ("*", "team/nginx", false),
        ("*/*", "team/nginx", true),
        ("docker.io/library/nginx*", "nginx:1", true),
        ("index.docker.io/**", "nginx:1", true),
        ("r.io/app", "r.io/app:v1", false),
        ("r.io/app:v1", "r.io/app:v1", true),
        ("r.io/app@sha256:*", "r.io/app:v1", true),
        ("r.io/app*", "r.io/app-other", true),
        ("*.io/app*", "r.io/app", true),
    ] {
        assert_eq!(covers(glob, image), expected, "{glob} {image}");
    }
}

#[test]
fn sigstore_policy_is_judged_as_the_controller_does() {
    let signer = Signer::new();
    let elsewhere = [signer.sign(claim_of(index(), "x.io/mirror").as_bytes())];
    let set = compile(&sigstore(&signer.pem())).unwrap();
    assert_eq!(set.policies()[0].mode(), Some(Mode::Enforce));
    assert!(is_satisfied(&judge(&set, "r.io/team/app", &elsewhere)));
    found(judge(&set, "r.io/team/app", &[]));
    let warn = compile(&format!("{}  mode: warn\n", sigstore(&signer.pem()))).unwrap();
    assert_eq!(warn.policies()[0].mode(), Some(Mode::Audit));
    // One authority is enough.
    let with = |action: &str| {
        let text = format!("{}  - static: {{action: {action}}}\n", sigstore(&signer.pem()));
        judge(&compile(&text).unwrap(), "r.io/team/app", &[])
    };
    assert!(is_satisfied(&with("pass")));
    assert_eq!(found(with("fail")), "no signature");
    let only_fail = "apiVersion: policy.sigstore.dev/v1alpha1\nkind: ClusterImagePolicy\nmetadata: {name: a}\nspec:\n  images: [{glob: r.io/**}]\n  \
                     authorities: [{static: {action: fail, message: not here}}]\n";
    assert_eq!(
        found(judge(&compile(only_fail).unwrap(), "r.io/a", &elsewhere)),
        "one that the policy denies (not here)"
    );
}

#[test]
fn what_sigstore_policies_have_and_crivet_has_not_is_an_error_with_its_line() {
    let valid = sigstore(&Signer::new().pem());
    let line = valid.lines().count() + 1;
    for (more, key) in [
        ("    keyless: {identities: []}\n", "spec.authorities.keyless"),
        ("    ctlog: {}\n", "spec.authorities.ctlog"),
        ("    source: [{oci: x}]\n", "spec.authorities.source"),
        ("    attestations: []\n", "spec.authorities.attestations"),
        ("    rfc3161timestamp: {}\n", "spec.authorities.rfc3161timestamp"),
        ("    signatureFormat: bundle\n", "spec.authorities.signatureFormat"),
        ("      kms: x\n", "spec.authorities.key.kms"),
        ("      secretRef: {name: x}\n", "spec.authorities.key.secretRef"),
        ("  policy: {type: cue}\n", "spec.policy"),
        ("  match: []\n", "spec.match"),
        ("  other: x\n", "unknown field `other`"),
        ("  mode: audit\n", "unknown variant `audit`"),
    ] {
        let error = compile(&format!("{valid}{more}")).unwrap_err();
        let expected = format!("p.yaml:{line}: ");
        assert!(error.starts_with(&expected) && error.contains(key), "{more}: {error}");
    }
    let sha512 = valid.replace("hashAlgorithm: sha256", "hashAlgorithm: sha512");
    assert!(compile(&sha512).unwrap_err().contains("expected sha256, found \"sha512\""));
    assert!(compile(&valid.replace("r.io/team/**", "nginx*")).unwrap_err().contains("index.docker.io/"));
    assert!(compile(&valid.replace("- glob: r.io/team/**", "[]")).is_err());
    let (head, _) = valid.split_once("  authorities:").unwrap();
    assert!(compile(head).unwrap_err().contains("expected at least one authority"));
}
