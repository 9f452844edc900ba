//! The crivet that was just built, between a client and a runtime.

use super::cosign::Key;
use super::crictl::Crictl;
use super::daemon::Daemon;
use super::peers::Peers;
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What crivet stands in front of.
pub trait Runtime {
    fn socket(&self) -> &Path;

    /// Where crivet listens, in its folder.
    fn listens_at(&self) -> &'static str {
        "crivet.sock"
    }
}

pub struct Crivet {
    daemon: Daemon,
    dir: PathBuf,
    socket: PathBuf,
    crictl: Crictl,
    rust_log: String,
    activation: Activation,
}

/// What a service manager gives to crivet.
#[derive(Default)]
pub struct Activation {
    /// The listening socket; it stays when crivet goes.
    pub socket: Option<UnixListener>,
    pub environment: Vec<(String, OsString)>,
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
    /// Starts `crivet serve` in front of a runtime with one policy file per document. Images without a policy
    /// are denied.
    pub fn start(peers: &Peers, runtime: &impl Runtime, mode: &str, policies: &[String]) -> Self {
        Self::start_with(peers, runtime, mode, policies, "", "info")
    }

    /// As [`Crivet::start`], with more lines for the configuration and the log's filter.
    pub fn start_with(
        peers: &Peers,
        runtime: &impl Runtime,
        mode: &str,
        policies: &[String],
        settings: &str,
        rust_log: &str,
    ) -> Self {
        Self::activated(peers, runtime, mode, policies, settings, rust_log, Activation::default())
    }

    /// As [`Crivet::start_with`], as a service manager starts it.
    pub fn activated(
        peers: &Peers,
        runtime: &impl Runtime,
        mode: &str,
        policies: &[String],
        settings: &str,
        rust_log: &str,
        activation: Activation,
    ) -> Self {
        let dir = Self::dir(peers);
        for sub in ["policies.d", "state"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        write_policies(&dir, policies);
        let socket = dir.join(runtime.listens_at());
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let config = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix://{listen}\n\
             runtimeEndpoint: unix://{runtime}\nmode: {mode}\nunmatched: deny\npolicyDir: {dir}/policies.d\n\
             stateDir: {dir}/state\nauditLog: {{path: {dir}/audit.jsonl}}\n{settings}",
            dir = dir.display(),
            listen = socket.display(),
            runtime = runtime.socket().display(),
        );
        fs::write(dir.join("config.yaml"), config).unwrap();
        let crictl = Crictl::new(peers, &socket);
        let rust_log = rust_log.to_owned();
        let daemon = Self::spawn(peers, &dir, &rust_log, &activation);
        let mut crivet = Self { daemon, dir, socket, crictl, rust_log, activation };
        crivet.wait_ready();
        crivet
    }

    /// Starts a relay that has gone, with the same files.
    pub fn start_again(&mut self, peers: &Peers) {
        self.daemon = Self::spawn(peers, &self.dir, &self.rust_log, &self.activation);
        self.wait_ready();
    }

    /// The folder of its files.
    pub fn dir(peers: &Peers) -> PathBuf {
        peers.path().join("crivet")
    }

    fn spawn(peers: &Peers, dir: &Path, rust_log: &str, activation: &Activation) -> Daemon {
        let config = dir.join("config.yaml");
        let crivet = Path::new(env!("CARGO_BIN_EXE_crivet"));
        let serve = [crivet.as_os_str(), "serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        let mut environment: Vec<_> =
            activation.environment.iter().map(|(name, value)| (name.as_str(), value.as_os_str())).collect();
        environment.push(("RUST_LOG", rust_log.as_ref()));
        let Some(socket) = &activation.socket else {
            return Daemon::start(peers, "crivet", crivet, serve.into_iter().skip(1), &environment);
        };
        // sh makes descriptor 3 of its standard input, and becomes crivet: LISTEN_PID is crivet's own.
        let become_it = "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$@\"";
        let arguments = ["-c".as_ref(), become_it.as_ref(), "sh".as_ref()].into_iter().chain(serve);
        environment.push(("LISTEN_FDS", "1".as_ref()));
        let input = OwnedFd::from(socket.try_clone().unwrap()).into();
        Daemon::start_with_input(peers, "crivet", Path::new("/bin/sh"), arguments, &environment, input)
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
        self.socket.clone()
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
        let vetter = self.vetter().expect("a vetter is running");
        let vetter = rustix::process::Pid::from_raw(vetter).unwrap();
        rustix::process::kill_process(vetter, rustix::process::Signal::KILL).unwrap();
    }

    /// The vetter's process, if there is one.
    pub fn vetter(&self) -> Option<i32> {
        vetter_of(self.pid())
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

/// The only child that a relay ever has.
pub fn vetter_of(relay: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{relay}/task/{relay}/children")).unwrap_or_default();
    children.split_whitespace().next()?.parse().ok()
}
