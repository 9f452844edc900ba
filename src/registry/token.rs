//! Answers to a registry's challenge, and the tokens kept in memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::challenge::Challenge;
use super::credential::{Credential, Secret};
use super::error::{Cause, Said, Violation};
use super::host::Endpoint;
use super::transport::{Answer, Ask, Cap};
use crate::limits::{REGISTRY_TOKEN_BYTES, REGISTRY_TOKEN_SECONDS, REGISTRY_TOKENS};

/// Whom a grant is for. The credential is part of it: a token got with one is never shown for another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct GrantKey {
    pub(super) registry: Endpoint,
    pub(super) repository: String,
    pub(super) credential: Credential,
}

/// What goes into `Authorization`.
#[derive(Clone)]
pub(super) enum Grant {
    /// The registry asked for Basic: the key's own user name and password.
    Basic,
    /// A token.
    Bearer(Secret),
}

impl Grant {
    pub(super) fn header(&self, credential: &Credential) -> Result<HeaderValue, Cause> {
        match (self, credential) {
            (Self::Bearer(token), _) => sensitive(&Zeroizing::new(format!("Bearer {}", token.reveal())))
                .ok_or(Cause::Protocol(Violation::Token)),
            (Self::Basic, credential) => {
                basic_header(credential).ok_or_else(|| Cause::Unauthorized(Said::default()))
            }
        }
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// RFC 7617; `None` if the credential is no user name and password.
fn basic_header(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Basic { username, password } = credential else { return None };
    let pair = Zeroizing::new(format!("{}:{}", username.reveal(), password.reveal()));
    sensitive(&Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
}

/// Grants by whom they are for, until they expire.
#[derive(Default)]
pub(super) struct Grants(Mutex<HashMap<GrantKey, (Grant, Instant)>>);

impl Grants {
    pub(super) fn get(&self, key: &GrantKey, now: Instant) -> Option<Grant> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).filter(|(_, until)| now < *until).map(|(grant, _)| grant.clone())
    }

    pub(super) fn keep(&self, key: GrantKey, grant: Grant, until: Instant, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REGISTRY_TOKENS {
            all.retain(|_, (_, until)| now < *until);
        }
        if all.len() >= REGISTRY_TOKENS
            && let Some(soonest) = all.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone())
        {
            all.remove(&soonest);
        }
        all.insert(key, (grant, until));
    }

