//! The packages, installed, upgraded and removed on a machine that boots.

use crate::support::crictl::Crictl;
use crate::support::image::Image;
use crate::support::kubelet::{Pod, StaticPods};
use crate::support::machine::{Machine, PARTS, said};
use crate::support::machine_node::{RUNTIME, install_containerd, install_kubelet, wait_kubelet};
use crate::support::package::{NEW, OLD, dist, package, packages};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::{http, wait_for};
use crivet::cri::runtime::RuntimeClient;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub const SOCKET: &str = "/run/crivet/crivet.sock";

/// Installs a version of the package as an administrator would, over whatever version there is.
pub fn install(machine: &Machine, peers: &Peers, version: &str) -> Output {
    machine.push(&package(peers, version, ".deb"), "/root/crivet.deb");
    machine.run(["apt-get", "install", "--yes", "--allow-downgrades", "/root/crivet.deb"])
}

fn assert_installed(machine: &Machine, output: &Output, version: &str) {
    assert!(output.status.success(), "{}", said(output));
    assert!(!said(output).contains("crivet: "), "{}", said(output));
    let there = machine.ok(["dpkg-query", "--show", "--showformat=${Status} ${Version}", "crivet"]);
    assert_eq!(there, format!("install ok installed {version}-1"));
}

fn crictl_through_crivet(peers: &Peers, machine: &Machine) -> Crictl {
    Crictl::new(peers, &machine.path(SOCKET))
}

/// Points the machine's kubelet at crivet, as a drop-in of kubeadm's kind does.
pub fn point_kubelet_at_crivet(machine: &Machine, pods: &StaticPods) {
    let endpoint = format!("--container-runtime-endpoint=unix://{SOCKET}");
    machine.unit(
        "kubelet.service.d/90-crivet.conf",
        &format!("[Service]\nEnvironment=\"KUBELET_EXTRA_ARGS={endpoint}\"\n"),
    );
    machine.ok(["systemctl", "restart", "kubelet.service"]);
    wait_kubelet(machine, pods);
}

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
fn an_installed_package_only_watches_and_is_in_nobodys_way() {
    let Some(peers) = Peers::get() else { return };
    let mut machine = Machine::boot(&peers);
    let registry = Registry::start(&peers);
    // No runtime yet: what an image of a node, or an order of installation, may be like.
    let output = install(&machine, &peers, NEW);
    assert_installed(&machine, &output, NEW);
    for unit in ["crivet.socket", "crivet.service"] {
        assert!(machine.is_active(unit), "{unit}: {}", machine.journal(unit));
        assert_eq!(machine.ok(["systemctl", "is-enabled", unit]), "enabled");
    }
    let crictl = crictl_through_crivet(&peers, &machine);
    let absent = crictl.run(["version"]).unwrap_err();
    assert!(absent.contains(RUNTIME), "{absent}");

    let pause = install_containerd(&machine, &peers, "1.7", &registry);
    let pods = install_kubelet(&machine);
    let app = Image::says(&peers, "hello").push(&registry, "app", "1");
    pods.add_pod("app", &app.reference, &json!({}));
    pods.wait_pod("app", Duration::from_secs(60), Pod::ready);
    assert!(crictl.run(["version"]).unwrap().contains("containerd"));
    crictl.pull(&pause.reference).unwrap();
    // It watches: the pull is on record, and nothing was refused. The kubelet's own calls went past it.
    let records = wait_for("a record", Duration::from_secs(20), || {
        fs::read_to_string(machine.path("/var/log/crivet/audit.jsonl"))
            .ok()
            .filter(|text| text.contains(&pause.reference))
    });
    assert!(!records.contains(&app.reference), "{records}");
    let metrics = http::request("127.0.0.1:9466", "GET", "/metrics", &[], &[]).unwrap();
    assert_eq!(metrics.status, 200);
    // The vetter has a user of its own, and what it keeps is its own.
    assert_eq!(
        machine.ok(["ps", "-o", "user=", "--ppid", &machine.main_pid("crivet.service").to_string()]),
        "crivet"
    );
    assert_eq!(machine.ok(["stat", "-c", "%U %a", "/var/lib/crivet/vetter"]), "crivet 700");
    assert_eq!(
        machine.ok(["crivet", "policy", "check"]),
        machine.ok(["crivet", "policy", "check", "--config", "/etc/crivet/config.yaml"])
    );
    machine.ok(["test", "-s", "/usr/share/man/man1/crivet-serve.1.gz"]);

    machine.reboot(&peers);
    let crictl = crictl_through_crivet(&peers, &machine);
    wait_for("crivet after the reboot", Duration::from_secs(20), || crictl.run(["version"]).ok());
}

