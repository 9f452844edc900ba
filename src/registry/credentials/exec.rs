//! Running a credential provider: the only programs that the daemon runs beside itself, and only if it is told to.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::provider::{Answer, BadAnswer, request};
use super::provider_config::Provider;
use crate::limits::{CREDENTIAL_PROVIDER_BYTES, CREDENTIAL_PROVIDER_SECONDS};

/// Hidden command of crivet's that becomes a provider's program.
pub const COMMAND: &str = "credential-provider";
/// Its exit code where it could not become it (POSIX's shells: found, and cannot be run).
const CANNOT_RUN: u8 = 126;

/// Where the programs are that providers like to call.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Of crivet's own environment: what leads to the network.
const PASSED_ON: [&str; 8] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// How providers are run.
#[derive(Clone, Debug)]
pub struct Runner {
    /// crivet's own program.
    pub crivet: PathBuf,
    /// The folder of the providers' programs.
    pub bin_dir: PathBuf,
    /// As whom; `None`: as whom this process runs.
    pub user: Option<(u32, u32)>,
    /// Killed after that.
    pub timeout: Duration,
}

/// Why a provider gave no login. One line, the same for the same failure, and nothing of what the program said.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    /// It ended without success.
    #[error("it ended with {0}; run it by hand, as the vetter's user, to see why")]
    Ended(ExitStatus),
    /// The kernel would not have its program.
    #[error("its program cannot be run by the vetter's user; correct its owner and mode, or the way to it")]
    CannotRun,
    /// It took too long.
    #[error("it took longer than {0} s (limits::CREDENTIAL_PROVIDER_SECONDS), and was killed")]
    TooSlow(u64),
    /// It said too much.
    #[error(
        "it said more than the limit CREDENTIAL_PROVIDER_BYTES ({CREDENTIAL_PROVIDER_BYTES} bytes), and was killed"
    )]
    TooMuch,
    /// It said something else than logins.
    #[error("{0}")]
    Answer(#[from] BadAnswer),
}

impl Runner {
    /// Of this very program, with the kubelet's time limit.
    pub fn new(bin_dir: PathBuf, user: Option<(u32, u32)>) -> Self {
        let timeout = Duration::from_secs(CREDENTIAL_PROVIDER_SECONDS);
        Self { crivet: PathBuf::from("/proc/self/exe"), bin_dir, user, timeout }
    }

    /// Asks a provider about a repository. When the future is dropped, the program is killed with all it has started.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn run(&self, provider: &Provider, repository: &str) -> Result<Answer, RunError> {
        let asked = request(&provider.api_version, repository);
        let said = match timeout(self.timeout, self.ask(provider, asked)).await {
            Ok(said) => said?,
            Err(_) => return Err(RunError::TooSlow(self.timeout.as_secs())),
        };
        Ok(Answer::read(&said, &provider.api_version, repository)?)
    }

    async fn ask(&self, provider: &Provider, asked: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, RunError> {
        let mut command = Command::new(&self.crivet);
        command
            .arg0("crivet")
            .args([COMMAND, "--"])
            .arg(self.bin_dir.join(&provider.name))
            .args(&provider.args)
            .env_clear()
            .env("PATH", PATH)
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(provider.env.iter().map(|(name, value)| (name, value.reveal())))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it says there may hold what it knows.
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if let Some((uid, gid)) = self.user {
            // With a user, the standard library also empties the supplementary groups.
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().map_err(RunError::Start)?;
        let _group = Group(child.id());
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let tell = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read the question may still answer it.
                let _ = stdin.write_all(&asked).await;
            }
        };
        // As large as may be from the start: a buffer that grows leaves copies behind.
        let mut said = Zeroizing::new(Vec::with_capacity(CREDENTIAL_PROVIDER_BYTES + 1));
        let hear = async {
            let Some(stdout) = stdout else { return Ok(()) };
            let mut stdout = stdout.take(CREDENTIAL_PROVIDER_BYTES as u64 + 1);
            stdout.read_to_end(&mut said).await.map(drop)
        };
        let ((), heard) = futures_util::future::join(tell, hear).await;
        heard.map_err(RunError::Start)?;
        if said.len() > CREDENTIAL_PROVIDER_BYTES {
            return Err(RunError::TooMuch);
        }
        let status = child.wait().await.map_err(RunError::Start)?;
        match status.code() {
            Some(0) => Ok(said),
            Some(code) if code == i32::from(CANNOT_RUN) => Err(RunError::CannotRun),
            _ => Err(RunError::Ended(status)),
        }
    }
}

/// All that a program has started, killed when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = leader {
            // None is left as a rule.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Becomes a provider's program: one that dies with whoever asked it, and can gain no privilege.
pub fn become_program(program: &Path, arguments: &[std::ffi::OsString]) -> ExitCode {
    let confined = set_parent_process_death_signal(Some(Signal::KILL))
        .and_then(|()| rustix::thread::set_no_new_privs(true));
    if confined.is_err() {
        return ExitCode::FAILURE;
    }
    // Comes back only if it fails.
    let _ = std::process::Command::new(program).args(arguments).exec();
    ExitCode::from(CANNOT_RUN)
}