    pub(super) fn forget(&self, key: &GrantKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// What to do about a challenge.
pub(super) enum Plan {
    /// Nothing the credential could answer it with.
    Nothing,
    /// Usable at once.
    Grant(Grant),
    /// A token must be asked for.
    AskRealm(Box<Ask>),
}

/// Decides how `key`'s credential answers `challenge`. A Bearer challenge's own scope is not used: crivet
/// only ever asks to pull the repository at hand, whatever the registry would like.
pub(super) fn plan(challenge: &Challenge, key: &GrantKey, deadline: Instant) -> Result<Plan, Cause> {
    let (realm, service) = match (challenge, &key.credential) {
        (Challenge::Basic, Credential::Basic { .. }) => return Ok(Plan::Grant(Grant::Basic)),
        (Challenge::Basic, _) => return Ok(Plan::Nothing),
        (Challenge::Bearer { .. }, Credential::RegistryToken(token)) => {
            return Ok(Plan::Grant(Grant::Bearer(token.clone())));
        }
        (Challenge::Bearer { realm, service }, _) => (realm, service),
    };
    let scope = format!("repository:{}:pull", key.repository);
    // Without a repository it is about the login alone.
    let mut parameters: Vec<(&str, &str)> = match key.repository.is_empty() {
        true => Vec::new(),
        false => vec![("scope", &scope)],
    };
    if let Some(service) = service {
        parameters.push(("service", service));
    }
    let ask = |method, uri: &str, authorization, form| -> Result<Plan, Cause> {
        let uri: Uri = uri.parse().map_err(|_| Cause::RealmRefused("it is no URL"))?;
        let Some(authority) = uri.authority() else {
            return Err(Cause::RealmRefused("it is no absolute URL"));
        };
        if authority.as_str().contains('@') {
            return Err(Cause::RealmRefused("it holds a user name"));
        }
        let cap = Cap { limit: "REGISTRY_TOKEN_BYTES", bytes: REGISTRY_TOKEN_BYTES };
        Ok(Plan::AskRealm(Box::new(Ask {
            method,
            uri,
            accept: None,
            authorization,
            form,
            cap,
            deadline,
            guest: false,
        })))
    };
    if let Credential::IdentityToken(refresh) = &key.credential {
        parameters.extend([
            ("grant_type", "refresh_token"),
            ("client_id", "crivet"),
            ("refresh_token", refresh.reveal()),
        ]);
        return ask(Method::POST, realm, None, Some(Bytes::from(form_encode(&parameters))));
    }
    let joint = if realm.contains('?') { '&' } else { '?' };
    let uri = format!("{realm}{joint}{}", form_encode(&parameters));
    ask(Method::GET, &uri, basic_header(&key.credential), None)
}

/// The token in a token endpoint's answer, and how long it may be used. `exchanged`: asked for with a refresh token.
pub(super) fn read_token(answer: &Answer, exchanged: bool) -> Result<(Secret, Duration), Cause> {
    #[derive(serde::Deserialize)]
    struct Token<'a> {
        // Borrowed from the body: no second copy to wipe.
        #[serde(borrow)]
        token: Option<Cow<'a, str>>,
        #[serde(borrow)]
        access_token: Option<Cow<'a, str>>,
        expires_in: Option<u64>,
    }
    let said = || Said::read(&answer.body, answer.is_web_page());
    match answer.status {
        StatusCode::OK if answer.is_web_page() => return Err(Cause::NotARegistry),
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(Cause::Unauthorized(said())),
        // RFC 6749 section 5.2: a refresh token that is over, `invalid_grant`, is a bad request.
        StatusCode::BAD_REQUEST if exchanged => return Err(Cause::Unauthorized(said())),
        StatusCode::FORBIDDEN => return Err(Cause::Forbidden(said())),
        status => return Err(Cause::Protocol(Violation::Status(status.as_u16()))),
    }
    let bad = Cause::Protocol(Violation::Token);
    let read: Token<'_> = serde_json::from_slice(&answer.body).map_err(|_| bad.clone())?;
    let token =
        read.token.filter(|t| !t.is_empty()).or(read.access_token).filter(|t| !t.is_empty()).ok_or(bad)?;
    // 60 s is the token scheme's default. A tenth is left for the way and for clocks that disagree.
    let seconds = read.expires_in.unwrap_or(60).min(REGISTRY_TOKEN_SECONDS);
    Ok((Secret::new(token), Duration::from_secs(seconds - seconds.div_ceil(10))))
}

/// `application/x-www-form-urlencoded`, everything but RFC 3986's unreserved characters escaped.
pub(super) fn form_encode(parameters: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn key(credential: Credential) -> GrantKey {
        GrantKey {
            registry: Endpoint::of("registry.example", &[]),
            repository: "team/app".to_owned(),
            credential,
        }
    }

    fn bearer(realm: &str) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: Some("a b&c".to_owned()) }
    }

    fn asked(challenge: &Challenge, credential: Credential) -> Ask {
        match plan(challenge, &key(credential), Instant::now()).unwrap() {
            Plan::AskRealm(ask) => *ask,
            _ => panic!("no question to the realm"),
        }
    }

    #[test]
    fn the_realm_is_asked_for_pull_on_this_repository_only() {
        let ask = asked(&bearer("https://auth.example/token"), Credential::Anonymous);
        assert_eq!(
            ask.uri.to_string(),
            "https://auth.example/token?scope=repository%3Ateam%2Fapp%3Apull&service=a%20b%26c"
        );
        assert!(ask.authorization.is_none() && ask.form.is_none());
        let ask = asked(&bearer("https://auth.example/token?x=1"), Credential::basic("u", "p"));
        assert!(ask.uri.query().unwrap().starts_with("x=1&scope="));
        assert_eq!(ask.authorization.unwrap(), "Basic dTpw");
    }

    #[test]
    fn an_identity_token_goes_into_the_body_not_the_url() {
        let ask = asked(&bearer("https://auth.example/t"), Credential::IdentityToken(Secret::new("s3")));
        assert_eq!((ask.method, ask.uri.query()), (Method::POST, None));
        assert!(String::from_utf8(ask.form.unwrap().to_vec()).unwrap().contains("refresh_token=s3"));
    }

    #[test]
    fn a_realm_that_is_no_clean_url_is_refused() {
        for realm in ["", "token", "/token", "https://u:p@auth.example/", "https://auth.example/\u{0}"] {
            let refused = plan(&bearer(realm), &key(Credential::Anonymous), Instant::now());
            assert!(matches!(refused, Err(Cause::RealmRefused(_))), "{realm}");
        }
    }

    #[test]
    fn a_grant_is_found_only_by_its_own_credential_and_repository_and_in_time() {
        let (grants, now) = (Grants::default(), Instant::now());
        let own = key(Credential::basic("u", "p"));
        let until = now + Duration::from_secs(60);
        grants.keep(own.clone(), Grant::Bearer(Secret::new("t")), until, now);
        assert!(grants.get(&own, now).is_some());
        assert!(grants.get(&own, until).is_none());
        assert!(grants.get(&key(Credential::basic("u", "q")), now).is_none());
        assert!(grants.get(&key(Credential::Anonymous), now).is_none());
        let other = GrantKey { repository: "team/other".to_owned(), ..own.clone() };
        assert!(grants.get(&other, now).is_none());
        grants.forget(&own);
        assert!(grants.get(&own, now).is_none());
    }

    #[test]
    fn grants_are_bounded() {
        let (grants, now) = (Grants::default(), Instant::now());
        for n in 0..REGISTRY_TOKENS as u64 + 10 {
            let key = GrantKey { repository: n.to_string(), ..key(Credential::Anonymous) };
            grants.keep(key, Grant::Basic, now + Duration::from_secs(60 + n), now);
        }
        assert_eq!(grants.0.lock().unwrap().len(), REGISTRY_TOKENS);
        let last = GrantKey { repository: (REGISTRY_TOKENS + 9).to_string(), ..key(Credential::Anonymous) };
        assert!(grants.get(&last, now).is_some(), "the one that expires last stays");
    }
}
