//! Which host a registry name means, by which scheme it is asked, and which addresses a server may send us to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Scheme;

/// Where a registry is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) plain: bool,
    /// `host[:port]`
    pub(super) authority: String,
    /// Of the API; empty, or with a slash in front and none at its end.
    pub(super) path: String,
}

impl Endpoint {
    /// The endpoint of the registry a reference names. Plain HTTP only where it is loopback, as containerd does
    /// without a hosts.toml, or where `plain_http` lists it.
    pub(super) fn of(registry: &str, plain_http: &[String]) -> Self {
        let registry = registry.to_ascii_lowercase();
        let plain = is_loopback_host(host_of(&registry)) || plain_http.contains(&registry);
        Self { plain, authority: canonical(&registry).to_owned(), path: "/v2".to_owned() }
    }

    /// `scheme://host[:port]` and the API's path.
    pub(super) fn base(&self) -> String {
        format!("{}://{}{}", if self.plain { "http" } else { "https" }, self.authority, self.path)
    }

    pub(super) fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// Whether `uri` is on this endpoint: same scheme, host and port.
    pub(super) fn is_origin_of(&self, uri: &Uri) -> bool {
        let plain = uri.scheme() == Some(&Scheme::HTTP);
        let default = if self.plain { 80 } else { 443 };
        let own_port = self.authority.parse::<http::uri::Authority>().ok().and_then(|a| a.port_u16());
        plain == self.plain
            && uri.host().is_some_and(|host| unbracketed(host).eq_ignore_ascii_case(self.host()))
            && uri.port_u16().unwrap_or(default) == own_port.unwrap_or(default)
    }
}

/// Docker Hub's names for itself mean one registry.
pub(super) fn canonical(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// Whether a credential's `server_address` (`host[:port]` or a URL) means `registry`.
pub(super) fn same_registry(server_address: &str, registry: &str) -> bool {
    let rest = server_address.split_once("://").map_or(server_address, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    !authority.is_empty()
        && !authority.contains('@')
        && canonical(&authority) == canonical(&registry.to_ascii_lowercase())
}

/// The host of `host[:port]`, without an IPv6 address's brackets.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

/// An IPv6 literal in a URI comes with brackets.
pub(super) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

/// `localhost`, 127.0.0.0/8 and ::1, by name alone: what a name resolves to never makes it loopback, otherwise
/// whoever answers DNS could turn TLS off.
pub(super) fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Addresses that mean this node or its own link, cloud metadata services (169.254.169.254, fd00:ec2::254)
/// included. A redirect or a token realm from a registry elsewhere must not reach them: crivet runs beside the
/// kubelet and containerd, where "whoever can connect" is often the only check. Private ranges stay allowed:
/// registries in a company's network keep their blobs there.
pub(super) fn is_node_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_node_local_v4(ip),
        IpAddr::V6(ip) => {
            let mapped = ip.to_ipv4_mapped().is_some_and(is_node_local_v4);
            let metadata = ip == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            // NAT64 (RFC 6052) leads back to an IPv4 address.
            let nat64 = match ip.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    is_node_local_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
                }
                _ => false,
            };
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || mapped
                || metadata
                || nat64
        }
    }
}

fn is_node_local_v4(ip: Ipv4Addr) -> bool {
    // "This network" 0.0.0.0/8 connects to the node itself on Linux.
    ip.is_loopback() || ip.is_link_local() || ip.octets().first() == Some(&0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_listed_registries_are_plain() {
        let listed = vec!["registry.internal:5000".to_owned()];
        for (registry, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("registry.example", "https://registry.example/v2"),
            ("registry.example:5000", "https://registry.example:5000/v2"),
            ("localhost", "http://localhost/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
            ("127.9.9.9", "http://127.9.9.9/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("registry.internal:5000", "http://registry.internal:5000/v2"),
            ("registry.internal", "https://registry.internal/v2"),
            ("localhost.example", "https://localhost.example/v2"),
            ("127.0.0.1.example", "https://127.0.0.1.example/v2"),
        ] {
            assert_eq!(Endpoint::of(registry, &listed).base(), base);
        }
    }

    #[test]
    fn origin_is_scheme_host_and_port() {
        let of = |registry: &str, uri: &str| Endpoint::of(registry, &[]).is_origin_of(&uri.parse().unwrap());
        assert!(of("registry.example", "https://registry.example/v2/"));
        assert!(of("registry.example", "https://REGISTRY.example:443/v2/"));
        assert!(of("[::1]:5000", "http://[::1]:5000/"));
        assert!(!of("registry.example", "http://registry.example/"));
        assert!(!of("registry.example", "https://registry.example:444/"));
        assert!(!of("registry.example", "https://cdn.registry.example/"));
        assert!(!of("127.0.0.1:5000", "http://127.0.0.1:5001/"));
    }

    #[test]
    fn node_local_addresses_are_known_in_all_their_spellings() {
        for ip in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "fd00:ec2::254",
        ] {
            assert!(is_node_local(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.0.0.1", "192.168.1.1", "203.0.113.7", "2001:db8::1", "fd00::1"] {
            assert!(!is_node_local(ip.parse().unwrap()), "{ip}");
        }
    }
}
