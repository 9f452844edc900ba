//! New policies and configurations, good and bad, while crivet runs and when it starts.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::node::{Gate, Node, allowed, refusal};
use crate::support::client::{PULL, VERSION};
use crate::support::daemon::CRIVET;
use crate::support::{until, within};

/// A node that runs in enforce mode, with a signed and an unsigned image that can be pulled.
async fn both() -> (Node, Gate, String, String) {
    let node = Node::strict().await;
    node.push_signed("signed", "1", "one");
    node.push("unsigned", "1", "two");
    let gate = node.enforce().await;
    let names = (node.named("signed:1"), node.named("unsigned:1"));
    (node, gate, names.0, names.1)
}

async fn denied(gate: &Gate, name: &str) -> bool {
    let answer = gate.pull(name).await;
    answer.code() == 2 && refusal(&answer).starts_with("SignatureValidationFailed: image ")
}

#[tokio::test]
async fn mode_is_taken_over_live() {
    let (node, gate, _, unsigned) = both().await;
    for (mode, passes) in [("audit", true), ("enforce", false), ("audit", true)] {
        node.configure(&format!("mode: {mode}\nforceEnforce: true\n"));
        gate.reload().await;
        assert_eq!(gate.pull(&unsigned).await.code(), if passes { 0 } else { 2 }, "{mode}");
    }
    let record = node.record("the record in audit mode", |r| r["mode"] == "audit").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("forwarded")));
    let record = node.record("the record in enforce mode", |r| r["mode"] == "enforce").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("refused")));
    assert_eq!(record["reason"], "SignatureMissing");
}

