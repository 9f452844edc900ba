//! Policies from documents to judgements.

mod age;
mod conditions;
mod containers_policy;
mod content;
mod documented;
mod exemptions;
mod explain;
mod figures;
mod given;
mod import;
mod labels;
mod lint;
mod openshift;
mod recheck;
mod rego;
mod signers;
mod sigstore;
mod trees;

use std::time::SystemTime;

use super::*;
use crate::image::{Digest, ImageName, json};
use crate::limits;
use crate::trust::Trust;
use crate::verify::testing::{Signer, claim_of};
use crate::verify::{self, Evidence, SimpleSigning};

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
}

fn compile(text: &str) -> Result<PolicySet, String> {
    PolicySet::compile(&[file("p.yaml", text)])
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// A native policy that denies, so that it needs no key.
fn denying(name: &str, scope: &str) -> String {
    format!(
        "---\napiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: {name}}}\nspec: {{{scope}, deny: {{reason: test}}}}\n"
    )
}

fn indented(pem: &str, by: usize) -> String {
    pem.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

fn signed(pem: &str, more: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: signed}}\nspec:\n  images: ['r.io/team/**']\n  \
         requirements:\n    keys:\n    - name: release\n      data: |\n{}{more}",
        indented(pem, 8)
    )
}

fn applicable(set: &PolicySet, image: &str, namespace: Option<&str>) -> Vec<String> {
    let name = ImageName::parse(image).unwrap();
    let found = set.applicable(&Subject { name: &name, namespace, labels: &NO_LABELS, is_pause: false });
    found.iter().map(|policy| policy.name().to_owned()).collect()
}

/// By signatures with keys, which need no trusted root.
fn judge(set: &PolicySet, image: &str, signatures: &[SimpleSigning]) -> Judgement {
    let evidence: Vec<Evidence> = signatures.iter().cloned().map(Evidence::Simple).collect();
    judge_evidence(set, image, &evidence)
}

fn judge_evidence(set: &PolicySet, image: &str, evidence: &[Evidence]) -> Judgement {
    let name = ImageName::parse(image).unwrap();
    let subject = Subject { name: &name, namespace: Some("default"), labels: &NO_LABELS, is_pause: false };
    let [policy] = set.applicable(&subject)[..] else { panic!("not one policy") };
    let digests = [index(), manifest()];
    policy.judge(
        &subject,
        &digests,
        evidence,
        &Conditions::at(SystemTime::UNIX_EPOCH),
        &mut |evidence, signer, sought| {
            verify::verify(
                evidence,
                &signer.authority,
                sought,
                &digests,
                &Trust::default(),
                SystemTime::UNIX_EPOCH,
            )
        },
    )
}

fn index() -> Digest {
    Digest::of(b"index")
}

fn manifest() -> Digest {
    Digest::of(b"manifest")
}

/// The `found` of a judgement that does not hold.
fn found(judgement: Judgement) -> String {
    match judgement {
        Judgement::Unsatisfied { expected, found, remedy, checks, .. } => {
            assert!(checks.iter().all(|check| check.outcome == Outcome::Failed));
            let line = format!("{expected}{found}{remedy}");
            assert!(!line.contains(char::is_control), "{line}");
            found
        }
        other => panic!("{other:?}"),
    }
}

fn is_satisfied(judgement: &Judgement) -> bool {
    matches!(judgement, Judgement::Satisfied { .. })
}

#[test]
fn every_policy_that_ships_compiles() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policy");
    let mut files = Vec::new();
    for part in ["", NAMESPACES] {
        for entry in std::fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
            if path.is_file() && !name.ends_with(".schema.json") {
                let source = file(name, &std::fs::read_to_string(&path).unwrap());
                let set = PolicySet::compile(std::slice::from_ref(&source))
                    .unwrap_or_else(|errors| panic!("{errors:?}"));
                assert!(!set.policies().is_empty());
                files.push(source);
            }
        }
    }
    assert!(files.len() >= 7);
    PolicySet::compile(&files).unwrap_or_else(|errors| panic!("not together: {errors:?}"));
}

