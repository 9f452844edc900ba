//! Policies of other dialects, and what they are as native ones: both judge what real tools signed alike.

use std::collections::BTreeSet;

use super::given::Signed;
use super::*;

fn imported(files: &[SourceFile]) -> (PolicySet, Imported, PolicySet) {
    let original = PolicySet::compile(files).unwrap_or_else(|errors| panic!("{errors:?}"));
    let imported = original.import();
    let set = PolicySet::compile(&[file("imported.yaml", &imported.text)])
        .unwrap_or_else(|errors| panic!("{errors:?}\n{}", imported.text));
    (original, imported, set)
}

fn openshift(name: &str, scopes: &str, root: &str, identity: &str) -> String {
    format!(
        "---\napiVersion: config.openshift.io/v1\nkind: ClusterImagePolicy\nmetadata: {{name: {name}}}\nspec: {{scopes: [{scopes}], policy: {{rootOfTrust: {root}, signedIdentity: {identity}}}}}\n"
    )
}

/// Fixture by fixture: policies that are for it, each in a dialect, and some that are not.
#[test]
fn imported_policies_judge_what_real_tools_signed_as_the_originals_do() {
    let fixtures = [
        "key-none-legacy",
        "key-rekor1-legacy",
        "key-none-bundle",
        "keyless-rekor1-legacy",
        "email-rekor1-legacy",
        "pki-none-legacy",
        "attest-key-none-legacy",
        "rsa-4096-none-legacy",
        "unsigned",
    ]
    .map(Signed::load);
    let [by_key, logged, _, _, by_email, by_pki, attested, ..] = &fixtures;
    let (key, rekor) = (by_key.file("cosign.pub"), logged.rekor());
    let repository = &by_key.repository;
    let registry = repository.split('/').next().unwrap();
    let pem = |encoded: &str| {
        use base64::Engine;
        let pem = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        indented(&String::from_utf8(pem).unwrap(), 8)
    };
    let sigstore = |more: &str, with: &str| {
        format!(
            "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: s}}\nspec:\n  images: [{{glob: '{registry}/**'}}]\n  authorities:\n  - key:\n      data: |\n{}{more}",
            pem(with)
        )
    };
    let policy_json = |identity: &str| {
        format!(
            "{{\"default\": [{{\"type\": \"reject\"}}], \"transports\": {{\"docker\": {{\"{registry}\": [{{\"type\": \"sigstoreSigned\", \"keyData\": \"{key}\", \"rekorPublicKeyData\": \"{rekor}\", \"signedIdentity\": {{\"type\": \"{identity}\"}}}}]}}}}}}"
        )
    };
    let by = format!("{{policyType: PublicKey, publicKey: {{keyData: {key}}}}}");
    let fulcio = format!(
        "{{policyType: FulcioCAWithRekor, fulcioCAWithRekor: {{fulcioCAData: {}, rekorKeyData: {}, fulcioSubject: {{oidcIssuer: '{}', signedEmail: '{}'}}}}}}",
        by_email.fulcio(),
        by_email.rekor(),
        "https://accounts.example.com",
        "dev@example.com"
    );
    let pki = format!(
        "{{policyType: PKI, pki: {{caRootsData: {}, caIntermediatesData: {}, pkiCertificateSubject: {{email: release@corp.example}}}}}}",
        by_pki.file("ca-root.pem"),
        by_pki.file("ca-intermediate.pem")
    );
    let own = "{matchPolicy: MatchRepository}";
    let attests = "    attestations:\n    - {name: a, predicateType: slsaprovenance1}\n";
    let mut held = 0;
    for (name, text) in [
        ("s.yaml", sigstore("", &key)),
        ("s.yaml", sigstore("    ctlog: {url: https://rekor.sigstore.dev}\n", &key)),
        ("s.yaml", sigstore(attests, &attested.file("cosign.pub"))),
        ("o.yaml", openshift("o", registry, &by, own)),
        (
            "o.yaml",
            openshift(
                "o",
                registry,
                &by,
                &format!("{{matchPolicy: ExactRepository, exactRepository: {{repository: '{repository}'}}}}"),
            ),
        ),
        ("o.yaml", openshift("o", registry, &fulcio, own)),
        ("o.yaml", openshift("o", registry, &pki, own)),
        ("p.json", policy_json("matchRepository")),
    ] {
        let (original, imported, set) = imported(&[file(name, &text)]);
        assert_eq!(imported.unsaid, [] as [&str; 0], "{text}");
        assert_eq!(set.len(), original.len());
        for fixture in &fixtures {
            for suffix in [":v1", &fixture.by_digest()] {
                let as_original = fixture.holds(&original, suffix);
                assert_eq!(
                    fixture.holds(&set, suffix),
                    as_original,
                    "{} {suffix}\n{text}",
                    fixture.repository
                );
                held += usize::from(as_original);
            }
        }
    }
    // Each takes something, and nothing takes all.
    assert!((8..100).contains(&held), "{held}");
}

