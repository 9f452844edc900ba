//! A thin OCI distribution client (distribution spec v1.1) with a cap on everything.
//!
//! It reads: manifests by tag and by digest, blobs, and what a tag points at. Each body is bounded by a named
//! limit and held against its digest. Where credentials go, and where a registry may send us, is decided in
//! `transport` (redirects, token realms) and `host` (plain HTTP, addresses):
//!
//! - A credential is shown to the registry it is for, and to that registry's token realm. The realm may be any
//!   https host: a registry that holds the password already could hand it on itself, so naming a realm wins it
//!   nothing. In the clear, only a realm on the host of a registry that is itself asked in the clear.
//! - Redirects and realms never lead to this node's own addresses or its link unless the registry is on
//!   loopback itself, never from https to http, and carry the authorization only to the registry itself.
//! - Tokens are kept in memory by registry, repository and credential, and never serve another credential.

mod challenge;
mod client;
mod credential;
pub mod credentials;
mod error;
mod host;
mod login;
mod resolve;
mod token;
mod transport;

pub use client::{Client, Fetched, Observer, Outcome, Settings};
pub use credential::{AuthFields, Credential, CredentialError, Secret};
pub use error::{Cause, FetchError, Said, Unreachable, Violation};
pub use transport::Cap;
