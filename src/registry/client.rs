//! The client: what is asked of a registry, in which order, and what its answers must hold.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use tokio::time::Instant;

use super::ask::{Call, Query};
use super::credential::Credential;
use super::error::{Cause, FetchError, Violation};
use super::hosts::{HostFiles, Operation};
use super::proxy::ProxySettings;
use super::retry::retry_after;
use super::token::Grants;
use super::transport::{Answer, Ask, Cap, Target, Transport};
use crate::image::{Digest, Reference};
use crate::limits::MANIFEST_BYTES;

/// Manifest types crivet reads; registries convert to what a client lacks, so all are named.
pub(super) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// The client's settings, checked by the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Registries (`host[:port]`, as in references) asked by plain HTTP, beside those on loopback.
    pub plain_http: Vec<String>,
    /// For a TCP connection.
    pub connect_timeout: Duration,
    /// For one request: waiting for a slot, the connection, and the whole body.
    pub request_timeout: Duration,
    /// Requests to one host at a time.
    pub max_concurrent_per_host: usize,
    /// `User-Agent`.
    pub user_agent: String,
    /// Which other hosts stand for a registry.
    pub hosts: HostFiles,
    /// HTTP proxies.
    pub proxies: ProxySettings,
}

/// How one HTTP request ended, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// 2xx or a redirect.
    Ok,
    /// 404.
    NotFound,
    /// 401 or 403.
    Auth,
    /// 429.
    RateLimited,
    /// 5xx.
    ServerError,
    /// No full answer in time.
    Timeout,
    /// No connection.
    Unreachable,
    /// Any other answer that is of no use.
    Invalid,
}

impl Outcome {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Auth => "auth",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Invalid => "invalid",
        }
    }

    pub(super) fn of(result: &Result<Answer, Cause>) -> Self {
        match result {
            Ok(answer) => match answer.status.as_u16() {
                200..=399 => Self::Ok,
                401 | 403 => Self::Auth,
                404 => Self::NotFound,
                429 => Self::RateLimited,
                500..=599 => Self::ServerError,
                _ => Self::Invalid,
            },
            Err(Cause::Timeout) => Self::Timeout,
            Err(Cause::Unreachable(_)) => Self::Unreachable,
            Err(_) => Self::Invalid,
        }
    }
}

/// Called once for each HTTP request that was sent or could not be.
pub type Observer = Arc<dyn Fn(Outcome) + Send + Sync>;

/// A manifest as fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// `Content-Type` without parameters, in lower case, as the registry claims it. Empty if it claims none.
    pub media_type: String,
    /// The body.
    pub bytes: Bytes,
}

/// Fetches from registries. Each call takes the credential for the reference's registry and a deadline for
/// everything it does: tokens, redirects, retries.
pub struct Client {
    pub(super) transport: Arc<Transport>,
    pub(super) grants: Arc<Grants>,
    /// Nobody waits: nothing is tried again, and no live request waits for a slot.
    pub(super) guest: bool,
    pub(super) mirrors: MirrorCredentials,
}

/// What may be shown to a mirror, by its `host[:port]` and the repository's name there: the node's own credentials for
/// that host. The registry's are not shown to it.
pub type MirrorCredentials = Arc<dyn Fn(&str, &str) -> Credential + Send + Sync>;

impl Client {
    /// Makes a client; no connection yet.
    ///
    /// # Errors
    /// A `user_agent` that is no header value, or TLS that cannot be set up. A node without CA certificates is
    /// no error: it is logged, and each https registry then fails by name.
    pub fn new(settings: &Settings, observer: Observer) -> io::Result<Self> {
        let transport = Arc::new(Transport::new(settings, observer)?);
        let mirrors: MirrorCredentials = Arc::new(|_, _| Credential::Anonymous);
        Ok(Self { transport, grants: Arc::default(), guest: false, mirrors })
    }

    /// The same client with credentials for mirrors, which are otherwise asked without any.
    #[must_use]
    pub fn with_mirror_credentials(self, mirrors: MirrorCredentials) -> Self {
        Self { mirrors, ..self }
    }

    /// The same client for work nobody waits for. Its requests are tried once, and do not take the slots that live
    /// ones wait for: whoever uses it bounds how many there are at once.
    pub fn as_guest(&self) -> Self {
        let (transport, grants) = (Arc::clone(&self.transport), Arc::clone(&self.grants));
        Self { transport, grants, guest: true, mirrors: Arc::clone(&self.mirrors) }
    }

