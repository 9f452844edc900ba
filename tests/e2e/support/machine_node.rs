//! A node on a machine that boots: containerd or CRI-O and a kubelet as units, where kubeadm and Debian's packages put them.

use super::containerd::{NETWORK, configuration, lead_to};
use super::crio;
use super::image::{Image, Pushed};
use super::kubelet::{self, StaticPods};
use super::machine::{Machine, PARTS, said};
use super::peers::Peers;
use super::registry::Registry;
use super::scratch::MARK;
use std::path::Path;
use std::time::Duration;

/// containerd's socket on the machine.
pub const RUNTIME: &str = "/run/containerd/containerd.sock";
/// CRI-O's socket on the machine.
pub const CRIO: &str = "/var/run/crio/crio.sock";
/// Where static pods and containers' logs are: beside the kubelet's own folder of pods, and there after a reboot.
const PODS: &str = "/var/lib/kubelet/e2e";
const READ_ONLY: u16 = 10255;

/// The units as Debian's and kubeadm's packages have them.
const CONTAINERD: &str = "[Unit]\nDescription=containerd container runtime\nAfter=network.target local-fs.target\n
[Service]\nExecStart=/usr/bin/containerd\nType=notify\nDelegate=yes\nKillMode=process\nRestart=always\nRestartSec=5\n
[Install]\nWantedBy=multi-user.target\n";

/// As CRI-O's packages have it. `KillMode`: with cgroupfs conmon is left in the unit's group of systemd's hierarchy, and
/// would be ended by a restart.
const CRIO_UNIT: &str = "[Unit]\nDescription=Container Runtime Interface for OCI (CRI-O)\nBefore=kubelet.service
Wants=network-online.target\nAfter=network-online.target\n
[Service]\nType=notify\nExecStart=/usr/bin/crio\nExecReload=/bin/kill -s HUP $MAINPID\nTasksMax=infinity\nTimeoutStartSec=0
Restart=on-failure\nRestartSec=10\nWatchdogSec=60s\nKillMode=process\n
[Install]\nWantedBy=multi-user.target\n";

const KUBELET: &str = "[Unit]\nDescription=kubelet: The Kubernetes Node Agent\nAfter=network-online.target\n
[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\nStartLimitInterval=0\nRestartSec=10\n
[Install]\nWantedBy=multi-user.target\n";

/// Without the arguments that lead to an API server.
const KUBEADM: &str = "[Service]\nEnvironment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nEnvironmentFile=-/etc/default/kubelet\nExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n";

/// Installs containerd `1.6`, `1.7` or `2`, which may pull from `registry` and takes its pause image from there, and
/// starts it. Answers with the pause image.
pub fn install_containerd(machine: &Machine, peers: &Peers, version: &str, registry: &Registry) -> Pushed {
    for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        link(machine, &format!("containerd-{version}/{program}"), &format!("/usr/bin/{program}"));
    }
    link(machine, "bin/runc", "/usr/sbin/runc");
    link(machine, "bin/crictl", "/usr/bin/crictl");
    let pause = Image::says(peers, "pause").push(registry, "pause", "test");
    let text = configuration(version, &pause.reference)
        .replace("DIR/root", "/var/lib/containerd")
        .replace("DIR/state", "/run/containerd")
        .replace("DIR/containerd.sock", RUNTIME)
        .replace("DIR/cni", "/etc/cni/net.d")
        .replace("DIR/runc", "/run/containerd/runc")
        .replace("DIR/opt", "/opt/containerd")
        .replace("DIR", "/etc/containerd")
        .replace("CNI", &format!("{PARTS}/cni"))
        .replace("RUNC", "/usr/sbin/runc");
    machine.write("/etc/containerd/config.toml", &text);
    machine.write("/etc/cni/net.d/10-ptp.conflist", &NETWORK.replace("DIR", "/run"));
    machine.write("/etc/crictl.yaml", &format!("runtime-endpoint: unix://{RUNTIME}\ntimeout: 60\n"));
    for name in [registry.address(), "_default"] {
        lead_to(&machine.path("/etc/containerd"), name, registry);
    }
    machine.write("/lib/systemd/system/containerd.service", CONTAINERD);
    machine.ok(["systemctl", "enable", "--now", "containerd.service"]);
    pause
}

