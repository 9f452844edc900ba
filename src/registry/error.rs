//! Why something could not be had from a registry.

use std::fmt;

use super::hosts::HostsError;
use crate::image::Digest;

/// A failed fetch: what was asked for, and why it was not had. `Display` is one line that is the same for the
/// same failure: no addresses, times or secrets; of a server's text only the OCI error code, checked and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError {
    /// What was asked for: `manifest registry.example/app:v1`.
    pub subject: String,
    /// Why it was not had: the last host's word that is not "not found", if there is one.
    pub cause: Cause,
    /// What each host said, in order, where others than the registry itself were asked; else none.
    pub tried: Vec<Tried>,
}

/// What came of asking one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// `host[:port]`
    pub host: String,
    /// Why it did not give what was asked for.
    pub cause: Cause,
}

/// Why a fetch failed, with the evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// 404. The registry says it has no such thing: the only cause that says something about the content.
    #[error("not found ({0})")]
    NotFound(Said),
    /// 401, also after the credential, if any, was shown.
    #[error("the registry wants another login ({0}); check the pull secret")]
    Unauthorized(Said),
    /// 403, from the registry or its token endpoint.
    #[error("the registry refuses this login ({0}); check the pull secret and its rights")]
    Forbidden(Said),
    /// 429, after retries that fitted the deadline.
    #[error("the registry has too many requests (429)")]
    TooManyRequests {
        /// `Retry-After`, where the registry gave one in seconds.
        retry_after: Option<u64>,
    },
    /// 5xx, after retries that fitted the deadline.
    #[error("the registry is in trouble (status {status})")]
    ServerError {
        /// The HTTP status.
        status: u16,
    },
    /// No full answer by the deadline or the request's own time limit.
    #[error("no full answer from the registry within the time allowed")]
    Timeout,
    /// No connection, or it broke.
    #[error("the registry cannot be reached: {0}")]
    Unreachable(Unreachable),
    /// More than a limit allows.
    #[error("the answer is larger than the limit {limit} ({bytes} bytes)")]
    TooLarge {
        /// The limit's name in `limits`.
        limit: &'static str,
        /// Its value.
        bytes: usize,
    },
    /// More of something than a limit allows.
    #[error("more {what} than the limit {limit} ({most})")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The limit's name in `limits`.
        limit: &'static str,
        /// Its value.
        most: usize,
    },
    /// The bytes are not those that were asked for, or not those the registry says they are.
    #[error("digest mismatch: expected {expected}, found {found}")]
    DigestMismatch {
        /// Asked for, or named by `Docker-Content-Digest`.
        expected: Digest,
        /// SHA-256 of the body, or what `Docker-Content-Digest` said in its place.
        found: Digest,
    },
    /// A web page: a proxy, a login portal, or another service on that port.
    #[error("a web page answered, not a registry; check the address and any proxy in between")]
    NotARegistry,
    /// A redirect that is not followed, and why.
    #[error("redirect refused: {0}")]
    RedirectRefused(&'static str),
    /// A token realm that is not asked, and why.
    #[error("token realm refused: {0}")]
    RealmRefused(&'static str),
    /// The runtime's files leave no host to ask.
    #[error("no host can be asked: {0}")]
    Hosts(HostsError),
    /// An answer the distribution spec does not know.
    #[error("not an answer of the distribution protocol: {0}")]
    Protocol(Violation),
}

/// How an answer breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not HTTP.
    #[error("not HTTP/1.1")]
    Http,
    /// A status with no meaning here.
    #[error("status {0}")]
    Status(u16),
    /// A header that must be there.
    #[error("no {0} header")]
    NoHeader(&'static str),
    /// A header that cannot be read.
    #[error("unreadable {0} header")]
    BadHeader(&'static str),
    /// A compressed body, which was not asked for.
    #[error("a content-encoding that was not asked for")]
    Encoding,
    /// No challenge in `WWW-Authenticate` that crivet knows.
    #[error("no Basic or Bearer challenge with a realm in WWW-Authenticate")]
    Challenge,
    /// The token endpoint's answer holds no token.
    #[error("no usable token in the token endpoint's answer")]
    Token,
    /// A list of referrers that is none.
    #[error("no image index where the list of referrers should be")]
    Referrers,
    /// A next page elsewhere.
    #[error("the next page of the list of referrers is not on the same host and repository")]
    NextPage,
    /// The request's own name cannot be written as a URL.
    #[error("the name cannot be asked for")]
    Name,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// The name does not resolve.
    #[error("its name does not resolve")]
    Name,
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// The proxy cannot be reached, or refuses to lead there.
    #[error("the proxy of HTTPS_PROXY or HTTP_PROXY cannot be reached or does not lead there")]
    Proxy,
    /// The proxy answers 407.
    #[error("the proxy wants another login (407); check HTTPS_PROXY and HTTP_PROXY")]
    ProxyLogin,
    /// The environment names something else than an HTTP proxy.
    #[error(
        "HTTPS_PROXY or HTTP_PROXY names no HTTP proxy; write it as http://host:port or https://host:port"
    )]
    ProxyUnusable,
    /// No route, or no answer to the connection attempt.
    #[error("no connection")]
    NoConnection,
    /// The connection broke before the answer was complete.
    #[error("the connection broke off")]
    BrokenOff,
    /// The certificate's issuer is not trusted.
    #[error("TLS: the certificate's issuer is not trusted by this node")]
    TlsIssuer,
    /// The certificate is for another name.
    #[error("TLS: the certificate is for another name")]
    TlsName,
    /// The certificate is expired or not yet valid.
    #[error("TLS: the certificate is expired or not yet valid; check the clock too")]
    TlsTime,
    /// Any other TLS failure.
    #[error("TLS: the handshake failed")]
    Tls,
}

