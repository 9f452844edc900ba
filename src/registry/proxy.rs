//! HTTP proxies, as Go's net/http takes them from the environment: the runtimes do so, and what works for their pulls
//! has to work here. Pure.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// What the environment says about proxies. The URLs may hold passwords, so it is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// `HTTPS_PROXY`: for https.
    pub https: Option<String>,
    /// `HTTP_PROXY`: for plain HTTP.
    pub http: Option<String>,
    /// `NO_PROXY`: hosts asked directly.
    pub no: Option<String>,
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |value: &Option<String>| value.as_ref().map(|_| "[redacted]");
        f.debug_struct("ProxySettings")
            .field("https", &said(&self.https))
            .field("http", &said(&self.http))
            .field("no", &self.no)
            .finish()
    }
}

impl ProxySettings {
    /// The variables read. Upper case counts before lower case, and an empty one is as good as none.
    pub const VARIABLES: [&str; 6] =
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"];

    /// Reads them with `variable`, such as `|name| std::env::var(name).ok()`.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let of = |upper: &str, lower: &str| {
            [upper, lower].into_iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        let [https, https_lower, http, http_lower, no, no_lower] = Self::VARIABLES;
        Self { https: of(https, https_lower), http: of(http, http_lower), no: of(no, no_lower) }
    }
}

/// Which proxy a request goes through.
pub(super) enum Way {
    /// None.
    Direct,
    /// This one.
    Proxy(Intercept),
    /// One that the environment names and that cannot be used. Going past it would be what its owner does not want.
    Unusable,
}

/// A proxy for a scheme: none, one, or one that cannot be used.
type Named = Option<Option<Intercept>>;

/// The proxies for all requests.
pub(super) struct Proxies {
    https: Named,
    http: Named,
    no: Vec<Exempt>,
}

/// An entry of `NO_PROXY`.
enum Exempt {
    All,
    Network {
        net: u128,
        bits: u32,
        v4: bool,
    },
    Address {
        ip: IpAddr,
        port: Option<String>,
    },
    /// `.example.com`, and `example.com` itself too where `itself`.
    Domain {
        suffix: String,
        itself: bool,
        port: Option<String>,
    },
}

impl Proxies {
    pub(super) fn new(settings: &ProxySettings) -> Self {
        let named = |value: &Option<String>| value.as_deref().map(|url| usable(url.trim()));
        let no = settings.no.as_deref().unwrap_or_default().split(',').filter_map(Exempt::parse).collect();
        Self { https: named(&settings.https), http: named(&settings.http), no }
    }

    pub(super) fn way(&self, to: &Uri) -> Way {
        let (named, default_port) = match to.scheme_str() {
            Some("https") => (&self.https, 443),
            _ => (&self.http, 80),
        };
        let Some(named) = named else { return Way::Direct };
        let host = to.host().unwrap_or_default().to_ascii_lowercase();
        let host = super::host::unbracketed(&host);
        let port = to.port_u16().unwrap_or(default_port).to_string();
        let ip: Option<IpAddr> = host.parse().ok().map(|ip: IpAddr| ip.to_canonical());
        let local = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        if local || self.no.iter().any(|exempt| exempt.covers(host, ip, &port)) {
            return Way::Direct;
        }
        named.clone().map_or(Way::Unusable, Way::Proxy)
    }
}

/// An HTTP proxy, spoken to with or without TLS. Without a scheme it is one without.
fn usable(url: &str) -> Option<Intercept> {
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let matcher = Matcher::builder().all(with_scheme).build();
    let any = Uri::from_static("http://registry.invalid/");
    matcher.intercept(&any).filter(|found| matches!(found.uri().scheme_str(), Some("http" | "https")))
}

impl Exempt {
    /// As golang.org/x/net/http/httpproxy reads them.
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some(network) = network(&entry) {
            return Some(network);
        }
        let (host, port) = split_port(&entry);
        if host.is_empty() {
            return None;
        }
        if let Ok(ip) = host.parse() {
            return Some(Self::Address { ip, port });
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let itself = !host.starts_with('.');
        let suffix = if itself { format!(".{host}") } else { host.to_owned() };
        Some(Self::Domain { suffix, itself, port })
    }

    fn covers(&self, host: &str, ip: Option<IpAddr>, port: &str) -> bool {
        let of_port = |own: &Option<String>| own.as_ref().is_none_or(|own| own == port);
        match self {
            Self::All => true,
            Self::Network { net, bits, v4 } => {
                ip.is_some_and(|ip| ip.is_ipv4() == *v4 && masked(ip, *bits) == *net)
            }
            Self::Address { ip: own, port } => ip == Some(*own) && of_port(port),
            Self::Domain { suffix, itself, port } => {
                let same = *itself && suffix.strip_prefix('.') == Some(host);
                (same || host.ends_with(suffix.as_str())) && of_port(port)
            }
        }
    }
}

/// `10.0.0.0/8`, `fd00::/8`
fn network(entry: &str) -> Option<Exempt> {
    let (ip, bits) = entry.split_once('/')?;
    let (ip, bits): (IpAddr, u32) = (ip.parse().ok()?, bits.parse().ok()?);
    let v4 = ip.is_ipv4();
    (bits <= if v4 { 32 } else { 128 }).then(|| Exempt::Network { net: masked(ip, bits), bits, v4 })
}

