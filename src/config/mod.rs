//! The daemon's settings as written, checked into runtime types.

pub mod credential_files;
#[cfg(test)]
mod documented;
mod evidence;
pub mod files;
mod load;
mod settings;
mod trust;
mod units;

pub use credential_files::{CredentialProviders, NodeCredentials};
pub use evidence::Evidence;
pub use load::{LoadError, Loaded, Salvage, Settings, Source, keep_last_good, kept_mode, load};
pub use settings::{
    AuditLog, ConfigurationError, Mode, ProxyConfiguration, Registry, Tracing, Unmatched, Vetting,
};
pub(crate) use units::absolute;
pub use units::{Endpoint, duration, quantity, spoken};
