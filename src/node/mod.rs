//! `crivet node`: puts crivet in front of the runtime, and takes it away again.
//!
//! One mechanism for every kind of node: a drop-in of the unit that runs the kubelet, which repeats the unit's own
//! `ExecStart=` and appends the endpoint flags; the last flag wins. No file of anybody else's is edited. While it is on
//! trial the drop-in is in /run, so that a reboot takes it back; it goes to /etc when the kubelet has come through.
//!
//! Everything that is done is written into the [`journal`] before it is done, with what was there before.

pub mod api;
pub mod apply;
pub mod check;
pub mod checks;
pub mod detect;
pub mod host;
pub mod journal;
pub mod plan;
pub mod status;
pub mod unit;

use std::io;
use std::path::PathBuf;

use crate::kubelet::KubeletError;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// This kind of node is not supported.
    #[error("not supported here: {0}")]
    Unsupported(String),
    /// What was found is not what it must be before anything is changed.
    #[error("{0}")]
    Refused(String),
    /// The operating system's error.
    #[error("{}: {error}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// A program failed, took too long or could not be run.
    #[error("`{command}` failed: {said}")]
    Program {
        /// The command line.
        command: String,
        /// What it said, in one line.
        said: String,
    },
    /// A part of the node did not answer as it must.
    #[error("{0}")]
    NotThrough(String),
}

impl From<KubeletError> for NodeError {
    fn from(error: KubeletError) -> NodeError {
        match error {
            KubeletError::Endpoint(_) => NodeError::Unsupported(error.to_string()),
            KubeletError::Configuration { .. } | KubeletError::File(_) => {
                NodeError::Refused(error.to_string())
            }
        }
    }
}

pub(crate) fn at(path: &std::path::Path) -> impl Fn(io::Error) -> NodeError + '_ {
    move |error| NodeError::File { path: path.to_owned(), error }
}
