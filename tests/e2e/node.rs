//! `crivet node` on a machine that boots: real systemd, containerd and kubelet.

use crate::support::image::{Image, Pushed};
use crate::support::kubelet::{Pod, StaticPods};
use crate::support::machine::{Machine, PARTS, said};
use crate::support::machine_node::{
    CRIO, install_containerd, install_crio, install_kubelet, install_kubelet_on, wait_kubelet,
};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::wait_for;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const CHECKS: [&str; 2] = ["crivet-content.timer", "crivet-content-requested.path"];
const DROP_IN: &str = "/etc/systemd/system/kubelet.service.d/90-crivet.conf";
const TRIAL: &str = "/run/systemd/system/kubelet.service.d/91-crivet-trial.conf";

/// A node with pods, and crivet's binary and user on it: as a tarball leaves it, without units or configuration.
struct Node {
    machine: Machine,
    pods: StaticPods,
    app: Pushed,
    /// Held: the pods' images are pulled from it.
    _registry: Registry,
}

impl Node {
    /// With containerd `1.6`, `1.7` or `2`, or with `cri-o`.
    fn boot(peers: &Peers, runtime: &str) -> Self {
        let machine = Machine::boot(peers);
        let registry = Registry::start(peers);
        let pods = if runtime == "cri-o" {
            install_crio(&machine, peers, &registry);
            install_kubelet_on(&machine, CRIO)
        } else {
            install_containerd(&machine, peers, runtime, &registry);
            install_kubelet(&machine)
        };
        // As kubeadm's nodes have it.
        let path = "/var/lib/kubelet/config.yaml";
        let settings = machine.read(path);
        assert!(settings.contains("\"healthzPort\":0"), "{settings}");
        machine.write(path, &settings.replace("\"healthzPort\":0", "\"healthzPort\":10248"));
        machine.ok(["systemctl", "restart", "kubelet"]);
        wait_kubelet(&machine, &pods);
        let users = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/sysusers.d/crivet.conf");
        machine.push(&users, "/usr/lib/sysusers.d/crivet.conf");
        machine.ok(["systemd-sysusers"]);
        machine.push(Path::new(env!("CARGO_BIN_EXE_crivet")), "/usr/bin/crivet");
        machine.ok(["chmod", "0755", "/usr/bin/crivet"]);
        let app = Image::says(peers, "I run").push(&registry, "app", "1");
        let node = Self { machine, pods, app, _registry: registry };
        node.runs("first");
        node
    }

    /// A new pod starts and says its line.
    fn runs(&self, name: &str) {
        self.pods.add_pod(name, &self.app.reference, &json!({}));
        self.pods.wait_pod(name, SOON, Pod::ready);
        assert_eq!(self.pods.first_line(name), "I run");
    }

    fn node(&self, arguments: &[&str]) -> Output {
        self.machine.run([&["crivet", "node"], arguments].concat())
    }

