//! Asking the hosts that stand for a registry, one after the other, as whom each may be asked.

use http::{Method, StatusCode, Uri};
use tokio::time::Instant;

use std::time::Duration;

use super::challenge::Challenge;
use super::client::Client;
use super::credential::Credential;
use super::error::{Cause, FetchError, Said, Tried, Unreachable, Violation};
use super::hosts::{Host, Operation};
use super::token::{self, Grant, GrantKey, Plan};
use super::transport::{Answer, Ask, Cap, Target};
use crate::image::Reference;
use crate::limits::REGISTRY_TOKEN_SECONDS;

/// What all requests of one call have in common.
pub(super) struct Call<'a> {
    /// What is asked for, for messages.
    subject: String,
    repo: &'a Reference,
    operation: Operation,
    credential: &'a Credential,
    deadline: Instant,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        what: &str,
        repo: &'a Reference,
        which: &str,
        operation: Operation,
        credential: &'a Credential,
        deadline: Instant,
    ) -> Self {
        let subject = format!("{what} {}/{}{which}", repo.registry(), repo.repository());
        Self { subject, repo, operation, credential, deadline }
    }

    pub(super) fn failed(&self, cause: Cause) -> FetchError {
        FetchError { subject: self.subject.clone(), cause, tried: Vec::new() }
    }
}

/// What is asked of each host.
#[derive(Clone)]
pub(super) struct Query<'a> {
    pub(super) method: Method,
    /// Below the repository; with a query, if there is one.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'static str>,
    pub(super) cap: Cap,
}

impl<'a> Query<'a> {
    pub(super) fn get(path: &'a str, cap: Cap) -> Self {
        Self { method: Method::GET, path, accept: None, cap }
    }
}

/// One host, and as whom it is asked.
pub(super) struct At<'a> {
    host: &'a Host,
    credential: Credential,
    /// There is no other host left: its trouble is worth waiting for.
    last: bool,
    deadline: Instant,
}

/// What came of asking the hosts so far.
pub(super) struct Round<'a> {
    call: &'a Call<'a>,
    tried: Vec<Tried>,
    /// Only the registry itself is asked, so that messages need not name a host.
    only_registry: bool,
}

impl<'a> Round<'a> {
    fn new(call: &'a Call<'a>, hosts: &[Host]) -> Self {
        let only_registry = matches!(hosts, [host] if host.is_registry);
        Self { call, tried: Vec::new(), only_registry }
    }

    pub(super) fn failed_at(&mut self, host: &Host, cause: Cause) {
        self.tried.push(Tried { host: host.authority.clone(), cause });
    }

    /// "Not found" is an answer about the content only if every host says it: what one of them has and does not say, for
    /// whatever reason, is not absent.
    pub(super) fn end(self) -> FetchError {
        let other = self.tried.iter().rev().find(|tried| !matches!(tried.cause, Cause::NotFound(_)));
        let cause = other.or(self.tried.last()).map_or(Cause::Timeout, |tried| tried.cause.clone());
        let tried = if self.only_registry { Vec::new() } else { self.tried };
        FetchError { subject: self.call.subject.clone(), cause, tried }
    }
}

impl Client {
    /// Asks each host until one gives what `read` takes. Only 200 is read.
    pub(super) async fn ask<T>(
        &self,
        call: &Call<'_>,
        query: &Query<'_>,
        read: impl Fn(&Answer) -> Result<T, Cause>,
    ) -> Result<T, FetchError> {
        let hosts = self.hosts(call)?;
        let mut round = Round::new(call, &hosts);
        for (number, host) in hosts.iter().enumerate() {
            let at = match self.at(call, host, number + 1 == hosts.len()) {
                Ok(at) => at,
                Err(cause) => {
                    round.failed_at(host, cause);
                    continue;
                }
            };
            match self.get(&at, query).await.and_then(|answer| read(&answer)) {
                Ok(read) => return Ok(read),
                Err(cause) => {
                    self.rest(&at, &cause);
                    round.failed_at(host, cause);
                }
            }
        }
        Err(round.end())
    }