#[test]
fn schema_has_the_keys_that_are_read() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policy/imagepolicy.schema.json");
    let schema = json::parse(&std::fs::read(path).unwrap(), "TEST", 1 << 20).unwrap();
    let pem = Signer::new().pem();
    for (place, text) in [
        ("", signed(&pem, "unknown: 1\n")),
        ("/properties/metadata", signed(&pem, "").replace("name: signed", "name: signed, unknown: 1")),
        ("/properties/spec", signed(&pem, "  unknown: 1\n")),
        ("/$defs/requirements", signed(&pem, "    unknown: 1\n")),
        ("/$defs/requirements", signed(&pem, "    anyOf: [{unknown: 1}]\n")),
        ("/$defs/requirements/properties/atLeast", signed(&pem, "    atLeast: {unknown: 1}\n")),
        ("/properties/spec/properties/exemptions/items", signed(&pem, "  exemptions: [{unknown: 1}]\n")),
        ("/properties/spec/properties/recheck", signed(&pem, "  recheck: {unknown: 1}\n")),
        ("/properties/spec/properties/content", signed(&pem, "  content: {unknown: 1}\n")),
        ("/$defs/keys/items", signed(&pem, "      unknown: 1\n")),
        (
            "/$defs/requirements/properties/claimedRepository",
            signed(&pem, "    claimedRepository: {unknown: 1}\n"),
        ),
        ("/$defs/keys/items/properties/timestamps", signed(&pem, "      timestamps: {unknown: 1}\n")),
        ("/$defs/keyless/items", signed(&pem, "    keyless: [{unknown: 1}]\n")),
        ("/$defs/identity", signed(&pem, "    keyless: [{identities: [{unknown: 1}]}]\n")),
        ("/$defs/certificates/items", signed(&pem, "    certificates: [{unknown: 1}]\n")),
        (
            "/$defs/certificates/items/properties/subjects/items",
            signed(&pem, "    certificates: [{roots: a, subjects: [{unknown: 1}]}]\n"),
        ),
        (
            "/$defs/requirements/properties/attestations/items",
            signed(&pem, "    attestations: [{unknown: 1}]\n"),
        ),
        ("/$defs/conditions/items", signed(&pem, "    conditions: [{unknown: 1}]\n")),
        ("/$defs/requirements/properties/evidence/items", signed(&pem, "    evidence: [{unknown: 1}]\n")),
        (
            "/properties/spec/properties/deny",
            denying("a", "images: [a]").replace("reason:", "unknown: 1, reason:"),
        ),
    ] {
        let error = compile(&text).unwrap_err();
        let (_, read) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
        let read = read.trim_start_matches("one of ").replace(['`', '\''], "").replace(" or ", ", ");
        let mut read: Vec<&str> = read.split(", ").map(str::trim).collect();
        read.sort_unstable();
        let object = schema.pointer(place).unwrap();
        let meant = object["$ref"].as_str().map(|to| schema.pointer(to.trim_start_matches('#')).unwrap());
        let object = meant.unwrap_or(object);
        let keys: Vec<&str> = object["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, read, "{place}");
        assert_eq!(object["additionalProperties"], false, "{place}");
    }
}

#[test]
fn one_signature_that_meets_everything_satisfies() {
    let signer = Signer::new();
    let set = compile(&signed(&signer.pem(), "")).unwrap();
    for digest in [index(), manifest()] {
        let signature = signer.sign(claim_of(digest, "r.io/team/app").as_bytes());
        let junk = SimpleSigning {
            payload: b"{}".to_vec(),
            signature: "AAAA".to_owned(),
            annotations: Default::default(),
        };
        let Judgement::Satisfied { by, checks } = judge(&set, "r.io/team/app:v1", &[junk, signature]) else {
            panic!("unsatisfied")
        };
        let [by] = &by[..] else { panic!("{by:?}") };
        assert_eq!(by.signer, verify::Signer::Key(signer.key().fingerprint()));
        assert_eq!((by.authority.as_deref(), by.digest), (Some("release"), digest));
        assert_eq!(by.docker_reference.as_deref(), Some("r.io/team/app"));
        assert_eq!(checks.iter().map(|c| c.outcome).collect::<Vec<_>>(), [Outcome::Failed, Outcome::Passed]);
    }
}

