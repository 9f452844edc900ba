//! OpenShift's policies.

use super::given::{Signed, other_key};
use super::*;

/// An ImagePolicy of `namespace`, or a ClusterImagePolicy.
fn written(name: &str, namespace: Option<&str>, scopes: &str, root: &str, identity: &str) -> String {
    let (kind, namespace) = match namespace {
        Some(namespace) => ("ImagePolicy", format!(", namespace: {namespace}")),
        None => ("ClusterImagePolicy", String::new()),
    };
    format!(
        "---\napiVersion: config.openshift.io/v1\nkind: {kind}\nmetadata: {{name: {name}, generation: 2{namespace}}}\nspec:\n  \
         scopes: {scopes}\n  policy:\n    rootOfTrust:\n{root}{identity}status: {{conditions: []}}\n"
    )
}

fn by_key(key: &str, more: &str) -> String {
    format!("      policyType: PublicKey\n      publicKey:\n        keyData: {key}\n{more}")
}

fn by_fulcio(authorities: &str, log: &str, issuer: &str, email: &str) -> String {
    format!(
        "      policyType: FulcioCAWithRekor\n      fulcioCAWithRekor:\n        fulcioCAData: {authorities}\n        rekorKeyData: {log}\n        \
         fulcioSubject: {{oidcIssuer: '{issuer}', signedEmail: '{email}'}}\n"
    )
}

fn by_pki(roots: &str, intermediates: &str, subject: &str) -> String {
    format!(
        "      policyType: PKI\n      pki:\n        caRootsData: {roots}\n        caIntermediatesData: {intermediates}\n        \
         pkiCertificateSubject: {{{subject}}}\n"
    )
}

const REPOSITORY: &str = "    signedIdentity: {matchPolicy: MatchRepository}\n";

/// For the fixtures' registry.
fn fixtures(root: &str, identity: &str) -> PolicySet {
    compile(&written("p", None, "['127.0.0.1:5909']", root, identity)).unwrap()
}

#[test]
fn signature_by_the_key_holds_and_by_another_does_not() {
    let signed = Signed::load("key-none-legacy");
    let with = |key: &str| fixtures(&by_key(key, ""), REPOSITORY);
    assert!(signed.holds(&with(&signed.file("cosign.pub")), ":v1"));
    assert!(!signed.holds(&with(&other_key()), ":v1"));
    assert!(!Signed::load("unsigned").holds(&with(&signed.file("cosign.pub")), ":v1"));
    assert_eq!(with(&other_key()).trust_roots(), [], "a key alone needs no trusted root");
}

#[test]
fn log_of_a_key_has_to_be_the_policy_s_own() {
    let signed = Signed::load("key-rekor1-legacy");
    let with = |log: &str| {
        fixtures(&by_key(&signed.file("cosign.pub"), &format!("        rekorKeyData: {log}\n")), REPOSITORY)
    };
    assert!(signed.holds(&with(&signed.rekor()), ":v1"));
    assert!(!signed.holds(&with(&other_key()), ":v1"));
    // The same, logged nowhere.
    let unlogged = Signed::load("key-none-legacy");
    let root = by_key(&unlogged.file("cosign.pub"), &format!("        rekorKeyData: {}\n", signed.rekor()));
    assert!(!unlogged.holds(&fixtures(&root, REPOSITORY), ":v1"));
}

#[test]
fn fulcio_identity_holds_with_the_policy_s_own_authority_and_log() {
    let signed = Signed::load("email-rekor1-legacy");
    let (ca, log) = (signed.fulcio(), signed.rekor());
    let (issuer, email) = ("https://accounts.example.com", "dev@example.com");
    let other_ca = Signed::load("pki-none-legacy").file("ca-root.pem");
    for (root, expected) in [
        (by_fulcio(&ca, &log, issuer, email), true),
        (by_fulcio(&other_ca, &log, issuer, email), false),
        (by_fulcio(&ca, &other_key(), issuer, email), false),
        (by_fulcio(&ca, &log, "https://accounts.example.org", email), false),
        (by_fulcio(&ca, &log, issuer, "ops@example.com"), false),
    ] {
        let set = fixtures(&root, REPOSITORY);
        assert_eq!(signed.holds(&set, ":v1"), expected, "{root}");
        assert_eq!(set.policies()[0].trust_roots().len(), 1);
    }
}