    /// The hosts of a call.
    pub(super) fn hosts(&self, call: &Call<'_>) -> Result<Vec<Host>, FetchError> {
        self.transport
            .hosts_of(call.repo.registry(), call.repo.repository(), call.operation)
            .map_err(|why| call.failed(Cause::Hosts(why)))
    }

    /// A new round of asking.
    pub(super) fn round<'a>(&self, call: &'a Call<'a>, hosts: &[Host]) -> Round<'a> {
        Round::new(call, hosts)
    }

    /// As whom to ask a host; why not to ask it now.
    pub(super) fn at<'a>(&self, call: &Call<'_>, host: &'a Host, last: bool) -> Result<At<'a>, Cause> {
        if !last && let Some(cause) = self.transport.rests(&host.authority, Instant::now()) {
            return Err(cause);
        }
        let credential = match host.is_registry {
            true => call.credential.clone(),
            false => (self.mirrors)(&host.authority, &host.repository),
        };
        Ok(At { host, credential, last, deadline: call.deadline })
    }

    /// A mirror that could not be reached is left alone for a while.
    pub(super) fn rest(&self, at: &At<'_>, cause: &Cause) {
        if !at.last && matches!(cause, Cause::Unreachable(_) | Cause::Timeout) {
            self.transport.rest(&at.host.authority, cause.clone(), Instant::now());
        }
    }

    /// Asks one host within the deadline, logs in if asked to, and lets only 200 through.
    pub(super) async fn get(&self, at: &At<'_>, query: &Query<'_>) -> Result<Answer, Cause> {
        self.get_any(at, query).await.and_then(only_ok)
    }

    /// As [`Client::get`], with any status that is no trouble of the server's.
    pub(super) async fn get_any(&self, at: &At<'_>, query: &Query<'_>) -> Result<Answer, Cause> {
        let uri = |target: &Target| {
            let (host, path) = (at.host, query.path);
            let mut uri = format!("{}/{}/{path}", target.endpoint.base(), host.repository);
            if let Some(namespace) = &host.namespace {
                let joint = if path.contains('?') { '&' } else { '?' };
                uri.push_str(&format!("{joint}{}", token::form_encode(&[("ns", namespace)])));
            }
            uri
        };
        self.get_either(at, query, uri).await
    }

    /// `GET /v2/`: whether a registry takes a login.
    pub(super) async fn get_root(
        &self,
        host: &Host,
        credential: &Credential,
        deadline: Instant,
    ) -> Result<Answer, Cause> {
        let at = At { host, credential: credential.clone(), last: true, deadline };
        let uri = |target: &Target| format!("{}/", target.endpoint.base());
        self.get_either(&at, &Query::get("", Cap::MANIFEST), uri).await
    }

    /// With TLS, or without where the host may do without and does.
    async fn get_either(
        &self,
        at: &At<'_>,
        query: &Query<'_>,
        uri: impl Fn(&Target) -> String,
    ) -> Result<Answer, Cause> {
        let parsed = |target: &Target| uri(target).parse().map_err(|_| Cause::Protocol(Violation::Name));
        let (first, second) = self.transport.targets(at.host)?;
        let Some(second) = second else { return self.get_uri(at, &first, parsed(&first)?, query).await };
        let authority = &at.host.authority;
        if !self.transport.is_plain(authority) {
            let answer = self.get_uri(at, &first, parsed(&first)?, query).await;
            if !matches!(&answer, Err(Cause::Unreachable(why)) if may_be_plain(*why)) {
                return answer;
            }
        }
        let answer = self.get_uri(at, &second, parsed(&second)?, query).await;
        // An answer that speaks HTTP. After anything else TLS is tried again.
        self.transport.found_plain(authority, answer.is_ok());
        answer
    }

    /// A further page, at an address that a host has named. Not everywhere: the host's credential goes along.
    pub(super) async fn get_page(&self, at: &At<'_>, query: &Query<'_>, uri: Uri) -> Result<Answer, Cause> {
        let (first, second) = self.transport.targets(at.host)?;
        let mut targets = [Some(first), second].into_iter().flatten();
        let below = |target: &Target| format!("{}/{}/", target.endpoint.path, at.host.repository);
        let own =
            |target: &Target| target.endpoint.is_origin_of(&uri) && uri.path().starts_with(&below(target));
        let target = targets.find(own).ok_or(Cause::Protocol(Violation::NextPage))?;
        self.get_uri(at, &target, uri, query).await.and_then(only_ok)
    }

