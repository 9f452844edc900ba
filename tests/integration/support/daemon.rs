//! The real binary, between a test's client and its runtime.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::client::Client;
use super::until;

pub const CRIVET: &str = env!("CARGO_BIN_EXE_crivet");

/// A folder for one test, with the configuration in it.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::Builder::new().prefix("crivet.").tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn listen(&self) -> PathBuf {
        self.path().join("crivet.sock")
    }

    /// Writes a configuration with these lines beside what every test needs; gives its path.
    pub fn configure(&self, lines: &str) -> PathBuf {
        let at = |name: &str| self.path().join(name).display().to_string();
        let mut text = "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\n".to_owned();
        if !lines.contains("unmatched") {
            text.push_str("unmatched: allow\n");
        }
        writeln!(text, "listen: unix://{}", at("crivet.sock")).unwrap();
        writeln!(text, "runtimeEndpoint: unix://{}", at("runtime.sock")).unwrap();
        writeln!(text, "policyDir: {}", at("policies.d")).unwrap();
        writeln!(text, "stateDir: {}", at("state")).unwrap();
        writeln!(text, "auditLog: {{path: {}}}", at("audit.jsonl")).unwrap();
        text.push_str(lines);
        let _ = std::fs::create_dir(self.path().join("policies.d"));
        let file = self.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// `crivet serve`, running.
pub struct Crivet {
    child: Child,
    listen: PathBuf,
    log: Arc<Mutex<String>>,
}

impl Crivet {
    /// In audit mode.
    pub async fn audit(place: &Place) -> Crivet {
        Crivet::serve(place, "mode: audit\n").await
    }

    /// In enforce mode.
    pub async fn enforce(place: &Place) -> Crivet {
        Crivet::serve(place, "mode: enforce\n").await
    }

    /// With these lines in its configuration; answers when it listens.
    pub async fn serve(place: &Place, lines: &str) -> Crivet {
        let config = place.configure(lines);
        let mut command = Command::new(CRIVET);
        command.arg("serve").arg("--config").arg(config);
        let crivet = Crivet::spawn(place, command);
        until("crivet serves", 20, || crivet.log().contains("serving")).await;
        crivet
    }

    /// Starts a command that runs crivet; does not wait.
    pub fn spawn(place: &Place, command: Command) -> Crivet {
        Crivet::spawn_with_input(place, command, Stdio::null())
    }

    /// As `spawn`, with a standard input.
    pub fn spawn_with_input(place: &Place, mut command: Command, input: Stdio) -> Crivet {
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"] {
            if !command.get_envs().any(|(set, _)| set == name) {
                command.env_remove(name);
            }
        }
        let mut child = command.stdin(input).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let (stderr, kept) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Crivet { child, listen: place.listen(), log }
    }

    pub fn listen(&self) -> &Path {
        &self.listen
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.listen).await
    }

    /// What it has said on standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        send_signal(self.pid(), signal);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("crivet ends", 20, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Crivet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let ended = self.child.wait();
        if std::thread::panicking() {
            println!("crivet ended: {:?}\n{}", ended.map(|s| (s.code(), s.signal())), self.log());
        }
    }
}

pub fn send_signal(pid: u32, signal: &str) {
    // A process that has ended meanwhile is found out by what the test waits for.
    Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap();
}