#[test]
fn image_without_a_good_signature_does_not_satisfy() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let set = compile(&signed(&signer.pem(), "")).unwrap();
    let judged = |signature| found(judge(&set, "r.io/team/app", &[signature]));
    let good = claim_of(index(), "r.io/team/app");
    assert_eq!(found(judge(&set, "r.io/team/app", &[])), "no signature");
    assert_eq!(judged(stranger.sign(good.as_bytes())), "1 signature: made by none of the policy's signers");
    let other = claim_of(Digest::of(b"other"), "r.io/team/app");
    assert!(judged(signer.sign(other.as_bytes())).contains(&format!("it is about {}", Digest::of(b"other"))));
    let elsewhere = claim_of(index(), "r.io/team/other");
    assert!(judged(signer.sign(elsewhere.as_bytes())).contains("made for repository \"r.io/team/other\""));
    assert!(judged(signer.sign(claim_of(index(), "").as_bytes())).contains("made for repository \"\""));
    assert!(
        judged(signer.sign(good.replace("cosign container", "other").as_bytes())).contains("critical.type")
    );
}

#[test]
fn two_signatures_that_each_meet_half_do_not_satisfy() {
    let signer = Signer::new();
    let set = compile(&signed(&signer.pem(), "")).unwrap();
    let half = [claim_of(index(), "r.io/team/other"), claim_of(Digest::of(b"other"), "r.io/team/app")];
    let half = half.map(|claim| signer.sign(claim.as_bytes()));
    assert!(
        found(judge(&set, "r.io/team/app", &half))
            .starts_with("2 signatures, the nearest: one on this image, but")
    );
}

#[test]
fn claimed_repository_is_the_images_own_unless_the_policy_says_otherwise() {
    let signer = Signer::new();
    let judged = |more: &str, image: &str, claimed: &str| {
        let set = compile(&signed(&signer.pem(), more).replace("r.io/team/**", "**")).unwrap();
        is_satisfied(&judge(&set, image, &[signer.sign(claim_of(index(), claimed).as_bytes())]))
    };
    assert!(judged("", "nginx", "index.docker.io/library/nginx"));
    assert!(judged("", "R.io:443/a", "r.io/a"));
    assert!(!judged("", "r.io/a", "r.io/b"));
    let one_of = "    claimedRepository: {oneOf: [r.io/b, nginx]}\n";
    assert!(judged(one_of, "r.io/a", "r.io/b"));
    assert!(judged(one_of, "r.io/a", "index.docker.io/library/nginx"));
    assert!(!judged(one_of, "r.io/a", "r.io/a"));
    let any = "    claimedRepository: {insecureAny: true}\n";
    assert!(judged(any, "r.io/a", "") && judged(any, "r.io/a", "r.io/b"));
    // What has no repository cannot be the one that is claimed.
    for nameless in ["", &index().hex()] {
        assert!(!judged("", nameless, "") && !judged("", nameless, "r.io/a"));
        assert!(judged(any, nameless, "r.io/a"));
    }
}

#[test]
fn accepting_and_denying_policies_need_no_evidence() {
    let denies = compile(&denying("a", "images: ['**']")).unwrap();
    let accepts =
        compile(&denying("a", "images: ['**']").replace("deny:", "insecureAcceptAnything:")).unwrap();
    assert!(!denies.policies()[0].needs_evidence() && !accepts.policies()[0].needs_evidence());
    assert_eq!(found(judge(&denies, "nginx", &[])), "one that the policy denies (test)");
    assert!(is_satisfied(&judge(&accepts, "nginx", &[])));
}

