//! One HTTP exchange with everything bounded: time, header and body size, redirects, concurrency, and where it
//! may connect to.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::client::{Observer, Outcome, Settings};
use super::error::{Cause, Unreachable, Violation};
use super::host::{self, Endpoint};
use super::resolve::{AddressRefused, NameUnknown, Resolver};
use crate::limits::{
    REGISTRY_ERROR_BYTES, REGISTRY_HEADER_BYTES, REGISTRY_HEADERS, REGISTRY_HOSTS, REGISTRY_REDIRECTS,
};

type HyperClient = legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// A named limit on a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// The limit's name in `limits`.
    pub limit: &'static str,
    /// Its value.
    pub bytes: usize,
}

impl Cap {
    fn exceeded(self) -> Cause {
        Cause::TooLarge { limit: self.limit, bytes: self.bytes }
    }
}

/// One request, before it is known how often it must be sent.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) accept: Option<&'static str>,
    pub(super) authorization: Option<HeaderValue>,
    /// An `application/x-www-form-urlencoded` body.
    pub(super) form: Option<Bytes>,
    pub(super) cap: Cap,
    /// When the whole call must be over.
    pub(super) deadline: Instant,
    /// Nobody waits for it: it takes no slot.
    pub(super) guest: bool,
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether it comes from the registry itself, not from where a redirect led.
    pub(super) from_registry: bool,
}

impl Answer {
    pub(super) fn is_web_page(&self) -> bool {
        let html = |v: &HeaderValue| {
            let text = v.as_bytes().to_ascii_lowercase();
            text.starts_with(b"text/html") || text.starts_with(b"application/xhtml")
        };
        self.headers.get(CONTENT_TYPE).is_some_and(html)
    }
}

pub(super) struct Transport {
    /// For the registry itself: its name may resolve to any address.
    direct: HyperClient,
    /// For where a registry sends us: see [`host::is_node_local`].
    foreign: HyperClient,
    request_timeout: Duration,
    user_agent: HeaderValue,
    plain_http: Vec<String>,
    per_host: usize,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    requests: AtomicU64,
    observer: Observer,
}

