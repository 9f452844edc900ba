//! The listening socket: handed over by systemd, or bound here.
//!
//! Owner and mode are the runtime's, so that whoever could reach the runtime reaches crivet and nobody else.
//! While the runtime is away the socket is its creator's alone (0600).

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// How often the runtime's socket is looked at for another owner or mode.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The socket systemd handed over, or one bound at `path`.
///
/// # Errors
/// The path is taken by a living server or by something that is no socket, or binding fails.
pub async fn listener(path: &Path) -> io::Result<UnixListener> {
    let mut handed = listenfd::ListenFd::from_env();
    if let Some(socket) = handed.take_unix_listener(0)? {
        socket.set_nonblocking(true)?;
        return UnixListener::from_std(socket);
    }
    bind(path).await
}

/// A socket bound at `path`, its creator's alone (0600). One that nobody answers on is replaced.
///
/// # Errors
/// The path is taken by a living server or by something that is no socket, or binding fails.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    let taken = |what: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {what}", path.display()));
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(taken("is there and is no socket; remove it or listen elsewhere"));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(taken("another server answers there; stop it or listen elsewhere")),
            // Nobody holds it: left over from a crash.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Bound under another name and moved: nobody can connect before the mode is right.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    Ok(listener)
}

/// Gives `path` the owner and mode of the runtime's socket, now and whenever those change.
pub async fn follow_runtime(path: Arc<Path>, runtime: Arc<Path>) {
    let mut last = None;
    loop {
        if let Ok(theirs) = std::fs::metadata(&runtime) {
            let wanted = (theirs.uid(), theirs.gid(), theirs.mode() & 0o777);
            if last != Some(wanted) {
                match adopt(&path, wanted) {
                    Ok(()) => {
                        tracing::info!(uid = wanted.0, gid = wanted.1, mode = %format!("{:o}", wanted.2), "the socket has the runtime's owner and mode")
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the socket cannot be given the runtime's owner and mode")
                    }
                }
                last = Some(wanted);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn adopt(path: &Path, (uid, gid, mode): (u32, u32, u32)) -> io::Result<()> {
    let ours = std::fs::metadata(path)?;
    // Owner first: the mode is never wider than what its owner should have. Giving away takes CAP_CHOWN, which
    // the unit does not have and a runtime of root's does not need.
    if (ours.uid(), ours.gid()) != (uid, gid) {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}
