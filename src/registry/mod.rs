//! A thin OCI distribution client (distribution spec v1.1) with a cap on everything.
//!
//! It reads: manifests by tag and by digest, blobs, what a tag points at, and what refers to a digest. Each body is
//! bounded by a named limit and held against its digest. Which hosts stand for a registry is in `hosts`, and how they are
//! asked in turn in `ask`. Where credentials go, and where a registry may send us, is decided in `ask` (mirrors),
//! `transport` (redirects, token realms) and `host` (plain HTTP, addresses):
//!
//! - A credential is shown to the registry it is for, and to that registry's token realm. The realm may be any
//!   https host: a registry that holds the password already could hand it on itself, so naming a realm wins it
//!   nothing. In the clear, only a realm on the host of a registry that is itself asked in the clear.
//! - A mirror is not shown the registry's credential, and a host's client certificate and headers go to that host only.
//! - Redirects and realms never lead to this node's own addresses or its link unless the registry is on
//!   loopback itself, never from https to http, and carry the authorization only to the registry itself.
//! - Tokens are kept in memory by registry, repository and credential, and never serve another credential.

mod ask;
mod challenge;
mod client;
mod connect;
mod credential;
pub mod credentials;
mod error;
mod file;
mod host;
pub mod hosts;
mod login;
mod proxy;
mod referrers;
mod resolve;
mod retry;
mod token;
mod transport;
mod wire;

pub use client::{Client, Fetched, MirrorCredentials, Observer, Outcome, Settings};
pub use credential::{AuthFields, Credential, CredentialError, Secret};
pub use error::{Cause, FetchError, Said, Tried, Unreachable, Violation};
pub use hosts::{HostFiles, HostsError};
pub use proxy::ProxySettings;
pub use referrers::Referrers;
pub use transport::Cap;
