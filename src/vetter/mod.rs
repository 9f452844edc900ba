//! The other process: its socket, its workers, the order of work.
//!
//! A call's way: [`session`] takes it from the socket, [`vet`] vets each of its images, [`answer`] makes the
//! verdict and the audit records. What it needs of the runtime it asks the relay for ([`node`]); it has no
//! access of its own.

pub mod answer;
pub mod background;
pub mod case;
pub mod credentials;
pub mod evaluator;
pub mod evidence;
pub mod flight;
pub mod identity;
pub mod layouts;
pub mod load;
pub mod logins;
pub mod node;
pub mod node_logins;
pub mod recheck;
pub mod session;
pub mod trouble;
pub mod verifications;
pub mod vet;
pub mod vetting;
pub mod visit;
pub mod wire;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

use crate::limits;

/// Runs the vetter process. Its standard input is its end of the relay's socket pair.
pub fn run() -> ExitCode {
    crate::logging::to_stderr();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the vetter cannot start; it is started by crivet serve, not by hand");
            ExitCode::FAILURE
        }
    }
}

fn start() -> std::io::Result<()> {
    confine();
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr()?;
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        session::serve(tokio::net::UnixStream::from_std(socket)?).await;
        Ok(())
    })
}

/// What the vetter gives up before it reads anything: it is the one to go when memory is short, it can gain no
/// privilege, and it leaves no core dump, which would hold credentials.
fn confine() {
    let memory =
        Rlimit { current: Some(limits::VETTER_MEMORY_BYTES), maximum: Some(limits::VETTER_MEMORY_BYTES) };
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    for (what, result) in [
        ("RLIMIT_DATA", setrlimit(Resource::Data, memory).map_err(std::io::Error::from)),
        ("RLIMIT_CORE", setrlimit(Resource::Core, no_core).map_err(std::io::Error::from)),
        ("no_new_privs", rustix::thread::set_no_new_privs(true).map_err(std::io::Error::from)),
        // A vetter that hangs must not outlive its relay; one that does not ends at the end of its socket.
        ("PDEATHSIG", set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)),
        ("oom_score_adj", std::fs::write("/proc/self/oom_score_adj", "500")),
    ] {
        if let Err(error) = result {
            tracing::warn!(%error, what, "the vetter runs less confined than it should");
        }
    }
}