#[test]
fn imported_scopes_cover_the_same_images() {
    let reject = "[{\"type\": \"reject\"}]";
    let scopes = [
        "r.io",
        "r.io/ns",
        "r.io/ns/app",
        "r.io/ns/app:v1",
        "docker.io/library",
        "docker.io/team",
        "*.example.com",
        "*.a.example.com",
        "host:5000/x",
        "localhost",
    ];
    let docker: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\": {reject}")).collect();
    let json =
        format!("{{\"default\": {reject}, \"transports\": {{\"docker\": {{{}}}}}}}", docker.join(", "));
    let (original, found, set) = imported(&[file("p.json", &json)]);
    assert_eq!((found.unsaid.len(), set.len()), (0, original.len()));
    let names = [
        "r.io/x",
        "r.io/ns",
        "r.io/ns:v1",
        "r.io/ns/app",
        "r.io/ns/app:v1",
        "r.io/ns/app/sub:v1",
        "r.io/nsx/app",
        "r.io:5000/ns",
        "nginx",
        "team/app",
        "team/app/x",
        "a.example.com/x",
        "a.b.example.com:5000/x",
        "example.com/x",
        "b.a.example.com/x/y",
        "host:5000/x",
        "host:5000/x/y:t",
        "host:5000/y",
        "localhost/x",
        "",
    ];
    let by_digest = format!("r.io/ns/app@{}", index());
    for name in names.into_iter().chain([by_digest.as_str()]) {
        // `p.json#docker scope`, and the same as a name of Kubernetes.
        let plain = |name: &String| name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-");
        let of = |set: &PolicySet| applicable(set, name, Some("dev")).iter().map(plain).collect::<Vec<_>>();
        let (expected, found) = (of(&original), of(&set));
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(
            expected[0]
                .trim_end_matches('-')
                .starts_with(found[0].trim_end_matches(|c: char| c == '-' || c.is_ascii_digit())),
            "{name}: {expected:?} {found:?}"
        );
    }
}