#[test]
fn certificate_of_a_pki_has_to_be_for_all_that_is_said() {
    let signed = Signed::load("pki-none-legacy");
    let (root, intermediate) = (signed.file("ca-root.pem"), signed.file("ca-intermediate.pem"));
    for (text, expected) in [
        (by_pki(&root, &intermediate, "email: release@corp.example"), true),
        (by_pki(&root, &intermediate, "email: other@corp.example"), false),
        (by_pki(&root, &intermediate, "email: release@corp.example, hostname: ci.corp.example"), false),
        (by_pki(&root, &intermediate, "hostname: ci.corp.example"), false),
    ] {
        assert_eq!(signed.holds(&fixtures(&text, REPOSITORY), ":v1"), expected, "{text}");
    }
    let alone = by_pki(&root, &root, "email: release@corp.example");
    let set = fixtures(&alone.replace(&format!("        caIntermediatesData: {root}\n"), ""), REPOSITORY);
    assert!(signed.holds(&set, ":v1"), "the intermediate comes with the signature");
}

#[test]
fn signature_has_to_claim_the_name_that_the_policy_asks_for() {
    let signed = Signed::load("key-none-legacy");
    let with = |identity: &str| fixtures(&by_key(&signed.file("cosign.pub"), ""), identity);
    let plain = with("");
    // cosign names the repository alone.
    let line = signed.shortfall(&plain, ":v1");
    assert!(line.contains("for 127.0.0.1:5909/fixtures/key-none-legacy:v1; "), "{line}");
    assert!(line.contains("write matchRepository as signedIdentity"), "{line}");
    assert!(!signed.holds(&plain, &signed.by_digest()));
    assert!(!signed.holds(&with("    signedIdentity: {matchPolicy: MatchRepoDigestOrExact}\n"), ":v1"));
    assert!(signed.holds(&with(REPOSITORY), &signed.by_digest()));
    for (repository, expected) in [(signed.repository.as_str(), true), ("r.io/other", false)] {
        let identity = format!(
            "    signedIdentity: {{matchPolicy: ExactRepository, exactRepository: {{repository: '{repository}'}}}}\n"
        );
        assert_eq!(signed.holds(&with(&identity), ":v1"), expected);
    }
    // A remapped name is held to its tag, too.
    let remap = "    signedIdentity: {matchPolicy: RemapIdentity, remapIdentity: {prefix: '127.0.0.1:5909/fixtures', signedPrefix: r.io}}\n";
    assert!(signed.shortfall(&with(remap), ":v1").contains("for r.io/key-none-legacy:v1; "));
    // What a bundle says nothing about is not there.
    let bundle = Signed::load("key-none-bundle");
    let line = bundle.shortfall(&fixtures(&by_key(&bundle.file("cosign.pub"), ""), REPOSITORY), ":v1");
    assert!(line.contains("containers/image reads no bundles"), "{line}");
}