impl Transport {
    pub(super) fn new(settings: &Settings, observer: Observer) -> io::Result<Self> {
        let user_agent = HeaderValue::from_str(&settings.user_agent).map_err(io::Error::other)?;
        let tls = tls_config()?;
        let client = |foreign| {
            let mut tcp = HttpConnector::new_with_resolver(Resolver { foreign });
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(settings.connect_timeout));
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls.clone())
                .https_or_http()
                .enable_http1()
                .wrap_connector(tcp);
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(settings.max_concurrent_per_host)
                .http1_max_buf_size(REGISTRY_HEADER_BYTES)
                .http1_max_headers(REGISTRY_HEADERS)
                .build(connector)
        };
        Ok(Self {
            direct: client(false),
            foreign: client(true),
            request_timeout: settings.request_timeout,
            user_agent,
            plain_http: settings.plain_http.iter().map(|h| h.to_ascii_lowercase()).collect(),
            per_host: settings.max_concurrent_per_host.max(1),
            hosts: Mutex::new(HashMap::new()),
            requests: AtomicU64::new(0),
            observer,
        })
    }

    pub(super) fn endpoint(&self, registry: &str) -> Endpoint {
        Endpoint::of(registry, &self.plain_http)
    }

    /// HTTP requests sent so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends `ask` to `registry` and follows redirects. The authorization goes to the registry only, and never
    /// again once a redirect has led away from it.
    pub(super) async fn follow(&self, registry: &Endpoint, mut ask: Ask) -> Result<Answer, Cause> {
        let mut from_registry = true;
        for _ in 0..=REGISTRY_REDIRECTS {
            let client = self.client_for(registry, &ask.uri).map_err(Cause::RedirectRefused)?;
            let mut answer = self.send(client, &ask).await?;
            answer.from_registry = from_registry;
            // RFC 9110 section 15.4; 300 and 304 are not for clients without a choice or a cache.
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let next = location(&ask.uri, &answer.headers)?;
            self.check_step(registry, &ask.uri, &next)?;
            if !registry.is_origin_of(&next) {
                from_registry = false;
                ask.authorization = None;
            }
            ask.uri = next;
        }
        Err(Cause::RedirectRefused("more in a row than the limit REGISTRY_REDIRECTS"))
    }

    /// Sends `ask` to a token realm. Not followed anywhere: it carries the password.
    pub(super) async fn realm(&self, registry: &Endpoint, ask: &Ask) -> Result<Answer, Cause> {
        if ask.uri.scheme_str() != Some("https") {
            // In the clear only where the registry itself is, and then only to the same host: its port may be
            // another one.
            let same_host =
                ask.uri.host().is_some_and(|h| host::unbracketed(h).eq_ignore_ascii_case(registry.host()));
            if ask.uri.scheme_str() != Some("http") || !registry.plain || !same_host {
                return Err(Cause::RealmRefused(
                    "it is not https, and not on a plain-HTTP registry's own host",
                ));
            }
        }
        let client = self.client_for(registry, &ask.uri).map_err(Cause::RealmRefused)?;
        let answer = self.send(client, ask).await?;
        if answer.status.is_redirection() {
            return Err(Cause::RealmRefused("it answers with a redirect"));
        }
        Ok(answer)
    }

    fn client_for(&self, registry: &Endpoint, uri: &Uri) -> Result<&HyperClient, &'static str> {
        let host = host::unbracketed(uri.host().unwrap_or_default());
        if registry.is_origin_of(uri) {
            return Ok(&self.direct);
        }
        if host::is_loopback_host(registry.host()) && host::is_loopback_host(host) {
            return Ok(&self.direct);
        }
        if host::is_loopback_host(host) || host.parse().is_ok_and(host::is_node_local) {
            return Err("it leads to this node or its link, where the registry is not");
        }
        Ok(&self.foreign)
    }

    fn check_step(&self, registry: &Endpoint, from: &Uri, to: &Uri) -> Result<(), Cause> {
        let refused = |why| Err(Cause::RedirectRefused(why));
        let authority = to.authority().map(|a| a.as_str().to_ascii_lowercase()).unwrap_or_default();
        if authority.contains('@') {
            return refused("its Location holds a user name");
        }
        match (from.scheme_str(), to.scheme_str()) {
            (_, Some("https")) => Ok(()),
            (Some("http"), Some("http")) => {
                let host = host::unbracketed(to.host().unwrap_or_default());
                let plain = host.eq_ignore_ascii_case(registry.host())
                    || (host::is_loopback_host(host) && host::is_loopback_host(registry.host()))
                    || self.plain_http.contains(&authority);
                if plain { Ok(()) } else { refused("plain HTTP to a host that is not configured for it") }
            }
            (Some("https"), Some("http")) => refused("from https to http"),
            _ => refused("neither http nor https"),
        }
    }

    async fn send(&self, client: &HyperClient, ask: &Ask) -> Result<Answer, Cause> {
        let authority = ask.uri.authority().map(|a| a.as_str().to_ascii_lowercase()).unwrap_or_default();
        let slots = self.slots(authority);
        let until = ask.deadline.min(Instant::now() + self.request_timeout);
        let result = tokio::time::timeout_at(until, async {
            let _slot = match ask.guest {
                true => None,
                false => Some(slots.acquire().await.map_err(|_| Cause::Timeout)?),
            };
            self.requests.fetch_add(1, Ordering::Relaxed);
            let response = client.request(self.request(ask)?).await.map_err(|e| classify(&e))?;
            read(response, ask).await
        })
        .await
        .unwrap_or(Err(Cause::Timeout));
        (self.observer)(Outcome::of(&result));
        result
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, Cause> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(ask.uri.clone())
            .header(USER_AGENT, self.user_agent.clone());
        if let Some(accept) = ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(authorization) = &ask.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if ask.form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        request
            .body(Full::new(ask.form.clone().unwrap_or_default()))
            .map_err(|_| Cause::Protocol(Violation::Name))
    }

    fn slots(&self, authority: String) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= REGISTRY_HOSTS && !hosts.contains_key(&authority) {
            // Only hosts nobody is asking right now.
            hosts.retain(|_, slots| Arc::strong_count(slots) > 1);
        }
        Arc::clone(hosts.entry(authority).or_insert_with(|| Arc::new(Semaphore::new(self.per_host))))
    }
}

fn tls_config() -> io::Result<rustls::ClientConfig> {
    let builder = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)
    };
    match builder()?.with_native_roots() {
        Ok(config) => Ok(config.with_no_client_auth()),
        Err(error) => {
            // Trusts nobody: plain-HTTP registries still work, all others fail by name.
            tracing::warn!(%error, "no CA certificates on this node: no https registry can be reached");
            Ok(builder()?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
        }
    }
}