fn masked(ip: IpAddr, bits: u32) -> u128 {
    let (number, width) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    // A shift by all 128 bits has no result: nothing of it is left.
    let off: u32 = width - bits;
    number.checked_shr(off).and_then(|n| n.checked_shl(off)).unwrap_or(0)
}

/// `host:port` and `[v6]:port`; all of it is the host where there is no port.
fn split_port(entry: &str) -> (&str, Option<String>) {
    let port = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    if let Some((host, rest)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(port));
    }
    match entry.split_once(':') {
        Some((host, after)) if !after.contains(':') => (host, port(after)),
        _ => (entry, None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PROXY: &str = "http://user:pa%20ss@proxy.example:3128";

    fn proxies(https: &str, http: &str, no: &str) -> Proxies {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Proxies::new(&ProxySettings { https: some(https), http: some(http), no: some(no) })
    }

    /// The proxy's address, `direct` or `unusable`.
    fn way(proxies: &Proxies, to: &str) -> String {
        match proxies.way(&to.parse().unwrap()) {
            Way::Direct => "direct".to_owned(),
            Way::Proxy(proxy) => proxy.uri().to_string(),
            Way::Unusable => "unusable".to_owned(),
        }
    }

    #[test]
    fn each_scheme_has_its_own_proxy() {
        let proxies = proxies(PROXY, "plain.example", "");
        assert_eq!(way(&proxies, "https://registry.example/v2/"), "http://proxy.example:3128/");
        assert_eq!(way(&proxies, "http://registry.example:5000/v2/"), "http://plain.example/");
        let Way::Proxy(found) = proxies.way(&"https://registry.example".parse().unwrap()) else { return };
        assert_eq!(found.basic_auth().unwrap(), "Basic dXNlcjpwYSBzcw==");
        assert_eq!(way(&self::proxies("", PROXY, ""), "https://registry.example/"), "direct");
    }

    #[test]
    fn proxy_that_cannot_be_used_is_not_gone_past() {
        for url in ["socks5://proxy.example:1080", "ftp://proxy.example", "http://", "not a url"] {
            assert_eq!(way(&proxies(url, "", ""), "https://registry.example/"), "unusable", "{url}");
        }
    }

    #[test]
    fn loopback_is_always_asked_directly() {
        let proxies = proxies(PROXY, PROXY, "");
        for to in ["http://localhost:5000/", "https://LOCALHOST/", "http://127.3.2.1/", "https://[::1]:5000/"]
        {
            assert_eq!(way(&proxies, to), "direct", "{to}");
        }
        assert_ne!(way(&proxies, "https://localhost.example/"), "direct");
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        for (no, direct, proxied) in [
            (
                "example.com",
                &["example.com", "a.example.com", "EXAMPLE.com:5000"][..],
                &["notexample.com", "com"][..],
            ),
            (".example.com", &["a.example.com"], &["example.com"]),
            ("*.example.com", &["a.example.com", "b.a.example.com"], &["example.com"]),
            (
                "example.com:5000",
                &["example.com:5000", "a.example.com:5000"],
                &["example.com", "example.com:5001"],
            ),
            ("example.com:443", &["example.com"], &["example.com:5000"]),
            ("10.0.0.0/8", &["10.1.2.3", "10.1.2.3:5000", "[::ffff:10.1.2.3]"], &["11.1.2.3", "a.10.1.2.3"]),
            ("0.0.0.0/0", &["11.1.2.3"], &["[2001:db8::1]"]),
            ("fd00::/8", &["[fd00::1]:5000"], &["[fc00::1]", "10.0.0.1"]),
            ("10.1.2.3", &["10.1.2.3", "10.1.2.3:5000"], &["10.1.2.4"]),
            ("10.1.2.3:5000", &["10.1.2.3:5000"], &["10.1.2.3"]),
            ("[fd00::1]:5000", &["[fd00::1]:5000"], &["[fd00::1]"]),
            ("fd00::1", &["[fd00::1]"], &["[fd00::2]"]),
            ("a.example , ,b.example", &["a.example", "b.example"], &["c.example"]),
            ("*", &["anything.example", "10.1.2.3"], &[]),
            (":80", &[], &["example.com"]),
            ("10.0.0.0/33", &[], &["10.0.0.1"]),
        ] {
            let proxies = proxies(PROXY, "", no);
            for host in direct {
                assert_eq!(way(&proxies, &format!("https://{host}/v2/")), "direct", "{no}: {host}");
            }
            for host in proxied {
                assert_ne!(way(&proxies, &format!("https://{host}/v2/")), "direct", "{no}: {host}");
            }
        }
    }

    #[test]
    fn upper_case_counts_first_and_an_empty_variable_is_none() {
        let read = ProxySettings::from_variables(|name| match name {
            "HTTPS_PROXY" => Some(String::new()),
            "https_proxy" => Some("lower".to_owned()),
            "NO_PROXY" => Some("upper".to_owned()),
            "no_proxy" => Some("lower".to_owned()),
            _ => None,
        });
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read, ProxySettings { https: some("lower"), http: None, no: some("upper") });
    }

    #[test]
    fn debug_shows_no_password() {
        let settings = ProxySettings { https: Some(PROXY.to_owned()), ..ProxySettings::default() };
        assert!(!format!("{settings:?}").contains("pa%20ss"));
    }
}
