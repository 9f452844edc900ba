//! What loads and is doubtful.

use std::time::Duration;

use super::*;
use crate::audit::from_rfc3339;
use crate::verify::fixture::Fixture;

fn now() -> SystemTime {
    from_rfc3339("2026-11-22T12:00:00Z").unwrap()
}

/// The warnings, each with its line.
fn lint(text: &str) -> Vec<String> {
    let set = compile(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    set.lint(now()).iter().map(ToString::to_string).collect()
}

fn accepting(name: &str, scope: &str) -> String {
    denying(name, scope).replace("deny:", "insecureAcceptAnything:")
}

fn keyless(identity: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: k}}\nspec:\n  images: ['r.io/a/**']\n  requirements:\n    keyless:\n    - identities:\n      - {identity}\n"
    )
}

fn sigstore(glob: &str) -> String {
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: s}}\nspec:\n  images: [{{glob: '{glob}'}}]\n  authorities: [{{static: {{action: fail}}}}]\n"
    )
}

#[test]
fn everything_that_ships_is_free_of_warnings() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policy");
    let mut files = Vec::new();
    for part in ["", NAMESPACES] {
        for entry in std::fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
            if path.is_file() && !name.ends_with(".schema.json") {
                files.push(file(&name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let set = PolicySet::compile(&files).unwrap();
    assert_eq!(set.lint(now()), []);
}

#[test]
fn pattern_that_covers_nothing_is_doubtful() {
    for (pattern, expected) in [
        ("hub.docker.com/library/nginx", "is a web site; write docker.io"),
        ("github.com/acme/app", "is a web site; write ghcr.io"),
        ("r_io.example/a", "expected a registry"),
        ("-r.example/a", "expected a registry"),
        ("r.example:70000/a", "no port"),
        ("r.io/-a", "expected a repository"),
        ("r.io/a/*-", "expected a repository"),
        ("r.io/a:.v*", "expected a tag"),
    ] {
        let warnings = lint(&accepting("a", &format!("images: ['{pattern}']")));
        let start = format!("p.yaml:5: policy a: spec.images: {pattern} covers no image: ");
        assert!(warnings.len() == 1 && warnings[0].starts_with(&start), "{pattern}: {warnings:?}");
        assert!(warnings[0].contains(expected), "{pattern}: {warnings:?}");
    }
    let patterns = [
        "nginx",
        "nginx*:1.*",
        "team/*",
        "docker.io/**",
        "localhost:5000/a:t",
        "*.example.com/**",
        "r.io/*/a",
        "r.io/a*/*b:v*-x",
        "[::1]:5000/a",
        "R.io:443/a",
        "r.io/*_x/**/y",
    ];
    for pattern in patterns {
        assert_eq!(lint(&accepting("a", &format!("images: ['{pattern}']"))), [] as [&str; 0], "{pattern}");
    }
    let by_digest = format!("r.io/a@{}", index());
    assert_eq!(lint(&accepting("a", &format!("images: ['{by_digest}']"))), [] as [&str; 0]);
}

#[test]
fn glob_that_covers_nothing_is_doubtful() {
    for (glob, covers) in [
        ("r.io/app", false),
        ("r.io/app:*", true),
        ("r.io/app*", true),
        ("r.io/**", true),
        ("r.io/App:*", false),
        ("docker.io/nginx:*", false),
        ("docker.io/library/nginx:*", true),
        ("r.io/app@sha256:*", true),
        ("r.io/app@sha256:ab*", true),
        ("r.io/app@*", true),
        ("*", true),
        ("**", true),
    ] {
        let warnings = lint(&sigstore(glob));
        assert_eq!(warnings.is_empty(), covers, "{glob}: {warnings:?}");
        assert!(covers || warnings[0].contains(" covers no image: "), "{glob}: {warnings:?}");
    }
}

#[test]
fn pattern_that_accepts_every_registry_is_doubtful() {
    for pattern in ["**", "**/app", "*/**", "*.example.com/**"] {
        let warnings = lint(&accepting("a", &format!("images: ['{pattern}']")));
        let bad = format!("p.yaml:5: policy a: spec.images: {pattern} accepts images of any registry");
        assert_eq!(
            warnings.len() == 1 && warnings[0].starts_with(&bad),
            pattern != "*.example.com/**",
            "{warnings:?}"
        );
        assert_eq!(lint(&denying("a", &format!("images: ['{pattern}']"))), [] as [&str; 0]);
    }
    let passes = sigstore("**").replace("fail", "pass");
    assert!(lint(&passes)[0].contains("passes every image"), "{:?}", lint(&passes));
}

#[test]
fn policy_that_never_counts_is_doubtful() {
    let digest = index();
    let accepts = accepting("a", &format!("images: ['r.io/a@{digest}']"));
    let denied = |more: &str| {
        lint(&[accepts.clone(), denying("d", &format!("images: ['**@{digest}']{more}"))].concat())
    };
    assert!(
        denied("")[0].contains("never counts: policy d (p.yaml:7) denies that digest"),
        "{:?}",
        denied("")
    );
    // Elsewhere, or not always.
    assert_eq!(denied(", namespaces: [dev]"), [] as [&str; 0]);
    assert_eq!(denied(", podLabels: {tier: web}"), [] as [&str; 0]);
    let other = denying("d", &format!("images: ['x.io/**@{digest}']"));
    assert_eq!(lint(&[accepts, other].concat()), [] as [&str; 0]);

    let key = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(Signer::new().pem())
    };
    let openshift = |kind: &str, metadata: &str, scope: &str| {
        format!(
            "---\napiVersion: config.openshift.io/v1\nkind: {kind}\nmetadata: {metadata}\nspec: {{scopes: ['{scope}'], policy: {{rootOfTrust: {{policyType: PublicKey, publicKey: {{keyData: {key}}}}}}}}}\n"
        )
    };
    for (cluster, own, never) in [
        ("r.io", "r.io/team", true),
        ("r.io/team", "r.io/team", true),
        ("r.io/team/app", "r.io/team/app:v1", true),
        ("*.example.com", "a.example.com/x", true),
        ("r.io", "r.io:5000/team", false),
        ("r.io/team", "r.io", false),
        ("r.io/team", "r.io/team2", false),
        ("*.example.com", "example.com/x", false),
    ] {
        let both = [
            openshift("ClusterImagePolicy", "{name: c}", cluster),
            openshift("ImagePolicy", "{name: o, namespace: dev}", own),
        ];
        let warnings = lint(&both.concat());
        assert_eq!(warnings.len(), usize::from(never), "{cluster} {own}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("dev/o: spec.scopes: ")), "{warnings:?}");
    }
}

#[test]
fn identity_that_anybody_has_is_doubtful() {
    let github = "https://token.actions.githubusercontent.com";
    for (identity, wide) in [
        (format!("{{issuer: '{github}', subjectRegExp: 'https://github\\.com/.+'}}"), true),
        (format!("{{issuer: '{github}', subjectRegExp: '.*'}}"), true),
        ("{issuerRegExp: '.+', subjectRegExp: '.*@example\\.com'}".to_owned(), false),
        ("{issuer: 'https://accounts.google.com', subjectRegExp: '[^@]+@gmail\\.com'}".to_owned(), true),
        ("{issuerRegExp: '.*', subject: a@b.example}".to_owned(), false),
        (format!("{{issuer: '{github}', subjectRegExp: 'https://github\\.com/acme/.+'}}"), false),
        (
            format!(
                "{{issuer: '{github}', subjectRegExp: '.+', claims: {{runnerEnvironment: github-hosted}}}}"
            ),
            true,
        ),
        (
            format!(
                "{{issuer: '{github}', subjectRegExp: '.+', claims: {{sourceRepositoryOwnerURI: 'https://github.com/acme'}}}}"
            ),
            false,
        ),
        (
            format!(
                "{{issuer: '{github}', subjectRegExp: '.+', claims: {{sourceRepositoryOwnerURI: {{regExp: '.*'}}}}}}"
            ),
            true,
        ),
    ] {
        let warnings = lint(&keyless(&identity));
        let found =
            warnings.iter().any(|warning| warning.starts_with("p.yaml:9: policy k: anybody can sign: "));
        assert_eq!(found, wide, "{identity}: {warnings:?}");
    }
}

#[test]
fn expression_written_for_a_search_is_doubtful() {
    for (expression, expected) in [
        ("https://github.com/acme/app", &["the dot in \"github.com\""][..]),
        ("https://github\\.com/acme/.*", &["takes anything that begins so"]),
        ("^https://github\\.com/acme/.+$", &["takes anything that begins so"]),
        (".*/acme/app", &["takes anything that ends so"]),
        ("https://github\\.com/acme/app/.github/workflows/x\\.yml@refs/tags/.*", &[]),
        ("https://github\\.com/acme/app/[a-z.]+\\.yml", &[]),
        ("https://github\\.com/acme/[^/]+\\.*", &[]),
        ("acme.org/.*", &["takes anything that begins so", "the dot in \"acme.org\""]),
        ("a\\.b(/c.*)?", &[]),
    ] {
        let identity = format!("{{issuer: 'https://issuer.example', subjectRegExp: '{expression}'}}");
        let warnings = lint(&keyless(&identity));
        assert_eq!(warnings.len(), expected.len(), "{expression}: {warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with("p.yaml:9: policy k: subjectRegExp: "), "{warning}");
            assert!(warning.contains(expected), "{expected}: {warning}");
        }
    }
}

#[test]
fn certificate_that_ends_is_doubtful_in_time() {
    let pki = Fixture::load("pki-tsa-bundle").dir;
    let pem = std::fs::read_to_string(pki.join("ca-root.pem")).unwrap();
    let text = format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: c}}\nspec:\n  images: ['r.io/**']\n  requirements:\n    certificates:\n    - subjects: [{{email: a@b.example}}]\n      roots: |\n{}",
        indented(&pem, 8)
    );
    let set = compile(&text).unwrap();
    let end = verify::Certificate::from_pem(&pem).unwrap()[0].not_after();
    let day = Duration::from_secs(86_400);
    for (now, expected) in
        [(end - 31 * day, None), (end - 29 * day, Some("ends at")), (end, Some("over since"))]
    {
        let warnings: Vec<String> = set.lint(now).iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|found| found.starts_with("p.yaml:10: ") && found.contains(expected.unwrap()))
        );
    }
}

