//! `crivet policy`, as somebody at a terminal and a CI job see it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crivet::audit::{AuditLog, Decision, Effective, Kind, Mode, PolicyDecision, Reason, Record};
use serde_json::{Value, json};

use crate::audit::check;
use crate::support::daemon::CRIVET;

const SCHEMA: &str = include_str!("../../docs/policy-explain.schema.json");
const TEST_SCHEMA: &str = include_str!("../../policy/policytest.schema.json");
const FIRST: &str = "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {name: first}\nspec:\n  images: [registry.example/team/**]\n  requirements:\n    keyless:\n    - name: ci\n      identities:\n      - issuer: https://issuer.example\n        subjectRegExp: https://ci\\.example/team/[^/]+/build\n";

/// A folder with policies that nobody else can write, whatever the umask.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.policies()).unwrap();
        fs::set_permissions(folder.policies(), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    /// All that ships.
    fn shipped() -> Self {
        let folder = Self::new();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("policy");
        fs::create_dir(folder.policies().join("namespaces")).unwrap();
        fs::set_permissions(folder.policies().join("namespaces"), fs::Permissions::from_mode(0o755)).unwrap();
        for part in ["", "namespaces"] {
            for entry in fs::read_dir(from.join(part)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&from).unwrap();
                if path.is_file() && !name.to_str().unwrap().ends_with(".schema.json") {
                    folder.put(&folder.policies().join(name), &fs::read_to_string(&path).unwrap());
                }
            }
        }
        folder
    }

    fn policies(&self) -> PathBuf {
        self.0.path().join("policies.d")
    }

    fn put(&self, path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn policy(&self, name: &str, text: &str) {
        self.put(&self.policies().join(name), text);
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        self.put(&path, text);
        shown(&path).to_owned()
    }

    /// A configuration with these policies, and its path.
    fn config(&self, more: &str) -> String {
        self.file(
            "config.yaml",
            &format!(
                "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix:///run/l.sock\nruntimeEndpoint: unix:///run/r.sock\npolicyDir: {}\nstateDir: {}\nauditLog: {{path: {}}}\n{more}",
                self.policies().display(),
                self.0.path().join("state").display(),
                self.0.path().join("audit.jsonl").display(),
            ),
        )
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Exit code, standard output and error.
fn crivet(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(CRIVET).arg("policy").args(arguments).env_remove("RUST_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The schema with what it refers to in its place, as deep as policies here are.
fn without_references(schema: &Value, root: &Value, depth: usize) -> Value {
    match schema {
        Value::Object(object) => match object.get("$ref").and_then(Value::as_str) {
            Some(_) if depth == 0 => Value::Null,
            Some(to) => {
                without_references(root.pointer(to.trim_start_matches('#')).unwrap(), root, depth - 1)
            }
            None => object
                .iter()
                .map(|(key, value)| (key.clone(), without_references(value, root, depth)))
                .collect(),
        },
        Value::Array(items) => items.iter().map(|item| without_references(item, root, depth)).collect(),
        other => other.clone(),
    }
}

#[test]
fn explanations_of_all_that_ships_fit_the_schema() {
    let folder = Folder::shipped();
    let root: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema = without_references(&root, &root, 4);
    let config = folder.config("mode: audit\nunmatched: deny\n");
    let mut seen = std::collections::BTreeSet::new();
    for image in [
        "registry.k8s.io/kube-apiserver:v1.35.0",
        "registry.example/team/app:v1",
        "registry.example/tools/x",
        "mirror.example/vendor/x",
        "ghcr.io/acme/app",
        "registry.corp.example/a/b",
        "ghcr.io/example-org/payments",
        "registry.example/team-a/x:1",
        "cgr.dev/chainguard/node",
        "nginx",
        "sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        for namespace in ["", "payments", "team-a"] {
            for place in [["--policy", shown(&folder.policies())], ["--config", &config]] {
                let arguments =
                    [&["explain", image, "--namespace", namespace, "-o", "json"][..], &place].concat();
                let (code, out, err) = crivet(&arguments);
                assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
                let said: Value = serde_json::from_str(&out).unwrap();
                check(&schema, &said, image);
                assert_eq!(
                    (&said["image"], said["daemon"].is_object()),
                    (&json!(image), place[0] == "--config")
                );
                for policy in said["policies"].as_array().unwrap() {
                    seen.extend(policy.as_object().unwrap().keys().cloned());
                    seen.insert(policy["kind"].as_str().unwrap().to_owned());
                }
                let (_, again, _) = crivet(&arguments);
                assert_eq!(out, again);
            }
        }
    }
    let of_policies = &schema["properties"]["policies"]["items"]["properties"];
    let mut expected: Vec<&str> = of_policies.as_object().unwrap().keys().map(String::as_str).collect();
    expected
        .extend(of_policies["kind"]["enum"].as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()));
    // No policy that ships has one of these.
    expected.retain(|key| !["recheck", "content", "exemptions"].contains(key) && !seen.contains(*key));
    assert!(expected.is_empty(), "never written: {expected:?}");
}

#[test]
fn explanation_says_what_comes_of_an_image() {
    let folder = Folder::new();
    folder.policy("first.yaml", FIRST);
    let policies = folder.policies();
    let alone = ["--policy", shown(&policies)];
    let (code, out, _) = crivet(&[&["explain", "registry.example/team/app:v1"][..], &alone].concat());
    assert_eq!(code, Some(0));
    for line in [
        "looked up as  registry.example/team/app:v1",
        "ImagePolicy first (first.yaml:1) decides",
        "      by ci: subject what matches \"https://ci\\\\.example/team/[^/]+/build\" by issuer \"https://issuer.example\"",
        "        vouched for by a transparency log of trusted root public-good",
        "outcome: what decides asks for evidence: all of it has to hold; crivet verify registry.example/team/app:v1 looks whether it does",
    ] {
        assert!(out.lines().any(|found| found == line), "{line}: {out}");
    }
    for (more, expected) in [
        (
            None,
            "outcome: no policy covers it: unmatched of the daemon's configuration decides; name it with --config",
        ),
        (
            Some("mode: enforce\nunmatched: allow\n"),
            "outcome: no policy covers it: it runs, because unmatched is allow",
        ),
        (
            Some("mode: audit\nunmatched: deny\n"),
            "outcome: no policy covers it: it is denied, because unmatched is deny; write an ImagePolicy for it; the daemon's mode is audit: nothing is refused",
        ),
    ] {
        let config = more.map(|more| folder.config(more));
        let place = config.as_ref().map_or(alone.to_vec(), |config| vec!["--config", config.as_str()]);
        let (code, out, _) = crivet(&[&["explain", "nginx"][..], &place].concat());
        assert_eq!((code, out.lines().last()), (Some(0), Some(expected)), "{out}");
    }
    let (code, out, err) = crivet(&[&["explain", "Not A Name"][..], &alone].concat());
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    folder.policy("bad.yaml", "kind: Nothing\n");
    let (code, _, err) = crivet(&[&["explain", "nginx"][..], &alone].concat());
    assert!(code == Some(1) && err.contains("bad.yaml:1: "), "{err}");
}

/// A file with one case about the first policy.
fn case(body: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: PolicyTest\ncases:\n- name: one\n  image: registry.example/team/app:v1\n{body}\n"
    )
}

#[test]
fn test_tells_what_was_expected_and_what_was_found() {
    let folder = Folder::new();
    folder.policy("first.yaml", FIRST);
    let deny = "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {name: bad}\nspec: {images: ['**@sha256:0000000000000000000000000000000000000000000000000000000000000000'], deny: {reason: withdrawn}}\n";
    folder.policy("bad.yaml", deny);
    let policies = folder.policies();
    let run = |body: &str| {
        let file = folder.file("cases.yaml", &case(body));
        let (code, out, err) = crivet(&["test", &file, "--policy", shown(&policies)]);
        assert_eq!(err, "", "{out}");
        (code, out.replace(&file, "FILE"))
    };
    let signer = "{issuer: 'https://issuer.example', subject: 'https://ci.example/team/app/build'}";
    let stranger = "{issuer: 'https://issuer.example', subject: 'https://ci.example/other/app/build'}";
    let digest = format!("sha256:{}", "0".repeat(64));
    for (body, wrong) in [
        ("  expect: {policies: [first], says: asks, mode: enforce, attestations: []}", None),
        ("  expect: {policies: []}", Some("policies: expected none, found first")),
        ("  expect: {policies: [first, second]}", Some("policies: expected first, second, found first")),
        ("  expect: {says: accepts}", Some("says: expected accepts, found asks")),
        ("  expect: {mode: audit}", Some("mode: expected audit, found enforce")),
        ("  expect: {attestations: ['a:b']}", Some("attestations: expected a:b, found none")),
        (
            &format!(
                "  expect: {{accepts: [{signer}, {{name: ci}}], refuses: [{stranger}, {{name: other}}]}}"
            ),
            None,
        ),
        (
            &format!("  expect: {{accepts: [{stranger}]}}"),
            Some(
                "accepts: expected \"https://ci.example/other/app/build\" (issuer \"https://issuer.example\"), found that policy first (first.yaml:1) does not take it",
            ),
        ),
        (
            &format!("  expect: {{refuses: [{signer}]}}"),
            Some(
                "refuses: expected \"https://ci.example/team/app/build\" (issuer \"https://issuer.example\"), found that it is taken by first",
            ),
        ),
        (
            "  expect: {accepts: [{name: ci, attestation: 'a:b'}]}",
            Some("accepts: expected ci, found that policy first (first.yaml:1) does not take it"),
        ),
        (
            &format!(
                "  digest: {digest}\n  expect: {{says: denies, decision: denied, reason: DeniedByPolicy, message: bad denies}}"
            ),
            None,
        ),
        (
            &format!("  digest: {digest}\n  expect: {{decision: allowed}}"),
            Some("decision: expected allowed, found denied (policy bad denies that digest)"),
        ),
        (
            &format!("  digest: {digest}\n  expect: {{reason: NoPolicy}}"),
            Some("reason: expected NoPolicy, found DeniedByPolicy (policy bad denies that digest)"),
        ),
    ] {
        let (code, out) = run(body);
        match wrong {
            None => assert_eq!((code, out.as_str()), (Some(0), "ok: 1 cases as expected\n"), "{body}"),
            Some(wrong) => assert_eq!(
                (code, out),
                (Some(1), format!("FILE:5: one: {wrong}\n1 of 1 cases are not as expected\n")),
                "{body}"
            ),
        }
    }
    let (code, out) = run("  expect: {decision: allowed}");
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "ok: 1 cases as expected; the decisions of 1 were not looked for, which takes --online\n")
    );
    // Where nothing covers the image, the configuration says what comes of it.
    let cases =
        case("  expect: {decision: denied, reason: NoPolicy}").replace("registry.example/team", "x.io");
    let file = folder.file("cases.yaml", &cases);
    fs::remove_file(folder.policies().join("bad.yaml")).unwrap();
    for (unmatched, expected) in [("deny", 0), ("allow", 1)] {
        let config = folder.config(&format!("mode: enforce\nunmatched: {unmatched}\n"));
        let (code, out, _) = crivet(&["test", &file, "--config", &config]);
        assert_eq!(code, Some(expected), "{out}");
    }
}

