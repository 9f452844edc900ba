//! The crivet that was just built, between a client and containerd.

use super::containerd::Containerd;
use super::cosign::Key;
use super::crictl::Crictl;
use super::daemon::Daemon;
use super::peers::Peers;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Crivet {
    daemon: Daemon,
    dir: PathBuf,
    crictl: Crictl,
    rust_log: String,
}

/// A policy document that wants a signature by `key` on the images of `glob`.
pub fn key_policy(name: &str, glob: &str, key: &Key) -> String {
    policy(name, glob, &signed_by(key))
}

/// A policy document for the images of `glob` with these further lines of its `spec`.
pub fn policy(name: &str, glob: &str, spec: &str) -> String {
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         images: [\"{glob}\"]\n{spec}"
    )
}

/// Lines of a `spec` that ask for a signature by `key`.
pub fn signed_by(key: &Key) -> String {
    let pem: String = key.public.lines().map(|line| format!("          {line}\n")).collect();
    format!("  requirements:\n    keys:\n      - data: |\n{pem}")
}

fn write_policies(dir: &Path, policies: &[String]) {
    for (number, policy) in policies.iter().enumerate() {
        fs::write(dir.join(format!("policies.d/{number}.yaml")), policy).unwrap();
    }
}

impl Crivet {
    /// Starts `crivet serve` in front of containerd with one policy file per document. Images without a policy
    /// are denied.
    pub fn start(peers: &Peers, containerd: &Containerd, mode: &str, policies: &[String]) -> Self {
        Self::start_with(peers, containerd, mode, policies, "", "info")
    }

    /// As [`Crivet::start`], with more lines for the configuration and the log's filter.
    pub fn start_with(
        peers: &Peers,
        containerd: &Containerd,
        mode: &str,
        policies: &[String],
        settings: &str,
        rust_log: &str,
    ) -> Self {
        let dir = peers.path().join("crivet");
        for sub in ["policies.d", "state"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        write_policies(&dir, policies);
        let config = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix://{dir}/crivet.sock\n\
             runtimeEndpoint: unix://{runtime}\nmode: {mode}\nunmatched: deny\npolicyDir: {dir}/policies.d\n\
             stateDir: {dir}/state\nauditLog: {{path: {dir}/audit.jsonl}}\n{settings}",
            dir = dir.display(),
            runtime = containerd.socket().display(),
        );
        fs::write(dir.join("config.yaml"), config).unwrap();
        let crictl = Crictl::new(peers, &dir.join("crivet.sock"));
        let rust_log = rust_log.to_owned();
        let mut crivet = Self { daemon: Self::spawn(peers, &dir, &rust_log), dir, crictl, rust_log };
        crivet.wait_ready();
        crivet
    }

    /// Starts a relay that has gone, with the same files.
    pub fn start_again(&mut self, peers: &Peers) {
        self.daemon = Self::spawn(peers, &self.dir, &self.rust_log);
        self.wait_ready();
    }

    fn spawn(peers: &Peers, dir: &Path, rust_log: &str) -> Daemon {
        let config = dir.join("config.yaml");
        let program = Path::new(env!("CARGO_BIN_EXE_crivet"));
        Daemon::start(
            peers,
            "crivet",
            program,
            ["serve".as_ref(), "--config".as_ref(), config.as_os_str()],
            &[("RUST_LOG", rust_log.as_ref())],
        )
    }

    /// Exchanges the policies, one file per document, and waits until they are in force.
    pub fn put_policies(&self, policies: &[String]) {
        fs::remove_dir_all(self.dir.join("policies.d")).unwrap();
        fs::create_dir(self.dir.join("policies.d")).unwrap();
        write_policies(&self.dir, policies);
        self.reload();
    }

    /// Has configuration and policies read anew: every permit the relay holds is void.
    pub fn reload(&self) {
        let taken_over = || self.daemon.log().matches("the vetter is ready").count();
        let before = taken_over();
        let relay = rustix::process::Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(relay, rustix::process::Signal::HUP).unwrap();
        super::wait_for("the reload", Duration::from_secs(10), || (taken_over() > before).then_some(()));
    }

    /// All that relay and vetter have logged so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    fn wait_ready(&mut self) {
        let crictl = self.crictl.clone();
        self.daemon.wait_ready(Duration::from_secs(20), || crictl.run(["version"]).is_ok());
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("crivet.sock")
    }

    /// crictl through crivet.
    pub fn crictl(&self) -> &Crictl {
        &self.crictl
    }

    /// The relay's process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Ends relay and vetter in order; answers with the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.daemon.stop()
    }

    /// Ends relay and vetter at once, as a crash would.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Ends the vetter, which the relay starts anew.
    pub fn kill_vetter(&self) {
        let relay = self.pid();
        let children = fs::read_to_string(format!("/proc/{relay}/task/{relay}/children")).unwrap();
        let vetter = children.split_whitespace().next().expect("a vetter is running").parse().unwrap();
        let vetter = rustix::process::Pid::from_raw(vetter).unwrap();
        rustix::process::kill_process(vetter, rustix::process::Signal::KILL).unwrap();
    }

    /// Runs a command of crivet's with this daemon's configuration; answers with its exit code and the JSON it prints.
    pub fn json(&self, command: &str, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_crivet"))
            .args([command, "-o", "json", "--config"])
            .arg(self.dir.join("config.yaml"))
            .args(arguments)
            .output()
            .unwrap();
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            panic!("{command} says {}{}", text(&output.stdout), text(&output.stderr))
        });
        (output.status.code(), said)
    }

    /// The audit records so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("an audit record is JSON")).collect()
    }
}
