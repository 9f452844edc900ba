//! The units that check the node's disk, as the package brings them, on a machine that boots.

use crate::packages::{SOCKET, install, point_kubelet_at_crivet};
use crate::rollout::enforces;
use crate::support::cosign::{Cosign, Version};
use crate::support::crivet::{policy, signed_by};
use crate::support::image::{Image, Pushed};
use crate::support::kubelet::{Pod, StaticPods};
use crate::support::machine::Machine;
use crate::support::machine_node::{install_containerd, install_kubelet};
use crate::support::package::NEW;
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::{http, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);
const TIMER: &str = "crivet-content.timer";
const CHECK: &str = "crivet-content.service";
const PATH: &str = "crivet-content-requested.path";
const REQUESTED: &str = "crivet-content-requested.service";
const REQUEST: &str = "/run/crivet/content-requested";

/// A machine with the package, whose kubelet goes through an enforcing crivet.
struct Node {
    machine: Machine,
    pods: StaticPods,
    app: Pushed,
    other: Pushed,
    /// Held: images are pulled from it.
    _registry: Registry,
}

impl Node {
    /// The policy asks for checks of what is in `team/`.
    fn boot(peers: &Peers) -> Node {
        let machine = Machine::boot(peers);
        let registry = Registry::start(peers);
        install_containerd(&machine, peers, "1.7", &registry);
        let pods = install_kubelet(&machine);
        assert!(install(&machine, peers, NEW).status.success());
        let cosign = Cosign::new(peers, Version::V2);
        let key = cosign.generate_key("key");
        let [app, other] = ["team/app", "team/other"].map(|name| {
            let image = Image::says(peers, name).file("greeting", name).push(&registry, name, "1");
            cosign.sign(&key, &image.by_digest, &[]);
            image
        });
        // So that the pause image is there.
        let plain = Image::says(peers, "plain").push(&registry, "plain", "1");
        pods.add_pod("plain", &plain.reference, &json!({}));
        pods.wait_pod("plain", LONG, Pod::ready);
        let spec = format!("  content: {{layersCheckedWithin: 48h}}\n{}", signed_by(&key));
        let asks = policy("team", &format!("{}/team/**", registry.address()), &spec);
        machine.write("/etc/crivet/policies.d/team.yaml", &asks);
        let config = machine.read("/etc/crivet/config.yaml");
        machine.write("/etc/crivet/config.yaml", &config.replace("\nmode: audit", "\nmode: enforce"));
        machine.ok(["systemctl", "reload", "crivet.service"]);
        wait_for("enforcement", LONG, || enforces().then_some(()));
        point_kubelet_at_crivet(&machine, &pods);
        Node { machine, pods, app, other, _registry: registry }
    }

    fn says(&self, arguments: &[&str]) -> String {
        self.machine.ok(["systemctl"].iter().chain(arguments))
    }

    /// How many of its checks have ended.
    fn ended(&self, unit: &str) -> usize {
        self.machine.journal(unit).matches(" images: ").count()
    }

    /// Has the timer fire now, and waits until the check that it starts has ended.
    fn timer_fires(&self) {
        let before = self.ended(CHECK);
        self.says(&["restart", TIMER]);
        wait_for("the timer's check", LONG, || (self.ended(CHECK) > before).then_some(()));
        let ended = || !["activating", "active"].contains(&self.state(CHECK).as_str());
        wait_for("the end of its unit", LONG, || ended().then_some(()));
    }

    fn doctor_finds(&self, id: &str) -> bool {
        let said = self.machine.run(["crivet", "doctor", "-o", "json"]);
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        said["findings"].as_array().unwrap().iter().any(|finding| finding["id"] == id)
    }

    fn state(&self, unit: &str) -> String {
        self.says(&["show", "--property=ActiveState", "--value", unit])
    }

    /// The folders that containerd has unpacked the image's own file into.
    fn unpacked(&self, content: &str) -> Vec<PathBuf> {
        let snapshots = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let all = fs::read_dir(self.machine.kept(snapshots)).unwrap().flatten();
        let files = all.map(|entry| entry.path().join("fs/greeting"));
        files.filter(|file| fs::read_to_string(file).is_ok_and(|text| text == content)).collect()
    }
}

