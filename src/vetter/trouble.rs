//! Why something could not be decided: each keeps what the answer's prefix depends on.

use crate::audit::Reason;
use crate::image::WalkError;
use crate::image::json::JsonError;
use crate::image::manifest::DocumentError;
use crate::registry::{Cause, FetchError};
use crate::verify::SignatureManifestError;

/// Why an image is undecided. One deterministic line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The registry did not give what was needed.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// Nobody was let in by the registry, or could be asked for a login: who was tried.
    #[error("{0}")]
    Login(String),
    /// The walk from digest to image ID came to no end.
    #[error("{0}")]
    Walk(#[from] WalkError),
    /// The signatures' manifest could not be read.
    #[error("{0}")]
    Signatures(#[from] SignatureManifestError),
    /// A limit was hit; the text names it.
    #[error("{0}")]
    Limit(String),
    /// The node's own layouts did not settle it.
    #[error("{text}")]
    Layouts {
        /// Why, and before that, what else is wrong.
        text: String,
        /// A registry or the network is why, too.
        registry: bool,
        /// Its name in audit records.
        reason: Reason,
    },
    /// The runtime could not be asked.
    #[error("{0}")]
    Runtime(String),
    /// The registry or the runtime has something else by now than what was vetted.
    #[error("{0}")]
    Moved(String),
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
    /// The same, where besides a layout could not be read.
    pub fn and_layout(self, fault: &str) -> Trouble {
        let text = format!("{self}; {fault}");
        Trouble::Layouts { text, registry: self.is_registry(), reason: Reason::EvidenceLayouts }
    }

    /// A layout could not be read, and without it the image is refused: `why` is the vetting's text.
    pub fn layout(fault: &str, why: &str) -> Trouble {
        let text = format!("{fault}; what else is known does not suffice: {}", without_image(why));
        Trouble::Layouts { text, registry: false, reason: Reason::EvidenceLayouts }
    }

    /// The same, where what the layouts hold was not enough: `why` is a vetting's text.
    pub fn and_not_enough(self, why: &str) -> Trouble {
        let (registry, reason) = (self.is_registry(), self.reason());
        let text = format!("{self}; the evidence on the node does not suffice: {}", without_image(why));
        Trouble::Layouts { text, registry, reason }
    }

    /// Whether a registry or the network is why: the answer is then `RegistryUnavailable`.
    pub fn is_registry(&self) -> bool {
        match self {
            Trouble::Fetch(error) => error.is_unreachable(),
            Trouble::Layouts { registry, .. } => *registry,
            _ => false,
        }
    }

    /// Its name in audit records.
    pub fn reason(&self) -> Reason {
        match self {
            Trouble::Fetch(error) => of_fetch(&error.cause),
            Trouble::Login(_) => Reason::RegistryLogin,
            Trouble::Walk(error) => of_walk(error),
            Trouble::Signatures(SignatureManifestError::Document(error)) => of_document(error),
            Trouble::Signatures(SignatureManifestError::TooMany { .. }) => Reason::LimitReached,
            Trouble::Limit(_) => Reason::LimitReached,
            Trouble::Layouts { reason, .. } => *reason,
            Trouble::Runtime(_) => Reason::Runtime,
            Trouble::Moved(_) => Reason::ContentDiffers,
            Trouble::Call(_) => Reason::ImageUnclear,
            Trouble::Guest { .. } => Reason::BackgroundBudget,
            Trouble::Late => Reason::TooSlow,
            Trouble::Policies(_) => Reason::PoliciesNotLoaded,
        }
    }
}

/// The text about an image, which begins with its name.
pub(super) fn without_image(text: &str) -> &str {
    text.split_once(": ").map_or(text, |(_image, rest)| rest)
}

fn of_fetch(cause: &Cause) -> Reason {
    match cause {
        Cause::NotFound(_) => Reason::NotFound,
        Cause::Unauthorized(_) | Cause::Forbidden(_) => Reason::RegistryLogin,
        Cause::TooManyRequests { .. } => Reason::RegistryRateLimited,
        Cause::ServerError { .. } | Cause::Timeout | Cause::Unreachable(_) => Reason::RegistryUnreachable,
        Cause::TooLarge { .. } | Cause::TooMany { .. } => Reason::LimitReached,
        Cause::Hosts(_) => Reason::RegistryHosts,
        Cause::DigestMismatch { .. } => Reason::ContentDiffers,
        Cause::NotARegistry | Cause::RedirectRefused(_) | Cause::RealmRefused(_) | Cause::Protocol(_) => {
            Reason::RegistryAnswer
        }
    }
}

fn of_walk(error: &WalkError) -> Reason {
    match error {
        WalkError::Hash { .. } | WalkError::NoSuchId { .. } => Reason::ContentDiffers,
        WalkError::Document { error, .. } => of_document(error),
        WalkError::Children { .. } => Reason::LimitReached,
        WalkError::Size { .. }
        | WalkError::Layers { .. }
        | WalkError::NoSuchPlatform { .. }
        | WalkError::Nested { .. }
        | WalkError::Over { .. } => Reason::ImageUnusable,
    }
}

fn of_document(error: &DocumentError) -> Reason {
    match error {
        DocumentError::Count { .. } | DocumentError::Json(JsonError::TooLarge { .. }) => Reason::LimitReached,
        _ => Reason::ImageUnusable,
    }
}
