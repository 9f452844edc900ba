//! The node's own logins: docker's `config.json`, and the kubelet's credential providers. What is here knows the formats
//! and how the kubelet reads them (`pkg/credentialprovider`, 1.36); who asks for what, and when, is `vetter::logins`.

mod docker_config;
pub mod exec;
mod keyring;
mod provider;
mod provider_config;

pub use docker_config::{DockerConfig, DockerConfigError};
pub use keyring::{Keyring, Login, matches};
pub use provider::{Answer, BadAnswer, CacheKey};
pub use provider_config::{Provider, read as read_providers};