fn metric(name: &str) -> f64 {
    let page = http::request("127.0.0.1:9466", "GET", "/metrics", &[], &[]).unwrap().body;
    let page = String::from_utf8_lossy(&page).into_owned();
    let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn packaged_units_check_what_a_pod_waits_for_and_what_the_timer_comes_to() {
    let Some(peers) = Peers::get() else { return };
    let node = Node::boot(&peers);
    let machine = &node.machine;
    for unit in [TIMER, PATH] {
        assert_eq!(
            crate::support::machine::said(&machine.run(["systemctl", "is-enabled", unit])),
            "disabled"
        );
        assert!(!machine.is_active(unit), "{unit}");
    }

    // Nobody makes the check that the pod waits for.
    node.pods.add_pod("waits", &node.app.reference, &json!({}));
    let waits = |pod: &Pod| pod.waiting().is_some_and(|(_, why)| why.contains("layersCheckedWithin"));
    let pod = node.pods.wait_pod("waits", LONG, waits);
    let (_, why) = pod.waiting().unwrap();
    assert!(why.contains("SignatureValidationFailed: undecided: "), "{why}");
    assert!(why.contains(&format!("systemctl enable --now {PATH}")), "{why}");
    assert!(machine.exists(REQUEST));
    assert_eq!(metric("crivet_content_requested_images"), 1.0);
    assert_eq!(machine.journal(REQUESTED), "");

    // As the message says. The kubelet's next try makes the container.
    node.says(&["enable", "--now", PATH]);
    node.pods.wait_pod("waits", LONG, Pod::ready);
    assert_eq!(node.pods.first_line("waits"), "team/app");
    let journal = machine.journal(REQUESTED);
    assert!(journal.contains(&node.app.reference) && !journal.contains("plain"), "{journal}");
    assert!(!machine.exists(REQUEST));
    // From then on without a hand.
    node.pods.add_pod("other", &node.other.reference, &json!({}));
    node.pods.wait_pod("other", LONG, Pod::ready);
    wait_for("the end of the check", LONG, || (node.state(REQUESTED) == "inactive").then_some(()));
    assert_eq!(node.says(&["show", "--property=Result", "--value", REQUESTED]), "success");
    assert!(machine.is_active(PATH));
    assert_eq!(metric("crivet_content_requested_images"), 0.0);

    // The timer as it comes has its day and its delay ahead of it; only that is changed.
    assert_eq!(metric("crivet_content_last_check_seconds"), 0.0);
    assert!(node.doctor_finds("layers-not-checked-in-time"));
    node.says(&["enable", "--now", TIMER]);
    let next = node.says(&["show", "--property=NextElapseUSecRealtime", "--value", TIMER]);
    assert!(!["", "n/a"].contains(&next.as_str()), "{next}");
    assert_eq!(machine.journal(CHECK), "");
    let soon = "[Timer]\nOnCalendar=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=1s\n";
    machine.unit(&format!("{TIMER}.d/soon.conf"), soon);
    node.timer_fires();
    let journal = machine.journal(CHECK);
    for image in ["/plain:1", "/team/app:1", "/team/other:1", "/pause:test"] {
        let is_whole = |line: &str| line.contains("whole") && line.contains(image);
        assert!(journal.lines().any(is_whole), "{image}: {journal}");
    }
    assert_eq!(node.says(&["show", "--property=Result", "--value", CHECK]), "success");
    assert!(metric("crivet_content_last_check_seconds") > 0.0);
    assert!(node.doctor_finds("layers") && !node.doctor_finds("layers-not-checked-in-time"));

    // What it finds altered is denied to a new pod, and the unit has failed for everybody to see.
    let altered = node.unpacked("team/app");
    assert_eq!(altered.len(), 1, "{altered:?}");
    fs::write(&altered[0], "team/APP").unwrap();
    node.timer_fires();
    assert_eq!(node.state(CHECK), "failed");
    assert_eq!(metric("crivet_content_altered_layers"), 1.0);
    node.pods.add_pod("altered", &node.app.reference, &json!({}));
    let denied =
        |pod: &Pod| pod.waiting().is_some_and(|(_, why)| why.contains("it was altered on this node"));
    node.pods.wait_pod("altered", LONG, denied);
    assert!(!machine.exists(REQUEST), "it is denied, and waits for nothing");
    assert!(node.pods.pod("waits").unwrap().ready() && machine.exists(SOCKET));
}
