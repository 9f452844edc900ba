//! Files of a web server that is no registry: asked without credentials, by the same rules of where to.

use bytes::Bytes;
use http::{Method, Uri};
use tokio::time::Instant;

use super::client::Client;
use super::error::{Cause, Said, Violation};
use super::host::Endpoint;
use super::transport::{Ask, Cap};

impl Client {
    /// The file at `address` (`https` or `http`); `None` if there is none: 404, or 403, which object stores answer
    /// instead. Asked once and without credentials; redirects are followed as those of a registry of that host.
    ///
    /// # Errors
    /// Everything else: no answer, another status, more than `cap`.
    pub async fn file(&self, address: &Uri, cap: Cap, deadline: Instant) -> Result<Option<Bytes>, Cause> {
        let authority = address.authority().ok_or(Cause::Protocol(Violation::Name))?;
        let plain = match address.scheme_str() {
            Some("https") => false,
            Some("http") => true,
            _ => return Err(Cause::Protocol(Violation::Name)),
        };
        let authority = authority.as_str().to_ascii_lowercase();
        let server = self.transport.directly(Endpoint { plain, authority, path: String::new() })?;
        let ask = Ask {
            method: Method::GET,
            uri: address.clone(),
            accept: None,
            authorization: None,
            form: None,
            cap,
            deadline,
            guest: true,
        };
        let answer = self.transport.follow(&server, ask).await?;
        match answer.status.as_u16() {
            200 => Ok(Some(answer.body)),
            403 | 404 => Ok(None),
            401 => Err(Cause::Unauthorized(Said::default())),
            429 => Err(Cause::TooManyRequests { retry_after: None }),
            status @ 500.. => Err(Cause::ServerError { status }),
            status => Err(Cause::Protocol(Violation::Status(status))),
        }
    }
}
