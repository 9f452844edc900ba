//! Waiting for a disk. One that hangs holds up no call: the relay has one thread for them all.

use std::fmt::Display;

/// Does work that may wait for a disk on a thread of its own.
///
/// # Errors
/// The work's, or that it came to no end; one line.
pub async fn wait_for<E: Display + Send + 'static>(
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(fault) => Err(fault.to_string()),
    }
}