#[test]
fn most_specific_scope_wins_and_the_cluster_s_before_a_namespace_s() {
    let key = by_key(&other_key(), "");
    let policies = [
        written("registry", None, "[r.io]", &key, ""),
        written("app", None, "[r.io/team/app, '*.example.com']", &key, ""),
        written("also", None, "[r.io/team/app]", &key, ""),
        written("wide", Some("dev"), "[x.io]", &key, ""),
        written("tag", Some("dev"), "['x.io/a:v1']", &key, ""),
        written("within", Some("dev"), "['r.io/team/app:v1', r.io/other]", &key, ""),
        written("around", Some("dev"), "['*.io', nowhere.example]", &key, ""),
        written("wide", Some("prod"), "[x.io]", &key, ""),
    ];
    let set = compile(&policies.concat()).unwrap();
    for (image, namespace, expected) in [
        ("r.io/team/app:v1", None, vec!["app", "also"]),
        ("r.io/team/app:v1", Some("dev"), vec!["app", "also"]),
        ("r.io/other", Some("dev"), vec!["registry"]),
        ("sub.example.com/x", Some("dev"), vec!["app"]),
        ("example.com/x", Some("dev"), vec![]),
        ("x.io/a:v1", Some("dev"), vec!["dev/tag"]),
        ("x.io/a:v2", Some("dev"), vec!["dev/wide"]),
        ("x.io/a:v2", Some("prod"), vec!["prod/wide"]),
        ("x.io/a:v2", Some("other"), vec![]),
        ("x.io/a:v2", None, vec![]),
        ("y.io/a", Some("dev"), vec!["dev/around"]),
        ("", Some("dev"), vec![]),
    ] {
        assert_eq!(applicable(&set, image, namespace), expected, "{image} {namespace:?}");
    }
    assert_eq!(set.policies()[3].mode(), None);
    let both = [policies.concat(), denying("native", "images: ['r.io/**']")].concat();
    assert_eq!(applicable(&compile(&both).unwrap(), "r.io/x", None), ["registry", "native"]);
    let samples: Vec<_> =
        set.samples("x").into_iter().map(|(name, policy)| format!("{name} {}", policy.name())).collect();
    assert!(samples.contains(&"r.io/x registry".to_owned()), "{samples:?}");
    assert!(samples.contains(&"x.example.com/x app".to_owned()), "{samples:?}");
}

#[test]
fn same_keys_make_one_trusted_root() {
    let signed = Signed::load("key-rekor1-legacy");
    let root = |log: &str| by_key(&other_key(), &format!("        rekorKeyData: {log}\n"));
    let policies = |logs: &[String]| -> String {
        let one = |(n, log): (usize, &String)| {
            written(&format!("p{n}"), None, &format!("[r.io/a{n}]"), &root(log), "")
        };
        logs.iter().enumerate().map(one).collect()
    };
    let set = compile(&policies(&[signed.rekor(), signed.rekor(), other_key()])).unwrap();
    assert_eq!(set.trust_roots().len(), 2);
    let names: Vec<_> = set.policies().iter().map(|policy| policy.trust_roots()).collect();
    assert!(names[0] == names[1] && names[0] != names[2]);
    let text = set.trust_roots()[0].to_string();
    assert!(text.starts_with("document (p.yaml:"), "{text}");
    let many: Vec<String> = (0..=limits::TRUST_ROOTS).map(|_| other_key()).collect();
    assert!(compile(&policies(&many)).unwrap_err().contains("limit TRUST_ROOTS"));
}

