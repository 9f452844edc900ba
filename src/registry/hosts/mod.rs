//! Which hosts stand for a registry, as this node's container runtime sees them: containerd's `hosts.toml`
//! ([`containerd`]) or registries.conf ([`containers`]). Both are pure; `read` brings the files.
//!
//! A host that is not the registry itself is a mirror. It is asked for the same bytes, which are held against the same
//! digests, but it is not shown the registry's credential.

mod certs;
pub mod containerd;
pub mod containers;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod fuzzing;
mod read;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::host::{self, Endpoint};
pub(super) use read::Reading;
pub(super) use tls::{Material, client_config, system_roots};

/// The API's path on a host that does not say another.
const API: &str = "/v2";

/// Where the runtime keeps what it knows about registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostFiles {
    /// Nowhere: each registry is its own and only host.
    #[default]
    None,
    /// containerd's `config_path`: folders with one folder per registry, in the order they are looked into.
    Containerd(Vec<PathBuf>),
    /// containers-registries.conf(5). `registries.conf.d` and `certs.d` are looked for beside it.
    Containers(PathBuf),
}

/// What a host is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// What a tag points at: only by hosts that are trusted with names.
    Resolve,
    /// Bytes with a known digest.
    Pull,
    /// Signatures and attestations, by tag or as referrers. Who lists them can only hide some, not make any: every host
    /// that serves the image is asked.
    Evidence,
}

/// Why no host can be asked. One deterministic line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    /// registries.conf blocks it.
    #[error("blocked for prefix {prefix} in registries.conf")]
    Blocked {
        /// The prefix of the entry that blocks it.
        prefix: String,
    },
    /// No host has the capability.
    #[error("no host for it has the capability {0} in hosts.toml")]
    Incapable(&'static str),
    /// The runtime's files cannot be used.
    #[error("{0}")]
    Files(String),
}

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// TLS.
    Https,
    /// Plain HTTP.
    Http,
    /// TLS, and plain HTTP where the host speaks none.
    HttpsElseHttp,
}

/// Files for TLS, as a configuration names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA certificates, beside the system's.
    pub ca: Vec<PathBuf>,
    /// Client certificates with their keys; the same file where none is named.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether the server's certificate is not checked; `None` where nothing is said.
    pub skip_verify: Option<bool>,
}

impl TlsFiles {
    /// Whether anything about TLS is said at all.
    pub fn is_said(&self) -> bool {
        !self.ca.is_empty() || !self.client.is_empty() || self.skip_verify.is_some()
    }
}

/// A host to ask for one repository.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) scheme: Scheme,
    /// `host[:port]`
    pub(super) authority: String,
    /// Of the API; empty or with a slash in front and none at its end.
    pub(super) path: String,
    /// The repository's name there.
    pub(super) repository: String,
    /// The registry's name, which containerd tells a mirror as `ns`.
    pub(super) namespace: Option<String>,
    /// Sent to this host only.
    pub(super) headers: Arc<[(String, String)]>,
    pub(super) dial_timeout: Option<Duration>,
    /// CAs and client certificates, or why there are none although there should be.
    pub(super) material: Result<Option<Arc<Material>>, String>,
    pub(super) skip_verify: bool,
    /// The registry itself, as the reference names it: it may be shown the registry's credential.
    pub(super) is_registry: bool,
}

impl Host {
    /// The registry itself, without any file.
    fn registry(registry: &str, repository: &str, plain_http: &[String]) -> Self {
        let endpoint = Endpoint::of(registry, plain_http);
        Self {
            scheme: if endpoint.plain { Scheme::Http } else { Scheme::Https },
            authority: endpoint.authority,
            path: API.to_owned(),
            repository: repository.to_owned(),
            namespace: None,
            headers: Arc::new([]),
            dial_timeout: None,
            material: Ok(None),
            skip_verify: false,
            is_registry: true,
        }
    }

    /// Where to send requests; the second where the first speaks no TLS.
    pub(super) fn endpoints(&self) -> (Endpoint, Option<Endpoint>) {
        let endpoint = |plain| Endpoint { plain, authority: self.authority.clone(), path: self.path.clone() };
        match self.scheme {
            Scheme::Https => (endpoint(false), None),
            Scheme::Http => (endpoint(true), None),
            Scheme::HttpsElseHttp => (endpoint(false), Some(endpoint(true))),
        }
    }
}

/// The hosts of all registries.
pub(super) enum Hosts {
    /// Each registry itself.
    Direct,
    /// containerd's folders, by name, for each of its roots.
    Containerd(Vec<containerd::Root>),
    /// registries.conf, and certificates by `host[:port]`.
    Containers(containers::Loaded),
    /// They cannot be known.
    Unknown(String),
}

impl Hosts {
    /// The hosts to ask for a repository, in order. The registry itself, if it is among them, comes last.
    ///
    /// # Errors
    /// No host may be asked, or none is known.
    pub(super) fn of(
        &self,
        registry: &str,
        repository: &str,
        operation: Operation,
        plain_http: &[String],
    ) -> Result<Vec<Host>, HostsError> {
        let direct = || Host::registry(registry, repository, plain_http);
        match self {
            Self::Direct => Ok(vec![direct()]),
            Self::Containerd(roots) => containerd::hosts(roots, direct(), registry, operation),
            Self::Containers(loaded) => loaded.hosts(direct(), registry, operation, plain_http),
            Self::Unknown(why) => Err(HostsError::Files(why.clone())),
        }
    }

    /// What is wrong with the files, for the log: one line each.
    pub(super) fn troubles(&self) -> Vec<String> {
        match self {
            Self::Containerd(roots) => containerd::troubles(roots),
            Self::Containers(loaded) => loaded.troubles(),
            Self::Unknown(why) => vec![why.clone()],
            Self::Direct => Vec::new(),
        }
    }

    /// Hosts whose certificates are not checked, for the log.
    pub(super) fn unchecked(&self) -> Vec<String> {
        let mut all = match self {
            Self::Containerd(roots) => containerd::unchecked(roots),
            Self::Containers(loaded) => loaded.unchecked(),
            Self::Direct | Self::Unknown(_) => Vec::new(),
        };
        all.sort();
        all.dedup();
        all
    }
}

/// Whether this host is the registry that a reference names, whatever the scheme.
fn is_registry(authority: &str, registry: &str) -> bool {
    host::canonical(&authority.to_ascii_lowercase()) == host::canonical(&registry.to_ascii_lowercase())
}