#[test]
fn most_specific_pattern_wins_whatever_the_order() {
    let mut documents = [
        denying("all", "images: ['**']"),
        denying("registry", "images: ['r.io/**']"),
        denying("team", "images: ['r.io/team/*', 'x.io/**']"),
        denying("team-in-dev", "images: ['r.io/team/*'], namespaces: [dev, test]"),
        denying("app", "images: [r.io/team/app]"),
        denying("tag", "images: ['r.io/team/app:v1']"),
    ];
    for _ in 0..documents.len() {
        documents.rotate_left(1);
        let set = compile(&documents.concat()).unwrap();
        let who = |image: &str, namespace| applicable(&set, image, namespace).join(" ");
        assert_eq!(who("nginx", None), "all");
        assert_eq!(who("r.io/a/b", None), "registry");
        assert_eq!(who("r.io/team/x", None), "team");
        assert_eq!(who("r.io/team/x", Some("prod")), "team");
        assert_eq!(who("r.io/team/x", Some("dev")), "team-in-dev");
        assert_eq!(who("r.io/team/app:v2", Some("dev")), "app");
        assert_eq!(who("r.io/team/app:v1", Some("dev")), "tag");
        // The runtimes drop the tag beside a digest.
        assert_eq!(who(&format!("r.io/team/app:v1@{}", index()), None), "app");
        assert_eq!(who("x.io/y", None), "team");
        for nameless in ["", &index().hex(), &index().to_string()] {
            assert_eq!(who(nameless, Some("dev")), "all");
        }
    }
    let set = compile(&denying("a", "images: ['r.io/**']")).unwrap();
    assert!(applicable(&set, "nginx", None).is_empty() && applicable(&set, "", None).is_empty());
}

#[test]
fn equally_specific_patterns_each_have_to_hold() {
    let set = compile(&[denying("b", "images: ['r.io/a*c']"), denying("a", "images: ['r.io/a*d']")].concat())
        .unwrap();
    assert_eq!(applicable(&set, "r.io/axd", None), ["a"]);
    let set =
        compile(&[denying("b", "images: ['r.io/*b*c']"), denying("a", "images: ['r.io/*c*b*']")].concat())
            .unwrap();
    assert_eq!(applicable(&set, "r.io/cbc", None), ["b", "a"]);
}

#[test]
fn same_pattern_in_two_policies_is_an_error_that_names_both() {
    let pair = |a: &str, b: &str| compile(&[denying("a", a), denying("b", b)].concat());
    for (a, b) in [
        ("images: [nginx]", "images: [docker.io/library/nginx]"),
        ("images: ['r.io/**'], namespaces: [x, y]", "images: ['r.io/**'], namespaces: [y]"),
    ] {
        let error = pair(a, b).unwrap_err();
        assert!(
            error.starts_with("p.yaml:10: spec.images: ") && error.contains("found it in a (p.yaml:2)"),
            "{error}"
        );
    }
    assert!(pair("images: ['r.io/**']", "images: ['r.io/**'], namespaces: [x]").is_ok());
    assert!(pair("images: ['r.io/**'], namespaces: [y]", "images: ['r.io/**'], namespaces: [x]").is_ok());
    assert!(compile(&denying("a", "images: [nginx, docker.io/nginx]")).is_err());
}

