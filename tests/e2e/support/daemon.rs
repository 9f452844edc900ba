//! A long-running process with a log, started for one test.

use super::peers::Peers;
use super::scratch::MARK;
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program in a process group of its own with its output in the scratch folder's
    /// `logs/<name>.log`. It dies with the thread that started it, so a killed test run leaves none behind.
    pub fn start<S: AsRef<OsStr>>(
        peers: &Peers,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &OsStr)],
    ) -> Self {
        Self::start_with_input(peers, name, program, args, env, std::process::Stdio::null())
    }

    /// As [`Daemon::start`], with a standard input.
    pub fn start_with_input<S: AsRef<OsStr>>(
        peers: &Peers,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &OsStr)],
        input: std::process::Stdio,
    ) -> Self {
        let log = peers.path().join("logs").join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .env(MARK, peers.path())
            .envs(env.iter().copied())
            .stdin(input)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Waits until `probe` says yes; panics with the end of the log if the process ends first or takes too long.
    pub fn wait_ready(&mut self, limit: Duration, mut probe: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !probe() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status} before it was ready:\n{}", self.name, self.log_end());
            }
            assert!(Instant::now() < deadline, "{} not ready in {limit:?}:\n{}", self.name, self.log_end());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// All that the process has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process group with SIGTERM and, 10 s later, SIGKILL; answers with the exit code, if it had one.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        None
    }

    /// Ends the process group at once, as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    fn signal(&mut self, signal: Signal) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let group = Pid::from_child(&self.child);
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