/// What calls through crivet have said while something went on.
struct Calls {
    failed: Vec<String>,
    ended: Vec<Instant>,
}

impl Calls {
    /// Longest time in which no call ended.
    fn longest_gap(&self) -> Duration {
        let mut ended = self.ended.clone();
        ended.sort_unstable();
        ended.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Calls without pause while `work` runs: over connections that stay, as a kubelet's do, and over a new one each.
fn calls_during(peers: &Peers, machine: &Machine, work: impl FnOnce()) -> Calls {
    let (socket, stop) = (machine.path(SOCKET), AtomicBool::new(false));
    let crictl = crictl_through_crivet(peers, machine);
    std::thread::scope(|scope| {
        let kept = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut calls = Calls { failed: Vec::new(), ended: Vec::new() };
            runtime.block_on(async {
                let client = RuntimeClient::new(&socket, &socket);
                while !stop.load(Ordering::Relaxed) {
                    let mut answer = client.version().await;
                    // hyper's word for a call that was not sent, because its connection was told to end. A kubelet's
                    // library sends such a call on the next connection by itself.
                    if answer
                        .as_ref()
                        .is_err_and(|error| error.to_string().contains("operation was canceled"))
                    {
                        answer = client.version().await;
                    }
                    calls.failed.extend(answer.err().map(|error| error.to_string()));
                    calls.ended.push(Instant::now());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            calls
        };
        let fresh = || {
            let mut calls = Calls { failed: Vec::new(), ended: Vec::new() };
            while !stop.load(Ordering::Relaxed) {
                calls.failed.extend(crictl.run(["version"]).err());
                calls.ended.push(Instant::now());
            }
            calls
        };
        let threads = [scope.spawn(kept), scope.spawn(kept), scope.spawn(fresh)];
        std::thread::sleep(Duration::from_secs(1));
        work();
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let mut all = Calls { failed: Vec::new(), ended: Vec::new() };
        for thread in threads {
            let calls = thread.join().unwrap();
            assert!(!calls.ended.is_empty());
            all.failed.extend(calls.failed);
            all.ended.extend(calls.ended);
        }
        all
    })
}

#[test]
fn an_upgrade_and_a_downgrade_fail_no_call() {
    let Some(peers) = Peers::get() else { return };
    let machine = Machine::boot(&peers);
    let registry = Registry::start(&peers);
    install_containerd(&machine, &peers, "1.7", &registry);
    assert_installed(&machine, &install(&machine, &peers, OLD), OLD);
    machine.write("/etc/crivet/policies.d/mine.yaml", &policy(&registry));
    let edited = machine.read("/etc/crivet/config.yaml").replace("unmatched: allow", "unmatched: deny");
    machine.write("/etc/crivet/config.yaml", &edited);
    machine.ok(["systemctl", "reload", "crivet.service"]);
    for version in [NEW, OLD] {
        let socket_since =
            machine.ok(["systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "crivet.socket"]);
        let before = machine.main_pid("crivet.service");
        let calls = calls_during(&peers, &machine, || {
            assert_installed(&machine, &install(&machine, &peers, version), version);
        });
        assert_ne!(machine.main_pid("crivet.service"), before, "the service is the one from before");
        assert_eq!(
            machine.ok(["systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "crivet.socket"]),
            socket_since
        );
        assert_eq!(calls.failed, [""; 0], "to {version}");
        let gap = calls.longest_gap();
        eprintln!(
            "to {version}: {} calls, none failed, longest gap {} ms",
            calls.ended.len(),
            gap.as_millis()
        );
        assert!(gap < Duration::from_secs(3), "to {version}: no call ended for {gap:?}");
        assert_eq!(machine.read("/etc/crivet/config.yaml"), edited);
        // What one version has kept, the other loads.
        let journal = machine.journal("crivet.service");
        assert!(!journal.contains("ERROR"), "{journal}");
    }
}

/// The files below the places that packages and daemons write to, links included.
fn files(machine: &Machine) -> Vec<String> {
    let places = ["/etc", "/usr", "/var/lib", "/var/log", "/run/crivet"];
    let found = machine.run(["find"].iter().chain(&places).chain(&["-ipath", "*crivet*"]));
    let mut found: Vec<_> = String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_package_that_the_kubelet_is_pointed_at_is_not_removed() {
    let Some(peers) = Peers::get() else { return };
    let machine = Machine::boot(&peers);
    let registry = Registry::start(&peers);
    install_containerd(&machine, &peers, "1.7", &registry);
    let pods = install_kubelet(&machine);
    assert_installed(&machine, &install(&machine, &peers, NEW), NEW);
    // As kubeadm's nodes have it.
    let settings =
        machine.read("/var/lib/kubelet/config.yaml").replace("\"healthzPort\":0", "\"healthzPort\":10248");
    machine.write("/var/lib/kubelet/config.yaml", &settings);
    machine.ok(["systemctl", "restart", "kubelet.service"]);
    wait_kubelet(&machine, &pods);
    machine.ok(["crivet", "node", "install", "--stage", "both"]);
    let app = Image::says(&peers, "hello").push(&registry, "app", "1");
    pods.add_pod("one", &app.reference, &json!({}));
    pods.wait_pod("one", Duration::from_secs(60), Pod::ready);

    for how in ["remove", "purge"] {
        let refused = machine.run(["apt-get", how, "--yes", "crivet"]);
        assert!(!refused.status.success(), "{}", said(&refused));
        assert!(
            said(&refused).contains("crivet: not removed: the kubelet is pointed at crivet"),
            "{}",
            said(&refused)
        );
        assert!(machine.is_active("crivet.service") && machine.is_active("crivet.socket"));
    }
    assert_eq!(
        machine.ok(["dpkg-query", "--show", "--showformat=${Status}", "crivet"]),
        "install ok installed"
    );
    pods.add_pod("two", &app.reference, &json!({}));
    pods.wait_pod("two", Duration::from_secs(60), Pod::ready);

    machine.ok(["crivet", "node", "uninstall"]);
    wait_kubelet(&machine, &pods);

    // A drop-in by hand that is gone again, and the kubelet that runs does not know it yet.
    point_kubelet_at_crivet(&machine, &pods);
    machine.ok(["rm", "/etc/systemd/system/kubelet.service.d/90-crivet.conf"]);
    let refused = machine.run(["apt-get", "remove", "--yes", "crivet"]);
    assert!(said(&refused).contains("(the command line of kubelet)"), "{}", said(&refused));

    machine.ok(["systemctl", "daemon-reload"]);
    machine.ok(["systemctl", "restart", "kubelet.service"]);
    wait_kubelet(&machine, &pods);
    machine.write("/etc/crivet/policies.d/mine.yaml", &policy(&registry));
    machine.ok(["apt-get", "remove", "--yes", "crivet"]);
    assert!(!machine.is_active("crivet.service") && !machine.is_active("crivet.socket"));
    let left = files(&machine);
    assert!(left.contains(&"/etc/crivet/config.yaml".to_owned()), "{left:#?}");
    assert!(left.contains(&"/var/log/crivet/audit.jsonl".to_owned()), "{left:#?}");
    assert!(!left.iter().any(|path| path.starts_with("/usr/")), "{left:#?}");

    // What was removed comes back as it was.
    assert_installed(&machine, &install(&machine, &peers, NEW), NEW);
    assert!(machine.is_active("crivet.service"));
    machine.ok(["apt-get", "purge", "--yes", "crivet"]);
    let left: Vec<_> =
        files(&machine).into_iter().filter(|path| !path.starts_with("/var/lib/systemd/")).collect();
    assert_eq!(left, ["/etc/crivet", "/etc/crivet/policies.d", "/etc/crivet/policies.d/mine.yaml"]);
    assert!(pods.pod("two").unwrap().ready());
}

#[test]
fn the_rpm_installs_upgrades_and_is_not_removed_from_under_a_kubelet() {
    let Some(peers) = Peers::get() else { return };
    let machine = Machine::boot(&peers);
    for version in [OLD, NEW] {
        machine.push(&package(&peers, version, ".rpm"), &format!("/root/crivet-{version}.rpm"));
    }
    let listed = machine.ok(["rpm", "-qp", "--list", &format!("/root/crivet-{NEW}.rpm")]);
    for path in [
        "/etc/crivet/config.yaml",
        "/etc/crivet/policies.d",
        "/usr/bin/crivet",
        "/usr/lib/systemd/system/crivet.service",
        "/usr/lib/systemd/system/crivet.socket",
        "/usr/lib/systemd/system/crivet-content.service",
        "/usr/lib/systemd/system/crivet-content.timer",
        "/usr/lib/systemd/system/crivet-content-requested.path",
        "/usr/lib/systemd/system/crivet-content-requested.service",
        "/usr/lib/sysusers.d/crivet.conf",
        "/usr/lib/tmpfiles.d/crivet.conf",
        "/usr/share/bash-completion/completions/crivet",
        "/usr/share/crivet/policies/team-images.yaml",
        "/usr/share/crivet/schemas/imagepolicy.schema.json",
        "/usr/share/doc/crivet/copyright",
        "/usr/share/fish/vendor_completions.d/crivet.fish",
        "/usr/share/man/man1/crivet-verify.1.gz",
        "/usr/share/zsh/site-functions/_crivet",
    ] {
        assert!(listed.lines().any(|line| line == path), "{path} is not in {listed}");
    }
    let configuration = machine.ok(["rpm", "-qp", "--configfiles", &format!("/root/crivet-{NEW}.rpm")]);
    assert_eq!(configuration, "/etc/crivet/config.yaml");

    // Debian's rpm knows of no package that Debian's dpkg has installed.
    let rpm = |args: &[&str]| machine.run(["rpm", "--force-debian", "--nodeps"].iter().chain(args));
    let done = |args: &[&str]| {
        let output = rpm(args);
        assert!(output.status.success() && !said(&output).contains("scriptlet failed"), "{}", said(&output));
    };
    done(&["--install", &format!("/root/crivet-{OLD}.rpm")]);
    machine.ok(["systemctl", "enable", "--now", "crivet.socket", "crivet.service"]);
    let before = machine.main_pid("crivet.service");
    done(&["--upgrade", &format!("/root/crivet-{NEW}.rpm")]);
    assert!(machine.is_active("crivet.service") && machine.is_active("crivet.socket"));
    assert_ne!(machine.main_pid("crivet.service"), before);

    machine.write("/var/lib/kubelet/config.yaml", &format!("containerRuntimeEndpoint: unix://{SOCKET}\n"));
    let refused = rpm(&["--erase", "crivet"]);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(said(&refused).contains("(/var/lib/kubelet/config.yaml)"), "{}", said(&refused));
    assert!(machine.is_active("crivet.service"));
    machine.ok(["rm", "/var/lib/kubelet/config.yaml"]);
    done(&["--erase", "crivet"]);
    assert!(!machine.is_active("crivet.service") && !machine.exists("/usr/bin/crivet"));
}

#[test]
fn packages_made_in_two_folders_are_the_same_bytes() {
    let Some(peers) = Peers::get() else { return };
    let made = packages(&peers);
    let again = peers.path().join("another/folder");
    fs::create_dir_all(&again).unwrap();
    fs::copy(made.join("crivet"), again.join("crivet")).unwrap();
    dist(&peers, &again.join("crivet"), NEW, &again.join("made"));
    let sums = |dir: &Path| fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(&made.join(NEW)), sums(&again.join("made")));
    assert_eq!(sums(&again.join("made")).lines().count(), 3);
}

/// A policy document that needs no keys.
fn policy(registry: &Registry) -> String {
    let accepts = "  insecureAcceptAnything: {reason: a test}\n";
    crate::support::crivet::policy("mine", &format!("{}/**", registry.address()), accepts)
}
