//! Where the real parts are, and whether they can be used here.

use super::scratch::Scratch;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// One test at a time: the parts share loopback ports' numbers, cgroups and two cores.
static TURN: Mutex<()> = Mutex::new(());

/// The unpacked parts and a scratch folder. A test makes this first, so that it is dropped last.
pub struct Peers {
    dir: PathBuf,
    scratch: Scratch,
    _turn: MutexGuard<'static, ()>,
}

impl Peers {
    /// The parts, or `None` after saying that the test was skipped and why. With `CRIVET_E2E=required`, as
    /// `make e2e` sets it for root, what is missing fails the test instead.
    pub fn get() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = std::env::var_os("CRIVET_PEERS").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/crivet/peers"),
            PathBuf::from,
        );
        let reason = if !rustix::process::geteuid().is_root() {
            "containers need root".to_owned()
        } else if !dir.join("versions.txt").exists() || !dir.join("bin/kubelet").exists() {
            format!("the real parts are not in {}", dir.display())
        } else {
            return Some(Self { dir, scratch: Scratch::new(), _turn: turn });
        };
        let advice = format!("{reason}; run make peers, then make e2e as root");
        assert!(std::env::var_os("CRIVET_E2E").is_none_or(|v| v != "required"), "{advice}");
        // Past the test runner's capture: a skipped test must not look like one that ran.
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        let _ = writeln!(std::io::stderr(), "skipped: {name}: {advice}");
        None
    }

    /// The path of a program, by the name it has in the cache's `bin`.
    pub fn program(&self, name: &str) -> PathBuf {
        let path = self.dir.join("bin").join(name);
        assert!(path.exists(), "{} is missing; run make peers", path.display());
        path
    }

    /// A folder of programs: `containerd-1.6`, `containerd-1.7`, `containerd-2` with their shims, or `cni`.
    pub fn programs(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        assert!(path.exists(), "{} is missing; run make peers", path.display());
        path
    }

    /// A program that checks or packs, and is no part of a node.
    pub fn tool(&self, name: &str) -> PathBuf {
        let path = self.dir.join("tools/bin").join(name);
        assert!(path.exists(), "{} is missing; run make tools", path.display());
        path
    }

    /// This test's scratch folder.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }
}
