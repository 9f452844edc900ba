//! Why something could not be decided: each keeps what the answer's prefix depends on.

use crate::image::WalkError;
use crate::registry::FetchError;
use crate::verify::SignatureManifestError;

/// Why an image is undecided. One deterministic line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The registry did not give what was needed.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The walk from digest to image ID came to no end.
    #[error("{0}")]
    Walk(#[from] WalkError),
    /// The signatures' manifest could not be read.
    #[error("{0}")]
    Signatures(#[from] SignatureManifestError),
    /// The runtime could not be asked.
    #[error("{0}")]
    Runtime(String),
    /// The call itself does not say enough, or says it wrongly.
    #[error("{0}")]
    Call(String),
    /// Background work does without this registry for now.
    #[error("not vetted in the background: {why} at {host}; a live call is vetted all the same")]
    Guest {
        /// The registry.
        host: String,
        /// Why.
        why: &'static str,
    },
    /// The time budget is used up.
    #[error("vetting took longer than its time budget; it goes on, try again")]
    Late,
    /// The policies could not be loaded.
    #[error("{0}")]
    Policies(String),
}

impl Trouble {
    /// Whether a registry or the network is why: the answer is then `RegistryUnavailable`.
    pub fn is_registry(&self) -> bool {
        matches!(self, Trouble::Fetch(error) if error.is_unreachable())
    }
}
