//! A node on a prepared tree: its files are real, systemd and the runtime are played.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crivet::node::NodeError;
use crivet::node::api::{Access, Ready};
use crivet::node::host::{Client, Host, Runtime};
use crivet::node::unit::{UnitFile, exec_start, words};

/// Where unit files are, the first wins.
const FOLDERS: [&str; 3] = ["/etc/systemd/system", "/run/systemd/system", "/lib/systemd/system"];

pub struct Fake {
    dir: tempfile::TempDir,
    units: RefCell<BTreeMap<String, Unit>>,
    enabled: RefCell<BTreeSet<String>>,
    next_pid: Cell<u32>,
    clock: Cell<Duration>,
    /// What may still be done before the process is killed.
    left: Cell<Option<u32>>,
    pub version: String,
    pub runtime: Runtime,
    pub sockets: Vec<String>,
    pub pinned: Vec<String>,
    /// A kubelet with this among its flags dies at once.
    pub refused: Cell<&'static str>,
    pub interrupted: Cell<bool>,
    /// Connections to crivet that the kubelet makes at most.
    pub connections: Cell<usize>,
    /// Whether the Node is Ready behind crivet; none if nobody can tell.
    pub ready: Cell<Option<bool>>,
    pub said: RefCell<Vec<String>>,
    pub restarts: Cell<u32>,
}

#[derive(Clone, Default)]
struct Unit {
    active: bool,
    pid: u32,
}

/// The process was killed.
struct Killed;