/// The target of a redirect (RFC 9110 section 10.2.2): absolute, or on the same server.
fn location(from: &Uri, headers: &HeaderMap) -> Result<Uri, Cause> {
    let bad = || Cause::Protocol(Violation::BadHeader("Location"));
    let value = headers.get(LOCATION).ok_or(Cause::Protocol(Violation::NoHeader("Location")))?;
    let text = value.to_str().map_err(|_| bad())?;
    let (Some(scheme), Some(authority)) = (from.scheme_str(), from.authority()) else { return Err(bad()) };
    let absolute = if text.starts_with("//") {
        format!("{scheme}:{text}")
    } else if text.starts_with('/') {
        format!("{scheme}://{authority}{text}")
    } else {
        text.to_owned()
    };
    let uri: Uri = absolute.parse().map_err(|_| bad())?;
    if uri.scheme().is_none() || uri.host().is_none_or(str::is_empty) { Err(bad()) } else { Ok(uri) }
}

async fn read(response: Response<Incoming>, ask: &Ask) -> Result<Answer, Cause> {
    let (parts, body) = response.into_parts();
    let answer =
        |body| Answer { status: parts.status, headers: parts.headers.clone(), body, from_registry: true };
    if ask.method == Method::HEAD || parts.status.is_redirection() {
        return Ok(answer(Bytes::new()));
    }
    if !parts.status.is_success() {
        // An error's body only illustrates it: cut off or broken, it takes nothing from the status.
        let cap = Cap { limit: "REGISTRY_ERROR_BYTES", bytes: REGISTRY_ERROR_BYTES };
        return Ok(answer(collect(body, cap).await.unwrap_or_default()));
    }
    // Never asked for; and a digest is over the bytes as stored.
    if parts.headers.get(CONTENT_ENCODING).is_some_and(|v| v != "identity") {
        return Err(Cause::Protocol(Violation::Encoding));
    }
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > ask.cap.bytes as u64) {
        return Err(ask.cap.exceeded());
    }
    Ok(answer(collect(body, ask.cap).await?))
}

async fn collect(mut body: Incoming, cap: Cap) -> Result<Bytes, Cause> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| classify(&e))?;
        if let Some(data) = frame.data_ref() {
            if all.len() + data.len() > cap.bytes {
                return Err(cap.exceeded());
            }
            all.extend_from_slice(data);
        }
    }
    Ok(all.freeze())
}

/// Makes a fixed cause of an error chain: its texts hold addresses, ports and times.
fn classify(error: &(dyn StdError + 'static)) -> Cause {
    let mut fallback = Cause::Unreachable(Unreachable::BrokenOff);
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if error.is::<AddressRefused>() {
            return Cause::RedirectRefused("it leads to this node or its link, where the registry is not");
        }
        if error.is::<NameUnknown>() {
            return Cause::Unreachable(Unreachable::Name);
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Cause::Unreachable(classify_tls(tls));
        }
        if error.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect) {
            fallback = Cause::Unreachable(Unreachable::NoConnection);
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            if hyper.is_parse_too_large() {
                return Cause::TooLarge {
                    limit: "REGISTRY_HEADER_BYTES, or REGISTRY_HEADERS lines",
                    bytes: REGISTRY_HEADER_BYTES,
                };
            }
            if hyper.is_parse() {
                fallback = Cause::Protocol(Violation::Http);
            }
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if io.kind() == io::ErrorKind::ConnectionRefused {
                return Cause::Unreachable(Unreachable::Refused);
            }
            // io::Error hides what it wraps from source().
            if let Some(inner) = io.get_ref() {
                next = Some(inner);
            }
        }
    }
    fallback
}

fn classify_tls(error: &rustls::Error) -> Unreachable {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => Unreachable::TlsIssuer,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Unreachable::TlsName,
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                Unreachable::TlsTime
            }
            _ => Unreachable::Tls,
        },
        _ => Unreachable::Tls,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_step_never_leads_from_https_to_http_and_to_plain_http_only_where_configured() {
        let settings = Settings {
            plain_http: vec!["plain.example:5000".to_owned()],
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
            max_concurrent_per_host: 1,
            user_agent: "crivet/test".to_owned(),
        };
        let transport = Transport::new(&settings, Arc::new(|_| {})).unwrap();
        let step = |registry: &str, from: &str, to: &str| {
            let registry = transport.endpoint(registry);
            transport.check_step(&registry, &from.parse().unwrap(), &to.parse().unwrap()).is_ok()
        };
        assert!(step("registry.example", "https://registry.example/", "https://cdn.example/"));
        assert!(step("plain.example:5000", "http://plain.example:5000/", "https://cdn.example/"));
        assert!(step("plain.example:5000", "http://plain.example:5000/", "http://plain.example:5000/x"));
        assert!(!step("plain.example:5000", "http://plain.example:5000/", "http://cdn.example/"));
        assert!(!step("registry.example", "https://registry.example/", "http://registry.example/"));
        assert!(!step("registry.example", "https://registry.example/", "http://plain.example:5000/"));
        assert!(!step("plain.example:5000", "https://cdn.example/", "http://plain.example:5000/"));
    }
}
