//! The control socket as commands see it: how they ask a running daemon. The daemon's end is `relay::control`.

mod client;
pub mod wire;

pub use client::{Control, ControlError};

use std::path::{Path, PathBuf};

/// The control socket, in the daemon's runtime folder (`Endpoint::runtime_dir`).
pub fn socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("control.sock")
}
