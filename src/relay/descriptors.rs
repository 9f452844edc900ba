//! File descriptors: how many this process may have, and a few kept back for what must go on when there are none left:
//! starting the vetter, reaching the runtime, reading break-glass.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixStream;

use crate::limits;

/// Descriptors that stand for nothing. They are taken at start, so they have low numbers: a limit that is lowered
/// later leaves these usable. A process has one table of descriptors, hence one reserve.
static RESERVE: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Raises the soft limit to what crivet's own limits may need, and takes the reserve. Answers with how many client
/// connections there is room for.
pub fn prepare() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limits::DESCRIPTORS.min(limit.maximum.unwrap_or(u64::MAX));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, wanted, "the limit of file descriptors cannot be raised (RLIMIT_NOFILE)");
        }
    }
    refill();
    let usable = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(usable).unwrap_or(usize::MAX).saturating_sub(limits::OWN_DESCRIPTORS)
        / limits::CONNECTION_DESCRIPTORS;
    if room < limits::CONNECTIONS {
        tracing::warn!(
            limit = usable,
            connections = room,
            "few file descriptors: fewer client connections at once; raise LimitNOFILE (RLIMIT_NOFILE)"
        );
    }
    room.clamp(1, limits::CONNECTIONS)
}

/// Fills the reserve, as far as there are descriptors.
pub fn refill() {
    let mut reserve = lock();
    while reserve.len() < limits::RESERVED_DESCRIPTORS {
        match File::open("/dev/null") {
            Ok(file) => reserve.push(file),
            Err(_) => return,
        }
    }
}

/// Does what needs descriptors; once more with the reserve given up, if it failed for want of any. The reserve fills
/// again by [`refill`].
pub fn or_from_reserve<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_for_want_of_any: impl Fn(&E) -> bool,
) -> Result<T, E> {
    match attempt() {
        Err(error) if is_for_want_of_any(&error) && give_up() => attempt(),
        result => result,
    }
}

/// Connects to the runtime, from the reserve if need be.
///
/// # Errors
/// As for any socket.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    match UnixStream::connect(socket).await {
        Err(error) if are_exhausted(&error) && give_up() => UnixStream::connect(socket).await,
        result => result,
    }
}

/// The process or the machine has no descriptor left.
pub fn are_exhausted(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// Gives the reserve up; `false` if there was none.
pub fn give_up() -> bool {
    let given = std::mem::take(&mut *lock());
    !given.is_empty()
}

fn lock() -> std::sync::MutexGuard<'static, Vec<File>> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}
