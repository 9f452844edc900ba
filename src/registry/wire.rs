//! Connections of a kind: what is trusted, what is shown, how long it may take to connect. And what their errors mean.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use super::connect::{ProxyError, Route};
use super::error::{Cause, Unreachable, Violation};
use super::hosts::{Material, client_config, system_roots};
use super::proxy::Proxies;
use super::resolve::{AddressRefused, NameUnknown, Resolver};
use crate::limits::{REGISTRY_HEADER_BYTES, REGISTRY_HEADERS, REGISTRY_WIRES};

pub(super) type HyperClient = legacy::Client<HttpsConnector<Route>, Full<Bytes>>;

/// What connections of a kind have in common: CAs and client certificates, whether certificates are checked, and the
/// time limit.
type Key = (Option<[u8; 32]>, bool, Duration);

/// Clients for one host and for where it sends us. All trust the same CAs.
pub(super) struct Wire {
    /// The host itself: its name may resolve to any address, and it is shown the client certificate.
    pub(super) direct: HyperClient,
    /// Others on loopback, where the host itself is there.
    pub(super) near: HyperClient,
    /// Elsewhere: see [`super::host::is_node_local`].
    pub(super) foreign: HyperClient,
}

/// All kinds that are in use.
pub(super) struct Wires {
    connect_timeout: Duration,
    idle_per_host: usize,
    proxies: Arc<Proxies>,
    /// Towards proxies.
    to_proxy: ClientConfig,
    roots: RootCertStore,
    all: Mutex<HashMap<Key, Arc<Wire>>>,
}

impl Wires {
    /// # Errors
    /// TLS cannot be set up.
    pub(super) fn new(
        connect_timeout: Duration,
        idle_per_host: usize,
        proxies: Arc<Proxies>,
    ) -> io::Result<Self> {
        let (roots, all) = (system_roots(), Mutex::default());
        let to_proxy = client_config(&roots, None, false, false).map_err(io::Error::other)?;
        let wires = Self { connect_timeout, idle_per_host, proxies, to_proxy, roots, all };
        wires.of(None, false, None).map_err(io::Error::other)?;
        Ok(wires)
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The connections for a host.
    ///
    /// # Errors
    /// TLS cannot be set up so.
    pub(super) fn of(
        &self,
        material: Option<&Material>,
        skip_verify: bool,
        dial_timeout: Option<Duration>,
    ) -> Result<Arc<Wire>, String> {
        let timeout = dial_timeout.map_or(self.connect_timeout, |own| own.min(self.connect_timeout));
        let key = (material.map(|material| material.id), skip_verify, timeout);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wire) = all.get(&key) {
            return Ok(Arc::clone(wire));
        }
        let tls = |to_host| {
            client_config(&self.roots, material, skip_verify, to_host).map_err(|error| error.to_string())
        };
        let (own, others) = (tls(true)?, tls(false)?);
        let wire = Arc::new(Wire {
            direct: self.client(false, timeout, own),
            near: self.client(false, timeout, others.clone()),
            foreign: self.client(true, timeout, others),
        });
        if all.len() >= REGISTRY_WIRES {
            // Requests under way keep theirs.
            all.clear();
        }
        all.insert(key, Arc::clone(&wire));
        Ok(wire)
    }

    fn client(&self, foreign: bool, timeout: Duration, tls: ClientConfig) -> HyperClient {
        let (proxies, to_proxy) = (Arc::clone(&self.proxies), self.to_proxy.clone());
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Route::new(Resolver { foreign }, timeout, proxies, to_proxy));
        legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(self.idle_per_host)
            .http1_max_buf_size(REGISTRY_HEADER_BYTES)
            .http1_max_headers(REGISTRY_HEADERS)
            .build(connector)
    }
}

/// Makes a fixed cause of an error chain: its texts hold addresses, ports and times.
pub(super) fn classify(error: &(dyn StdError + 'static)) -> Cause {
    let mut fallback = Cause::Unreachable(Unreachable::BrokenOff);
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if error.is::<AddressRefused>() {
            return Cause::RedirectRefused("it leads to this node or its link, where the registry is not");
        }
        if let Some(proxy) = error.downcast_ref::<ProxyError>() {
            return Cause::Unreachable(match proxy {
                ProxyError::Unusable => Unreachable::ProxyUnusable,
                ProxyError::Login => Unreachable::ProxyLogin,
                ProxyError::Refused => Unreachable::Proxy,
            });
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
