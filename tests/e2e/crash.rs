//! What kills crivet, or takes from it what it needs, leaves the node as it was: the kubelet is healthy, what runs keeps
//! running, what is signed starts, and in enforce mode nothing else does.

use crate::restart::socket;
use crate::support::crivet::{Activation, Crivet};
use crate::support::image::Pushed;
use crate::support::kubelet::Kubelet;
use crate::support::node::{Node, Setup};
use crate::support::peers::Peers;
use crate::support::wait_for;
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const PATIENCE: Duration = Duration::from_secs(90);

/// A node whose crivet has a small disk and a clock of its own.
struct Harmed {
    kubelet: Kubelet,
    signed: Pushed,
    unsigned: Pushed,
    mode: &'static str,
    pods: usize,
    node: Node,
}

fn clock(peers: &Peers) -> PathBuf {
    peers.path().join("clock")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn small_disk_and_own_clock(peers: &Peers) -> Activation {
    let dir = Crivet::dir(peers);
    fs::create_dir_all(&dir).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs", dir.to_str().unwrap()]);
    fs::write(clock(peers), "+0").unwrap();
    let environment = [
        ("LD_PRELOAD", peers.program("libfaketime.so")),
        ("FAKETIME_TIMESTAMP_FILE", clock(peers)),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.into_os_string())).into();
    Activation { environment, ..socket(peers) }
}

impl Harmed {
    fn start(mode: &'static str) -> Option<Self> {
        let setup = Setup { mode, ..Setup::default() };
        let node = Node::activated(&setup, small_disk_and_own_clock)?;
        let signed = node.push_signed("signed", &node.says("here"));
        let unsigned = node.push("unsigned", &node.says("unvetted").file("unsigned", "x"));
        let kubelet = Kubelet::start(&node.peers, &node.crivet.socket());
        kubelet.add_pod("first", &signed.reference, &json!({}));
        kubelet.wait_pod("first", PATIENCE, |pod| pod.ready());
        Some(Self { kubelet, signed, unsigned, mode, pods: 0, node })
    }

    /// Does harm, and says what has become of the node.
    fn after(&mut self, harm: &str, does: impl FnOnce(&mut Node)) {
        let begun = Instant::now();
        does(&mut self.node);
        self.pods += 1;
        let (good, bad) = (format!("good-{}", self.pods), format!("bad-{}", self.pods));
        self.kubelet.add_pod(&good, &self.signed.reference, &json!({}));
        self.kubelet.add_pod(&bad, &self.unsigned.reference, &json!({}));
        self.kubelet.wait_pod(&good, PATIENCE, |pod| pod.ready());
        match self.mode {
            "audit" => drop(self.kubelet.wait_pod(&bad, PATIENCE, |pod| pod.ready())),
            _ => {
                let refused = |reason: &str| reason.contains("SignatureValidationFailed");
                let waits = |pod: &crate::support::kubelet::Pod| {
                    pod.waiting().is_some_and(|(reason, text)| refused(&reason) || refused(&text))
                };
                self.kubelet.wait_pod(&bad, PATIENCE, waits);
                let chains = self.node.containerd.chains();
                assert!(!chains.values().any(|chain| *chain == self.unsigned.chain), "{harm}: unvetted");
            }
        }
        eprintln!("{} mode, {harm}: a new pod is ready {:?} later", self.mode, begun.elapsed());
        assert!(self.kubelet.healthy(), "{harm}");
        assert!(self.kubelet.pod("first").is_some_and(|pod| pod.ready()), "{harm}");
        assert_eq!(self.kubelet.pod_log("first"), ["here"], "{harm}: the container was started again");
        for pod in [good, bad] {
            self.kubelet.remove_pod(&pod);
            wait_for("the pod's end", PATIENCE, || self.kubelet.pod(&pod).is_none().then_some(()));
        }
    }
}

/// Clients that do nothing, as many as it takes to use every descriptor that the relay can still have.
fn taken_by_clients(socket: &Path, relay: &str) -> Vec<UnixStream> {
    let mut clients = Vec::new();
    let open = || fs::read_dir(format!("/proc/{relay}/fd")).unwrap().count();
    loop {
        let before = open();
        clients.extend((0..32).map(|_| UnixStream::connect(socket).unwrap()));
        std::thread::sleep(Duration::from_millis(500));
        if open() < before + 32 {
            return clients;
        }
    }
}

/// Nothing is enforced for an hour, by the clock that is right.
fn break_glass(node: &Node) {
    let expires = crivet::audit::rfc3339(SystemTime::now() + Duration::from_secs(3600));
    let file = Crivet::dir(&node.peers).join("break-glass");
    fs::write(file, format!("reason: a clock will jump\nexpires: {expires}\n")).unwrap();
    let is_in_force = || node.crivet.log().contains("BREAK-GLASS").then_some(());
    wait_for("break-glass", Duration::from_secs(5), is_in_force);
}