/// What a registry said with an error status: the first OCI error code (spec v1.1, "Error Codes"), if it sent
/// one. Its free text is left out: it may hold request numbers and times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Such as `MANIFEST_UNKNOWN`: capitals, digits and `_`, at most 64.
    pub code: Option<String>,
    /// Whether the body was a web page.
    pub web_page: bool,
}

impl Said {
    /// Reads an error body. Anything but a well-formed code is as good as none.
    pub(super) fn read(body: &[u8], web_page: bool) -> Self {
        #[derive(serde::Deserialize)]
        struct Errors {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            code: String,
        }
        let code = serde_json::from_slice::<Errors>(body)
            .ok()
            .and_then(|all| all.errors.into_iter().next())
            .map(|first| first.code)
            .filter(|code| {
                (1..=64).contains(&code.len())
                    && code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            });
        Self { code, web_page }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.code, self.web_page) {
            (Some(code), _) => f.write_str(code),
            (None, true) => f.write_str("a web page, no registry's error code"),
            (None, false) => f.write_str("no error code"),
        }
    }
}

impl FetchError {
    /// Whether a registry or the network is why, so that the answer is `RegistryUnavailable` and a kept proof
    /// may stand in. Wrong digests, sizes and redirects are not: they can be an attack, and stay visible.
    pub fn is_unreachable(&self) -> bool {
        match &self.cause {
            Cause::TooManyRequests { .. }
            | Cause::ServerError { .. }
            | Cause::Timeout
            | Cause::Unreachable(_)
            | Cause::NotARegistry
            // A faulty file on the node says nothing about the image either.
            | Cause::Hosts(HostsError::Files(_))
            | Cause::Protocol(_) => true,
            Cause::NotFound(_)
            | Cause::Unauthorized(_)
            | Cause::Forbidden(_)
            | Cause::TooLarge { .. }
            | Cause::TooMany { .. }
            | Cause::DigestMismatch { .. }
            | Cause::RedirectRefused(_)
            | Cause::RealmRefused(_)
            | Cause::Hosts(HostsError::Blocked { .. } | HostsError::Incapable(_)) => false,
        }
    }

    /// Whether the registry says that it has no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self.cause, Cause::NotFound(_))
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tried.is_empty() {
            return write!(f, "{}: {}", self.subject, self.cause);
        }
        let tried: Vec<_> =
            self.tried.iter().map(|tried| format!("{}: {}", tried.host, tried.cause)).collect();
        write!(f, "{}: asked {}", self.subject, tried.join("; "))
    }
}

impl std::error::Error for FetchError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_code_is_quoted() {
        let code = |body: &str| Said::read(body.as_bytes(), false).code;
        let valid = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"x","detail":{}}]}"#;
        assert_eq!(code(valid).as_deref(), Some("MANIFEST_UNKNOWN"));
        assert_eq!(code(&valid.replace("MANIFEST_UNKNOWN", "evil\\nline")), None);
        assert_eq!(code(&valid.replace("MANIFEST_UNKNOWN", "")), None);
        assert_eq!(code(&valid.replace("MANIFEST_UNKNOWN", &"A".repeat(65))), None);
        assert_eq!(code(r#"{"errors":[]}"#), None);
        assert_eq!(code("<html>"), None);
    }
}