#[test]
fn weak_key_is_doubtful() {
    for (fixture, weak) in
        [("rsa-2048-none-bundle", true), ("rsa-4096-none-bundle", false), ("key-none-bundle", false)]
    {
        let pem = std::fs::read_to_string(Fixture::load(fixture).dir.join("cosign.pub")).unwrap();
        let warnings = lint(&signed(&pem, ""));
        assert_eq!(warnings.len(), usize::from(weak), "{fixture}: {warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|found| found.starts_with("p.yaml:10: policy signed: release: an RSA key of 2048 bits")),
            "{warnings:?}"
        );
    }
}

#[test]
fn set_in_which_nothing_refuses_is_doubtful() {
    let audits = |name: &str| denying(name, "images: [NAME], mode: audit").replace("NAME", name);
    let warnings = lint(&[audits("a"), audits("b")].concat());
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("policies: every policy has mode: audit"),
        "{warnings:?}"
    );
    assert_eq!(lint(&[audits("a"), denying("b", "images: [b]")].concat()), [] as [&str; 0]);
}

#[test]
fn recheck_of_a_digest_is_doubtful() {
    let recheck =
        "  recheck: {interval: 1h, onDrift: warn, whenRegistryDown: allow, whenLoginRefused: allow}\n";
    let text = signed(&Signer::new().pem(), recheck);
    assert_eq!(lint(&text), [] as [&str; 0]);
    let by_digest = text.replace("r.io/team/**", &format!("r.io/team/app@{}", index()));
    assert!(
        lint(&by_digest)[0].contains("spec.recheck: all patterns name a digest"),
        "{:?}",
        lint(&by_digest)
    );
}

