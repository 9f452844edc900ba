//! Whether a registry takes a login, without asking for anything of its content.

use tokio::time::Instant;

use super::client::Client;
use super::credential::Credential;
use super::error::{Cause, Said, Violation};
use super::hosts::Operation;

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
        let hosts = self.transport.hosts_of(registry, "", Operation::Pull).map_err(Cause::Hosts)?;
        // The login is the registry's: what stands for it is another host.
        let host = hosts.iter().find(|host| host.is_registry).ok_or(Cause::Protocol(Violation::Name))?;
        let answer = self.get_root(host, credential, deadline).await?;
        match answer.status.as_u16() {
            200 => Ok(()),
            401 => Err(Cause::Unauthorized(Said::read(&answer.body, answer.is_web_page()))),
            403 => Err(Cause::Forbidden(Said::read(&answer.body, answer.is_web_page()))),
            status => Err(Cause::Protocol(Violation::Status(status))),
        }
    }
}