    fn node_ok(&self, arguments: &[&str]) -> String {
        let output = self.node(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// The endpoints of the running kubelet, runtime and image, and what else status says.
    fn status(&self) -> (bool, serde_json::Value) {
        let output = self.node(&["status", "-o", "json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.success(),
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
        )
    }

    fn kubelet(&self) -> String {
        let pid = self.machine.main_pid("kubelet.service");
        self.machine.read(&format!("/proc/{pid}/cmdline")).replace('\0', " ")
    }

    fn healthy(&self) {
        wait_kubelet(&self.machine, &self.pods);
        assert!(!self.kubelet().contains("crivet"), "{}", self.kubelet());
    }

    /// Every file of the machine that is nobody's diary: owner, mode and content.
    fn manifest(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for folder in ["/etc", "/usr", "/var"] {
            self.walk(folder, &mut all);
        }
        all
    }

    fn walk(&self, folder: &str, all: &mut BTreeMap<String, String>) {
        // Logs, what runs containers keep, and systemd's own notes of times.
        let diaries = [
            "/var/log",
            "/var/lib/containerd",
            "/var/lib/containers",
            "/var/lib/crio",
            "/var/lib/kubelet",
            "/var/lib/systemd",
            "/var/tmp",
        ];
        for entry in fs::read_dir(self.machine.path(folder)).unwrap().flatten() {
            let inside = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if diaries.contains(&inside.as_str()) {
                continue;
            }
            let metadata = entry.path().symlink_metadata().unwrap();
            let what = if metadata.is_dir() {
                self.walk(&inside, all);
                "folder".to_owned()
            } else if metadata.is_symlink() {
                format!("link to {}", fs::read_link(entry.path()).unwrap().display())
            } else if folder.starts_with("/usr") {
                format!("{} bytes of {}", metadata.len(), metadata.mtime())
            } else {
                String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned()
            };
            let (mode, uid, gid) = (metadata.permissions().mode(), metadata.uid(), metadata.gid());
            all.insert(inside, format!("{mode:o} {uid} {gid} {what}"));
        }
    }

    fn is_as(&self, before: &BTreeMap<String, String>) {
        Self::are_equal(before, &self.manifest());
    }

    /// The journal may tell of what was tried, and the daemon of what came through meanwhile.
    fn is_without_records_as(&self, before: &BTreeMap<String, String>) {
        let without = |mut manifest: BTreeMap<String, String>| {
            manifest.remove("/var/lib/crivet/node/journal.json");
            manifest.remove("/var/lib/crivet/containers");
            manifest
        };
        Self::are_equal(&without(before.clone()), &without(self.manifest()));
    }

    fn are_equal(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
        let mut changed: Vec<_> =
            now.iter().filter(|(path, what)| before.get(*path) != Some(*what)).collect();
        changed.extend(before.iter().filter(|(path, _)| !now.contains_key(*path)));
        assert!(changed.is_empty(), "{changed:#?}");
    }

    /// From its next start on the kubelet dies when its flags have this in them.
    fn kubelet_refuses(&self, flag: &str) {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *{flag}*) echo no {flag} >&2; exit 1;; esac\nexec {PARTS}/bin/kubelet \"$@\"\n"
        );
        // What runs, or is started meanwhile, must not see half of it.
        self.machine.ok(["rm", "/usr/bin/kubelet"]);
        self.machine.write("/usr/bin/kubelet", &script);
        self.machine.ok(["chmod", "0755", "/usr/bin/kubelet"]);
    }

    fn start_install(&self, arguments: &[&str]) -> Child {
        let mut command = self.machine.command("crivet");
        command.args(["node", "install"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

#[test]
fn a_node_is_taken_in_two_stages_and_given_back_byte_for_byte() {
    let Some(peers) = Peers::get() else { return };
    let mut node = Node::boot(&peers, "1.7");
    let before = node.manifest();

    let dry = node.node_ok(&["install", "--stage", "both", "--dry-run"]);
    for said in ["kubeadm (kubelet.service), kubelet 1.36", "containerd 1.7", "mode: audit", DROP_IN, TRIAL] {
        assert!(dry.contains(said), "{said}: {dry}");
    }
    node.is_as(&before);
    assert!(!node.status().0);

    node.node_ok(&["install"]);
    assert!(node.kubelet().trim_end().ends_with("--image-service-endpoint=unix:///run/crivet/crivet.sock"));
    let (in_front, status) = node.status();
    assert!(in_front && status["inFront"] == "image" && status["drift"] == json!([]), "{status}");
    assert!(!node.machine.exists(TRIAL) && !node.machine.is_active("crivet-node-rollback.timer"));
    node.runs("second");

    node.node_ok(&["install", "--stage", "both"]);
    let (in_front, status) = node.status();
    assert!(in_front && status["inFront"] == "both" && status["drift"] == json!([]), "{status}");
    assert_eq!(
        status["endpoints"],
        json!(["unix:///run/crivet/crivet.sock", "unix:///run/crivet/crivet.sock"])
    );
    node.runs("third");
    // Again, without a stage: nothing to do, and the stage stays.
    let kubelet = node.machine.main_pid("kubelet.service");
    assert!(node.node_ok(&["install"]).contains("nothing to do"));
    assert_eq!(node.machine.main_pid("kubelet.service"), kubelet);
    for pod in ["first", "second", "third"] {
        assert!(node.pods.pod(pod).is_some_and(|pod| pod.ready()), "{pod}");
    }
    // The units of the content checks are there for whoever wants them; who has enabled them need not think of it later.
    for unit in CHECKS {
        assert_eq!(said(&node.machine.run(["systemctl", "is-enabled", unit])), "disabled");
        node.machine.ok(["systemctl", "enable", "--now", unit]);
    }
    node.machine.ok(["systemctl", "start", "crivet-content.service"]);
    // The kubelet comes up through crivet at a boot, too.
    node.machine.reboot(&peers);
    wait_kubelet(&node.machine, &node.pods);
    assert!(CHECKS.iter().all(|unit| node.machine.is_active(unit)));
    let (in_front, status) = node.status();
    assert!(in_front && status["inFront"] == "both" && status["connections"] == 2, "{status}");
    node.pods.wait_pod("third", SOON, Pod::ready);

    node.node_ok(&["uninstall"]);
    node.is_as(&before);
    node.healthy();
    node.runs("fourth");
    for pod in ["first", "second", "third"] {
        assert!(node.pods.pod(pod).is_some_and(|pod| pod.ready()), "{pod}");
    }
    assert!(!node.machine.is_active("crivet.socket") && !node.machine.is_active("crivet.service"));
    assert!(!CHECKS.iter().any(|unit| node.machine.is_active(unit)));
    node.node_ok(&["uninstall"]);
    node.is_as(&before);
}

#[test]
fn a_kubelet_that_does_not_come_through_is_taken_back() {
    let Some(peers) = Peers::get() else { return };
    let node = Node::boot(&peers, "2");
    let before = node.manifest();
    // The runtime cannot be reached through crivet: the kubelet is not touched.
    let (kubelet, folder) =
        (node.machine.main_pid("kubelet.service"), "/etc/systemd/system/crivet.service.d");
    let silent = "[Service]\nType=simple\nExecStart=\nExecStart=/bin/sleep 1000\n";
    node.machine.write(&format!("{folder}/silent.conf"), silent);
    let output = node.node(&["install"]);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("cannot be reached through crivet"), "{}", said(&output));
    assert_eq!(node.machine.main_pid("kubelet.service"), kubelet);
    node.machine.ok(["rm", "-r", folder]);
    node.is_as(&before);

    // On the way from one stage to the next: back to the stage before.
    node.node_ok(&["install"]);
    assert!(node.machine.read("/etc/crivet/config.yaml").contains("pauseImage: "));
    node.kubelet_refuses("container-runtime-endpoint=unix:///run/crivet");
    let image = node.manifest();
    let output = node.node(&["install", "--stage", "both", "--timeout", "8s"]);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("the node is as it was before"), "{}", said(&output));
    let (in_front, status) = node.status();
    assert!(in_front && status["inFront"] == "image" && status["unfinished"] == false, "{status}");
    node.is_without_records_as(&image);

    // A kubelet that cannot live with crivet at all: only the way past it is left.
    node.kubelet_refuses("crivet");
    node.machine.ok(["systemctl", "restart", "kubelet.service"]);
    node.node_ok(&["bypass", "--reason", "the kubelet refuses crivet"]);
    node.healthy();
    let (in_front, status) = node.status();
    assert!(!in_front && status["bypass"]["reason"] == "the kubelet refuses crivet", "{status}");
    let journal = node.machine.ok(["journalctl", "--no-pager", "--output=cat", "SYSLOG_IDENTIFIER=crivet"]);
    assert!(journal.contains("BYPASS: the kubelet refuses crivet"), "{journal}");

    node.machine.ok(["ln", "-sfn", &format!("{PARTS}/bin/kubelet"), "/usr/bin/kubelet"]);
    let again = node.node_ok(&["install"]);
    assert!(again.contains("the node was bypassed: the kubelet refuses crivet"), "{again}");
    assert_eq!(node.status().1["bypass"], json!(null));
    node.node_ok(&["uninstall"]);
    node.is_as(&before);
    node.healthy();
}

#[test]
fn a_killed_installer_is_taken_back_by_the_timer_and_by_a_reboot() {
    let Some(peers) = Peers::get() else { return };
    let mut node = Node::boot(&peers, "1.7");
    node.kubelet_refuses("crivet");
    let before = node.manifest();
    let kill_in_the_middle = |node: &Node, arguments: &[&str]| {
        let mut installer = node.start_install(arguments);
        wait_for("the trial", SOON, || node.machine.exists(TRIAL).then_some(()));
        wait_for("the restart", SOON, || (!node.machine.is_active("kubelet.service")).then_some(()));
        installer.kill().unwrap();
        installer.wait().unwrap();
        let inside = node.machine.ok(["pgrep", "--full", "crivet node install"]);
        inside.lines().for_each(|pid| drop(node.machine.ok(["kill", "-9", pid])));
    };

    kill_in_the_middle(&node, &["--timeout", "5s"]);
    assert!(node.status().1["unfinished"] == true);
    wait_for("the dead man's switch", Duration::from_secs(90), || {
        (!node.machine.exists("/var/lib/crivet") && node.machine.is_active("kubelet.service")).then_some(())
    });
    node.is_as(&before);
    node.healthy();

    kill_in_the_middle(&node, &[]);
    node.machine.reboot(&peers);
    node.healthy();
    node.node_ok(&["uninstall"]);
    node.is_as(&before);
    node.runs("second");
}

/// The containers of the kubelet's summary whose processors' time and memory are known, by pod.
fn counted(pods: &StaticPods) -> BTreeSet<String> {
    let summary = pods.summary().unwrap_or_default();
    let listed = summary["pods"].as_array().into_iter().flatten();
    let known = listed.filter(|pod| {
        let container = &pod["containers"][0];
        container["cpu"]["usageCoreNanoSeconds"].is_u64() && container["memory"]["workingSetBytes"].is_u64()
    });
    known.filter_map(|pod| pod["podRef"]["name"].as_str()).map(str::to_owned).collect()
}

#[test]
fn a_node_with_crio_is_taken_in_one_step_bypassed_and_given_back_byte_for_byte() {
    let Some(peers) = Peers::get() else { return };
    let mut node = Node::boot(&peers, "cri-o");
    let counts = |node: &Node, names: &[&str]| {
        let names = names.iter().map(|name| format!("{name}-node")).collect();
        let deadline = std::time::Instant::now() + SOON;
        while counted(&node.pods) != names {
            let now = std::time::Instant::now();
            assert!(
                now < deadline,
                "not counted for {names:?}: {:#}",
                node.pods.summary().unwrap_or_default()["pods"]
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    counts(&node, &["first"]);
    let before = node.manifest();

    let dry = node.node_ok(&["install", "--stage", "both", "--dry-run"]);
    for said in ["kubeadm (kubelet.service), kubelet 1.36", "cri-o 1.34", "mode: audit"] {
        assert!(dry.contains(said), "{said}: {dry}");
    }
    node.is_as(&before);
    node.node_ok(&["install", "--stage", "both"]);
    let (in_front, status) = node.status();
    assert!(in_front && status["inFront"] == "both" && status["drift"] == json!([]), "{status}");
    let endpoint = "unix:///run/crivet/run/crio/crio.sock";
    assert_eq!(status["endpoints"], json!([endpoint, endpoint]));
    node.runs("second");
    // Both as before: the kubelet still takes the runtime for CRI-O.
    counts(&node, &["first", "second"]);

    node.machine.reboot(&peers);
    wait_kubelet(&node.machine, &node.pods);
    let (in_front, status) = node.status();
    assert!(in_front && status["inFront"] == "both" && status["connections"] == 2, "{status}");
    node.pods.wait_pod("second", SOON, Pod::ready);
    // CRI-O is restarted below both; its containers go on.
    node.machine.ok(["systemctl", "restart", "crio.service"]);
    node.runs("third");
    counts(&node, &["first", "second", "third"]);

    node.node_ok(&["bypass", "--reason", "tried"]);
    node.healthy();
    assert_eq!(node.status().1["bypass"]["reason"], "tried");
    node.node_ok(&["install", "--stage", "both"]);
    assert_eq!(node.status().1["inFront"], "both");

    node.node_ok(&["uninstall"]);
    node.is_as(&before);
    node.healthy();
    node.runs("fourth");
    counts(&node, &["first", "second", "third", "fourth"]);
}