/// Installs CRI-O, which may pull from `registry` and takes its pause image from there, and starts it. Answers with the
/// pause image.
pub fn install_crio(machine: &Machine, peers: &Peers, registry: &Registry) -> Pushed {
    for program in ["crio", "conmon", "pinns", "crictl"] {
        link(machine, &format!("bin/{program}"), &format!("/usr/bin/{program}"));
    }
    let pause = Image::says(peers, "pause").push(registry, "pause", "test");
    let text = crio::CONFIGURATION
        // A node's is /etc/containers/policy.json.
        .replace("signature_policy = \"DIR/policy.json\"\n", "")
        .replace("PAUSE", &pause.reference)
        .replace("MARK", &format!("{MARK}={}", peers.path().display()))
        .replace("DIR/runroot", "/run/containers/storage")
        .replace("DIR/root", "/var/lib/containers/storage")
        .replace("DIR/logs", "/var/log/crio/pods")
        .replace("DIR/version", "/var/lib/crio/version")
        .replace("DIR/clean.shutdown", "/var/lib/crio/clean.shutdown")
        .replace("DIR/cni", "/etc/cni/net.d")
        .replace("DIR/policies", "/etc/crio/policies")
        .replace("DIR/runc", "/usr/sbin/runc")
        .replace("STATE", "/run/crio")
        .replace("CNI", &format!("{PARTS}/cni"))
        .replace("CONMON", "/usr/bin/conmon")
        .replace("PINNS", "/usr/bin/pinns");
    machine.write("/etc/crio/crio.conf", &text);
    machine.write("/usr/sbin/runc", &crio::RUNC.replace("RUNC", &format!("{PARTS}/pkg/runc/usr/sbin/runc")));
    machine.ok(["chmod", "0755", "/usr/sbin/runc"]);
    machine.write("/etc/containers/policy.json", crio::TRUSTING);
    machine.write("/etc/containers/registries.conf", &crio::registries(registry));
    machine.write("/etc/cni/net.d/10-ptp.conflist", &NETWORK.replace("DIR", "/run"));
    machine.write("/etc/crictl.yaml", &format!("runtime-endpoint: unix://{CRIO}\ntimeout: 60\n"));
    machine.write("/lib/systemd/system/crio.service", CRIO_UNIT);
    machine.ok(["systemctl", "enable", "--now", "crio.service"]);
    pause
}

/// Installs a kubelet of kubeadm's kind, in standalone mode, and starts it on containerd's socket.
pub fn install_kubelet(machine: &Machine) -> StaticPods {
    install_kubelet_on(machine, RUNTIME)
}

/// As [`install_kubelet`], on a runtime's socket.
pub fn install_kubelet_on(machine: &Machine, runtime: &str) -> StaticPods {
    link(machine, "bin/kubelet", "/usr/bin/kubelet");
    let settings = kubelet::configuration(&format!("unix://{runtime}"), Path::new(PODS), 10250, READ_ONLY);
    machine.write("/var/lib/kubelet/config.yaml", &settings.to_string());
    machine.write("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\"--oom-score-adj=0 --v=2\"\n");
    machine.write("/lib/systemd/system/kubelet.service", KUBELET);
    machine.write("/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", KUBEADM);
    let pods = StaticPods::new(&machine.kept(PODS), READ_ONLY);
    machine.ok(["systemctl", "enable", "--now", "kubelet.service"]);
    wait_kubelet(machine, &pods);
    pods
}

/// Waits until the kubelet answers; panics with the end of its journal when it does not.
pub fn wait_kubelet(machine: &Machine, pods: &StaticPods) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !pods.answers() {
        if std::time::Instant::now() > deadline {
            let journal = machine.run(["journalctl", "--no-pager", "--lines=40", "--unit=kubelet"]);
            panic!("the kubelet does not answer:\n{}", said(&journal));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn link(machine: &Machine, part: &str, inside: &str) {
    machine.ok(["ln", "-sfn", &format!("{PARTS}/{part}"), inside]);
}
