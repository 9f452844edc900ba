//! Break-glass: a file turns enforcement into audit, whatever else is broken.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use crivet::audit::rfc3339;

use super::node::{Gate, Node, allowed, refusal};
use crate::support::daemon::CRIVET;

impl Node {
    fn glass(&self) -> PathBuf {
        self.place.path().join("break-glass")
    }

    fn break_glass(&self, ahead: Duration) {
        let expires = rfc3339(SystemTime::now() + ahead);
        let file = self.glass();
        fs::write(file.with_extension("new"), format!("reason: the registry burns\nexpires: {expires}\n"))
            .unwrap();
        fs::rename(file.with_extension("new"), file).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let config = self.place.path().join("config.yaml");
        Command::new(CRIVET)
            .args(["node", "break-glass", "--config"])
            .arg(config)
            .args(arguments)
            .output()
            .unwrap()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

async fn enforcing() -> (Node, Gate, String) {
    let node = Node::strict().await;
    node.push("unsigned", "1", "one");
    let gate = node.enforce().await;
    let unsigned = node.named("unsigned:1");
    assert!(refusal(&gate.pull(&unsigned).await).contains("no signature"));
    (node, gate, unsigned)
}

#[tokio::test]
async fn a_file_turns_enforcement_into_audit_until_it_is_removed() {
    let (node, gate, unsigned) = enforcing().await;
    node.break_glass(HOUR);
    let status = node.status_like("break-glass", |status| status.break_glass.is_some()).await;
    assert_eq!((status.mode.as_str(), status.configured_mode.as_str()), ("audit", "enforce"));
    assert!(status.mode_because.ends_with("Z: the registry burns"), "{}", status.mode_because);
    assert!(allowed(&gate.pull(&unsigned).await));
    node.record("the record", |r| r["mode"] == "audit" && r["decision"] == "denied").await;
    let page = node.metrics().await;
    for line in [
        "crivet_break_glass_active 1",
        "crivet_break_glass_uses_total 1",
        "crivet_mode_info{configured=\"enforce\",mode=\"audit\",because=\"break_glass\"} 1",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    assert!(
        gate.crivet
            .log()
            .contains("BREAK-GLASS: nothing is enforced reason=the registry burns minutes_left=60")
    );
    fs::remove_file(node.glass()).unwrap();
    node.status_like("the end", |status| status.mode == "enforce").await;
    assert!(refusal(&gate.pull(&unsigned).await).contains("no signature"));
    assert!(node.metrics().await.contains("crivet_break_glass_active 0"));
}

#[tokio::test]
async fn it_ends_when_it_expires_and_the_file_that_stays_is_said_to_be_rejected() {
    let (node, gate, unsigned) = enforcing().await;
    node.break_glass(Duration::from_secs(5));
    node.status_like("break-glass", |status| status.break_glass.is_some()).await;
    let status = node.status_like("its end", |status| status.mode == "enforce").await;
    assert!(status.break_glass_rejected.contains("it has expired"), "{}", status.break_glass_rejected);
    assert!(refusal(&gate.pull(&unsigned).await).contains("no signature"));
    assert!(node.metrics().await.contains("crivet_break_glass_rejected 1"));
}

#[tokio::test]
async fn a_file_that_others_could_have_written_changes_nothing() {
    let (node, gate, unsigned) = enforcing().await;
    node.break_glass(HOUR);
    node.status_like("break-glass", |status| status.break_glass.is_some()).await;
    fs::set_permissions(node.glass(), Permissions::from_mode(0o666)).unwrap();
    let status = node.status_like("the end", |status| status.mode == "enforce").await;
    assert!(status.break_glass_rejected.contains("mode 0666"), "{}", status.break_glass_rejected);
    assert!(refusal(&gate.pull(&unsigned).await).contains("no signature"));
    fs::remove_file(node.glass()).unwrap();
    node.status_like("nothing there", |status| status.break_glass_rejected.is_empty()).await;
    fs::write(node.glass(), "reason: x\nexpires: tomorrow\n").unwrap();
    let status = node.status_like("malformed", |status| !status.break_glass_rejected.is_empty()).await;
    assert!(status.break_glass_rejected.contains("break-glass:2: expires: expected a time"));
    assert_eq!(status.mode, "enforce");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_is_not_in_its_way() {
    let node = Node::strict().await;
    node.push("unsigned", "1", "one");
    node.configure("mode: enforce\ncolour: red\n");
    let gate = node.start(&[]).await;
    let unsigned = node.named("unsigned:1");
    assert!(refusal(&gate.pull(&unsigned).await).contains("undecided: crivet's configuration is bad"));
    node.break_glass(HOUR);
    let status = node.status_like("break-glass", |status| status.mode == "audit").await;
    assert_eq!(status.configured_mode, "unknown");
    assert!(allowed(&gate.pull(&unsigned).await));
}

#[tokio::test]
async fn neither_broken_policies_nor_a_vetter_that_hangs_or_dies_are_in_its_way() {
    let node = Node::strict().await;
    node.push("unsigned", "1", "one");
    node.policy("bad.yaml", "colour: red\n");
    let gate = node.enforce().await;
    let unsigned = node.named("unsigned:1");
    assert!(refusal(&gate.pull(&unsigned).await).contains("undecided: "));
    gate.signal_vetter("STOP");
    let audits = async || {
        node.break_glass(HOUR);
        node.status_like("break-glass", |status| status.mode == "audit").await;
        assert!(allowed(&gate.pull(&unsigned).await));
        fs::remove_file(node.glass()).unwrap();
        node.status_like("its end", |status| status.mode == "enforce").await;
    };
    audits().await;
    let _killing = gate.keep_killing_the_vetter();
    audits().await;
}

#[tokio::test]
async fn the_command_writes_shows_and_ends_it() {
    let (node, gate, unsigned) = enforcing().await;
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let none = node.run(&[]);
    assert!(none.status.success() && text(&none).contains("break-glass: none"), "{none:?}");
    let begun = node.run(&["--reason", "the registry: it's \"burning\"", "--for", "30m"]);
    assert!(begun.status.success(), "{begun:?}");
    for said in ["the registry: it's \"burning\"", "in force:    audit (configured: enforce)"] {
        assert!(text(&begun).contains(said), "{said}: {begun:?}");
    }
    assert!(allowed(&gate.pull(&unsigned).await));
    let mode = fs::metadata(node.glass()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ended = node.run(&["--end"]);
    assert!(ended.status.success() && text(&ended).contains("in force:    enforce"), "{ended:?}");
    assert!(refusal(&gate.pull(&unsigned).await).contains("no signature"));
    for (arguments, said) in [
        (["--reason", "x", "--for", "13h"], "limits::BREAK_GLASS_SECONDS"),
        (["--reason", " ", "--for", "1h"], "--reason: expected one line"),
        (["--reason", "x", "--for", "later"], "--for: expected a duration"),
    ] {
        let refused = node.run(&arguments);
        assert!(!refused.status.success(), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{said}: {refused:?}");
        assert!(!node.glass().exists());
    }
}

#[tokio::test]
async fn the_command_needs_no_daemon_and_the_file_is_in_force_from_the_start() {
    let node = Node::strict().await;
    node.push("unsigned", "1", "one");
    node.configure("mode: enforce\n");
    let begun = node.run(&["--reason", "fire", "--for", "1h"]);
    assert!(begun.status.success(), "{begun:?}");
    assert!(String::from_utf8_lossy(&begun.stdout).contains("does not answer"), "{begun:?}");
    let gate = node.start(&[]).await;
    assert!(allowed(&gate.pull(&node.named("unsigned:1")).await));
}
