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
}

/// A policy document that wants a signature by `key` on the images of `glob`.
pub fn key_policy(name: &str, glob: &str, key: &Key) -> String {
    let pem: String = key.public.lines().map(|line| format!("          {line}\n")).collect();
    format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         images: [\"{glob}\"]\n  requirements:\n    keys:\n      - data: |\n{pem}"
    )
}

impl Crivet {
    /// Starts `crivet serve` in front of containerd with one policy file per document. Images without a policy
    /// are denied.
    pub fn start(peers: &Peers, containerd: &Containerd, mode: &str, policies: &[String]) -> Self {
        let dir = peers.path().join("crivet");
        for sub in ["policies.d", "state"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        for (number, policy) in policies.iter().enumerate() {
            fs::write(dir.join(format!("policies.d/{number}.yaml")), policy).unwrap();
        }
        let config = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nlisten: unix://{dir}/crivet.sock\n\
             runtimeEndpoint: unix://{runtime}\nmode: {mode}\nunmatched: deny\npolicyDir: {dir}/policies.d\n\
             stateDir: {dir}/state\nauditLog: {{path: {dir}/audit.jsonl}}\n",
            dir = dir.display(),
            runtime = containerd.socket().display(),
        );
        fs::write(dir.join("config.yaml"), config).unwrap();
        let crictl = Crictl::new(peers, &dir.join("crivet.sock"));
        let mut crivet = Self { daemon: Self::spawn(peers, &dir), dir, crictl };
        crivet.wait_ready();
        crivet
    }

    /// Starts a relay that has gone, with the same files.
    pub fn start_again(&mut self, peers: &Peers) {
        self.daemon = Self::spawn(peers, &self.dir);
        self.wait_ready();
    }

    fn spawn(peers: &Peers, dir: &Path) -> Daemon {
        let config = dir.join("config.yaml");
        let program = Path::new(env!("CARGO_BIN_EXE_crivet"));
        Daemon::start(
            peers,
            "crivet",
            program,
            ["serve".as_ref(), "--config".as_ref(), config.as_os_str()],
            &[],
        )
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

    /// The audit records so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("an audit record is JSON")).collect()
    }
}