    async fn get_uri(
        &self,
        at: &At<'_>,
        target: &Target,
        uri: Uri,
        query: &Query<'_>,
    ) -> Result<Answer, Cause> {
        let ask = Ask {
            method: query.method.clone(),
            uri,
            accept: query.accept,
            authorization: None,
            form: None,
            cap: query.cap,
            deadline: at.deadline,
            guest: self.guest,
        };
        self.with_login(at, target, ask).await
    }

    async fn with_login(&self, at: &At<'_>, target: &Target, mut ask: Ask) -> Result<Answer, Cause> {
        let key = GrantKey {
            registry: target.endpoint.clone(),
            repository: at.host.repository.clone(),
            credential: at.credential.clone(),
        };
        if let Some(grant) = self.grants.get(&key, Instant::now()) {
            ask.authorization = Some(grant.header(&at.credential)?);
        }
        let answer = self.retried(at, target, &ask).await?;
        // A challenge from where a redirect led is none of the registry's: there is no credential for it.
        if answer.status != StatusCode::UNAUTHORIZED || !answer.from_registry {
            if answer.status == StatusCode::FORBIDDEN {
                self.grants.forget(&key);
            }
            return Ok(answer);
        }
        let challenge = Challenge::of(&answer.headers).ok_or(Cause::Protocol(Violation::Challenge))?;
        let Some(grant) = self.login(at, target, &key, &challenge).await? else { return Ok(answer) };
        ask.authorization = Some(grant.header(&at.credential)?);
        let answer = self.retried(at, target, &ask).await?;
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.grants.forget(&key);
        }
        Ok(answer)
    }

    /// A grant, or `None` if the credential cannot answer the challenge.
    async fn login(
        &self,
        at: &At<'_>,
        target: &Target,
        key: &GrantKey,
        challenge: &Challenge,
    ) -> Result<Option<Grant>, Cause> {
        let asked = Instant::now();
        let (grant, life) = match token::plan(challenge, key, at.deadline)? {
            Plan::Nothing => return Ok(None),
            Plan::Grant(grant) => (grant, Duration::from_secs(REGISTRY_TOKEN_SECONDS)),
            Plan::AskRealm(mut ask) => {
                ask.guest = self.guest;
                let realm = || self.transport.realm(target, &ask);
                let answer = self.tries(at).run(at.deadline, realm).await?;
                let (token, life) = token::read_token(&answer, ask.form.is_some())?;
                (Grant::Bearer(token), life)
            }
        };
        self.grants.keep(key.clone(), grant.clone(), asked + life, asked);
        Ok(Some(grant))
    }

    async fn retried(&self, at: &At<'_>, target: &Target, ask: &Ask) -> Result<Answer, Cause> {
        self.tries(at).run(at.deadline, || self.transport.follow(target, ask.clone())).await
    }

    /// Where another host can be asked, that is better than waiting. A guest does not wait either.
    fn tries(&self, at: &At<'_>) -> super::retry::Tries {
        if self.guest || !at.last { super::retry::Tries::ONE } else { super::retry::Tries::SOME }
    }
}

/// Whether a host that gave no TLS may speak plain HTTP. A certificate that is not trusted is not a reason.
fn may_be_plain(why: Unreachable) -> bool {
    matches!(
        why,
        Unreachable::Tls | Unreachable::BrokenOff | Unreachable::NoConnection | Unreachable::Refused
    )
}

fn only_ok(answer: Answer) -> Result<Answer, Cause> {
    if answer.status == StatusCode::OK { Ok(answer) } else { Err(not_ok(&answer)) }
}

/// What a status other than 200 means.
pub(super) fn not_ok(answer: &Answer) -> Cause {
    let said = || Said::read(&answer.body, answer.is_web_page());
    match answer.status {
        StatusCode::NOT_FOUND => Cause::NotFound(said()),
        StatusCode::UNAUTHORIZED => Cause::Unauthorized(said()),
        StatusCode::FORBIDDEN => Cause::Forbidden(said()),
        status => Cause::Protocol(Violation::Status(status.as_u16())),
    }
}
