//! One HTTP exchange with everything bounded: time, header and body size, redirects, concurrency, and where it
//! may connect to.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
    PROXY_AUTHORIZATION, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::client::{Observer, Outcome, Settings};
use super::error::{Cause, Unreachable, Violation};
use super::host::{self, Endpoint};
use super::hosts::{Host, HostFiles, HostsError, Operation, Reading};
use super::proxy::{Proxies, Way};
use super::wire::{HyperClient, Wire, Wires, classify};
use crate::limits::{MIRROR_REST_SECONDS, REGISTRY_ERROR_BYTES, REGISTRY_HOSTS, REGISTRY_REDIRECTS};

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
    /// What was asked for, before any redirect.
    pub(super) asked: Uri,
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

/// One place to send requests to, and how.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) wire: Arc<Wire>,
    /// Sent to this endpoint, and not to where it sends us.
    pub(super) headers: Arc<[(String, String)]>,
}

pub(super) struct Transport {
    wires: Wires,
    files: HostFiles,
    reading: RwLock<Arc<Reading>>,
    rereading: Mutex<()>,
    /// Mirrors that could not be reached a moment ago, and why.
    resting: Mutex<HashMap<String, (Instant, Cause)>>,
    /// Hosts that may speak TLS or not, and do not.
    plain: Mutex<HashSet<String>>,
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
        let proxies = Arc::new(Proxies::new(&settings.proxies));
        let wires = Wires::new(settings.connect_timeout, settings.max_concurrent_per_host, proxies)?;
        let transport = Self {
            wires,
            files: settings.hosts.clone(),
            reading: RwLock::new(Arc::new(Reading::of(&settings.hosts))),
            rereading: Mutex::default(),
            resting: Mutex::default(),
            plain: Mutex::default(),
            request_timeout: settings.request_timeout,
            user_agent,
            plain_http: settings.plain_http.iter().map(|h| h.to_ascii_lowercase()).collect(),
            per_host: settings.max_concurrent_per_host.max(1),
            hosts: Mutex::new(HashMap::new()),
            requests: AtomicU64::new(0),
            observer,
        };
        transport.tell();
        Ok(transport)
    }

    fn reading(&self) -> Arc<Reading> {
        Arc::clone(&self.reading.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the runtime's files again if one has changed. Waits for the disk: not for a place where calls wait.
    pub(super) fn reread(&self) {
        // One at a time: a disk that hangs would gather more and more of them.
        let Ok(_only) = self.rereading.try_lock() else { return };
        let before = self.reading();
        if !before.is_old() {
            return;
        }
        let mut new = Reading::of(&self.files);
        new.or_the_last_good(&before);
        *self.reading.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        tracing::info!("the runtime's registry hosts have changed and are read again");
        self.tell();
    }

    /// What an operator has to know of the hosts.
    fn tell(&self) {
        let reading = self.reading();
        for host in reading.hosts.unchecked() {
            tracing::warn!(%host, "TLS certificates are NOT checked for this registry host: the runtime's files say so");
        }
        for trouble in reading.hosts.troubles() {
            tracing::error!(%trouble, "a registry host cannot be used");
        }
    }

    /// The hosts to ask, in order.
    pub(super) fn hosts_of(
        &self,
        registry: &str,
        repository: &str,
        operation: Operation,
    ) -> Result<Vec<Host>, HostsError> {
        self.reading().hosts.of(registry, repository, operation, &self.plain_http)
    }

    /// Where to send requests for a host; the second where the first speaks no TLS.
    pub(super) fn targets(&self, host: &Host) -> Result<(Target, Option<Target>), Cause> {
        let unusable = |why: String| Cause::Hosts(HostsError::Files(why));
        let material = host.material.as_ref().map_err(|why| unusable(why.clone()))?;
        let wire =
            self.wires.of(material.as_deref(), host.skip_verify, host.dial_timeout).map_err(unusable)?;
        let headers = Arc::clone(&host.headers);
        let target = |endpoint| Target { endpoint, wire: Arc::clone(&wire), headers: Arc::clone(&headers) };
        let (first, second) = host.endpoints();
        Ok((target(first), second.map(target)))
    }

    /// Whether a host that may speak TLS or not was found not to.
    pub(super) fn is_plain(&self, authority: &str) -> bool {
        self.plain.lock().unwrap_or_else(PoisonError::into_inner).contains(authority)
    }

    /// Takes note of what was found.
    pub(super) fn found_plain(&self, authority: &str, plain: bool) {
        let mut all = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if !plain {
            all.remove(authority);
        } else if all.len() < REGISTRY_HOSTS {
            all.insert(authority.to_owned());
        }
    }

    /// Why a mirror could not be reached, if that was a moment ago.
    pub(super) fn rests(&self, authority: &str, now: Instant) -> Option<Cause> {
        let all = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(authority).filter(|(until, _)| now < *until).map(|(_, cause)| cause.clone())
    }

    /// Leaves a mirror alone for a while.
    pub(super) fn rest(&self, authority: &str, cause: Cause, now: Instant) {
        let mut all = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (until, _)| now < *until);
        if all.len() < REGISTRY_HOSTS {
            all.insert(authority.to_owned(), (now + Duration::from_secs(MIRROR_REST_SECONDS), cause));
        }
    }

    /// HTTP requests sent so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends `ask` to `registry` and follows redirects. The authorization goes to the registry only, and never
    /// again once a redirect has led away from it.
    pub(super) async fn follow(&self, target: &Target, mut ask: Ask) -> Result<Answer, Cause> {
        let registry = &target.endpoint;
        let asked = ask.uri.clone();
        let mut from_registry = true;
        for _ in 0..=REGISTRY_REDIRECTS {
            let client = client_for(target, &ask.uri).map_err(Cause::RedirectRefused)?;
            let headers: &[_] = if from_registry { &target.headers } else { &[] };
            let mut answer = self.send(client, &ask, headers).await?;
            answer.from_registry = from_registry;
            answer.asked = asked.clone();
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
    pub(super) async fn realm(&self, target: &Target, ask: &Ask) -> Result<Answer, Cause> {
        let registry = &target.endpoint;
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
        let client = client_for(target, &ask.uri).map_err(Cause::RealmRefused)?;
        let answer = self.send(client, ask, &[]).await?;
        if answer.status.is_redirection() {
            return Err(Cause::RealmRefused("it answers with a redirect"));
        }
        Ok(answer)
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

    async fn send(
        &self,
        client: &HyperClient,
        ask: &Ask,
        headers: &[(String, String)],
    ) -> Result<Answer, Cause> {
        let authority = ask.uri.authority().map(|a| a.as_str().to_ascii_lowercase()).unwrap_or_default();
        let slots = self.slots(authority);
        let until = ask.deadline.min(Instant::now() + self.request_timeout);
        let result = tokio::time::timeout_at(until, async {
            let _slot = match ask.guest {
                true => None,
                false => Some(slots.acquire().await.map_err(|_| Cause::Timeout)?),
            };
            self.requests.fetch_add(1, Ordering::Relaxed);
            let response = client.request(self.request(ask, headers)?).await.map_err(|e| classify(&e))?;
            if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                return Err(Cause::Unreachable(Unreachable::ProxyLogin));
            }
            read(response, ask).await
        })
        .await
        .unwrap_or(Err(Cause::Timeout));
        (self.observer)(Outcome::of(&result));
        result
    }

    fn request(&self, ask: &Ask, own: &[(String, String)]) -> Result<Request<Full<Bytes>>, Cause> {
        let body = Full::new(ask.form.clone().unwrap_or_default());
        let mut request = Request::new(body);
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = ask.uri.clone();
        let headers = request.headers_mut();
        for (name, value) in own {
            let name = HeaderName::try_from(name).map_err(|_| Cause::Protocol(Violation::Name))?;
            let mut value = HeaderValue::try_from(value).map_err(|_| Cause::Protocol(Violation::Name))?;
            value.set_sensitive(true);
            // What is said about the connection is not the configuration's to say.
            if ![HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, PROXY_AUTHORIZATION].contains(&name) {
                headers.append(name, value);
            }
        }
        if !headers.contains_key(USER_AGENT) {
            headers.insert(USER_AGENT, self.user_agent.clone());
        }
        if let Some(accept) = ask.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some(authorization) = &ask.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if ask.form.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        // Through a tunnel the proxy is told at its start; otherwise with each request.
        if ask.uri.scheme_str() == Some("http")
            && let Way::Proxy(proxy) = self.wires.proxies().way(&ask.uri)
            && let Some(login) = proxy.basic_auth()
        {
            headers.insert(PROXY_AUTHORIZATION, login.clone());
        }
        Ok(request)
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

/// The host's own client, or the one for where a registry sends us.
fn client_for<'a>(target: &'a Target, uri: &Uri) -> Result<&'a HyperClient, &'static str> {
    let registry = &target.endpoint;
    let host = host::unbracketed(uri.host().unwrap_or_default());
    if registry.is_origin_of(uri) {
        return Ok(&target.wire.direct);
    }
    if host::is_loopback_host(registry.host()) && host::is_loopback_host(host) {
        return Ok(&target.wire.near);
    }
    if host::is_loopback_host(host) || host.parse().is_ok_and(host::is_node_local) {
        return Err("it leads to this node or its link, where the registry is not");
    }
    Ok(&target.wire.foreign)
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
    let answer = |body| Answer {
        status: parts.status,
        headers: parts.headers.clone(),
        body,
        asked: ask.uri.clone(),
        from_registry: true,
    };
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::registry::proxy::ProxySettings;

    #[test]
    fn a_step_never_leads_from_https_to_http_and_to_plain_http_only_where_configured() {
        let settings = Settings {
            plain_http: vec!["plain.example:5000".to_owned()],
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
            max_concurrent_per_host: 1,
            user_agent: "crivet/test".to_owned(),
            hosts: HostFiles::None,
            proxies: ProxySettings::default(),
        };
        let transport = Transport::new(&settings, Arc::new(|_| {})).unwrap();
        let step = |registry: &str, from: &str, to: &str| {
            let registry = Endpoint::of(registry, &settings.plain_http);
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