#[test]
fn imported_globs_cover_the_same_images() {
    let names = [
        "r.io/app:v1",
        "r.io/app:w1",
        "r.io/app",
        "r.io/app2:v1",
        "r.io/a/b/app:v1",
        "r.io/a/b:v1",
        "nginx",
        "team/app:v1",
        "x.r.io/app:v1",
        "r.io/ab:v1",
        "s.io/app:v1",
        "sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ];
    let digest = index();
    let by_digest = format!("r.io/app@{digest}");
    for (glob, has) in [
        ("**", true),
        ("r.io/**", true),
        ("r.io/*", true),
        ("r.io/app:*", true),
        ("r.io/app:v*", true),
        ("r.io/app*", true),
        ("r.io/app:v1", true),
        ("r.io/app@sha256:*", true),
        (&by_digest, true),
        ("r.io/**/app:*", true),
        ("*.r.io/**", true),
        ("*", true),
        ("*/*", true),
        ("index.docker.io/library/nginx:*", true),
        ("index.docker.io/*/*", true),
        // These have one name alone after the registry, which no image of Docker Hub has.
        ("index.docker.io/*", false),
        ("index.docker.io/nginx:*", false),
        ("r.io/a**", false),
        ("r.io/a*b", false),
        ("r.io/app@sha256:ab*", false),
        ("r.io/app", false),
    ] {
        let text = format!(
            "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: s}}\nspec:\n  images: [{{glob: '{glob}'}}]\n  authorities: [{{static: {{action: fail}}}}]\n"
        );
        let original = compile(&text).unwrap();
        let imported = original.import();
        assert_eq!(imported.unsaid.is_empty(), has, "{glob}: {}", imported.text);
        if !has {
            assert!(!imported.text.contains("kind:"), "{}", imported.text);
            continue;
        }
        let set = compile(&imported.text).unwrap();
        for name in names.into_iter().chain([by_digest.as_str()]) {
            assert_eq!(
                applicable(&set, name, None),
                applicable(&original, name, None),
                "{glob} {name}\n{}",
                imported.text
            );
        }
    }
}

#[test]
fn what_has_no_native_form_is_told_and_left_out_whole() {
    let key = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(Signer::new().pem())
    };
    let by = format!("{{policyType: PublicKey, publicKey: {{keyData: {key}}}}}");
    let own = "{matchPolicy: MatchRepository}";
    let sigstore = |name: &str, glob: &str| {
        format!(
            "---\napiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: {name}}}\nspec:\n  images: [{{glob: '{glob}'}}]\n  authorities: [{{static: {{action: fail}}}}]\n"
        )
    };
    for (text, policies, expected) in [
        (
            openshift("o", "r.io", &by, "{matchPolicy: MatchRepoDigestOrExact}"),
            0,
            &["p.yaml:2: OpenShift ClusterImagePolicy o: its signedIdentity"][..],
        ),
        (
            [openshift("a", "r.io", &by, own), openshift("b", "r.io", &by, own)].concat(),
            1,
            &["OpenShift ClusterImagePolicy b: r.io/** is a's too"],
        ),
        (
            [sigstore("wide", "r.io/**"), sigstore("narrow", "r.io/app:*"), sigstore("other", "s.io/**")]
                .concat(),
            1,
            &["ClusterImagePolicy wide: narrow matches some", "ClusterImagePolicy narrow: wide matches some"],
        ),
        (
            [sigstore("one", "r.io/**"), sigstore("two", "*/prod/**"), sigstore("three", "s.io/**")].concat(),
            0,
            &["one: two matches some", "two: one matches some", "three: two matches some"],
        ),
        (
            [
                sigstore("s", "r.io/**"),
                openshift("o", "r.io/a", &by, own),
                denying("n", "images: [r.io/a/b]"),
            ]
            .concat(),
            0,
            &["ClusterImagePolicy s: o matches some", "ClusterImagePolicy o: s matches some"],
        ),
        ([sigstore("s", "r.io/**"), denying("n", "images: [s.io/**]")].concat(), 1, &[]),
        (
            [
                openshift("c", "r.io", &by, own),
                openshift("n", "r.io/a", &by, own)
                    .replace("ClusterImagePolicy", "ImagePolicy")
                    .replace("name: n", "name: n, namespace: dev"),
            ]
            .concat(),
            1,
            &["OpenShift ImagePolicy dev/n: scope r.io/a never counts beside ClusterImagePolicy c"],
        ),
    ] {
        let imported = compile(&text).unwrap().import();
        assert_eq!(imported.unsaid.len(), expected.len(), "{:?}", imported.unsaid);
        for (line, expected) in imported.unsaid.iter().zip(expected) {
            assert!(line.contains(expected), "{expected}: {line}");
            assert!(imported.text.contains(&format!("# NOT IMPORTED: {line}\n")), "{}", imported.text);
        }
        assert_eq!(imported.text.matches("kind: ImagePolicy").count(), policies, "{}", imported.text);
    }
    // Native ones are what they are.
    assert_eq!(compile(&denying("a", "images: [a]")).unwrap().import().text, "");
}

