//! What is said of an image's policies before any evidence is looked at.

use super::*;

fn explain(set: &PolicySet, image: &str, namespace: Option<&str>) -> Explanation {
    let name = ImageName::parse(image).unwrap();
    set.explain(&Subject { name: &name, namespace, labels: &NO_LABELS, is_pause: false }, false)
}

/// Each policy as `name decides why`.
fn told(explanation: &Explanation) -> Vec<String> {
    let line = |policy: &Covering| {
        format!("{} {} {}", policy.name, if policy.decides { "decides:" } else { "does not:" }, policy.why)
    };
    explanation.policies.iter().map(line).collect()
}

#[test]
fn most_specific_pattern_decides_and_the_others_say_why_they_do_not() {
    let set = compile(
        &[
            denying("all", "images: ['**']"),
            denying("team", "images: ['r.io/team/*']"),
            denying("in-dev", "images: ['r.io/team/*'], namespaces: [dev, test]"),
            denying("app-v2", "images: ['r.io/team/app:v2']"),
            denying("elsewhere", "images: ['x.io/**']"),
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(
        told(&explain(&set, "r.io/team/app:v1", None)),
        [
            "team decides: the most specific pattern: more text before the first wildcard, unlike ** of all",
            "all does not: r.io/team/* of team is more specific: more text before the first wildcard",
            "app-v2 does not: its pattern covers other tags or digests of this repository",
            "in-dev does not: it is for namespace dev, test; no namespace was given",
        ]
    );
    assert_eq!(
        told(&explain(&set, "r.io/team/app:v1", Some("dev")))[..2],
        [
            "in-dev decides: the most specific pattern: it is for certain namespaces, unlike r.io/team/* of team",
            "team does not: r.io/team/* of in-dev is more specific: it is for certain namespaces",
        ]
    );
    let exact = explain(&set, "r.io/team/app:v2", Some("prod"));
    assert!(
        told(&exact)[0].starts_with("app-v2 decides: the most specific pattern: no wildcard in the name")
    );
    assert!(
        told(&exact).contains(&"in-dev does not: it is for namespace dev, test; this is prod".to_owned())
    );
    assert_eq!((exact.says, exact.policies[0].reason.as_deref()), (Says::Denies, Some("test")));
}

/// What is explained as deciding is what does.
#[test]
fn what_decides_is_what_applies() {
    let files = ["", NAMESPACES]
        .map(|part| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policy").join(part));
    let mut sources = Vec::new();
    for path in files.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = path.unwrap().path();
        let name = path.strip_prefix(&files[0]).unwrap().to_str().unwrap().to_owned();
        if path.is_file() && !name.ends_with(".schema.json") {
            sources.push(file(&name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    let set = PolicySet::compile(&sources).unwrap();
    let mut images: Vec<String> = set.samples("x").into_iter().map(|(name, _)| name).collect();
    images.extend(["nginx", "", "registry.example/team/app:v1", "ghcr.io/acme/app:v2"].map(str::to_owned));
    images.push(index().to_string());
    let mut says = Vec::new();
    for image in &images {
        for namespace in [None, Some("payments"), Some("team-a")] {
            let explained = explain(&set, image, namespace);
            let deciding = explained.policies.iter().filter(|policy| policy.decides);
            let mut deciding: Vec<_> =
                deciding.map(|policy| (policy.name.clone(), policy.source.clone())).collect();
            let name = ImageName::parse(image).unwrap();
            let applicable =
                set.applicable(&Subject { name: &name, namespace, labels: &NO_LABELS, is_pause: false });
            let mut applicable: Vec<_> =
                applicable.iter().map(|policy| (policy.name().to_owned(), policy.source())).collect();
            deciding.sort();
            applicable.sort();
            assert_eq!(deciding, applicable, "{image} {namespace:?}");
            assert!(!explained.to_string().contains("another policy is more specific"), "{explained}");
            says.push(explained.says);
        }
    }
    for one in [Says::Asks, Says::Denies] {
        assert!(says.contains(&one), "{one:?}");
    }
}

#[test]
fn what_is_asked_is_told_with_the_command_that_makes_it() {
    let pem = Signer::new().pem();
    let command = |more: &str, image: &str| {
        let set = compile(&signed(&pem, more)).unwrap();
        let explained = explain(&set, image, None);
        assert_eq!(explained.says, Says::Asks);
        let asks = explained.policies[0].asks.clone().unwrap();
        let leaves = asks.leaves();
        (
            leaves.last().unwrap().naming.clone().unwrap_or_default(),
            leaves.last().unwrap().satisfied_by.join("; "),
        )
    };
    let unlogged = "--use-signing-config=false --tlog-upload=false";
    let legacy = format!("--new-bundle-format=false {unlogged}");
    assert_eq!(
        command("", "r.io/team/app:v1"),
        (
            "repository r.io/team/app".to_owned(),
            format!("cosign sign --key KEY {legacy} r.io/team/app@DIGEST")
        )
    );
    let by_digest = format!("r.io/team/app@{}", index());
    assert_eq!(
        command("    claimedRepository: {unnamed: accept}\n", &by_digest),
        (
            "repository r.io/team/app, or none".to_owned(),
            format!("cosign sign --key KEY {unlogged} {by_digest}")
        )
    );
    assert_eq!(
        command("    claimedRepository: {oneOf: [x.io/other]}\n", "r.io/team/app"),
        (
            "repository x.io/other".to_owned(),
            format!(
                "cosign sign --key KEY {legacy} --sign-container-identity x.io/other r.io/team/app@DIGEST"
            )
        )
    );
    let attested = "    attestations: [{predicateType: 'https://spdx.dev/Document'}]\n    evidence: [{repository: s.io/sigs}]\n";
    assert_eq!(
        command(attested, "r.io/team/app").1,
        format!(
            "COSIGN_REPOSITORY=s.io/sigs cosign attest --type https://spdx.dev/Document --predicate FILE --key KEY {unlogged} r.io/team/app@DIGEST"
        )
    );
    let logged = "    claimedRepository: {unnamed: accept}\n";
    let logged = signed(&pem, logged)
        .replace("name: release", "transparencyLogs: {threshold: 1}\n      name: release");
    let explained =
        explain(&compile(&logged).unwrap(), "r.io/team/app", None).policies[0].asks.clone().unwrap();
    assert_eq!(explained.leaves()[0].satisfied_by, ["cosign sign --key KEY r.io/team/app@DIGEST"]);
    let keyless = "    claimedRepository: {unnamed: accept}\n    attestations:\n    - predicateType: a:b\n      keyless:\n      - trustRoot: corp\n        identities: [{issuer: 'https://i.example', subject: a@b.example}]\n";
    assert_eq!(
        command(keyless, "r.io/team/app").1,
        "cosign attest --type a:b --predicate FILE --signing-config FILE r.io/team/app@DIGEST"
    );
}

#[test]
fn text_has_no_line_that_a_name_could_have_made() {
    let pem = Signer::new().pem();
    let text = signed(&pem, "").replace("name: release", "name: \"rel\\nease\"");
    let set = compile(&text).unwrap();
    let explained = explain(&set, "r.io/team/app", Some("dev")).to_string();
    assert!(explained.contains("by release: key sha256:"), "{explained}");
    for line in [
        "looked up as  r.io/team/app:latest",
        "namespace     dev",
        "ImagePolicy signed (p.yaml:1) decides",
        "  covers   r.io/team/**",
        "  mode     the daemon's",
        "    a signature",
        "      that names repository r.io/team/app",
        "  looks in the image's own repository",
    ] {
        assert!(explained.lines().any(|found| found == line), "{line}: {explained}");
    }
}

#[test]
fn image_that_no_policy_covers_and_one_that_is_denied_by_digest_say_so() {
    let bad = index();
    let set = compile(
        &[denying("bad", &format!("images: ['**@{bad}']")), denying("team", "images: ['r.io/team/**']")]
            .concat(),
    )
    .unwrap();
    let free = explain(&set, "x.io/app:v1", None);
    assert_eq!(free.says, Says::Nothing);
    assert_eq!(
        told(&free),
        [format!(
            "bad does not: an image with this content ({bad}) is denied under every name, before all other policies"
        )]
    );
    assert_eq!(explain(&set, &format!("x.io/app@{bad}"), None).says, Says::Denies);
    let unnamed = explain(&set, &bad.to_string(), None);
    assert_eq!((unnamed.says, unnamed.reference), (Says::Nothing, None));
}

#[test]
fn signer_is_taken_for_what_it_may_sign_alone() {
    let (key, other) = (Signer::new(), Signer::new());
    let more = "    attestations:\n    - predicateType: a:b\n      keyless:\n      - name: ci\n        identities: [{issuer: 'https://i.example', subjectRegExp: 'https://c\\.example/.+/build'}]\n";
    let set = compile(&signed(&key.pem(), more)).unwrap();
    let policy = &set.policies()[0];
    let by_key = |key: &Signer| verify::Signer::Key(key.key().fingerprint());
    let by = |issuer: &str, subject: &str| {
        verify::Signer::Certificate(verify::CertificateSigner {
            fingerprint: index(),
            issuer: Some(issuer.to_owned()),
            names: vec![verify::AltName::Uri(subject.to_owned())],
            claims: Default::default(),
        })
    };
    let build = by("https://i.example", "https://c.example/a/build");
    for (who, attestation, expected) in [
        (Named::Name("release"), None, true),
        (Named::Name("release"), Some("a:b"), false),
        (Named::Name("ci"), Some("a:b"), true),
        (Named::Name("nobody"), None, false),
        (Named::Signer(&by_key(&key)), None, true),
        (Named::Signer(&by_key(&other)), None, false),
        (Named::Signer(&build), Some("a:b"), true),
        (Named::Signer(&build), Some("a:c"), false),
        (Named::Signer(&build), None, false),
        (Named::Signer(&by("https://i.example", "https://c.example/a/test")), Some("a:b"), false),
        (Named::Signer(&by("https://j.example", "https://c.example/a/build")), Some("a:b"), false),
    ] {
        assert_eq!(policy.takes(who, attestation), expected, "{who:?} {attestation:?}");
    }
    assert_eq!(policy.attestations(), ["a:b"]);
}

#[test]
fn policies_for_pods_with_labels_only_add_and_say_when() {
    let labelled = denying("payments", "images: ['**'], podLabels: {part-of: payments}");
    let set = compile(&[denying("team", "images: ['r.io/team/*']"), labelled].concat()).unwrap();
    let name = |image| ImageName::parse(image).unwrap();
    let labels: Labels = [("part-of".to_owned(), "payments".to_owned())].into();
    let (ours, other) = (name("r.io/team/app:v1"), name("x.io/app:v1"));
    let subject = |name, labels| Subject { name, namespace: None, labels, is_pause: false };
    let with = set.explain(&subject(&ours, &labels), false);
    assert_eq!(told(&with)[1], "payments decides: the pod has its labels: it has to hold besides");
    assert!(with.to_string().contains("  for      pods with part-of=payments\n"), "{with}");
    let without = told(&set.explain(&subject(&ours, &NO_LABELS), false));
    assert_eq!(without[1], "payments does not: it is for pods with labels; none were given");
    let uncovered = set.explain(&subject(&other, &labels), false);
    assert_eq!(uncovered.says, Says::Nothing);
    assert_eq!(
        told(&uncovered),
        ["payments does not: no other policy covers the image; it has to hold where unmatched is allow"]
    );
    let running = set.explain(&subject(&other, &labels), true);
    assert_eq!((running.says, running.policies[0].decides), (Says::Denies, true));
}

/// The patterns are found in no order: each set has another.
#[test]
fn of_several_patterns_of_one_policy_the_same_one_is_told_each_time() {
    // The most specific one; of equally specific ones on one line the first by its text.
    for (patterns, told) in [
        ("'**', 'r.io/**', 'r.io/team/app:v1', 'r.io/team/app', 'r.io/team/*'", "r.io/team/app:v1"),
        ("'*/team/*pp', '*/*eam/app'", "*/*eam/app"),
    ] {
        for labels in ["", ", podLabels: {tier: web}"] {
            for _ in 0..20 {
                let set = compile(&denying("a", &format!("images: [{patterns}]{labels}"))).unwrap();
                assert_eq!(explain(&set, "r.io/team/app:v1", None).policies[0].scope, told, "{labels}");
            }
        }
    }
}

#[test]
fn trees_ages_and_exemptions_are_told() {
    let keys = [Signer::new(), Signer::new()].map(|signer| signer.pem().replace('\n', "\n            "));
    let branch = |pem: &str| {
        format!(
            "      - maxAge: 720h\n        keys:\n        - timestamps: {{threshold: 1}}\n          data: |\n            {pem}\n"
        )
    };
    let text = format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: p}}\nspec:\n  images: ['r.io/**']\n  exemptions:\n  - images: ['r.io/old:*']\n    reason: goes in spring\n    expires: 2030-01-01T00:00:00Z\n  requirements:\n    atLeast:\n      count: 2\n      of:\n{}{}",
        branch(&keys[0]),
        branch(&keys[1])
    );
    let set = compile(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    let explained = explain(&set, "r.io/old:1", None);
    let shown = explained.to_string();
    for said in [
        "at least 2 of, by different signers",
        "not older than 720h",
        "unless   exempted until 2030-01-01T00:00:00.000Z (goes in spring)",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let Some(Ask::AtLeast { count: 2, of }) = &explained.policies[0].asks else { panic!("{shown}") };
    assert_eq!(of.len(), 2);
}