#[test]
fn test_refuses_a_file_that_tests_nothing() {
    let folder = Folder::new();
    folder.policy("first.yaml", FIRST);
    let policies = folder.policies();
    let good = case("  expect: {says: asks}");
    for (text, expected) in [
        (good.replace("PolicyTest", "ImagePolicy"), "FILE:2: expected crivet.dev/v1alpha1 PolicyTest, found"),
        (good.replace("cases:", "cases: []\nmore:"), "FILE:4: unknown field `more`"),
        (
            "apiVersion: crivet.dev/v1alpha1\nkind: PolicyTest\ncases: []\n".to_owned(),
            "FILE: expected at least one case",
        ),
        (String::new(), "FILE: expected at least one case"),
        (good.replace("{says: asks}", "{}"), "FILE:5: expect: expected at least one key"),
        (good.replace("says: asks", "says: asks, colour: red"), "unknown field `colour`"),
        (good.replace("says: asks", "says: yes"), "FILE:6: expect: "),
        (good.replace("says: asks", "accepts: [{}]"), "FILE:5: accepts: expected one of name, key"),
        (
            good.replace("says: asks", "accepts: [{name: a, subject: b}]"),
            "FILE:5: accepts: expected one of name, key",
        ),
        (good.replace("says: asks", "accepts: [{key: abc}]"), "FILE:6: accepts.key: "),
        (
            good.replace("says: asks", "accepts: [{subject: a, claims: {colour: red}}]"),
            "FILE:6: accepts.claims: expected a claim of Fulcio's",
        ),
        (
            good.replace("says: asks", "decision: maybe"),
            "FILE:6: decision: expected allowed, denied or undecided",
        ),
        (good.replace("says: asks", "reason: Because"), "FILE:6: reason: expected a reason"),
        (good.replace("registry.example/team/app:v1", "A B"), "FILE:5: image: "),
        (format!("{good}#{}", "x".repeat(5 << 20)), "limit POLICY_TEST_BYTES"),
    ] {
        let file = folder.file("cases.yaml", &text);
        let (code, out, _) = crivet(&["test", &file, "--policy", shown(&policies)]);
        assert_eq!(code, Some(1), "{expected}: {out}");
        assert!(
            out.replace(&file, "FILE").contains(expected) && out.lines().count() == 1,
            "{expected}: {out}"
        );
    }
    let many: String = (0..10_001).map(|_| "- {image: a, expect: {says: asks}}\n").collect();
    let file = folder
        .file("cases.yaml", &format!("apiVersion: crivet.dev/v1alpha1\nkind: PolicyTest\ncases:\n{many}"));
    let (code, out, _) = crivet(&["test", &file, "--policy", shown(&policies)]);
    assert!(code == Some(1) && out.contains("limit POLICY_TEST_CASES"), "{out}");
    let (code, out, _) = crivet(&["test", "/nonexistent", "--policy", shown(&policies)]);
    assert!(code == Some(1) && out.contains("/nonexistent: "), "{out}");
}

