//! Connections: straight to a host, or through the proxy that the environment names for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt as _};

use super::proxy::{Proxies, Way};
use super::resolve::Resolver;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Tcp = HttpConnector<Resolver>;

/// Why a proxy does not lead on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The environment names one that is no HTTP proxy.
    #[error("the proxy is no HTTP proxy")]
    Unusable,
    /// It answers 407.
    #[error("the proxy wants a login")]
    Login,
    /// It cannot be reached, or refuses.
    #[error("the proxy does not lead on")]
    Refused,
}

/// Connects by TCP; TLS to the host comes on top.
#[derive(Clone)]
pub(super) struct Route {
    direct: Tcp,
    /// The proxy itself may speak TLS, and may be on this node: whoever set the environment chose it.
    to_proxy: HttpsConnector<Tcp>,
    proxies: Arc<Proxies>,
}

impl Route {
    pub(super) fn new(
        resolver: Resolver,
        timeout: Duration,
        proxies: Arc<Proxies>,
        to_proxy: ClientConfig,
    ) -> Self {
        let tcp = |resolver| {
            let mut tcp = HttpConnector::new_with_resolver(resolver);
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(timeout));
            tcp
        };
        let to_proxy = HttpsConnectorBuilder::new()
            .with_tls_config(to_proxy)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp(Resolver { foreign: false }));
        Self { direct: tcp(resolver), to_proxy, proxies }
    }

    async fn connect(self, to: Uri) -> Result<Stream, BoxError> {
        let proxy = match self.proxies.way(&to) {
            Way::Direct => {
                let stream = self.direct.oneshot(to).await?;
                return Ok(Stream { stream: MaybeHttpsStream::Http(stream), proxied: false });
            }
            Way::Proxy(proxy) => proxy,
            Way::Unusable => return Err(ProxyError::Unusable.into()),
        };
        let refused = |error: BoxError| {
            tracing::debug!(%error, "a proxy does not lead on");
            ProxyError::Refused
        };
        if to.scheme_str() == Some("http") {
            let stream = self.to_proxy.oneshot(proxy.uri().clone()).await.map_err(refused)?;
            return Ok(Stream { stream, proxied: true });
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy);
        if let Some(login) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(login.clone());
        }
        let stream = tunnel.oneshot(to).await.map_err(|error| {
            // Its type has no name outside of its crate.
            let login = error.to_string().contains("authorization required");
            if login { ProxyError::Login } else { refused(error.into()) }
        })?;
        Ok(Stream { stream, proxied: false })
    }
}

impl Service<Uri> for Route {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().connect(to))
    }
}

/// A connection; `proxied` where plain HTTP on it has to name the host in each request's first line.
pub(super) struct Stream {
    stream: MaybeHttpsStream<TokioIo<TcpStream>>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        all: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, all)
    }
}
