//! The daemon's settings as written, checked into runtime types.

mod allowed;
pub mod credential_files;
#[cfg(test)]
mod documented;
mod evidence;
pub mod files;
mod load;
mod registry;
mod settings;
mod tracing;
mod trust;
mod units;
mod vetting;

pub use allowed::InsecureAllowed;
pub use credential_files::{CredentialProviders, NodeCredentials};
pub use evidence::Evidence;
pub use load::{LastGood, LoadError, Loaded, Salvage, Settings, Source, kept_mode, load};
pub use registry::Registry;
pub use settings::{AuditLog, ConfigurationError, Mode, ProxyConfiguration, Unmatched};
pub use tracing::Tracing;
pub(crate) use units::absolute;
pub use units::{Endpoint, duration, quantity, spoken};
pub use vetting::Vetting;