#[test]
fn digest_that_is_denied_is_denied_under_every_name() {
    let bad = index();
    let set = compile(
        &[
            denying("everywhere", &format!("images: ['**@{bad}']")),
            denying("one", &format!("images: ['r.io/a@{}'], namespaces: [dev]", manifest())),
        ]
        .concat(),
    )
    .unwrap();
    let denies = |image: &str, namespace, digests: &[Digest]| {
        let name = ImageName::parse(image).unwrap();
        set.denies(&Subject { name: &name, namespace, labels: &NO_LABELS, is_pause: false }, digests, |_| {
            true
        })
        .map(|policy| policy.name().to_owned())
    };
    for image in ["nginx", "r.io/a:v1", "", &bad.hex()] {
        assert_eq!(denies(image, None, &[Digest::of(b"x"), bad]).as_deref(), Some("everywhere"), "{image}");
        assert_eq!(denies(image, None, &[Digest::of(b"x")]), None);
    }
    assert_eq!(denies("r.io/a:v1", Some("dev"), &[manifest()]).as_deref(), Some("one"));
    assert_eq!(denies("r.io/a:v1", Some("prod"), &[manifest()]), None);
    assert_eq!(denies("r.io/b:v1", Some("dev"), &[manifest()]), None);
    let may_deny = |image: &str, namespace| {
        let name = ImageName::parse(image).unwrap();
        set.may_deny(&Subject { name: &name, namespace, labels: &NO_LABELS, is_pause: false }).count()
    };
    assert_eq!(
        [may_deny("r.io/a:v1", Some("dev")), may_deny("r.io/a:v1", None), may_deny("", None)],
        [2, 1, 1]
    );
    assert_eq!(applicable(&set, &format!("r.io/z@{bad}"), None), ["everywhere"]);
}

#[test]
fn deny_rules_for_other_names_are_not_tried() {
    let mut text = denying("everywhere", &format!("images: ['**@{}', '**@{}']", index(), manifest()));
    for n in 0..100 {
        text += &denying(&format!("one-{n}"), &format!("images: ['r.io/a{n}/b@{}']", index()));
    }
    let set = compile(&text).unwrap();
    let may_deny = |image: &str| {
        let name = ImageName::parse(image).unwrap();
        let subject = Subject { name: &name, namespace: None, labels: &NO_LABELS, is_pause: false };
        let mut found: Vec<_> = set.may_deny(&subject).map(|policy| policy.name().to_owned()).collect();
        found.sort();
        found
    };
    assert_eq!(may_deny("r.io/a7/b:v1"), ["everywhere", "one-7"]);
    assert_eq!(may_deny("r.io/a7/c:v1"), ["everywhere"]);
    assert_eq!(may_deny(""), ["everywhere"]);
    assert_eq!(set.denied_candidates("r.io/a7/b:v1"), 2);
}