    /// Reads the runtime's registry hosts again if their files have changed. It waits for the disk, and so must not be
    /// called where others wait.
    pub fn reread_hosts(&self) {
        self.transport.reread();
    }

    /// HTTP requests sent so far, tokens and redirects included.
    pub fn requests(&self) -> u64 {
        self.transport.requests()
    }

    /// The manifest `tag` points at now (spec v1.1, "Pulling manifests").
    ///
    /// # Errors
    /// `NotFound` if the registry has no such tag; see [`Cause`].
    pub async fn manifest_by_tag(
        &self,
        repo: &Reference,
        tag: &str,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        self.tagged(Operation::Resolve, repo, tag, credential, deadline).await
    }

    /// As [`Client::manifest_by_tag`], for a tag that holds signatures or attestations: any host that serves the image
    /// may have them, also one that may not say what other tags point at.
    ///
    /// # Errors
    /// As there; `NotFound` only where no host has such a tag.
    pub async fn evidence_by_tag(
        &self,
        repo: &Reference,
        tag: &str,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        self.tagged(Operation::Evidence, repo, tag, credential, deadline).await
    }

    async fn tagged(
        &self,
        operation: Operation,
        repo: &Reference,
        tag: &str,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let call = Call::new("manifest", repo, &format!(":{tag}"), operation, credential, deadline);
        let path = manifest_path(tag).map_err(|cause| call.failed(cause))?;
        let query = Query { accept: Some(MANIFEST_TYPES), ..Query::get(&path, Cap::MANIFEST) };
        self.ask(&call, &query, |answer| fetched(answer, None)).await
    }

    /// The manifest with this digest.
    ///
    /// # Errors
    /// `DigestMismatch` if the bytes are others; see [`Cause`].
    pub async fn manifest(
        &self,
        repo: &Reference,
        digest: &Digest,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let call = Call::new("manifest", repo, &format!("@{digest}"), Operation::Pull, credential, deadline);
        let path = format!("manifests/{digest}");
        let query = Query { accept: Some(MANIFEST_TYPES), ..Query::get(&path, Cap::MANIFEST) };
        self.ask(&call, &query, |answer| fetched(answer, Some(digest))).await
    }