#[test]
fn policy_for_labels_is_looked_at_as_any() {
    const LABELS: &str = "podLabels: {tier: web}";
    let labelled = |more: &str| signed(&Signer::new().pem(), &format!("  {LABELS}\n{more}"));
    let recheck = labelled(
        "  recheck: {interval: 1h, onDrift: warn, whenRegistryDown: allow, whenLoginRefused: allow}\n",
    );
    assert_eq!(lint(&recheck), [] as [&str; 0]);
    let by_digest = recheck.replace("r.io/team/**", &format!("r.io/team/app@{}", index()));
    let warnings = lint(&by_digest);
    assert!(warnings.len() == 1 && warnings[0].contains("a digest cannot move"), "{warnings:?}");
    let nowhere = lint(&denying("a", &format!("images: ['github.com/acme/app'], {LABELS}")));
    assert!(nowhere.len() == 1 && nowhere[0].contains(" covers no image: "), "{nowhere:?}");
    // One that is denied to all pods, or to those with its labels among others.
    let by_digest = labelled("").replace("r.io/team/**", &format!("r.io/team/app@{}", index()));
    for (labels, never) in [
        ("", true),
        (", podLabels: {tier: web}", true),
        (", podLabels: {tier: db}", false),
        (", podLabels: {tier: web, team: a}", false),
    ] {
        let denied = denying("d", &format!("images: ['**@{}']{labels}", index()));
        let warnings = lint(&format!("{by_digest}{denied}"));
        assert_eq!(warnings.len(), usize::from(never), "{labels}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(" never counts: policy d ")), "{warnings:?}");
    }
}

#[test]
fn checks_that_have_to_be_newer_than_the_timer_makes_them_are_doubtful() {
    for (within, doubtful) in [("47h59m", true), ("48h", false)] {
        let content = format!("  content: {{layersCheckedWithin: {within}}}\n");
        let warnings = lint(&signed(&Signer::new().pem(), &content));
        assert_eq!(warnings.len(), usize::from(doubtful), "{warnings:?}");
        assert!(warnings.iter().all(|found| found.contains("shorter than 48h")), "{warnings:?}");
    }
}

#[test]
fn warnings_are_bounded_and_in_order() {
    let many: String = (0..limits::POLICY_WARNINGS + 5)
        .map(|n| accepting(&format!("a{n}"), &format!("images: ['hub.docker.com/a/x{n}']")))
        .collect();
    let set = compile(&many).unwrap();
    let warnings = set.lint(now());
    assert_eq!(warnings.len(), limits::POLICY_WARNINGS + 1);
    assert!(warnings[..limits::POLICY_WARNINGS].is_sorted());
    assert!(warnings.last().unwrap().text.starts_with("5 more warnings (limit POLICY_WARNINGS)"));
}
