//! The client: what is asked of a registry, in which order, and what its answers must hold.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, StatusCode, Uri};
use tokio::time::Instant;

use super::challenge::Challenge;
use super::credential::Credential;
use super::error::{Cause, FetchError, Said, Violation};
use super::host::Endpoint;
use super::token::{self, Grant, GrantKey, Grants, Plan};
use super::transport::{Answer, Ask, Cap, Transport};
use crate::image::{Digest, Reference};
use crate::limits::{MANIFEST_BYTES, REGISTRY_RETRIES, REGISTRY_TOKEN_SECONDS};

/// Manifest types crivet reads; registries convert to what a client lacks, so all are named.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// First wait before a retry without `Retry-After`; four times that before the next.
const RETRY_WAIT: Duration = Duration::from_millis(200);

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
    transport: Arc<Transport>,
    grants: Arc<Grants>,
    /// Nobody waits: nothing is tried again, and no live request waits for a slot.
    guest: bool,
}

/// What all requests of one call have in common.
pub(super) struct Call<'a> {
    pub(super) key: GrantKey,
    pub(super) subject: String,
    pub(super) deadline: Instant,
    pub(super) credential: &'a Credential,
}

impl Client {
    /// Makes a client; no connection yet.
    ///
    /// # Errors
    /// A `user_agent` that is no header value, or TLS that cannot be set up. A node without CA certificates is
    /// no error: it is logged, and each https registry then fails by name.
    pub fn new(settings: &Settings, observer: Observer) -> io::Result<Self> {
        let transport = Arc::new(Transport::new(settings, observer)?);
        Ok(Self { transport, grants: Arc::default(), guest: false })
    }

    /// The same client for work nobody waits for. Its requests are tried once, and do not take the slots that live
    /// ones wait for: whoever uses it bounds how many there are at once.
    pub fn as_guest(&self) -> Self {
        Self { transport: Arc::clone(&self.transport), grants: Arc::clone(&self.grants), guest: true }
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
        let call = self.call("manifest", repo, &format!(":{tag}"), credential, deadline);
        let answer = match manifest_path(tag) {
            Ok(path) => self.get(&call, Method::GET, &path, Some(MANIFEST_TYPES), Cap::MANIFEST).await,
            Err(cause) => Err(cause),
        };
        answer.and_then(|answer| fetched(&answer, None)).map_err(|cause| call.failed(cause))
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
        let call = self.call("manifest", repo, &format!("@{digest}"), credential, deadline);
        let path = format!("manifests/{digest}");
        self.get(&call, Method::GET, &path, Some(MANIFEST_TYPES), Cap::MANIFEST)
            .await
            .and_then(|answer| fetched(&answer, Some(digest)))
            .map_err(|cause| call.failed(cause))
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
        let call = self.call("manifest", repo, &format!(":{tag}"), credential, deadline);
        let answer = match manifest_path(tag) {
            Ok(path) => self.get(&call, Method::HEAD, &path, Some(MANIFEST_TYPES), Cap::MANIFEST).await,
            Err(cause) => Err(cause),
        };
        answer
            .and_then(|answer| {
                claimed_digest(&answer)?.ok_or(Cause::Protocol(Violation::NoHeader("Docker-Content-Digest")))
            })
            .map_err(|cause| call.failed(cause))
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
        let call = self.call("blob", repo, &format!("@{digest}"), credential, deadline);
        self.get(&call, Method::GET, &format!("blobs/{digest}"), None, cap)
            .await
            .and_then(|answer| {
                held_to(&answer, digest)?;
                Ok(answer.body)
            })
            .map_err(|cause| call.failed(cause))
    }

    /// Whether a registry (`host[:port]`) answers as one (spec v1.1, "Determining Support"): a wish for a login is an
    /// answer.
    ///
    /// # Errors
    /// It cannot be reached, or is none.
    pub async fn ping(&self, registry: &str, deadline: Instant) -> Result<(), Cause> {
        let endpoint = self.transport.endpoint(registry);
        let uri = format!("{}/v2/", endpoint.base()).parse();
        let uri = uri.map_err(|_| Cause::Protocol(Violation::Name))?;
        let (method, cap) = (Method::GET, Cap::MANIFEST);
        let ask =
            Ask { method, uri, accept: None, authorization: None, form: None, cap, deadline, guest: false };
        let answer = self.transport.follow(&endpoint, ask).await?;
        match answer.status.as_u16() {
            401 | 403 => Ok(()),
            200 if answer.is_web_page() => Err(Cause::NotARegistry),
            200 => Ok(()),
            429 => Err(Cause::TooManyRequests { retry_after: retry_after(&answer) }),
            status @ 500..=599 => Err(Cause::ServerError { status }),
            status => Err(Cause::Protocol(Violation::Status(status))),
        }
    }

    pub(super) fn endpoint(&self, registry: &str) -> Endpoint {
        self.transport.endpoint(registry)
    }

