//! Audit records in the systemd journal, under the unit as it ships, and where `kubectl` finds them.

use crate::support::crivet::policy;
use crate::support::image::Image;
use crate::support::machine::Machine;
use crate::support::machine_node::{install_containerd, install_kubelet};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOCKET: &str = "unix:///run/crivet/crivet.sock";

/// crivet as README.md installs it by hand, in audit mode, with a policy that denies everything.
fn install_crivet(machine: &Machine) {
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    machine.push(Path::new(env!("CARGO_BIN_EXE_crivet")), "/usr/bin/crivet");
    for (file, inside) in [
        ("sysusers.d/crivet.conf", "/usr/lib/sysusers.d/crivet.conf"),
        ("tmpfiles.d/crivet.conf", "/usr/lib/tmpfiles.d/crivet.conf"),
        ("crivet.service", "/etc/systemd/system/crivet.service"),
        ("crivet.socket", "/etc/systemd/system/crivet.socket"),
    ] {
        machine.push(&systemd.join(file), inside);
    }
    machine.ok(["systemd-sysusers"]);
    machine.ok(["systemd-tmpfiles", "--create", "crivet.conf"]);
    let config = format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: {SOCKET}\n\
         runtimeEndpoint: unix:///run/containerd/containerd.sock\nmode: audit\nunmatched: allow\n\
         vetterUser: crivet\nauditLog: {{journal: true}}\n"
    );
    machine.write("/etc/crivet/config.yaml", &config);
    machine
        .write("/etc/crivet/policies.d/closed.yaml", &policy("closed", "**", "  deny: {reason: closed}\n"));
    machine.ok(["systemctl", "daemon-reload"]);
    machine.ok(["systemctl", "enable", "--now", "crivet.socket", "crivet.service"]);
}

#[test]
fn a_denial_is_in_the_journal_and_in_the_kubelets_log_query() {
    let Some(peers) = Peers::get() else { return };
    let machine = Machine::boot(&peers);
    let registry = Registry::start(&peers);
    install_containerd(&machine, &peers, "1.7", &registry);
    install_crivet(&machine);
    let app = Image::says(&peers, "not vouched for").push(&registry, "app", "1");
    let pull = ["crictl", "-r", SOCKET, "-i", SOCKET, "pull", &app.reference];
    wait_for("crivet to answer", Duration::from_secs(20), || {
        machine.run(pull).status.success().then_some(())
    });

    let query = ["journalctl", "--unit=crivet", "--no-pager", "--output=json", "CRIVET_DECISION=denied"];
    let entry = wait_for("the entry", Duration::from_secs(10), || {
        let out = machine.ok(query);
        out.lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap())
    });
    for (field, value) in [
        ("CRIVET_EFFECTIVE", "forwarded"),
        ("CRIVET_MODE", "audit"),
        ("CRIVET_KIND", "PullImage"),
        ("CRIVET_REASON", "DeniedByPolicy"),
        ("CRIVET_POLICY", "closed"),
        ("CRIVET_IMAGE", &app.reference),
        ("SYSLOG_IDENTIFIER", "crivet"),
        ("PRIORITY", "4"),
        // Written by journald, by where the sender is.
        ("_SYSTEMD_UNIT", "crivet.service"),
    ] {
        assert_eq!(entry[field], json!(value), "{field}: {entry}");
    }
    // The vetter sent it, without power.
    let user = machine.ok(["id", "--user", "crivet"]);
    assert_eq!(
        (entry["_UID"].as_str(), entry["_CAP_EFFECTIVE"].as_str()),
        (Some(&*user), Some("0")),
        "{entry}"
    );

    // The file has the same, and the report reads it.
    let report = machine.ok(["crivet", "report"]);
    assert!(report.contains("A policy denies the image (DeniedByPolicy): 1 finding"), "{report}");

    // What `kubectl get --raw /api/v1/nodes/NODE/proxy/logs/?query=crivet` asks the kubelet.
    install_kubelet(&machine);
    let file = "/var/lib/kubelet/config.yaml";
    let mut settings: Value = serde_json::from_str(&machine.read(file)).unwrap();
    settings["enableSystemLogHandler"] = json!(true);
    settings["enableSystemLogQuery"] = json!(true);
    settings["featureGates"]["NodeLogQuery"] = json!(true);
    machine.write(file, &settings.to_string());
    machine.ok(["systemctl", "restart", "kubelet"]);
    let logs = wait_for("the kubelet's logs", Duration::from_secs(60), || {
        // On this thread's network, which is the machine's.
        let output = Command::new(peers.program("busybox"))
            .args(["wget", "-q", "-O", "-", "--no-check-certificate"])
            .arg("https://127.0.0.1:10250/logs/?query=crivet&pattern=denied")
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    let line = format!("denied (forwarded, audit mode): PullImage of {}", app.reference);
    assert!(logs.lines().any(|l| l.contains("crivet[") && l.contains(&line)), "{line} is not in\n{logs}");
}
