//! The one place that makes a gRPC status of crivet's own. Errors of the runtime never pass through here.
//!
//! The kubelet recognises two prefixes and strips the status wrapper only from code Unknown; several equal
//! messages of one pull are merged, different ones lose the prefix. So: code Unknown, and deterministic text
//! (kubelet `pkg/kubelet/images`).

use http::{HeaderValue, Response, header};

/// gRPC status codes crivet answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 2: denied and undecided.
    Unknown = 2,
    /// 12: what is never forwarded.
    Unimplemented = 12,
    /// 14: the runtime cannot be reached, or a call was cut off.
    Unavailable = 14,
}

/// An answer of crivet's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The gRPC code.
    pub code: Code,
    /// One line.
    pub message: String,
}

/// The kubelet's word for an image that its policy does not vouch for.
pub const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed: ";
/// The kubelet's word for a registry that cannot be asked.
pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable: ";
/// Follows [`SIGNATURE_VALIDATION_FAILED`] where nothing was decided and no registry is why.
pub const UNDECIDED: &str = "undecided: ";

impl Reply {
    /// Evidence says no. `text` without prefix.
    pub fn denied(text: &str) -> Reply {
        Reply { code: Code::Unknown, message: format!("{SIGNATURE_VALIDATION_FAILED}{text}") }
    }

    /// Could not be decided; the kubelet tries again. `text` without prefix.
    pub fn undecided(text: &str) -> Reply {
        Reply { code: Code::Unknown, message: format!("{SIGNATURE_VALIDATION_FAILED}{UNDECIDED}{text}") }
    }

    /// The registry or the network is why nothing was decided. `text` without prefix.
    pub fn registry_unavailable(text: &str) -> Reply {
        Reply { code: Code::Unknown, message: format!("{REGISTRY_UNAVAILABLE}{text}") }
    }

    /// Never forwarded.
    pub fn unimplemented(text: String) -> Reply {
        Reply { code: Code::Unimplemented, message: text }
    }

    /// The runtime is away.
    pub fn unavailable(text: String) -> Reply {
        Reply { code: Code::Unavailable, message: text }
    }

    /// As a "Trailers-Only" response (gRPC over HTTP/2).
    pub fn into_response<B: Default>(self) -> Response<B> {
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(self.code as u16));
        headers.insert("grpc-message", percent_encoded(&self.message));
        response
    }

    /// As the trailers that end a response whose headers are already out.
    pub fn into_trailers(self) -> http::HeaderMap {
        let mut trailers = http::HeaderMap::with_capacity(2);
        trailers.insert("grpc-status", HeaderValue::from(self.code as u16));
        trailers.insert("grpc-message", percent_encoded(&self.message));
        trailers
    }
}

/// `Percent-Encoded` of the gRPC over HTTP/2 protocol: everything but printable ASCII, and `%`.
fn percent_encoded(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static("(message not printable)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_what_the_kubelet_recognises() {
        let response = Reply::denied("image a: 100 % é\n").into_response::<String>();
        assert_eq!(response.headers()["grpc-status"], "2");
        assert_eq!(
            response.headers()["grpc-message"],
            "SignatureValidationFailed: image a: 100 %25 %C3%A9%0A"
        );
    }

    #[test]
    fn the_three_prefixes_stay_apart() {
        assert!(Reply::undecided("x").message.starts_with("SignatureValidationFailed: undecided: "));
        assert!(Reply::registry_unavailable("x").message.starts_with("RegistryUnavailable: "));
        assert!(Reply::denied("x").message.starts_with("SignatureValidationFailed: x"));
    }
}
