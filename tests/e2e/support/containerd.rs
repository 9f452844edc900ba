//! containerd with root, state and socket in the scratch folder. A containerd of the machine is not touched.

use super::crictl::Crictl;
use super::crivet::Runtime;
use super::daemon::Daemon;
use super::image::{Image, Pushed};
use super::peers::Peers;
use super::registry::Registry;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub struct Containerd {
    daemon: Daemon,
    socket: PathBuf,
    crictl: Crictl,
    ctr: PathBuf,
    pause: Pushed,
    bin: PathBuf,
}

impl Containerd {
    /// Starts containerd `1.6`, `1.7` or `2`, which may pull from `registry` and takes its pause image from
    /// there. Every other registry's name leads to `registry` too, so that no test reaches the network.
    pub fn start(peers: &Peers, version: &str, registry: &Registry) -> Self {
        let dir = peers.path().join("containerd");
        fs::create_dir_all(&dir).unwrap();
        let pause = Image::says(peers, "pause").push(registry, "pause", "test");
        for name in [registry.address(), "_default"] {
            lead_to(&dir, name, registry);
        }
        fs::create_dir_all(dir.join("cni")).unwrap();
        fs::write(dir.join("cni/10-ptp.conflist"), NETWORK.replace("DIR", dir.to_str().unwrap())).unwrap();
        let config = dir.join("config.toml");
        let runc = peers.program("runc");
        let bin = peers.programs(&format!("containerd-{version}"));
        let text = configuration(version, &pause.reference)
            .replace("DIR", dir.to_str().unwrap())
            .replace("CNI", peers.programs("cni").to_str().unwrap())
            .replace("RUNC", runc.to_str().unwrap());
        fs::write(&config, text).unwrap();
        fs::create_dir_all(dir.join("shims")).unwrap();
        symlink(bin.join("containerd-shim-runc-v2"), dir.join("shims/containerd-shim-guest-v2")).unwrap();

        let socket = dir.join("containerd.sock");
        let crictl = Crictl::new(peers, &socket);
        let daemon = Self::spawn(peers, &bin, &config);
        let mut containerd = Self { daemon, socket, crictl, ctr: bin.join("ctr"), pause, bin };
        containerd.wait_ready();
        containerd
    }

    fn spawn(peers: &Peers, bin: &Path, config: &Path) -> Daemon {
        // containerd looks for its shim in the PATH, and a shim that is told nothing for runc.
        let mut path = OsString::from(bin);
        path.push(":");
        path.push(peers.program("runc").parent().unwrap());
        path.push(":");
        path.push(config.with_file_name("shims"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let arguments = ["--config".as_ref(), config.as_os_str()];
        Daemon::start(peers, "containerd", &bin.join("containerd"), arguments, &[("PATH", &path)])
    }

    fn wait_ready(&mut self) {
        let crictl = self.crictl.clone();
        self.daemon.wait_ready(Duration::from_secs(30), || crictl.run(["version"]).is_ok());
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Ends it at once, as a crash would; what runs goes on.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Starts one that was killed, with the same files.
    pub fn start_again(&mut self, peers: &Peers) {
        let config = self.socket.with_file_name("config.toml");
        self.daemon = Self::spawn(peers, &self.bin, &config);
        self.wait_ready();
    }

    /// Lets it pull from another registry as well.
    pub fn may_pull_from(&self, registry: &Registry) {
        lead_to(self.socket.parent().unwrap(), registry.address(), registry);
    }

    /// Its `config_path`: a folder for each registry.
    pub fn config_path(&self) -> PathBuf {
        self.socket.parent().unwrap().join("certs.d")
    }

    /// Has it read this `hosts.toml` for a registry.
    pub fn put_hosts(&self, registry: &str, text: &str) {
        let dir = self.config_path().join(registry);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The image that every sandbox runs.
    pub fn pause(&self) -> &Pushed {
        &self.pause
    }

    /// containerd's own client in the CRI's namespace; answers with its output.
    pub fn ctr(&self, args: &[&str]) -> String {
        let address = ["--address".as_ref(), self.socket.as_os_str()];
        let output = Command::new(&self.ctr)
            .args(address)
            .args(["--namespace", "k8s.io"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The chain ID that each container's root file system stands on, by the container's ID.
    pub fn chains(&self) -> BTreeMap<String, String> {
        let listed = self.ctr(&["snapshots", "list"]);
        let rows = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // Key, parent, kind; the CRI plugin names a container's snapshot as the container.
        let active = rows.filter(|row| row.len() == 3 && row[2] == "Active");
        active.map(|row| (row[0].to_owned(), row[1].to_owned())).collect()
    }

    /// crictl on containerd's own socket, past everything in front of it.
    pub fn crictl(&self) -> &Crictl {
        &self.crictl
    }
}

impl Runtime for Containerd {
    fn socket(&self) -> &Path {
        &self.socket
    }
}

/// The configuration of containerd `1.6`, `1.7` or `2`, where `DIR`, `CNI` and `RUNC` stand for the places. The
/// runtime handler `guest` is of a type that nobody knows, and runs pods as runc does.
pub fn configuration(version: &str, pause: &str) -> String {
    let old = version.starts_with("1.");
    let text = [COMMON, if old { PLUGINS_1 } else { PLUGINS_2 }].concat();
    text.replace("VERSION", if old { "2" } else { "3" }).replace("PAUSE", pause)
}

/// What is pulled from a registry called `name` comes from `registry`.
pub fn lead_to(dir: &Path, name: &str, registry: &Registry) {
    let server = format!("http://{}", registry.address());
    let mirror =
        format!("server = \"{server}\"\n[host.\"{server}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    let hosts = dir.join("certs.d").join(name);
    fs::create_dir_all(&hosts).unwrap();
    fs::write(hosts.join("hosts.toml"), mirror).unwrap();
}

/// Pods with a network of their own reach the node and nothing else. `DIR` stands for where addresses are kept.
pub const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "e2e", "plugins": [{"type": "ptp", "ipam":
{"type": "host-local", "subnet": "10.213.0.0/16", "dataDir": "DIR/cni/addresses"}}]}"#;

const COMMON: &str = r#"version = VERSION
root = "DIR/root"
state = "DIR/state"
disabled_plugins = [
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri",
]

[grpc]
address = "DIR/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "DIR/opt"
"#;

/// `restrict_oom_score_adj`: where CAP_SYS_RESOURCE is missing no sandbox starts otherwise.
const PLUGINS_1: &str = r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "PAUSE"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "CNI"
conf_dir = "DIR/cni"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "DIR/certs.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "RUNC"
Root = "DIR/runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.guest]
runtime_type = "io.containerd.guest.v2"
"#;

const PLUGINS_2: &str = r#"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "PAUSE"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "DIR/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["CNI"]
conf_dir = "DIR/cni"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "RUNC"
Root = "DIR/runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.guest]
runtime_type = "io.containerd.guest.v2"
"#;