    /// The digest `tag` points at now, as the registry claims it: good for noticing a change, no proof of
    /// anything.
    ///
    /// # Errors
    /// `Protocol` if the registry names no SHA-256 digest; see [`Cause`].
    pub async fn head(
        &self,
        repo: &Reference,
        tag: &str,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Digest, FetchError> {
        self.head_of(Operation::Resolve, repo, tag, credential, deadline).await
    }

    /// As [`Client::head`], of the hosts that [`Client::evidence_by_tag`] asks.
    ///
    /// # Errors
    /// As there.
    pub async fn evidence_head(
        &self,
        repo: &Reference,
        tag: &str,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Digest, FetchError> {
        self.head_of(Operation::Evidence, repo, tag, credential, deadline).await
    }

    async fn head_of(
        &self,
        operation: Operation,
        repo: &Reference,
        tag: &str,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Digest, FetchError> {
        let call = Call::new("manifest", repo, &format!(":{tag}"), operation, credential, deadline);
        let path = manifest_path(tag).map_err(|cause| call.failed(cause))?;
        let get = Query::get(&path, Cap::MANIFEST);
        let query = Query { method: Method::HEAD, accept: Some(MANIFEST_TYPES), ..get };
        self.ask(&call, &query, |answer| {
            claimed_digest(answer)?.ok_or(Cause::Protocol(Violation::NoHeader("Docker-Content-Digest")))
        })
        .await
    }

    /// The blob with this digest (spec v1.1, "Pulling blobs").
    ///
    /// # Errors
    /// `TooLarge` over `cap`, `DigestMismatch` if the bytes are others; see [`Cause`].
    pub async fn blob(
        &self,
        repo: &Reference,
        digest: &Digest,
        cap: Cap,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Bytes, FetchError> {
        let call = Call::new("blob", repo, &format!("@{digest}"), Operation::Pull, credential, deadline);
        let path = format!("blobs/{digest}");
        self.ask(&call, &Query::get(&path, cap), |answer| {
            held_to(answer, digest)?;
            Ok(answer.body.clone())
        })
        .await
    }

    /// Whether a registry (`host[:port]`) or a host that stands for it answers as one (spec v1.1, "Determining Support"):
    /// a wish for a login is an answer.
    ///
    /// # Errors
    /// None can be reached, or none is a registry.
    pub async fn ping(&self, registry: &str, deadline: Instant) -> Result<(), Cause> {
        let hosts = self.transport.hosts_of(registry, "", Operation::Pull).map_err(Cause::Hosts)?;
        let mut last = Cause::Timeout;
        for host in &hosts {
            let (first, second) = match self.transport.targets(host) {
                Ok(targets) => targets,
                Err(cause) => {
                    last = cause;
                    continue;
                }
            };
            for target in [Some(first), second].into_iter().flatten() {
                match self.ping_at(&target, deadline).await {
                    Ok(()) => return Ok(()),
                    Err(cause) => last = cause,
                }
            }
        }
        Err(last)
    }

    async fn ping_at(&self, target: &Target, deadline: Instant) -> Result<(), Cause> {
        let uri = format!("{}/", target.endpoint.base()).parse();
        let uri = uri.map_err(|_| Cause::Protocol(Violation::Name))?;
        let (method, cap) = (Method::GET, Cap::MANIFEST);
        let ask =
            Ask { method, uri, accept: None, authorization: None, form: None, cap, deadline, guest: false };
        let answer = self.transport.follow(target, ask).await?;
        match answer.status.as_u16() {
            401 | 403 => Ok(()),
            200 if answer.is_web_page() => Err(Cause::NotARegistry),
            200 => Ok(()),
            429 => Err(Cause::TooManyRequests { retry_after: retry_after(&answer.headers) }),
            status @ 500..=599 => Err(Cause::ServerError { status }),
            status => Err(Cause::Protocol(Violation::Status(status))),
        }
    }
}

impl Cap {
    /// For manifests and indexes.
    pub const MANIFEST: Self = Self { limit: "MANIFEST_BYTES", bytes: MANIFEST_BYTES };
    /// For simple-signing payloads.
    pub const SIGNATURE_PAYLOAD: Self = Self { limit: "PAYLOAD_BYTES", bytes: crate::limits::PAYLOAD_BYTES };
    /// For sigstore bundles and attestations.
    pub const BUNDLE: Self = Self { limit: "BUNDLE_BYTES", bytes: crate::limits::BUNDLE_BYTES };
    /// For image configs.
    pub const CONFIG: Self = Self { limit: "CONFIG_BYTES", bytes: crate::limits::CONFIG_BYTES };
}

/// `manifests/<tag>`, if `tag` is one (spec v1.1: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`). Anything else could
/// name another path on the registry.
pub(super) fn manifest_path(tag: &str) -> Result<String, Cause> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if valid { Ok(format!("manifests/{tag}")) } else { Err(Cause::Protocol(Violation::Name)) }
}

/// Holds a manifest's body against the digest asked for and the one the registry claims.
pub(super) fn fetched(answer: &Answer, expected: Option<&Digest>) -> Result<Fetched, Cause> {
    let digest = match expected {
        Some(expected) => held_to(answer, expected)?,
        None if answer.is_web_page() => return Err(Cause::NotARegistry),
        None => Digest::of(&answer.body),
    };
    // Spec v1.1: where the header is sent, it is the digest of this body.
    if let Some(claimed) = claimed_digest(answer)?
        && claimed != digest
    {
        return Err(Cause::DigestMismatch { expected: claimed, found: digest });
    }
    let media_type = answer
        .headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .map(|v| v.trim().to_ascii_lowercase())
        .unwrap_or_default();
    Ok(Fetched { digest, media_type, bytes: answer.body.clone() })
}

fn held_to(answer: &Answer, expected: &Digest) -> Result<Digest, Cause> {
    let found = Digest::of(&answer.body);
    if found == *expected {
        return Ok(found);
    }
    if answer.is_web_page() {
        return Err(Cause::NotARegistry);
    }
    Err(Cause::DigestMismatch { expected: *expected, found })
}

fn claimed_digest(answer: &Answer) -> Result<Option<Digest>, Cause> {
    const NAME: &str = "Docker-Content-Digest";
    let Some(value) = answer.headers.get(NAME) else { return Ok(None) };
    let digest = value.to_str().ok().and_then(|text| Digest::parse(text).ok());
    digest.map(Some).ok_or(Cause::Protocol(Violation::BadHeader(NAME)))
}