    fn call<'a>(
        &self,
        what: &str,
        repo: &Reference,
        which: &str,
        credential: &'a Credential,
        deadline: Instant,
    ) -> Call<'a> {
        let registry = self.transport.endpoint(repo.registry());
        let repository = repo.repository().to_owned();
        Call {
            subject: format!("{what} {}/{}{which}", repo.registry(), repository),
            key: GrantKey { registry, repository, credential: credential.clone() },
            deadline,
            credential,
        }
    }

    /// Asks within the deadline, logs in if asked to, and lets only 200 through.
    async fn get(
        &self,
        call: &Call<'_>,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        cap: Cap,
    ) -> Result<Answer, Cause> {
        let registry = &call.key.registry;
        let uri: Uri = format!("{}/v2/{}/{path}", registry.base(), call.key.repository)
            .parse()
            .map_err(|_| Cause::Protocol(Violation::Name))?;
        let ask = Ask {
            method,
            uri,
            accept,
            authorization: None,
            form: None,
            cap,
            deadline: call.deadline,
            guest: self.guest,
        };
        self.with_login(call, ask).await.and_then(only_ok)
    }

    pub(super) async fn with_login(&self, call: &Call<'_>, mut ask: Ask) -> Result<Answer, Cause> {
        if let Some(grant) = self.grants.get(&call.key, Instant::now()) {
            ask.authorization = Some(grant.header(call.credential)?);
        }
        let answer = self.retried(call, &call.key.registry, &ask).await?;
        // A challenge from where a redirect led is none of the registry's: there is no credential for it.
        if answer.status != StatusCode::UNAUTHORIZED || !answer.from_registry {
            if answer.status == StatusCode::FORBIDDEN {
                self.grants.forget(&call.key);
            }
            return Ok(answer);
        }
        let challenge = Challenge::of(&answer.headers).ok_or(Cause::Protocol(Violation::Challenge))?;
        let Some(grant) = self.login(call, &challenge).await? else { return Ok(answer) };
        ask.authorization = Some(grant.header(call.credential)?);
        let answer = self.retried(call, &call.key.registry, &ask).await?;
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.grants.forget(&call.key);
        }
        Ok(answer)
    }

    /// A grant for the call's key, or `None` if its credential cannot answer the challenge.
    async fn login(&self, call: &Call<'_>, challenge: &Challenge) -> Result<Option<Grant>, Cause> {
        let asked = Instant::now();
        let (grant, life) = match token::plan(challenge, &call.key, call.deadline)? {
            Plan::Nothing => return Ok(None),
            Plan::Grant(grant) => (grant, Duration::from_secs(REGISTRY_TOKEN_SECONDS)),
            Plan::AskRealm(mut ask) => {
                ask.guest = self.guest;
                let answer = self
                    .with_retries(call.deadline, || self.transport.realm(&call.key.registry, &ask))
                    .await?;
                let (token, life) = token::read_token(&answer, ask.form.is_some())?;
                (Grant::Bearer(token), life)
            }
        };
        self.grants.keep(call.key.clone(), grant.clone(), asked + life, asked);
        Ok(Some(grant))
    }

    async fn retried(&self, call: &Call<'_>, registry: &Endpoint, ask: &Ask) -> Result<Answer, Cause> {
        self.with_retries(call.deadline, || self.transport.follow(registry, ask.clone())).await
    }

    /// Tries again after 429 and passing 5xx, as often as `REGISTRY_RETRIES` allows and only if the wait fits
    /// the deadline.
    async fn with_retries<F>(&self, deadline: Instant, send: impl Fn() -> F) -> Result<Answer, Cause>
    where
        F: Future<Output = Result<Answer, Cause>>,
    {
        let mut wait = RETRY_WAIT;
        let mut left = if self.guest { 0 } else { REGISTRY_RETRIES };
        loop {
            let answer = send().await?;
            let status = answer.status.as_u16();
            if status != 429 && !(500..=599).contains(&status) {
                return Ok(answer);
            }
            let asked_for = retry_after(&answer);
            let pause = asked_for.map_or(wait, Duration::from_secs);
            let passing = matches!(status, 429 | 500 | 502 | 503 | 504);
            let fits = Instant::now().checked_add(pause).is_some_and(|at| at < deadline);
            if !passing || left == 0 || !fits {
                return Err(match status {
                    429 => Cause::TooManyRequests { retry_after: asked_for },
                    status => Cause::ServerError { status },
                });
            }
            tokio::time::sleep(pause).await;
            left -= 1;
            wait *= 4;
        }
    }
}

impl Call<'_> {
    fn failed(&self, cause: Cause) -> FetchError {
        FetchError { subject: self.subject.clone(), cause }
    }
}

impl Cap {
    /// For manifests and indexes.
    pub const MANIFEST: Self = Self { limit: "MANIFEST_BYTES", bytes: MANIFEST_BYTES };
    /// For simple-signing payloads.
    pub const SIGNATURE_PAYLOAD: Self = Self { limit: "PAYLOAD_BYTES", bytes: crate::limits::PAYLOAD_BYTES };
    /// For image configs.
    pub const CONFIG: Self = Self { limit: "CONFIG_BYTES", bytes: crate::limits::CONFIG_BYTES };
}

/// `manifests/<tag>`, if `tag` is one (spec v1.1: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`). Anything else could
/// name another path on the registry.
fn manifest_path(tag: &str) -> Result<String, Cause> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if valid { Ok(format!("manifests/{tag}")) } else { Err(Cause::Protocol(Violation::Name)) }
}

/// `Retry-After` in seconds. The date form (RFC 9110 section 10.2.3) is not used by registries.
fn retry_after(answer: &Answer) -> Option<u64> {
    answer.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

fn only_ok(answer: Answer) -> Result<Answer, Cause> {
    let said = || Said::read(&answer.body, answer.is_web_page());
    match answer.status {
        StatusCode::OK => Ok(answer),
        StatusCode::NOT_FOUND => Err(Cause::NotFound(said())),
        StatusCode::UNAUTHORIZED => Err(Cause::Unauthorized(said())),
        StatusCode::FORBIDDEN => Err(Cause::Forbidden(said())),
        status => Err(Cause::Protocol(Violation::Status(status.as_u16()))),
    }
}

/// Holds a manifest's body against the digest asked for and the one the registry claims.
fn fetched(answer: &Answer, expected: Option<&Digest>) -> Result<Fetched, Cause> {
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
