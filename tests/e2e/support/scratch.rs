//! A folder for one test, and the way to leave nothing of it behind: processes, mounts, control groups and
//! the few files that the real parts write outside of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Every process started for a test carries the folder's path in this variable, shims included.
pub const MARK: &str = "CRIVET_E2E_SCRATCH";
const PREFIX: &str = "crivet-e2e.";
/// Where shims put their sockets, whatever containerd's state folder is.
const SHIM_SOCKETS: &str = "unix:///run/containerd/s/";
/// Where the kubelet links container logs, whatever its root folder is.
const CONTAINER_LOG_LINKS: &str = "/var/log/containers";

pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        SWEEP.call_once(remove_abandoned);
        // Short, because a unix socket's path may have 107 bytes.
        let name = format!("{PREFIX}{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("logs")).unwrap();
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            keep_logs(&self.path);
        }
        remove(&self.path);
    }
}

fn keep_logs(scratch: &Path) {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(scratch.file_name().unwrap());
    let copied =
        Command::new("cp").arg("-r").arg(scratch.join("logs")).arg(&kept).status().is_ok_and(|s| s.success());
    if copied {
        eprintln!("the logs of the parts are in {}", kept.display());
    }
}

/// Clears what a test run that was killed has left.
fn remove_abandoned() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(owner) =
            name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.split('.').next())
        else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            remove(&entry.path());
        }
    }
}

fn remove(scratch: &Path) {
    let (bundles, crio_cgroups) = (bundles(scratch), crio_cgroups(scratch));
    remove_shim_sockets(&bundles);
    kill_processes(scratch);
    unmount(scratch);
    for cgroup in cgroups(&bundles).into_iter().chain(crio_cgroups) {
        remove_cgroup(&cgroup);
    }
    for cgroup in hierarchies().iter().map(|dir| dir.join(scratch.file_name().unwrap())) {
        remove_cgroups_below(&cgroup);
    }
    remove_log_links(scratch);
    if let Err(error) = fs::remove_dir_all(scratch) {
        eprintln!("{} could not be removed: {error}", scratch.display());
    }
}

/// Kills all that belong to the folder, until there are none.
fn kill_processes(scratch: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let found = processes(scratch);
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in found {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn processes(scratch: &Path) -> Vec<i32> {
    let path = scratch.to_str().unwrap();
    let mark = format!("{MARK}={path}");
    let belongs = |pid: &i32| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let environ = fs::read(proc.join("environ")).unwrap_or_default();
        let marked = environ.split(|&b| b == 0).any(|v| v == mark.as_bytes());
        // A container's own processes have its environment, but stand on a root file system of ours.
        marked || fs::read_to_string(proc.join("mountinfo")).is_ok_and(|mounts| root_is_under(&mounts, path))
    };
    let me = i32::try_from(std::process::id()).unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != me && !is_zombie(pid))
        .filter(belongs)
        .collect()
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')))
}

fn root_is_under(mountinfo: &str, path: &str) -> bool {
    mountinfo.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(path))
}

/// What containerd keeps of each container that it runs; the folder's name is the container's ID.
fn bundles(scratch: &Path) -> Vec<PathBuf> {
    let tasks = scratch.join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    fs::read_dir(tasks).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The control groups of these containers: in each version 1 hierarchy, or in the one of version 2.
fn cgroups(bundles: &[PathBuf]) -> Vec<PathBuf> {
    let hierarchies = hierarchies();
    let ids = bundles.iter().filter_map(|bundle| bundle.file_name());
    ids.flat_map(|id| hierarchies.iter().map(move |dir| dir.join("k8s.io").join(id)))
        .filter(|dir| dir.exists())
        .collect()
}

/// The control groups of the containers that CRI-O keeps, and of what watches each, under those that a pod here may be in.
fn crio_cgroups(scratch: &Path) -> Vec<PathBuf> {
    let kept = fs::read_dir(scratch.join("crio/runroot/overlay-containers")).into_iter().flatten().flatten();
    let names = kept.filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<_> = names.flat_map(|id| [format!("crio-{id}"), format!("crio-conmon-{id}")]).collect();
    if names.is_empty() {
        return Vec::new();
    }
    // Where a pod names no parent, CRI-O makes one of its own; it goes last, if nobody else uses it.
    let (hierarchies, own) = (hierarchies(), |dir: &PathBuf| dir.join("crio"));
    let parents = hierarchies.iter().flat_map(|dir| [dir.clone(), dir.join("k8s.io"), own(dir)]);
    let below = parents.flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    below.chain(hierarchies.iter().map(own)).filter(|dir| dir.exists()).collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).chain([top.to_owned()]).collect()
}

/// What a machine that was booted has made, the innermost first.
fn remove_cgroups_below(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups_below(&entry.path());
        }
    }
    remove_cgroup(cgroup);
}

fn remove_cgroup(cgroup: &Path) {
    // Busy for a moment after its last process has gone.
    for _ in 0..50 {
        match fs::remove_dir(cgroup) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

fn unmount(scratch: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let under =
        mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|m| Path::new(m).starts_with(scratch));
    let mut under: Vec<_> = under.collect();
    under.reverse();
    for mount in under {
        let _ = Command::new("umount").arg("-l").arg(mount).status();
    }
}

fn remove_shim_sockets(bundles: &[PathBuf]) {
    for bundle in bundles {
        for file in ["address", "bootstrap.json"] {
            let text = fs::read_to_string(bundle.join(file)).unwrap_or_default();
            if let Some((_, rest)) = text.split_once(SHIM_SOCKETS) {
                let socket: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
                let _ = fs::remove_file(format!("/run/containerd/s/{socket}"));
            }
        }
    }
}

fn remove_log_links(scratch: &Path) {
    for link in fs::read_dir(CONTAINER_LOG_LINKS).into_iter().flatten().flatten() {
        if fs::read_link(link.path()).is_ok_and(|target| target.starts_with(scratch)) {
            let _ = fs::remove_file(link.path());
        }
    }
}
