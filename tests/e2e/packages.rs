//! The packages, installed on a machine that boots.

use crate::support::image::Image;
use crate::support::kubelet::Pod;
use crate::support::machine::{Machine, PARTS};
use crate::support::machine_node::{install_containerd, install_kubelet};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::json;
use std::time::Duration;

#[test]
fn a_machine_boots_and_boots_again_from_the_same_files() {
    let Some(peers) = Peers::get() else { return };
    let mut machine = Machine::boot(&peers);
    assert_eq!(machine.ok(["cat", "/proc/1/comm"]), "systemd");
    machine.push(&peers.program("crictl"), "/usr/local/bin/crictl");
    machine.ok(["crictl", "--version"]);
    machine.ok([&format!("{PARTS}/bin/runc"), "--version"]);
    machine.unit("says.service", "[Service]\nExecStart=/bin/sh -c 'echo I am here; sleep 1000'\n");
    machine.ok(["systemctl", "start", "says.service"]);
    assert!(machine.is_active("says.service"));
    assert_ne!(machine.main_pid("says.service"), 0);
    wait_for("a line", Duration::from_secs(10), || {
        machine.journal("says.service").contains("I am here").then_some(())
    });
    machine.write("/etc/kept", "kept");
    machine.write("/run/gone", "gone");
    machine.reboot(&peers);
    assert_eq!(machine.read("/etc/kept"), "kept");
    assert!(!machine.exists("/run/gone"));
}

#[test]
fn a_machine_runs_containerd_and_a_kubelet() {
    let Some(peers) = Peers::get() else { return };
    let machine = Machine::boot(&peers);
    let registry = Registry::start(&peers);
    install_containerd(&machine, &peers, "1.7", &registry);
    let pods = install_kubelet(&machine);
    let app = Image::says(&peers, "I run on the machine").push(&registry, "app", "1");
    pods.add_pod("app", &app.reference, &json!({}));
    pods.wait_pod("app", Duration::from_secs(60), Pod::ready);
    assert_eq!(pods.first_line("app"), "I run on the machine");
}