#[test]
fn each_break_of_a_valid_policy_is_named_with_file_line_and_key() {
    let signer = Signer::new();
    let valid = signed(&signer.pem(), "");
    assert!(compile(&valid).is_ok());
    for (from, to, expected) in [
        ("v1alpha1", "v9", "p.yaml:2: expected crivet.dev/v1alpha1 ImagePolicy, "),
        ("ImagePolicy", "ClusterImagePolicy", "p.yaml:2: expected crivet.dev/v1alpha1 ImagePolicy, "),
        ("name: signed", "name: Signed", "p.yaml:3: metadata.name: "),
        ("{name: signed}", "{}", "missing field `name`"),
        ("['r.io/team/**']", "[]", "p.yaml:1: spec.images: expected at least one pattern"),
        ("['r.io/team/**']", "['r.io/Team']", "p.yaml:5: spec.images: expected a repository in lowercase"),
        ("['r.io/team/**']", "", "p.yaml:"),
        ("  requirements", "  namespaces: []\n  requirements", "spec.namespaces: expected at least one"),
        (
            "  requirements",
            "  namespaces: [A]\n  requirements",
            "p.yaml:6: spec.namespaces: expected a namespace's name",
        ),
        ("  requirements", "  mode: warn\n  requirements", "p.yaml:6: mode: unknown variant `warn`"),
        ("  requirements", "  deny: {reason: x}\n  requirements", "spec: expected exactly one of"),
        ("  requirements", "  requirement", "unknown field `requirement`"),
        ("    keys", "    key", "unknown field `key`"),
        ("      data:", "      path:", "unknown field `path`"),
        (
            "PUBLIC KEY",
            "PRIVATE KEY",
            "p.yaml:10: spec.requirements.keys.data: expected a public key, found a PRIVATE KEY",
        ),
        ("PUBLIC KEY", "CERTIFICATE", "found a CERTIFICATE"),
    ] {
        let error = compile(&valid.replace(from, to)).unwrap_err();
        assert!(error.contains(expected), "{to}: {error}");
        assert!(!error.contains(&signer.pem().lines().nth(1).unwrap()[20..]), "{error}");
    }
    for (more, expected) in [
        ("    claimedRepository: {}\n", "expected oneOf with at least one"),
        ("    claimedRepository: {oneOf: []}\n", "expected oneOf with at least one"),
        ("    claimedRepository: {oneOf: ['r.io/*']}\n", "expected a repository without tag"),
        ("    claimedRepository: {oneOf: [r.io/a:t]}\n", "expected a repository without tag"),
        ("    claimedRepository: {insecureAny: false}\n", "expected true, found false"),
        ("    claimedRepository: {insecureAny: true, oneOf: [a]}\n", "expected oneOf with at least one"),
        ("    claimedRepository: any\n", "p.yaml:"),
    ] {
        let error = compile(&signed(&signer.pem(), more)).unwrap_err();
        assert!(error.contains(expected), "{more}: {error}");
    }
    let twice = format!("{valid}    - data: |\n{}", indented(&signer.pem(), 8));
    assert!(compile(&twice).unwrap_err().contains("expected each signer once"));
    let none = format!("{}    keys: []\n", valid.split("    keys").next().unwrap());
    assert!(compile(&none).unwrap_err().contains("found none; add one"));
    assert!(compile(&denying("a", "images: [a]").replace("reason: test", "reason: ' '")).is_err());
}

#[test]
fn nothing_is_skipped_in_silence() {
    for (name, text) in [
        ("empty", ""),
        ("comments", "# nothing\n---\n# here\n"),
        ("another kind", "apiVersion: v1\nkind: ConfigMap\n"),
        ("another dialect", "{\"default\": [{\"type\": \"reject\"}]}"),
        ("no mapping", "hello\n"),
        ("trust root", "apiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRoot\nmetadata: {name: a}\n"),
    ] {
        assert!(compile(text).is_err(), "{name}");
    }
    assert!(PolicySet::compile(&[SourceFile { name: "a.yaml".to_owned(), bytes: vec![0xff] }]).is_err());
    // No files are a valid set: unmatched decides.
    assert!(PolicySet::compile(&[]).unwrap().policies().is_empty());
}

#[test]
fn all_errors_of_all_files_are_told_and_one_spoils_the_set() {
    let good = file("a.yaml", &denying("a", "images: [a]"));
    let same_name = file("b.yaml", &denying("a", "images: [b]"));
    let two = file("c.yaml", &[denying("B", "images: [c]"), denying("c", "images: ['']")].concat());
    let errors = PolicySet::compile(&[two, same_name, good]).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 3);
    assert!(
        errors[0].starts_with("b.yaml:4: metadata.name: ") && errors[0].contains("at a.yaml:4"),
        "{errors:?}"
    );
    assert!(errors[1].starts_with("c.yaml:4: ") && errors[2].starts_with("c.yaml:10: "), "{errors:?}");
}

#[test]
fn limits_are_named() {
    let files: Vec<SourceFile> =
        (0..9).map(|n| SourceFile { name: n.to_string(), bytes: vec![b'#'; 4 << 20] }).collect();
    assert!(PolicySet::compile(&files).unwrap_err()[0].to_string().contains("POLICY_SET_BYTES"));
    let documents = "---\na\n".repeat(limits::POLICY_DOCUMENTS + 1);
    assert!(PolicySet::compile(&[file("a", &documents)]).unwrap_err().len() <= limits::POLICY_ERRORS);
    let patterns = "a,".repeat(limits::POLICY_PATTERNS + 1);
    assert!(
        compile(&denying("a", &format!("images: [{patterns}]"))).unwrap_err().contains("POLICY_PATTERNS")
    );
    let keys: String = (0..=limits::POLICY_KEYS)
        .map(|_| format!("    - data: |\n{}", indented(&Signer::new().pem(), 8)))
        .collect();
    assert!(compile(&signed(&Signer::new().pem(), &keys)).unwrap_err().contains("POLICY_KEYS"));
}

