//! A machine that boots: Debian with systemd as its first process, in namespaces of its own.
//!
//! It has a network of its own, with nothing but loopback. The test's thread joins it when the machine boots: what
//! is started afterwards (a registry, a request to a port) is on that network too, and nothing of the host is.
//! Kernel, clock and devices are the host's.

use super::daemon::Daemon;
use super::peers::Peers;
use super::scratch::MARK;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Where the real parts are inside, read-only.
pub const PARTS: &str = "/opt/peers";

/// Dropped in this order: the machine goes first, then its network.
pub struct Machine {
    booted: Daemon,
    /// The first process, by its number on the host.
    init: u32,
    dir: PathBuf,
    script: PathBuf,
    lower: PathBuf,
    mark: PathBuf,
    parts: PathBuf,
    boots: usize,
    _network: Daemon,
    outside: File,
    /// The thread that booted it is the one that has to leave its network.
    _not_send: PhantomData<*const ()>,
}

impl Machine {
    /// Boots a fresh machine, and waits until systemd has started all that there is.
    pub fn boot(peers: &Peers) -> Self {
        let lower = peers.programs("machine");
        let dir = peers.path().join("machine");
        fs::create_dir_all(&dir).unwrap();
        let script = dir.join("machine.sh");
        fs::write(&script, include_str!("machine.sh")).unwrap();
        let outside = File::open("/proc/thread-self/ns/net").unwrap();
        let network = network(peers, &lower);
        let parts = peers.programs("machine").parent().unwrap().to_owned();
        let booted = start(peers, &script, &lower, &dir, &parts, 0);
        let mark = peers.path().to_owned();
        let mut machine = Self {
            booted,
            init: 0,
            dir,
            script,
            lower,
            mark,
            parts,
            boots: 1,
            _network: network,
            outside,
            _not_send: PhantomData,
        };
        machine.wait_booted();
        machine
    }

    /// Ends every process at once, as a power cut would, and boots again from the same files. The network stays, with
    /// what else is on it.
    pub fn reboot(&mut self, peers: &Peers) {
        self.power_off();
        self.booted = start(peers, &self.script, &self.lower, &self.dir, &self.parts, self.boots);
        self.boots += 1;
        self.wait_booted();
    }

    fn power_off(&mut self) {
        self.booted.kill();
        let init = PathBuf::from(format!("/proc/{}", self.init));
        super::wait_for("the end of the machine", Duration::from_secs(20), || (!init.exists()).then_some(()));
    }

    fn wait_booted(&mut self) {
        let unshare = self.booted.pid();
        let mut init = 0;
        self.booted.wait_ready(Duration::from_secs(20), || {
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
            init = children.unwrap_or_default().trim().parse().unwrap_or(0);
            fs::read_to_string(format!("/proc/{init}/comm")).is_ok_and(|name| name.trim() == "systemd")
        });
        self.init = init;
        let (mut state, command) = (String::new(), ["systemctl", "is-system-running"]);
        let mut probe = || {
            state = said(&self.run(command));
            ["running", "degraded"].contains(&state.as_str())
        };
        super::wait_for("the machine's boot", Duration::from_secs(60), || probe().then_some(()));
        assert_eq!(state, "running", "{}", said(&self.run(["systemctl", "--failed", "--no-pager"])));
    }

    /// The machine's root folder, with all that is mounted in it, as the host sees it.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }

    /// A path of the machine's, as the host sees it. A socket can be connected to so.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside.trim_start_matches('/'))
    }

    /// A path below `/var/lib/containerd` or `/var/lib/kubelet`, as the host sees it, whether the machine runs or not.
    pub fn kept(&self, inside: &str) -> PathBuf {
        self.dir.join(inside.strip_prefix("/var/lib/").expect("only what is in /var/lib is kept so"))
    }

    /// Copies a file of the host's into the machine; folders are made.
    pub fn push(&self, file: &Path, inside: &str) {
        let to = self.path(inside);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap_or_else(|error| panic!("{} to {inside}: {error}", file.display()));
    }

    /// Writes a file of the machine's; folders are made.
    pub fn write(&self, inside: &str, text: &str) {
        let to = self.path(inside);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, text).unwrap_or_else(|error| panic!("{inside}: {error}"));
    }

    /// A file of the machine's as text.
    pub fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_else(|error| panic!("{inside}: {error}"))
    }

    pub fn exists(&self, inside: &str) -> bool {
        self.path(inside).symlink_metadata().is_ok()
    }

    /// A command that runs inside, as root with an environment of its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--mount", "--pid", "--uts", "--ipc", "--cgroup"])
            .args(["--root", "--wd", "--", program])
            .env_clear()
            .envs([
                ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
                ("HOME", "/root"),
            ])
            .envs([("LC_ALL", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive")])
            .env(MARK, &self.mark);
        command
    }

    /// Runs a command inside to its end, whatever that is.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Output {
        let mut words = command.into_iter();
        let program = words.next().expect("a command has a name");
        let program = program.as_ref().to_str().unwrap();
        self.command(program).args(words).stdin(std::process::Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed; answers with its output, cut at the end.
    pub fn ok<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> String {
        let words: Vec<_> = command.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let output = self.run(&words);
        assert!(output.status.success(), "{words:?}: {}: {}", output.status, said(&output));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Whether a unit is active.
    pub fn is_active(&self, unit: &str) -> bool {
        self.run(["systemctl", "is-active", "--quiet", unit]).status.success()
    }

    /// The main process of a unit, by its number inside; `0` when it has none.
    pub fn main_pid(&self, unit: &str) -> u32 {
        self.ok(["systemctl", "show", "--property=MainPID", "--value", unit]).parse().unwrap()
    }

    /// What a unit has logged since the boot.
    pub fn journal(&self, unit: &str) -> String {
        self.ok(["journalctl", "--boot", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// Writes a unit file, as an administrator would, and has systemd read it.
    pub fn unit(&self, name: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{name}"), text);
        self.ok(["systemctl", "daemon-reload"]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            let journal = self.run(["journalctl", "--boot", "--no-pager", "--output=short-precise"]);
            let _ = fs::write(self.mark.join("logs/journal.log"), journal.stdout);
        }
        self.booted.kill();
        // Its control groups go with the scratch folder, whose name they have.
        let _ = move_into_link_name_space(self.outside.as_fd(), Some(LinkNameSpaceType::Network));
    }
}

/// Both streams of what a command said, cut at the end.
pub fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// A network with loopback and nothing else, held open by a process that does nothing. The thread joins it.
fn network(peers: &Peers, lower: &Path) -> Daemon {
    let script = format!("chroot '{}' ip link set lo up && exec sleep infinity", lower.display());
    let mut holder =
        Daemon::start(peers, "network", Path::new("unshare"), ["--net", "sh", "-c", &script], &[]);
    let comm = format!("/proc/{}/comm", holder.pid());
    holder.wait_ready(Duration::from_secs(10), || {
        fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "sleep")
    });
    let namespace = File::open(format!("/proc/{}/ns/net", holder.pid())).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    holder
}

fn start(peers: &Peers, script: &Path, lower: &Path, dir: &Path, parts: &Path, boot: usize) -> Daemon {
    let name = peers.path().file_name().unwrap();
    let args =
        [script.as_os_str(), "outer".as_ref(), name, lower.as_os_str(), dir.as_os_str(), parts.as_os_str()];
    Daemon::start(peers, &format!("machine-{boot}"), Path::new("sh"), args, &[])
}