#[tokio::test]
async fn decisions_that_were_counted_are_written_before_the_audit_log_is_another() {
    let (node, gate, _, unsigned) = both().await;
    for _ in 0..3 {
        assert!(denied(&gate, &unsigned).await);
    }
    let counted = async {
        while node.metric("crivet_decisions_total").await < 3.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the decisions", 20, counted).await;
    let other = node.place.path().join("other.jsonl");
    node.configure(&format!("mode: enforce\nauditLog: {{path: {}}}\n", other.display()));
    gate.reload().await;
    let counts = node.records().iter().map(|record| record["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(counts, 3, "{:?}", node.records());
}

#[tokio::test]
async fn permit_is_void_once_the_policy_has_changed() {
    let (node, gate, signed, _) = both().await;
    assert!(allowed(&gate.pull(&signed).await));
    let image = super::registry::Image::new("one");
    assert!(allowed(&gate.create(&image.id(), &signed).await));
    let pid = gate.vetter();
    node.policy("all.yaml", &node.denying("all"));
    gate.reload().await;
    let text = refusal(&gate.create(&image.id(), &signed).await);
    assert!(text.contains("policy all (all.yaml:1)") && text.contains("closed for today"), "{text}");
    assert_eq!((node.runtime.containers(), gate.vetter()), (1, pid));
}

#[tokio::test]
async fn bad_policies_change_nothing_and_are_said_with_file_line_and_key() {
    let (node, gate, signed, unsigned) = both().await;
    let bad = node.policies().join("bad.yaml");
    let good = node.signed_by("second", &node.signer, "");
    let denying = node.denying("second");
    let mut errors = 0.0;
    for (what, text, mode, expected) in [
        ("unknown key", good.replace("spec:", "spec:\n  colour: red"), 0o644, "bad.yaml:5: "),
        ("unknown kind", good.replace("ImagePolicy", "Policy"), 0o644, "bad.yaml:2: "),
        ("duplicate key", format!("{good}kind: ImagePolicy\n"), 0o644, "bad.yaml:"),
        ("duplicate name", node.denying("all"), 0o644, "bad.yaml:3: "),
        (
            "nothing asked for",
            denying.replace("  deny: {reason: closed for today}\n", ""),
            0o644,
            "expected exactly one of",
        ),
        ("group-writable", good.clone(), 0o664, "mode 0664"),
        (
            "private key",
            good.replace(
                good.split_once("data: |\n").unwrap().1,
                &node
                    .signer
                    .private_pem()
                    .lines()
                    .map(|line| format!("        {line}\n"))
                    .collect::<String>(),
            ),
            0o644,
            "bad.yaml:10: ",
        ),
    ] {
        fs::write(&bad, text).unwrap();
        fs::set_permissions(&bad, Permissions::from_mode(mode)).unwrap();
        let before = gate.crivet.log().len();
        gate.reload().await;
        let said = gate.crivet.log().split_off(before);
        assert!(said.contains("ERROR the policies that were asked for are not in force"), "{what}: {said}");
        assert!(said.contains(expected) && said.contains("bad.yaml"), "{what}: {said}");
        assert!(said.contains("the policies from before stay in force"), "{what}: {said}");
        assert!(!said.contains(node.signer.private_pem().lines().nth(1).unwrap()), "{what}: {said}");
        assert!(allowed(&gate.pull(&signed).await) && denied(&gate, &unsigned).await, "{what}");
        errors += 1.0;
        assert_eq!(node.metric("crivet_policy_load_errors_total").await, errors, "{what}");
        assert_eq!(node.metric("crivet_config_source{source=\"last_good\"}").await, 1.0, "{what}");
    }
    fs::remove_file(&bad).unwrap();
    symlink("nowhere", &bad).unwrap();
    gate.reload().await;
    assert!(gate.crivet.log().contains("bad.yaml: No such file"), "{}", gate.crivet.log());
    assert!(denied(&gate, &unsigned).await);
    fs::remove_file(&bad).unwrap();
    gate.reload().await;
    assert_eq!(node.metric("crivet_config_source{source=\"files\"}").await, 1.0);
}

#[tokio::test]
async fn bad_configuration_changes_nothing() {
    let (node, gate, signed, unsigned) = both().await;
    let file = node.place.path().join("config.yaml");
    let good = fs::read_to_string(&file).unwrap();
    for (number, (text, mode, expected)) in [
        (format!("{good}colour: red\n"), 0o644, "config.yaml:11: "),
        (good.replace("mode: enforce", "mode: audits"), 0o644, "config.yaml:10: "),
        (good.replace("mode: enforce\n", ""), 0o644, "missing field `mode`"),
        (good.replace("listen:", "listens:"), 0o644, "config.yaml:3: "),
        (good.replace("mode: enforce", "mode: audit"), 0o666, "mode 0666"),
        (String::new(), 0o644, "config.yaml:1: "),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        gate.crivet.signal("HUP");
        let said = || gate.crivet.log().matches("nothing has changed").count();
        until("it is said", 10, || said() > number).await;
        let log = gate.crivet.log();
        let said = log.lines().rfind(|line| line.contains("nothing has changed")).unwrap();
        assert!(said.contains("ERROR") && said.contains(expected), "{expected}: {said}");
        assert!(allowed(&gate.pull(&signed).await) && denied(&gate, &unsigned).await, "{expected}");
    }
    assert_eq!(gate.readied(), 1);
}

#[tokio::test]
async fn start_with_bad_policies_uses_the_last_good_ones_loudly() {
    let (node, gate, signed, unsigned) = both().await;
    drop(gate);
    node.policy("all.yaml", "kind: [");
    let gate = node.enforce().await;
    let log = gate.crivet.log();
    assert!(log.contains("ERROR") && log.contains("all.yaml:1: "), "{log}");
    assert!(log.contains("the last good policies are in force"), "{log}");
    assert!(allowed(&gate.pull(&signed).await) && denied(&gate, &unsigned).await);
    assert_eq!(node.metric("crivet_config_source{source=\"last_good\"}").await, 1.0);
}

#[tokio::test]
async fn start_with_a_bad_configuration_uses_the_last_good_one_loudly() {
    let (node, gate, signed, unsigned) = both().await;
    drop(gate);
    let gate = node.serve("mode: audit\ncolour: red\n").await;
    let log = gate.crivet.log();
    assert!(log.contains("ERROR the configuration is bad; using the last good one"), "{log}");
    assert!(log.contains("config.yaml:11: "), "{log}");
    assert!(allowed(&gate.pull(&signed).await) && denied(&gate, &unsigned).await);
}

#[tokio::test]
async fn bad_configuration_on_a_new_node_in_audit_mode_forwards() {
    let node = Node::strict().await;
    node.push("app", "1", "one");
    node.configure("mode: audit\ncolour: red\n");
    let gate = node.start(&[]).await;
    assert!(gate.crivet.log().contains("ERROR the configuration is bad and none was kept"));
    assert!(allowed(&gate.pull(&node.named("app:1")).await));
    assert!(allowed(&gate.create("sha256:x", &node.named("app:1")).await));
}

#[tokio::test]
async fn bad_configuration_on_a_new_node_leaves_vetted_calls_undecided_until_it_is_mended() {
    for mode in ["mode: enforce\n", "mode: enforced\n", "", "mode: audit\nmode: audit\n"] {
        let node = Node::strict().await;
        node.push_signed("app", "1", "one");
        node.push("unsigned", "1", "two");
        node.configure(&format!("{mode}colour: red\n"));
        let gate = node.start(&[]).await;
        for answer in [gate.pull(&node.named("app:1")).await, gate.create("sha256:x", "app").await] {
            let text = refusal(&answer);
            assert!(text.starts_with("SignatureValidationFailed: undecided: "), "{mode}: {text}");
            assert!(
                text.contains("config.yaml:") && text.contains("mend it and reload crivet"),
                "{mode}: {text}"
            );
        }
        assert_eq!(gate.client.call(VERSION, b"x").await.code(), 0);
        assert!(node.runtime.calls(PULL).is_empty());
        node.configure("mode: enforce\n");
        gate.reload().await;
        assert!(allowed(&gate.pull(&node.named("app:1")).await), "{mode}");
        assert!(denied(&gate, &node.named("unsigned:1")).await, "{mode}");
    }
}

#[tokio::test]
async fn bad_policies_on_a_new_node_leave_vetted_calls_undecided_until_they_are_mended() {
    let node = Node::strict().await;
    node.push_signed("app", "1", "one");
    let good = fs::read_to_string(node.policies().join("all.yaml")).unwrap();
    node.policy("all.yaml", &good.replace("spec:", "spec:\n  colour: red"));
    let gate = node.enforce().await;
    for answer in [gate.pull(&node.named("app:1")).await, gate.create("sha256:x", "elsewhere").await] {
        let text = refusal(&answer);
        assert!(text.starts_with("SignatureValidationFailed: undecided: "), "{text}");
        assert!(text.contains("all.yaml:5: ") && text.contains("colour"), "{text}");
    }
    assert_eq!(gate.client.call(VERSION, b"x").await.code(), 0);
    assert_eq!(node.metric("crivet_config_source{source=\"nothing\"}").await, 1.0);
    node.policy("all.yaml", &good);
    gate.reload().await;
    assert!(allowed(&gate.pull(&node.named("app:1")).await));
}

#[test]
fn no_usable_sockets_end_the_start_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    for text in
        ["", "mode: audit\n", "listen: unix:///run/l.sock\n", "listen: tcp://x\nruntimeEndpoint: unix:///r\n"]
    {
        fs::write(&file, format!("{text}stateDir: {}\n", folder.path().display())).unwrap();
        let ended = Command::new(CRIVET).args(["serve", "--config"]).arg(&file).output().unwrap();
        assert_eq!(ended.status.code(), Some(78), "{text}");
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.contains("config.yaml:") && said.contains("no usable listen"), "{said}");
    }
}

#[tokio::test]
async fn policy_folder_exchanged_by_its_link_is_noticed_without_a_signal() {
    let node = Node::new().await;
    node.push_signed("app", "1", "one");
    let side = |name: &str, text: &str| {
        fs::create_dir(node.policies().join(name)).unwrap();
        fs::write(node.policies().join(name).join("all.yaml"), text).unwrap();
    };
    side("..first", &node.signed_by("all", &node.signer, ""));
    side("..second", &node.denying("all"));
    symlink("..first", node.policies().join("..data")).unwrap();
    symlink("..data/all.yaml", node.policies().join("all.yaml")).unwrap();
    let (gate, name) = (node.enforce().await, node.named("app:1"));
    assert!(allowed(&gate.pull(&name).await));
    let image = super::registry::Image::new("one");
    assert!(allowed(&gate.create(&image.id(), &name).await));
    // As the kubelet does it for volumes.
    symlink("..second", node.policies().join("..data_tmp")).unwrap();
    fs::rename(node.policies().join("..data_tmp"), node.policies().join("..data")).unwrap();
    until("the exchange is noticed", 10, || gate.readied() > 1).await;
    assert!(refusal(&gate.pull(&name).await).contains("closed for today"));
    assert!(refusal(&gate.create(&image.id(), &name).await).contains("closed for today"));
}

#[tokio::test]
async fn policies_choose_audit_below_an_enforcing_top() {
    let (node, gate, _, unsigned) = both().await;
    node.policy("all.yaml", &node.signed_by("all", &node.signer, "  mode: audit\n"));
    gate.reload().await;
    assert!(allowed(&gate.pull(&unsigned).await));
    let record = node.record("the record", |r| r["policies"][0]["outcome"] == "denied").await;
    assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("forwarded")));
    assert_eq!(record["mode"], json!("enforce"));
}

#[tokio::test]
async fn auditing_top_overrides_policies_that_enforce() {
    let (node, gate, _, unsigned) = both().await;
    node.policy("all.yaml", &node.signed_by("all", &node.signer, "  mode: enforce\n"));
    node.configure("mode: audit\nunmatched: deny\n");
    gate.reload().await;
    assert!(allowed(&gate.pull(&unsigned).await));
    assert!(allowed(&gate.pull("registry.invalid/covered-by-none").await));
    for name in ["unsigned:1", "covered-by-none"] {
        let record = node.record(name, |r| r["image"].as_str().is_some_and(|i| i.ends_with(name))).await;
        assert_eq!((&record["decision"], &record["effective"]), (&json!("denied"), &json!("forwarded")));
    }
}
