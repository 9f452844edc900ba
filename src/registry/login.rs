//! Whether a registry takes a login, without asking for anything of its content.

use http::Method;
use tokio::time::Instant;

use super::client::{Call, Client};
use super::credential::Credential;
use super::error::{Cause, Said, Violation};
use super::token::GrantKey;
use super::transport::{Ask, Cap};

impl Client {
    /// Logs in to a registry (`host[:port]`), as docker's client does: `GET /v2/` with what answers its challenge.
    ///
    /// # Errors
    /// `Unauthorized` and `Forbidden`: it refuses the login. Others say nothing about that.
    pub async fn log_in(
        &self,
        registry: &str,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<(), Cause> {
        let endpoint = self.endpoint(registry);
        let uri = format!("{}/v2/", endpoint.base()).parse().map_err(|_| Cause::Protocol(Violation::Name))?;
        let key = GrantKey { registry: endpoint, repository: String::new(), credential: credential.clone() };
        let call = Call { key, subject: registry.to_owned(), deadline, credential };
        let (method, cap) = (Method::GET, Cap::MANIFEST);
        let ask =
            Ask { method, uri, accept: None, authorization: None, form: None, cap, deadline, guest: false };
        let answer = self.with_login(&call, ask).await?;
        match answer.status.as_u16() {
            200 => Ok(()),
            401 => Err(Cause::Unauthorized(Said::read(&answer.body, answer.is_web_page()))),
            403 => Err(Cause::Forbidden(Said::read(&answer.body, answer.is_web_page()))),
            status => Err(Cause::Protocol(Violation::Status(status))),
        }
    }
}