impl Fake {
    /// systemd, and nothing else.
    pub fn new() -> Self {
        // In memory, if it can be: each step of the journal is synced to disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let fake = Self {
            dir,
            units: RefCell::default(),
            enabled: RefCell::default(),
            next_pid: Cell::new(100),
            clock: Cell::default(),
            left: Cell::new(None),
            version: "Kubernetes v1.34.1".to_owned(),
            runtime: Runtime { name: "containerd".to_owned(), version: "v1.7.28".to_owned() },
            sockets: vec![
                "/run/containerd/containerd.sock".to_owned(),
                "/var/run/containerd/containerd.sock".to_owned(),
            ],
            pinned: Vec::new(),
            refused: Cell::new("nothing"),
            interrupted: Cell::default(),
            connections: Cell::new(2),
            ready: Cell::new(None),
            said: RefCell::default(),
            restarts: Cell::default(),
        };
        fake.write("/etc/os-release", "NAME=\"Debian\"\nID=debian\n");
        fake.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
        for folder in ["/run/systemd/system", "/etc/systemd/system", "/var/lib", "/var/log", "/proc"] {
            fs::create_dir_all(fake.at(folder)).unwrap();
        }
        fake
    }

    /// A kubelet as kubeadm sets it up, in front of containerd.
    pub fn kubeadm() -> Self {
        let fake = Self::new();
        fake.write(
            "/lib/systemd/system/kubelet.service",
            "[Unit]\nDescription=kubelet\n[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\n",
        );
        fake.write(
            "/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "[Service]\nEnvironment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"\n\
             EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nEnvironmentFile=-/etc/default/kubelet\nExecStart=\n\
             ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n",
        );
        fake.write(
            "/var/lib/kubelet/config.yaml",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nhealthzPort: 10248\n\
             containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock\n",
        );
        fake.start("kubelet.service");
        fake
    }

    /// A kubelet in a unit of its own, with these flags.
    pub fn plain(command: &str) -> Self {
        let fake = Self::new();
        fake.write("/lib/systemd/system/kubelet.service", &format!("[Service]\nExecStart={command}\n"));
        fake.start("kubelet.service");
        fake
    }

    /// The same tree and the same state, as another process finds it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: &str) {
        let here = self.at(path);
        fs::create_dir_all(here.parent().unwrap()).unwrap();
        fs::write(here, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    /// The command line of a unit's process.
    pub fn command_line(&self, unit: &str) -> String {
        let pid = self.units.borrow()[unit].pid;
        self.read(&format!("/proc/{pid}/cmdline")).replace('\0', " ").trim().to_owned()
    }

    pub fn is_active(&self, unit: &str) -> bool {
        self.units.borrow().get(unit).is_some_and(|unit| unit.active)
    }

    pub fn is_enabled(&self, unit: &str) -> bool {
        self.enabled.borrow().contains(unit)
    }

    /// Runs something that is killed after so many steps; `None` if it was.
    pub fn killed_after<T>(&self, steps: u32, run: impl FnOnce() -> T) -> Option<T> {
        self.left.set(Some(steps));
        let ended = catch_unwind(AssertUnwindSafe(run));
        self.left.set(None);
        match ended {
            Ok(value) => Some(value),
            Err(panic) if panic.is::<Killed>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn step(&self) {
        match self.left.get() {
            // Without the panic's message: nothing went wrong.
            Some(0) => resume_unwind(Box::new(Killed)),
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
    }

    /// What is in /run is gone, and what is enabled runs.
    pub fn reboot(&self) {
        fs::remove_dir_all(self.at("/run")).unwrap();
        fs::create_dir_all(self.at("/run/systemd/system")).unwrap();
        let units: Vec<_> = self.units.borrow().keys().cloned().collect();
        for unit in units {
            self.stop(&unit);
            if unit == "kubelet.service" || self.enabled.borrow().contains(&unit) {
                self.start(&unit);
            }
        }
    }

    pub fn start(&self, unit: &str) {
        if self.is_active(unit) {
            return;
        }
        let pid = self.next_pid.get() + 1;
        self.next_pid.set(pid);
        let mut command = vec![unit.to_owned()];
        if let Ok(found) = exec_start(unit, &self.files(unit)) {
            let arguments = "--config=/var/lib/kubelet/config.yaml";
            command = words(&found.value.replace("$KUBELET_CONFIG_ARGS", arguments));
        }
        let dies = command.iter().any(|word| word.contains(self.refused.get()));
        self.write(&format!("/proc/{pid}/cmdline"), &(command.join("\0") + "\0"));
        let state = if dies { Unit::default() } else { Unit { active: true, pid } };
        self.units.borrow_mut().insert(unit.to_owned(), state);
    }

    fn stop(&self, unit: &str) {
        if let Some(unit) = self.units.borrow_mut().get_mut(unit) {
            let _ = fs::remove_dir_all(self.at(&format!("/proc/{}", unit.pid)));
            *unit = Unit::default();
        }
    }

    fn paths(&self, unit: &str) -> Vec<PathBuf> {
        let fragment = FOLDERS.iter().map(|folder| Path::new(folder).join(unit));
        let fragment = fragment.into_iter().find(|path| self.exists(path.to_str().unwrap()));
        let mut drop_ins = BTreeMap::new();
        for folder in FOLDERS.iter().rev() {
            let folder = Path::new(folder).join(format!("{unit}.d"));
            for entry in fs::read_dir(self.at(folder.to_str().unwrap())).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "conf") {
                    drop_ins.insert(entry.file_name(), folder.join(entry.file_name()));
                }
            }
        }
        fragment.into_iter().chain(drop_ins.into_values()).collect()
    }

    fn files(&self, unit: &str) -> Vec<UnitFile> {
        let read = |path: PathBuf| UnitFile { text: self.read(path.to_str().unwrap()), path };
        self.paths(unit).into_iter().map(read).collect()
    }

    fn show(&self, unit: &str) -> String {
        let paths = self.paths(unit);
        let loaded = paths.first().is_some_and(|path| path.ends_with(unit));
        let state = self.units.borrow().get(unit).cloned().unwrap_or_default();
        let (fragment, drop_ins) = if loaded { paths.split_at(1) } else { (&[][..], &paths[..]) };
        let joined = |paths: &[PathBuf]| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        format!(
            "LoadState={}\nActiveState={}\nMainPID={}\nUnitFileState={}\nFragmentPath={}\nDropInPaths={}\n",
            if loaded { "loaded" } else { "not-found" },
            if state.active { "active" } else { "inactive" },
            state.pid,
            if self.enabled.borrow().contains(unit) { "enabled" } else { "disabled" },
            joined(fragment),
            joined(drop_ins),
        )
    }

    /// Fails with what differs, if the tree is not as it was.
    pub fn is_as(&self, before: &BTreeMap<PathBuf, String>, when: &str) {
        let now = self.manifest();
        let paths: BTreeSet<_> = now.keys().chain(before.keys()).collect();
        let differs =
            |path: &PathBuf| (before.get(path) != now.get(path)).then(|| (before.get(path), now.get(path)));
        let changed: Vec<_> = paths.into_iter().filter_map(|path| Some((path, differs(path)?))).collect();
        assert!(changed.is_empty(), "{when}: {changed:#?}");
    }

    /// Every file of /etc, /lib and /var: mode and content.
    pub fn manifest(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        for folder in ["etc", "lib", "var"] {
            walk(&self.dir.path().join(folder), &mut all);
        }
        all
    }
}

fn walk(folder: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let metadata = entry.path().symlink_metadata().unwrap();
        let content = if metadata.is_dir() {
            walk(&entry.path(), all);
            String::new()
        } else {
            fs::read_to_string(entry.path()).unwrap_or_default()
        };
        all.insert(entry.path(), format!("{:o} {content}", metadata.permissions().mode()));
    }
}

