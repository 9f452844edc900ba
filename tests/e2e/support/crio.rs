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
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Crio {
    daemon: Daemon,
    socket: PathBuf,
    crictl: Crictl,
    pause: Pushed,
    policies: PathBuf,
    store: PathBuf,
    /// Its configuration, without runtime handlers that were added.
    written: String,
    config: PathBuf,
}

impl Crio {
    /// Starts CRI-O, which may pull from `registry` and takes its pause image from there. What critest pulls from other
    /// registries comes from there, too.
    pub fn start(peers: &Peers, registry: &Registry) -> Self {
        Self::start_storing(peers, registry, "")
    }

    /// The same, and it pulls what it can in part; what it cannot it unpacks in the same way.
    pub fn start_pulling_in_part(peers: &Peers, registry: &Registry) -> Self {
        let options = "pull_options = {enable_partial_images = \"true\", convert_images = \"true\"}\n";
        Self::start_storing(peers, registry, options)
    }

    /// With these options of its store.
    fn start_storing(peers: &Peers, registry: &Registry, options: &str) -> Self {
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
        write("registries.conf", &registries(registry));
        // The machine's own would be read otherwise.
        let storage =
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"DIR/root\"\nrunroot = \"DIR/runroot\"\n";
        let storage =
            format!("{}[storage.options]\n{options}", storage.replace("DIR", dir.to_str().unwrap()));
        write("storage.conf", &storage);
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
        let daemon = Self::spawn(peers);
        let (policies, store) = (dir.join("policies"), dir.join("root"));
        let mut crio = Self { daemon, socket, crictl, pause, policies, store, written: text, config };
        crio.wait_ready();
        crio
    }

    /// The same, and CRI-O looks for signatures where cosign leaves them.
    pub fn start_looking_for_signatures(peers: &Peers, registry: &Registry) -> Self {
        let folder = peers.path().join("crio/home/.config/containers/registries.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cosign.yaml"), "default-docker:\n  use-sigstore-attachments: true\n").unwrap();
        Self::start(peers, registry)
    }

    /// A runtime handler that does what runc does, in lines of its configuration.
    pub fn like_runc(&self) -> String {
        let runc = self.written.split_once("[crio.runtime.runtimes.runc]").unwrap().1;
        runc.split_once("[crio.image]").unwrap().0.to_owned()
    }

    /// Adds a runtime handler with these lines to those that it has by itself, instead of one that was added before. It is in force when it
    /// has been started anew.
    pub fn write_handler(&self, name: &str, lines: &str) {
        let table = format!("[crio.runtime.runtimes.{name}]\n{lines}");
        fs::write(&self.config, format!("{}\n{table}\n", self.written)).unwrap();
    }

    /// Has it read its configuration anew, until it says this handler's first line.
    pub fn reload_handler(&self, name: &str, lines: &str) {
        let pid = rustix::process::Pid::from_raw(self.daemon.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        let first = lines.trim().lines().next().unwrap();
        super::wait_for("the handler", Duration::from_secs(20), || {
            let said = self.says_it_is_configured();
            let (_, handler) = said.split_once(&format!("[crio.runtime.runtimes.{name}]"))?;
            handler.split('[').next()?.contains(first).then_some(())
        });
    }

    /// Ends it in order, and starts it again with the same files.
    pub fn restart(&mut self, peers: &Peers) {
        self.daemon.stop();
        self.daemon = Self::spawn(peers);
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let crictl = self.crictl.clone();
        self.daemon.wait_ready(Duration::from_secs(30), || crictl.run(["version"]).is_ok());
    }

    fn spawn(peers: &Peers) -> Daemon {
        let at = |name: &str| peers.path().join("crio").join(name);
        Daemon::start(
            peers,
            "crio",
            &peers.program("crio"),
            [
                OsStr::new("--config"),
                at("crio.conf").as_os_str(),
                "--config-dir".as_ref(),
                "".as_ref(),
                "--registries-conf".as_ref(),
                at("registries.conf").as_ref(),
                "--registries-conf-dir".as_ref(),
                at("registries.conf.d").as_ref(),
            ],
            // The machine's own logins and registries.d would be read otherwise.
            &[("CONTAINERS_STORAGE_CONF", at("storage.conf").as_ref()), ("HOME", at("home").as_ref())],
        )
    }

    /// What it says over HTTP that its configuration is.
    pub fn says_it_is_configured(&self) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(b"GET /config HTTP/1.1\r\nHost: crio\r\nConnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
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