/// A policy for nothing that takes some room to read.
fn large_policy() -> String {
    let policy = "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {name: large}\n\
        spec: {images: [nowhere.test/**], deny: {reason: it is not there}}\n";
    format!("{policy}{}", "# room\n".repeat(40_000))
}

fn everything_breaks_in(mode: &'static str) {
    let Some(mut harmed) = Harmed::start(mode) else { return };
    let dir = Crivet::dir(&harmed.node.peers);
    let clock = clock(&harmed.node.peers);
    harmed.after("the vetter is killed", |node| node.crivet.kill_vetter());
    harmed.after("the relay is killed", |node| {
        node.crivet.kill();
        std::thread::sleep(Duration::from_secs(1));
        node.crivet.start_again(&node.peers);
    });
    harmed.after("the vetter runs out of memory", |node| {
        let vetter = node.crivet.vetter().expect("a vetter is running");
        // More than what it gave back and still has at hand.
        fs::write(dir.join("policies.d/large.yaml"), large_policy()).unwrap();
        run("prlimit", &["--pid", &vetter.to_string(), "--data=4096:4096"]);
        node.crivet.reload();
        // Rust's allocations end it; those of a file to be read are an error.
        let another = node.crivet.vetter().is_some_and(|another| another != vetter);
        assert!(another || node.crivet.log().contains("Cannot allocate memory"), "it did not run out");
    });
    fs::remove_file(dir.join("policies.d/large.yaml")).unwrap();
    harmed.after("the disk is full", |node| {
        // As far as it goes; what is there stays readable.
        let _ = fs::write(dir.join("filler"), vec![7; 4 << 20]);
        assert!(fs::write(dir.join("more"), vec![7; 1 << 16]).is_err(), "the disk is not full");
        node.crivet.kill();
        node.crivet.start_again(&node.peers);
    });
    harmed.after("the disk is full, and the configuration is reloaded", |node| node.crivet.reload());
    let _ = fs::remove_file(dir.join("more"));
    fs::remove_file(dir.join("filler")).unwrap();
    harmed.after("no file descriptor is left, and the vetter is killed", |node| {
        let relay = node.crivet.pid().to_string();
        // None of the numbers that are free now can be had.
        let open = fs::read_dir(format!("/proc/{relay}/fd")).unwrap().flatten();
        let highest = open.filter_map(|fd| fd.file_name().to_str()?.parse::<u32>().ok()).max().unwrap();
        run("prlimit", &["--pid", &relay, &format!("--nofile={0}:4096", highest + 1)]);
        // Those that are free below go to clients.
        let clients = taken_by_clients(&node.crivet.socket(), &relay);
        let killed = node.crivet.vetter();
        node.crivet.kill_vetter();
        let another = || node.crivet.vetter().filter(|vetter| Some(*vetter) != killed);
        wait_for("another vetter", Duration::from_secs(20), another);
        drop(clients);
    });
    let relay = harmed.node.crivet.pid().to_string();
    run("prlimit", &["--pid", &relay, "--nofile=2048:4096"]);
    break_glass(&harmed.node);
    for (jump, ahead) in [("+3000d", "ahead"), ("-3000d", "back"), ("+0", "right again")] {
        harmed.after(&format!("the clock jumps {ahead}"), |node| {
            fs::write(&clock, jump).unwrap();
            // By the first jump; by no other is it revived, though the file is there and valid again.
            let has_ended = || node.crivet.log().contains("break-glass has ended").then_some(());
            wait_for("the end of break-glass", Duration::from_secs(5), has_ended);
        });
    }
    fs::remove_file(dir.join("break-glass")).unwrap();
    harmed.after("the policy folder is gone, and crivet is restarted", |node| {
        fs::rename(dir.join("policies.d"), dir.join("policies.gone")).unwrap();
        node.crivet.kill();
        node.crivet.start_again(&node.peers);
    });
    fs::rename(dir.join("policies.gone"), dir.join("policies.d")).unwrap();
    harmed.after("the configuration is broken, and crivet is restarted", |node| {
        let file = dir.join("config.yaml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("unmatched", "unmached")).unwrap();
        node.crivet.kill();
        node.crivet.start_again(&node.peers);
    });
    harmed.after("the configuration is gone, and reloaded", |node| {
        fs::remove_file(dir.join("config.yaml")).unwrap();
        let relay = rustix::process::Pid::from_raw(node.crivet.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(relay, rustix::process::Signal::HUP).unwrap();
    });
    assert!(!harmed.kubelet.log().contains("container runtime is down"));
}

#[test]
fn whatever_breaks_in_audit_mode_pods_run_and_start() {
    everything_breaks_in("audit");
}

#[test]
fn whatever_breaks_in_enforce_mode_signed_pods_run_and_start_and_others_do_not() {
    everything_breaks_in("enforce");
}