#[test]
fn hash_depends_on_names_and_contents_and_not_on_the_order() {
    let (a, b) = (file("a", &denying("a", "images: [a]")), file("b", &denying("b", "images: [b]")));
    let hash = |files: &[SourceFile]| PolicySet::compile(files).unwrap().hash();
    assert_eq!(hash(&[a.clone(), b.clone()]), hash(&[b.clone(), a.clone()]));
    let alone = hash(std::slice::from_ref(&a));
    assert_ne!(alone, hash(&[a.clone(), b]));
    let renamed = SourceFile { name: "x".to_owned(), ..a.clone() };
    assert_ne!(alone, hash(&[renamed]));
}

#[test]
fn look_up_tries_few_patterns_however_many_there_are() {
    let set = |n: usize| {
        let documents: String = (0..n)
            .map(|n| {
                let images = format!("images: ['r{}.io/team{n}/*', 'r.io/app{n}', '*/squad{n}/**']", n % 7);
                denying(&format!("p{n}"), &images)
            })
            .collect();
        compile(&documents).unwrap()
    };
    let (few, many) = (set(10), set(3_000));
    for image in [
        "r1.io/team1/app:v1",
        "x.io/squad7/some/app:v1",
        "r.io/app7@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ] {
        assert_eq!(applicable(&few, image, None), applicable(&many, image, None));
        let ImageName::Reference(reference) = ImageName::parse(image).unwrap() else { panic!() };
        let key = pattern::lookup_key(&reference);
        assert_eq!(many.candidates(&key), few.candidates(&key));
    }
}

#[test]
fn null_in_what_a_document_says_is_an_error_and_in_the_clusters_own_records_is_not() {
    let valid = "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {name: a, creationTimestamp: null}\nspec:\n  images: ['r.io/**']\n  namespaces: [dev]\n  deny: {reason: test}\n";
    assert!(compile(&valid.replace(", creationTimestamp: null", "")).is_ok());
    for (from, to, line) in [
        ("namespaces: [dev]", "namespaces:", 6),
        ("namespaces: [dev]", "namespaces: ~", 6),
        ("namespaces: [dev]", "podLabels: null", 6),
        ("namespaces: [dev]", "namespaces: [dev, null]", 6),
        ("deny: {reason: test}", "deny: null", 7),
    ] {
        let error = compile(&valid.replace(", creationTimestamp: null", "").replace(from, to)).unwrap_err();
        assert!(
            error.starts_with(&format!("p.yaml:{line}: ")) && error.contains("found none (null)"),
            "{to}: {error}"
        );
    }
    let pem = indented(&Signer::new().pem(), 8);
    let cluster = format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: a, creationTimestamp: null}}\nspec:\n  images: [{{glob: 'r.io/**'}}]\n  authorities:\n  - key:\n      data: |\n{pem}    attestations: [{{predicateType: vuln}}]\nstatus: null\n"
    );
    assert!(compile(&cluster).is_ok());
    // Without the null it would be a signature that is asked for.
    let error =
        compile(&cluster.replace("attestations: [{predicateType: vuln}]", "attestations: null")).unwrap_err();
    assert!(error.contains("found none (null)"), "{error}");
}

#[test]
fn policy_test_among_the_policies_is_told_where_it_belongs() {
    let error = compile("apiVersion: crivet.dev/v1alpha1\nkind: PolicyTest\ncases: []\n").unwrap_err();
    assert!(error.starts_with("p.yaml:2: ") && error.contains("for crivet policy test FILE"), "{error}");
}