#[test]
fn file_of_a_namespace_denies_images_without_a_name_as_native_policies_too() {
    let accept = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    let (original, imported, set) = imported(&[file("namespaces/dev.json", accept)]);
    assert_eq!(imported.unsaid, [""; 0]);
    for (image, says) in [("r.io/a", Says::Accepts), ("", Says::Denies), (&index().hex(), Says::Denies)] {
        let name = ImageName::parse(image).unwrap();
        let subject = Subject { name: &name, namespace: Some("dev"), labels: &NO_LABELS, is_pause: false };
        assert_eq!(original.explain(&subject, false).says, says, "{image}");
        assert_eq!(set.explain(&subject, false).says, says, "{image}: {}", imported.text);
    }
}

#[test]
fn policies_of_several_dialects_are_imported_where_the_general_one_asks_for_nothing() {
    let sigstore = "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: s}\nspec:\n  images: [{glob: 'r.io/**'}]\n  authorities: [{static: {action: fail}}]\n";
    let accept = "[{\"type\": \"insecureAcceptAnything\"}]";
    let json = |docker: &str| {
        file("p.json", &format!("{{\"default\": {accept}, \"transports\": {{\"docker\": {{{docker}}}}}}}"))
    };
    let (_, found, set) = imported(&[file("s.yaml", sigstore), json("")]);
    assert_eq!((found.unsaid.as_slice(), set.len()), (&[][..], 2));
    // Within the other's: it would be the more specific one.
    let within = json(&format!("\"r.io/a\": {accept}"));
    let (_, found, set) = imported(&[file("s.yaml", sigstore), within]);
    assert_eq!((found.unsaid.len(), set.len()), (2, 1), "{:?}", found.unsaid);
}

#[test]
fn file_of_a_namespace_is_in_the_place_of_the_nodes_as_native_policies_too() {
    let (accept, reject) = ("[{\"type\": \"insecureAcceptAnything\"}]", "[{\"type\": \"reject\"}]");
    let json = |default: &str, docker: &[(&str, &str)]| {
        let docker: Vec<String> = docker.iter().map(|(scope, of)| format!("\"{scope}\": {of}")).collect();
        format!("{{\"default\": {default}, \"transports\": {{\"docker\": {{{}}}}}}}", docker.join(", "))
    };
    let node = [
        ("docker.io", accept),
        ("r.io", accept),
        ("r.io/prod/app", reject),
        ("r.io/prod/app:v1", accept),
        ("*.a.example", accept),
        ("s.io", reject),
    ];
    let own =
        [("r.io/prod", accept), ("s.io/x", accept), ("*.example", accept), ("r.io/prod/app/sub", reject)];
    let (original, found, set) = imported(&[
        file("policy.json", &json(reject, &node)),
        file("namespaces/prod.json", &json(reject, &own)),
        file("namespaces/dev.json", &json(accept, &[("r.io/prod/app:v1", reject)])),
    ]);
    assert_eq!(found.unsaid, [""; 0]);
    let mut says = BTreeSet::new();
    for image in [
        "nginx",
        "evil/x",
        "r.io/a",
        "r.io/prod",
        "r.io/prod/app",
        "r.io/prod/app:v1",
        "r.io/prod/app:v2",
        "r.io/prod/app/sub",
        "r.io/prod/app/sub:v1",
        "s.io/a",
        "s.io/x",
        "s.io/x/y",
        "b.a.example/x",
        "a.example/x",
        "t.io/x",
        "",
    ] {
        let name = ImageName::parse(image).unwrap();
        for namespace in [None, Some("prod"), Some("dev"), Some("other")] {
            let subject = Subject { name: &name, namespace, labels: &NO_LABELS, is_pause: false };
            let (expected, found) =
                (original.explain(&subject, false).says, set.explain(&subject, false).says);
            assert_eq!(found, expected, "{image} {namespace:?}");
            says.insert((namespace, format!("{found:?}")));
        }
    }
    assert_eq!(says.len(), 8, "{says:?}");
    assert_eq!(found.text.matches("# There the pause image").count(), 9, "{}", found.text);
}
