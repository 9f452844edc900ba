//! CRI-O with all its places in the scratch folder. A CRI-O of the machine is not touched.

use super::containerd::NETWORK;
use super::crictl::Crictl;
use super::crivet::Runtime;
use super::daemon::Daemon;
use super::image::{Image, Pushed};
use super::peers::Peers;
use super::registry::Registry;
use super::scratch::MARK;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Crio {
    daemon: Daemon,
    socket: PathBuf,
    crictl: Crictl,
    pause: Pushed,
    policies: PathBuf,
    store: PathBuf,
}

impl Crio {
    /// Starts CRI-O, which may pull from `registry` and takes its pause image from there. What critest pulls from other
    /// registries comes from there, too.
    pub fn start(peers: &Peers, registry: &Registry) -> Self {
        let pause = Image::says(peers, "pause").push(registry, "pause", "test");
        let dir = peers.path().join("crio");
        // As on a node: a kubelet knows CRI-O by the end of this path.
        let state = peers.path().join("run/crio");
        for folder in [&dir.join("cni"), &dir.join("policies"), &dir.join("hooks"), &state] {
            fs::create_dir_all(folder).unwrap();
        }
        let write = |name: &str, text: &str| {
            fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        write("cni/10-ptp.conflist", &NETWORK.replace("DIR", dir.to_str().unwrap()));
        write("policy.json", TRUSTING);
        let registries = write("registries.conf", &registries(registry));
        // The machine's own would be read otherwise.
        let storage =
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"DIR/root\"\nrunroot = \"DIR/runroot\"\n";
        let storage = write("storage.conf", &storage.replace("DIR", dir.to_str().unwrap()));
        let runc = write("runc", &RUNC.replace("RUNC", peers.program("runc").to_str().unwrap()));
        fs::set_permissions(&runc, fs::Permissions::from_mode(0o755)).unwrap();
        let text = CONFIGURATION
            .replace("PAUSE", &pause.reference)
            .replace("STATE", state.to_str().unwrap())
            .replace("MARK", &format!("{MARK}={}", peers.path().display()))
            .replace("CNI", peers.programs("cni").to_str().unwrap())
            .replace("CONMON", peers.program("conmon").to_str().unwrap())
            .replace("PINNS", peers.program("pinns").to_str().unwrap())
            .replace("DIR", dir.to_str().unwrap());
        let config = write("crio.conf", &text);
        let socket = state.join("crio.sock");
        let crictl = Crictl::new(peers, &socket);
        let daemon = Daemon::start(
            peers,
            "crio",
            &peers.program("crio"),
            [
                OsStr::new("--config"),
                config.as_os_str(),
                "--config-dir".as_ref(),
                "".as_ref(),
                "--registries-conf".as_ref(),
                registries.as_ref(),
                "--registries-conf-dir".as_ref(),
                dir.join("registries.conf.d").as_ref(),
            ],
            // The machine's own logins and registries.d would be read otherwise.
            &[("CONTAINERS_STORAGE_CONF", storage.as_ref()), ("HOME", dir.join("home").as_ref())],
        );
        let mut crio =
            Self { daemon, socket, crictl, pause, policies: dir.join("policies"), store: dir.join("root") };
        let crictl = crio.crictl.clone();
        crio.daemon.wait_ready(Duration::from_secs(30), || crictl.run(["version"]).is_ok());
        crio
    }

    /// The same, and CRI-O looks for signatures where cosign leaves them.
    pub fn start_looking_for_signatures(peers: &Peers, registry: &Registry) -> Self {
        let folder = peers.path().join("crio/home/.config/containers/registries.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cosign.yaml"), "default-docker:\n  use-sigstore-attachments: true\n").unwrap();
        Self::start(peers, registry)
    }

    /// The folder of its store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Changes one of the lists of its store behind its back.
    pub fn change_store(&self, list: &str, change: impl FnOnce(&mut Value)) {
        let path = self.store.join(list);
        let mut found: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut found);
        fs::write(path, found.to_string()).unwrap();
    }

    /// The file that its store keeps a document of an image in, by the IDs and digests with their `sha256:`.
    pub fn document(&self, image: &str, key: &str) -> PathBuf {
        let folder = self.store.join("overlay-images").join(image.trim_start_matches("sha256:"));
        folder.join(format!("={}", STANDARD.encode(key)))
    }

    /// The folder with a policy file for each namespace.
    pub fn policies(&self) -> &Path {
        &self.policies
    }

    /// The image that every sandbox is made of.
    pub fn pause(&self) -> &Pushed {
        &self.pause
    }

    /// crictl on CRI-O's own socket, past everything in front of it.
    pub fn crictl(&self) -> &Crictl {
        &self.crictl
    }
}

impl Runtime for Crio {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn listens_at(&self) -> &'static str {
        "run/crio/crio.sock"
    }
}

/// What CRI-O's registries.conf says so that `registry` may be pulled from, and answers for others.
pub fn registries(registry: &Registry) -> String {
    let names = [registry.address(), "registry.k8s.io", "gcr.io"];
    let tables = names.map(|name| {
        format!("[[registry]]\nprefix = \"{name}\"\nlocation = \"{}\"\ninsecure = true\n", registry.address())
    });
    tables.concat()
}

/// The policy of a node whose CRI-O asks for no signatures.
pub const TRUSTING: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Where CAP_SYS_RESOURCE is missing no container starts with a lower oom_score_adj than this process has, and where
/// there is no hugetlb controller none with a limit of huge pages, which every kubelet sets. CRI-O has no setting for
/// either. `RUNC` stands for the real one.
pub const RUNC: &str = r#"#!/bin/sh
previous=
for word; do
    case $previous in
    -b | --bundle)
        sed -z -i 's/"oomScoreAdj": *-*[0-9][0-9]*/"oomScoreAdj":0/; s/"hugepageLimits": *\[[^]]*\]/"hugepageLimits":[]/' \
            "$word/config.json"
        ;;
    esac
    previous=$word
done
exec RUNC "$@"
"#;

/// `DIR`, `STATE`, `CNI`, `CONMON`, `PINNS` stand for places, `PAUSE` for the pause image, `MARK` for a variable of
/// conmon's environment. `monitor_cgroup`: with cgroupfs only this is allowed. `disable_hostport_mapping`: it wants iptables or nft at its start
/// otherwise.
pub const CONFIGURATION: &str = r#"[crio]
root = "DIR/root"
runroot = "DIR/runroot"
storage_driver = "overlay"
log_dir = "DIR/logs"
version_file = "STATE/version"
version_file_persist = "DIR/version"
clean_shutdown_file = "DIR/clean.shutdown"

[crio.api]
listen = "STATE/crio.sock"

[crio.runtime]
cgroup_manager = "cgroupfs"
selinux = false
apparmor_profile = "unconfined"
pinns_path = "PINNS"
namespaces_dir = "STATE/ns"
container_exits_dir = "STATE/exits"
container_attach_socket_dir = "STATE/attach"
irqbalance_config_restore_file = "disable"
hooks_dir = []
disable_hostport_mapping = true
enable_criu_support = false
default_runtime = "runc"

[crio.runtime.runtimes.runc]
runtime_path = "DIR/runc"
runtime_type = "oci"
runtime_root = "STATE/runc"
monitor_path = "CONMON"
monitor_cgroup = "pod"
monitor_env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "MARK"]

[crio.image]
pause_image = "PAUSE"
pause_command = ""
signature_policy = "DIR/policy.json"
signature_policy_dir = "DIR/policies"

[crio.network]
network_dir = "DIR/cni"
plugin_dirs = ["CNI"]

[crio.nri]
enable_nri = false
"#;