#[test]
fn what_openshift_policies_may_not_say_is_an_error_with_its_line() {
    let key = other_key();
    let valid = written("p", None, "[r.io/a]", &by_key(&key, ""), REPOSITORY);
    compile(&valid).unwrap();
    let valid_fulcio =
        written("p", None, "[r.io/a]", &by_fulcio("Q0E=", &key, "https://i.example", "a@b"), "");
    let valid_pki = written("p", None, "[r.io/a]", &by_pki("Q0E=", "Q0E=", "email: a@b"), "");
    let pem = "\"-----BEGIN PUBLIC KEY-----\"";
    for (text, from, to, line, expected) in [
        (
            &valid,
            "kind: ClusterImagePolicy",
            "kind: ImagePolicy",
            4,
            "metadata.namespace: expected the namespace",
        ),
        (&valid, "generation: 2", "namespace: dev", 4, "is for all namespaces"),
        (&valid, "[r.io/a]", "[]", 2, "spec.scopes: expected one to 256 scopes, found 0"),
        (&valid, "[r.io/a]", "[r.io/a, r.io/a]", 2, "expected each scope once"),
        (&valid, "[r.io/a]", "[busybox]", 6, "spec.scopes: expected a scope"),
        (&valid, &key, pem, 11, "publicKey.keyData: expected PEM, base64-encoded"),
        (&valid, &key, "Q0E=", 11, "publicKey.keyData: "),
        (&valid, "PublicKey", "PKI", 9, "expected pki alone beside policyType PKI"),
        (&valid, "PublicKey", "GPG", 9, "expected PublicKey, FulcioCAWithRekor or PKI"),
        (&valid, "publicKey:", "key:", 10, "unknown field `key`"),
        (&valid, "keyData", "keyDatas", 11, "unknown field `keyDatas`"),
        (&valid, "MatchRepository", "MatchExact", 12, "expected MatchRepoDigestOrExact, MatchRepository"),
        (&valid, "MatchRepository", "ExactRepository", 12, "expected exactRepository beside"),
        (
            &valid,
            "MatchRepository}",
            "ExactRepository, exactRepository: {repository: 'r.io/a:v1'}}",
            12,
            "exactRepository.repository: expected a repository without tag",
        ),
        (
            &valid,
            "MatchRepository}",
            "RemapIdentity, remapIdentity: {prefix: r.io, signedPrefix: a}}",
            12,
            "remapIdentity.signedPrefix: expected a registry",
        ),
        (&valid, "status:", "mode: warn\nstatus:", 13, "unknown field `mode`"),
        (&valid_fulcio, "https://i.example", "i.example", 13, "oidcIssuer: expected a URL"),
        (&valid_fulcio, "a@b", "nobody", 13, "signedEmail: expected an e-mail address"),
        (&valid_fulcio, "fulcioCAData: Q0E=\n        ", "", 0, "missing field `fulcioCAData`"),
        (&valid_fulcio, "a@b", "a@b", 11, "fulcioCAWithRekor.fulcioCAData: "),
        (&valid_pki, "email: a@b", "", 9, "expected email, hostname or both, found neither"),
        (&valid_pki, "email: a@b", "email: ''", 13, "expected an e-mail address"),
        (&valid_pki, "email: a@b", "email: a@b", 11, "pki.caRootsData: "),
    ] {
        let broken = text.replacen(from, to, 1);
        let error = compile(&broken).unwrap_err();
        let at = if line == 0 { "p.yaml:".to_owned() } else { format!("p.yaml:{line}: ") };
        assert!(error.starts_with(&at) && error.contains(expected), "{to}: {error}");
    }
    let older = compile(&valid.replace("openshift.io/v1", "openshift.io/v1alpha1")).unwrap_err();
    assert!(older.contains("config.openshift.io/v1 ClusterImagePolicy or ImagePolicy"), "{older}");
    let twice = compile(&[valid.as_str(), &valid].concat()).unwrap_err();
    assert!(twice.contains("expected a name of its own"), "{twice}");
}

#[test]
fn address_in_another_kind_of_name_is_not_the_signed_email() {
    use crate::verify::{AltName, CertificateSigner, Signer as By};

    let email = Signed::load("email-rekor1-legacy");
    let root = format!(
        "{{policyType: FulcioCAWithRekor, fulcioCAWithRekor: {{fulcioCAData: {}, rekorKeyData: {}, fulcioSubject: {{oidcIssuer: 'https://accounts.example.com', signedEmail: dev@example.com}}}}}}",
        email.fulcio(),
        email.rekor()
    );
    let policy = format!(
        "apiVersion: config.openshift.io/v1\nkind: ClusterImagePolicy\nmetadata: {{name: p}}\nspec: {{scopes: [r.io], policy: {{rootOfTrust: {root}, signedIdentity: {{matchPolicy: MatchRepository}}}}}}\n"
    );
    let set = compile(&policy).unwrap();
    let imported = compile(&set.import().text).unwrap();
    for (name, expected) in [
        (AltName::Email("dev@example.com".to_owned()), true),
        (AltName::Email("Dev@example.com".to_owned()), false),
        (AltName::Uri("dev@example.com".to_owned()), false),
        (AltName::Dns("dev@example.com".to_owned()), false),
        (AltName::Other("dev@example.com".to_owned()), false),
    ] {
        let issuer = Some("https://accounts.example.com".to_owned());
        let (fingerprint, claims) = (Digest::of(b"certificate"), std::collections::BTreeMap::new());
        let who =
            By::Certificate(CertificateSigner { fingerprint, issuer, names: vec![name.clone()], claims });
        assert_eq!(set.policies()[0].takes(Named::Signer(&who), None), expected, "{name:?}");
        assert_eq!(imported.policies()[0].takes(Named::Signer(&who), None), expected, "imported: {name:?}");
    }
}