#[test]
fn schema_of_tests_has_the_keys_that_are_read() {
    let schema: Value = serde_json::from_str(TEST_SCHEMA).unwrap();
    let folder = Folder::new();
    folder.policy("first.yaml", FIRST);
    let policies = folder.policies();
    let good = case("  expect: {says: asks}");
    for (place, text) in [
        ("", good.replace("cases:", "unknown: 1\ncases:")),
        ("/$defs/case", good.replace("  expect", "  unknown: 1\n  expect")),
        ("/$defs/expect", good.replace("says: asks", "unknown: 1")),
        ("/$defs/someone", good.replace("says: asks", "accepts: [{unknown: 1}]")),
    ] {
        let file = folder.file("cases.yaml", &text);
        let (_, out, _) = crivet(&["test", &file, "--policy", shown(&policies)]);
        let (_, read) = out.trim().split_once("expected one of ").unwrap_or_else(|| panic!("{out}"));
        let mut read: Vec<&str> = read.split(", ").collect();
        read.sort_unstable();
        let keys: Vec<&str> = schema.pointer(place).unwrap()["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, read, "{place}");
    }
}

#[test]
fn presets_take_their_signers_and_no_others() {
    let folder = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for preset in [
        "kubernetes-release",
        "distroless",
        "chainguard",
        "github-organization",
        "gitlab",
        "only-our-registries",
        "sbom-and-scan",
    ] {
        let name = format!("{preset}.yaml");
        folder.policy(&name, &fs::read_to_string(root.join("policy").join(&name)).unwrap());
    }
    let file = root.join("tests/fixtures/policy-tests/presets.yaml");
    let (code, out, _) = crivet(&["test", shown(&file), "--policy", shown(&folder.policies())]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.starts_with("ok: "), "{out}");
}

#[test]
fn check_warns_and_fails_on_warnings_if_asked_to() {
    let folder = Folder::new();
    folder.policy("first.yaml", &FIRST.replace("ci\\.example", "ci.example"));
    let policies = folder.policies();
    let (code, out, _) = crivet(&["check", shown(&policies)]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{out}");
    assert!(
        lines[0].starts_with("warning: first.yaml:11: policy first: ci: ")
            || lines[0].starts_with(
                "warning: first.yaml:11: policy first: subjectRegExp: the dot in \"ci.example\""
            ),
        "{out}"
    );
    assert!(
        lines[1].starts_with("ok: 1 policy, policy set sha256:") && lines[1].ends_with(", 1 warning"),
        "{out}"
    );
    assert_eq!(crivet(&["check", "--strict", shown(&policies)]).0, Some(1));
    folder.policy("first.yaml", FIRST);
    assert_eq!(crivet(&["check", "--strict", shown(&policies)]).0, Some(0));
    // Policies that only audit are doubtful below a daemon that enforces.
    folder.policy("first.yaml", &FIRST.replace("spec:\n", "spec:\n  mode: audit\n"));
    for (mode, expected) in [("enforce", 1), ("audit", 0)] {
        let config = folder.config(&format!("mode: {mode}\nunmatched: allow\n"));
        let (code, out, _) = crivet(&["check", "--strict", "--config", &config]);
        assert_eq!(
            (code, out.contains("every policy has mode: audit")),
            (Some(expected), mode == "enforce"),
            "{out}"
        );
    }
}

#[test]
fn check_of_a_root_that_nobody_has_warns_without_and_fails_with_a_configuration() {
    let folder = Folder::new();
    folder.policy("first.yaml", &FIRST.replace("name: ci", "name: ci\n      trustRoot: corp"));
    let policies = folder.policies();
    let (code, out, _) = crivet(&["check", shown(&policies)]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.starts_with("warning: first.yaml:1: expected a trusted root of trust.roots"), "{out}");
    let config = folder.config("mode: enforce\nunmatched: allow\n");
    let (code, out, _) = crivet(&["check", "--config", &config]);
    assert!(code == Some(1) && out.starts_with("first.yaml:1: expected a trusted root"), "{out}");
}

fn record(image: &str) -> Record {
    Record {
        kind: Kind::PullImage,
        mode: Mode::Audit,
        decision: Decision::Allowed,
        effective: Effective::Forwarded,
        image: image.to_owned(),
        reference: None,
        digest: None,
        image_id: None,
        namespace: Some("web".to_owned()),
        pod: None,
        pod_uid: None,
        container: None,
        policies: Vec::new(),
        reason: None,
        message: String::new(),
        policy_set_hash: "sha256:01".to_owned(),
        traceparent: None,
        latency_ms: 3,
    }
}

#[test]
fn draft_fits_what_was_seen_and_loads() {
    let folder = Folder::new();
    let config = folder.config("mode: audit\nunmatched: allow\n");
    let log = AuditLog::open(folder.0.path().join("audit.jsonl"), 1 << 20, 3);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let covered = |outcome, reason, message: &str| Record {
        decision: outcome,
        policies: vec![PolicyDecision { name: "first".to_owned(), outcome }],
        reason,
        message: message.to_owned(),
        ..record("registry.example/covered/app:1")
    };
    let denied = Record {
        decision: Decision::Denied,
        reason: Some(Reason::NoPolicy),
        message: "no policy".to_owned(),
        ..record("Registry.example:443/team/db:2")
    };
    for record in [
        record("registry.example/team/app:1"),
        record("registry.example/team/app:2"),
        denied,
        record("nginx"),
        record("registry.k8s.io/pause:3.10"),
        record(""),
        record("registry.example/evil\n# app"),
        covered(Decision::Allowed, None, ""),
        covered(
            Decision::Denied,
            Some(Reason::SignatureByOtherIdentity),
            "found \"https://ci.example/x\"\nkind: ImagePolicy",
        ),
    ] {
        log.log(record, at);
    }
    log.flush(at + Duration::from_secs(120));
    let (code, draft, err) = crivet(&["draft", "--config", &config]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for line in [
        "  name: draft-registry.example-team",
        "  - \"registry.example/team/app\"",
        "  - \"registry.example/team/db\"",
        "  - \"docker.io/library/nginx\"",
        "# registry.example/team/app (1, 2): seen 2 times in web, last 2027-01-15 08:00 UTC",
        "# If one signer signs them all, and nothing else is there: images: [\"registry.example/team/**\"].",
        "# Who signs these is known: take the policy kubernetes-release.yaml that ships with crivet instead.",
        "# Left out: 2 decisions about images without a name, which only ** covers: not in the draft.",
        "#   registry.example/covered/app: held 1 time",
        "#     did not hold 1 time (first: SignatureByOtherIdentity): found \"https://ci.example/x\"\\nkind: ImagePolicy",
    ] {
        assert!(draft.lines().any(|found| found == line), "{line}: {draft}");
    }
    assert!(!draft.contains("  - \"registry.example/covered/app\""), "{draft}");
    let policy = folder.file("draft.yaml", &draft);
    let (code, out, _) = crivet(&["check", "--strict", &policy]);
    assert!(code == Some(0) && out.starts_with("ok: 3 policies"), "{out}");
    let (_, out, _) = crivet(&["explain", "registry.example/team/db:2", "--policy", &policy]);
    assert!(out.ends_with("outcome: accepted: nothing is asked\n"), "{out}");
    // The same log by its name, and one that is not there.
    let log = folder.0.path().join("audit.jsonl");
    assert_eq!(crivet(&["draft", "--from-audit", shown(&log)]).1, draft);
    let (code, out, err) = crivet(&["draft", "--from-audit", "/nonexistent"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("/nonexistent: cannot be read"), "{err}");
}

#[test]
fn draft_of_nothing_says_so() {
    let folder = Folder::new();
    let log = folder.file("audit.jsonl", "");
    let (code, out, _) = crivet(&["draft", "--from-audit", &log]);
    assert_eq!(code, Some(0));
    assert!(out.contains("No decision is recorded there") && !out.contains("apiVersion"), "{out}");
}

/// The text between a page's fences that contains `with`, without its indentation.
fn block<'a>(page: &'a str, with: &str) -> String {
    let blocks: Vec<&'a str> = page.split("```").skip(1).step_by(2).collect();
    let block = blocks.into_iter().find(|block| block.contains(with)).unwrap();
    let lines: Vec<&str> = block.lines().skip(1).collect();
    let indent = lines[0].len() - lines[0].trim_start().len();
    lines.iter().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect()
}

#[test]
fn first_policy_of_the_page_loads_is_explained_and_tested_as_the_page_says() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md")).unwrap();
    let key =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sigstore/key-none-bundle/cosign.pub");
    let key = fs::read_to_string(key).unwrap();
    let body: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let policy: String = block(&page, "metadata: {name: first}")
        .lines()
        .map(|line| match line.trim_start().starts_with('…') {
            true => format!("          {body}\n"),
            false => format!("{line}\n"),
        })
        .collect();
    let folder = Folder::new();
    let (policy, cases) = (
        folder.file("first.yaml", &policy),
        folder.file("first.test.yaml", &block(&page, "kind: PolicyTest")),
    );
    let (code, out, _) = crivet(&["check", "--strict", &policy]);
    assert!(code == Some(0) && out.starts_with("ok: 1 policy"), "{out}");
    let shown = block(&page, "$ crivet policy explain");
    let (command, expected) = shown.split_once('\n').unwrap();
    let image = command.split(' ').nth(4).unwrap();
    let (_, out, _) = crivet(&["explain", image, "--policy", &policy]);
    let out: String = out
        .lines()
        .map(|line| match line.split_once("key sha256:") {
            Some((before, rest)) => format!("{before}key sha256:…{}\n", &rest[64..]),
            None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(out.trim_end(), expected.trim_end());
    let (code, out, _) = crivet(&["test", &cases, "--policy", &policy]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "ok: 3 cases as expected; the decisions of 1 were not looked for, which takes --online\n")
    );
    let wrong = folder
        .file("first.test.yaml", &block(&page, "kind: PolicyTest").replace("says: asks", "says: accepts"));
    let (code, out, _) = crivet(&["test", &wrong, "--policy", &policy]);
    let told = "first.test.yaml:6: the team's images need the team's key: says: expected accepts, found asks";
    assert!(code == Some(1) && out.contains(told) && page.contains(told), "{out}");
}