impl Host for Fake {
    fn path(&self, path: &Path) -> PathBuf {
        self.step();
        self.at(path.to_str().unwrap())
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<String, NodeError> {
        self.step();
        match arguments {
            ["show", "--property", _, unit] => return Ok(self.show(unit)),
            ["daemon-reload"] | ["reset-failed", _] => {}
            ["restart", "--no-block", unit] => {
                self.restarts.set(self.restarts.get() + 1);
                self.stop(unit);
                self.start(unit);
            }
            ["start", units @ ..] => units.iter().for_each(|unit| self.start(unit)),
            ["stop", units @ ..] => units.iter().for_each(|unit| self.stop(unit)),
            ["enable", units @ ..] => {
                for unit in units.iter() {
                    let wants = self.at("/etc/systemd/system/multi-user.target.wants");
                    fs::create_dir_all(&wants).unwrap();
                    let _ = std::os::unix::fs::symlink(unit, wants.join(unit));
                    self.enabled.borrow_mut().insert((*unit).to_owned());
                }
            }
            ["disable", unit] => {
                let wants = self.at("/etc/systemd/system/multi-user.target.wants");
                fs::remove_file(wants.join(unit)).unwrap();
                let _ = fs::remove_dir(wants);
                self.enabled.borrow_mut().remove(*unit);
            }
            other => panic!("systemctl {other:?}"),
        }
        Ok(String::new())
    }

    fn version(&self, program: &Path) -> Result<String, NodeError> {
        assert!(program.is_absolute(), "{program:?}");
        Ok(self.version.clone())
    }

    fn runtime(&self, socket: &Path) -> Result<Runtime, NodeError> {
        let behind_crivet = socket.starts_with("/run/crivet") && self.is_active("crivet.service");
        let known = self.sockets.iter().any(|known| socket == Path::new(known));
        let text = format!("unix://{} does not answer", socket.display());
        if behind_crivet || known { Ok(self.runtime.clone()) } else { Err(NodeError::NotThrough(text)) }
    }

    fn pinned_images(&self, _: &Path) -> Result<Vec<String>, NodeError> {
        Ok(self.pinned.clone())
    }

    fn clients(&self, _: &Path) -> Result<Vec<Client>, NodeError> {
        if !self.is_active("crivet.service") {
            return Err(NodeError::NotThrough("crivet does not answer".to_owned()));
        }
        let kubelet = self.units.borrow()["kubelet.service"].clone();
        let flags = self.read(&format!("/proc/{}/cmdline", kubelet.pid));
        let count = flags.matches("=unix:///run/crivet/").count().min(self.connections.get());
        Ok(vec![Client { pid: kubelet.pid, connected: self.now(), called: true }; count])
    }

    fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String), NodeError> {
        match (address.port(), path) {
            (10248, "/healthz") => Ok((200, "ok".to_owned())),
            _ => Err(NodeError::NotThrough(format!("http://{address}{path} does not answer"))),
        }
    }

    fn node(&self, access: &Access) -> Result<Ready, NodeError> {
        let heartbeat = self.now();
        match self.ready.get() {
            Some(answers) if !access.node.is_empty() => {
                let through = self.command_line("kubelet.service").contains("crivet");
                let ready = answers || !through;
                Ok(Ready { ready, heartbeat, message: "PLEG is not healthy".to_owned() })
            }
            _ => Err(NodeError::NotThrough("the API server does not answer".to_owned())),
        }
    }

    fn program(&self) -> &Path {
        Path::new("/opt/bin/crivet")
    }

    fn now(&self) -> u64 {
        1_800_000_000 + self.clock.get().as_secs()
    }

    fn elapsed(&self) -> Duration {
        self.clock.get()
    }

    fn sleep(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
    }

    fn interrupted(&self) -> bool {
        self.interrupted.get()
    }

    fn say(&self, _: bool, line: &str) {
        self.said.borrow_mut().push(line.to_owned());
    }
}
