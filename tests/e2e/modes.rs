//! The mode in force on a node with a real kubelet: a switch to enforce that a static pod refuses, and break-glass.

use crate::support::crivet::Crivet;
use crate::support::kubelet::Kubelet;
use crate::support::node::{Node, Setup};
use crate::support::wait_for;
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// `crivet node break-glass` on the node; what it prints.
fn break_glass(node: &Node, arguments: &[&str]) -> String {
    let config = Crivet::dir(&node.peers).join("config.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crivet"));
    let output =
        command.args(["node", "break-glass", "--config"]).arg(config).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_static_pod_refuses_the_switch_to_enforce_and_break_glass_lets_another_start() {
    switched(&Setup { mode: "audit", ..Setup::default() });
}

#[test]
fn a_static_pod_refuses_the_switch_to_enforce_on_containerd_2() {
    switched(&Setup { mode: "audit", ..Setup::on_containerd_2() });
}

fn switched(setup: &Setup<'_>) {
    let Some(node) = Node::start(setup) else { return };
    let etcd = node.push("etcd", &node.says("etcd"));
    let other = node.push("other", &node.says("other").file("other", "x"));
    let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
    kubelet.add_pod("etcd", &etcd.reference, &json!({}));
    kubelet.wait_pod("etcd", PATIENCE, |pod| pod.ready());

    let file = Crivet::dir(&node.peers).join("config.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("mode: audit", "mode: enforce")).unwrap();
    node.crivet.reload();
    let refused = || Some(break_glass(&node, &[])).filter(|text| text.contains("is refused"));
    let shown = wait_for("the refusal", PATIENCE, refused);
    let whose = "static pod e2e/etcd-node container main: SignatureValidationFailed: image ";
    for said in ["in force:    audit (configured: enforce)", whose, &etcd.digest] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert!(!shown.contains("pause"), "the pause image is signed: {shown}");

    node.sign(&etcd);
    let enforces = || break_glass(&node, &[]).contains("in force:    enforce").then_some(());
    wait_for("the switch, by itself", PATIENCE, enforces);
    kubelet.add_pod("other", &other.reference, &json!({}));
    let refused = |reason: &str| reason == "SignatureValidationFailed";
    kubelet.wait_pod("other", PATIENCE, |pod| pod.waiting().is_some_and(|waits| refused(&waits.0)));

    let shown = break_glass(&node, &["--reason", "the key is lost", "--for", "10m"]);
    assert!(shown.contains("in force:    audit (configured: enforce)"), "{shown}");
    // Named anew: the pod that was refused waits for its back-off.
    kubelet.add_pod("another", &other.reference, &json!({}));
    kubelet.wait_pod("another", PATIENCE, |pod| pod.ready());
    let shown = break_glass(&node, &["--end"]);
    assert!(shown.contains("in force:    enforce"), "{shown}");
    assert!(kubelet.pod("etcd").is_some_and(|pod| pod.ready()));
    assert_eq!(kubelet.pod_log("etcd"), ["etcd"], "the container was started again");
}
