//! Name resolution that keeps what a registry sends us to away from this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;

use super::host::is_node_local;

/// Resolves with the system's resolver. The addresses it gives are the ones connected to, so there is no gap
/// between check and use for a name that changes its mind (DNS rebinding).
#[derive(Clone, Copy)]
pub(super) struct Resolver {
    /// Whether a registry chose the name (a redirect or a token realm), not a pod or the configuration.
    pub(super) foreign: bool,
}

/// A foreign name has only addresses of this node or its link.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves to this node or its link")]
pub(super) struct AddressRefused;

/// The system's resolver has no address for the name.
#[derive(Debug, thiserror::Error)]
#[error("the name does not resolve")]
pub(super) struct NameUnknown;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let foreign = self.foreign;
        Box::pin(async move {
            let all: Vec<SocketAddr> = if name.as_str().eq_ignore_ascii_case("localhost") {
                // RFC 6761 section 6.3: never asked of DNS. It is reached in the clear.
                [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
                    .map(|ip| SocketAddr::new(ip, 0))
                    .to_vec()
            } else {
                tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|_| NameUnknown)?.collect()
            };
            if all.is_empty() {
                return Err(NameUnknown.into());
            }
            let allowed: Vec<SocketAddr> =
                all.into_iter().filter(|at| !(foreign && is_node_local(at.ip()))).collect();
            if allowed.is_empty() {
                return Err(AddressRefused.into());
            }
            Ok(allowed.into_iter())
        })
    }
}
