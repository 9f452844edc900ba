//! `crivet verify` and `crivet policy check`, as somebody at a terminal sees them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::node::Node;
use super::signer::Signer;
use crate::registry::fake::reply;
use crate::support::daemon::CRIVET;

pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the binary; the runtime's threads go on serving meanwhile.
pub async fn crivet(arguments: &[&str]) -> Ended {
    let mut command = Command::new(CRIVET);
    command.args(arguments).env_remove("RUST_LOG");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

pub fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn verify_shows_each_check_of_a_signed_image() {
    let node = Node::strict().await;
    let image = node.push("app", "1", "one");
    let (other, own) = (Signer::new(), node.signer.sign(&image.digest(), &node.named("app")));
    let foreign = other.sign(&image.digest(), &node.named("app"));
    node.registry.put_signatures("app", &image.digest(), &[foreign, own]);
    let (policies, name) = (node.policies(), node.named("app:1"));
    let ended = crivet(&["verify", "--policy", shown(&policies), &name]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    for line in [
        format!("{name}: allowed"),
        format!("  digest    {}", image.digest()),
        format!("  image ID  {}", image.id()),
        "  policy all (all.yaml:1): allowed".to_owned(),
        format!(
            "    FAIL signature 1 of 2: signature: expected a signature by the ECDSA P-256 key {}, found one that does not verify with it",
            node.signer.fingerprint()
        ),
    ] {
        assert!(ended.out.lines().any(|l| l == line), "{line}: {}", ended.out);
    }
    let by = format!(
        "    ok   signature 2 of 2: by all-key (key {}), on {}",
        node.signer.fingerprint(),
        image.digest()
    );
    assert!(ended.out.contains(&by), "{}", ended.out);
    let step =
        format!("           ok   subject: {} (cosign SIGNATURE_SPEC; in-toto Statement v1", image.digest());
    assert!(ended.out.contains(&step), "{}", ended.out);
    assert_eq!(ended.err, "");

    let ended = crivet(&["verify", "--policy", shown(&policies), "-o", "json", &name]).await;
    let said: Value = serde_json::from_str(&ended.out).unwrap();
    let one = &said["images"][0];
    assert_eq!((ended.code, &one["decision"], &one["image"]), (Some(0), &json!("allowed"), &json!(name)));
    assert_eq!((&one["digest"], &one["imageIds"]), (&json!(image.digest()), &json!([image.id()])));
    let outcomes: Vec<_> =
        one["policies"][0]["checks"].as_array().unwrap().iter().map(|c| &c["outcome"]).collect();
    assert_eq!(outcomes, [&json!("failed"), &json!("passed")]);
    assert!(said["registryRequests"].as_u64().unwrap() <= 6, "{said}");
}

#[tokio::test]
async fn verify_ends_with_what_is_worst() {
    let node = Node::strict().await;
    node.push_signed("signed", "1", "one");
    node.push("unsigned", "1", "two");
    node.registry.instead(|seen| seen.path.contains("/broken/").then(|| reply(418, &[], "")));
    let policies = node.policies();
    let [signed, unsigned, broken] = ["signed:1", "unsigned:1", "broken:1"].map(|name| node.named(name));
    for (images, code, expected) in [
        (vec![&signed], 0, "allowed"),
        (vec![&signed, &unsigned], 1, "expected a signature by key all-key"),
        (vec![&signed, &broken], 2, "undecided"),
        (vec![&unsigned, &broken], 1, "denied"),
    ] {
        let mut arguments = vec!["verify", "--policy", shown(&policies)];
        arguments.extend(images.iter().map(|name| name.as_str()));
        let ended = crivet(&arguments).await;
        assert_eq!(ended.code, Some(code), "{images:?}: {}{}", ended.out, ended.err);
        assert!(ended.out.contains(expected), "{images:?}: {}", ended.out);
        arguments.extend(["-o", "json"]);
        let ended = crivet(&arguments).await;
        let said: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!((ended.code, said["images"].as_array().unwrap().len()), (Some(code), images.len()));
    }
}

#[tokio::test]
async fn verify_decides_as_the_configuration_and_the_namespace_say() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    let closed = node.denying("closed").replace("spec:", "spec:\n  namespaces: [closed]");
    node.policy("closed.yaml", &closed);
    let (config, name) = (node.configure("mode: enforce\nunmatched: allow\n"), node.named("app:1"));
    let ended = crivet(&["verify", "--config", shown(&config), &name]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    let ended = crivet(&["verify", "--config", shown(&config), "--namespace", "closed", &name]).await;
    assert_eq!((ended.code, ended.out.contains("closed for today")), (Some(1), true), "{}", ended.out);
    let ended = crivet(&["verify", "--config", shown(&config), "registry.invalid/app"]).await;
    assert_eq!((ended.code, ended.out.contains("unmatched is allow")), (Some(0), true), "{}", ended.out);
    let ended = crivet(&["verify", "--policy", shown(&node.policies()), "registry.invalid/app"]).await;
    assert_eq!((ended.code, ended.out.contains("unmatched: deny")), (Some(1), true), "{}", ended.out);
}

#[tokio::test]
async fn verify_with_a_bad_configuration_or_policy_ends_with_78_and_says_where() {
    let node = Node::strict().await;
    let config = node.configure("mode: enforce\ncolour: red\n");
    let ended = crivet(&["verify", "--config", shown(&config), "app"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""));
    assert!(ended.err.contains("config.yaml:11: "), "{}", ended.err);
    node.policy("bad.yaml", &node.denying("all"));
    let ended = crivet(&["verify", "--policy", shown(&node.policies()), "app"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""));
    assert!(ended.err.contains("bad.yaml:3: "), "{}", ended.err);
}

#[tokio::test]
async fn policy_check_says_what_is_wrong_and_where() {
    let node = Node::strict().await;
    let policies = node.policies();
    let ended = crivet(&["policy", "check", shown(&policies)]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert!(ended.out.starts_with("ok: 1 policy, policy set sha256:") && ended.out.lines().count() == 1);
    let config = node.configure("mode: audit\n");
    let by_configuration = crivet(&["policy", "check", "--config", shown(&config)]).await;
    assert_eq!((by_configuration.code, by_configuration.out), (Some(0), ended.out));

    node.policy("bad.yaml", &node.denying("bad").replace("spec:", "spec:\n  colour: red"));
    node.policy("worse.yaml", &node.denying("worse").replace("/**", "/*-["));
    let ended = crivet(&["policy", "check", shown(&policies)]).await;
    assert_eq!(ended.code, Some(1));
    for expected in ["bad.yaml:5: ", "colour", "worse.yaml:5: "] {
        assert!(ended.out.contains(expected), "{expected}: {}", ended.out);
    }
    assert_eq!(ended.out.lines().count(), 2, "one line for each: {}", ended.out);
    let one = crivet(&["policy", "check", shown(&policies.join("all.yaml"))]).await;
    assert_eq!(one.code, Some(0), "{}", one.out);
    let absent = crivet(&["policy", "check", shown(&policies.join("absent.yaml"))]).await;
    assert_eq!(
        (absent.code, absent.out.contains("absent.yaml: No such file")),
        (Some(1), true),
        "{}",
        absent.out
    );
}

#[tokio::test]
async fn usage_errors_end_with_64_and_help_with_0() {
    for arguments in [
        &["verify"][..],
        &["verify", "--colour", "a"],
        &["policy"],
        &["nonsense"],
        &[],
        &["verify", "-o", "xml", "a"],
    ] {
        let ended = crivet(arguments).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(ended.err.contains("Usage") || ended.err.contains("error"), "{arguments:?}: {}", ended.err);
    }
    for (arguments, expected) in [
        (&["--help"][..], "verify"),
        (&["serve", "--help"], "78"),
        (&["verify", "--help"], "2: some undecided"),
        (&["policy", "check", "--help"], "1: they do not"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let ended = crivet(arguments).await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(
            ended.out.contains(expected) && !ended.out.contains("vetter"),
            "{arguments:?}: {}",
            ended.out
        );
    }
}

#[tokio::test]
async fn policy_test_asks_the_registry_for_a_decision_if_told_to() {
    let node = Node::strict().await;
    let signed = node.push_signed("signed", "1", "one");
    node.push("unsigned", "1", "two");
    let policies = node.policies();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cases.yaml");
    let case = |image: &str, more: &str| format!("- image: {}\n  {more}\n", node.named(image));
    let good = [
        case("signed:1", &format!("digest: {}\n  expect: {{decision: allowed}}", signed.digest())),
        case(
            "unsigned:1",
            "expect: {decision: denied, reason: SignatureMissing, message: found no signature}",
        ),
    ]
    .concat();
    let head = "apiVersion: crivet.dev/v1alpha1\nkind: PolicyTest\ncases:\n";
    let run = async |cases: &str, online: bool| {
        std::fs::write(&file, format!("{head}{cases}")).unwrap();
        let mut arguments = vec!["policy", "test", shown(&file), "--policy", shown(&policies)];
        arguments.extend(online.then_some("--online"));
        crivet(&arguments).await
    };
    let offline = run(&good, false).await;
    assert_eq!(offline.code, Some(0), "{}{}", offline.out, offline.err);
    assert!(offline.out.contains("the decisions of 2 were not looked for"), "{}", offline.out);
    let online = run(&good, true).await;
    assert_eq!((online.code, online.out.as_str()), (Some(0), "ok: 2 cases as expected\n"), "{}", online.err);
    let other = format!("sha256:{}", "f".repeat(64));
    let bad = good.replace("decision: allowed", "decision: denied").replace(&signed.digest(), &other);
    let ended = run(&bad, true).await;
    assert_eq!((ended.code, ended.out.lines().count()), (Some(1), 3), "{}", ended.out);
    for expected in
        ["decision: expected denied, found allowed", "digest: expected sha256:", "1 of 2 cases are not"]
    {
        assert!(ended.out.contains(expected), "{expected}: {}", ended.out);
    }
}
