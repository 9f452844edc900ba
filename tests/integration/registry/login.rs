//! Challenges, tokens, and who gets to see which credential.

use std::time::Duration;

use crivet::registry::{Cause, Credential, Said, Secret, Violation};

use super::fake::{Fake, Reply, Seen, endless, reply};
use super::{by_tag, client, good_manifest, observed, serving};

/// A registry and its token endpoint on one port. `token` answers the endpoint; a request that shows the
/// token `good` gets the manifest.
async fn with_realm(token: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Fake {
    let own: &'static std::sync::OnceLock<String> = Box::leak(Box::default());
    let fake = serving(move |seen| {
        if seen.path.starts_with("/token") {
            return token(seen);
        }
        if seen.authorization.as_deref() == Some("Bearer good") {
            return good_manifest();
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"registry:catalog:*\"",
            own.get().unwrap()
        );
        reply(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    own.set(fake.host()).unwrap();
    fake
}

fn token_requests(fake: &Fake) -> Vec<Seen> {
    fake.seen().into_iter().filter(|s| s.path.starts_with("/token")).collect()
}

#[tokio::test]
async fn basic_is_shown_when_asked_for_and_remembered() {
    let fake = serving(|seen| match seen.authorization.as_deref() {
        Some("Basic dTpw") => good_manifest(),
        _ => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], ""),
    })
    .await;
    let client = client();
    for requests in [2, 3] {
        assert!(by_tag(&client, &fake, &Credential::basic("u", "p")).await.is_ok());
        assert_eq!(client.requests(), requests);
    }
    assert_eq!(fake.seen()[0].authorization, None);
    // A wrong password is told apart from none, and asked for once.
    let error = by_tag(&client, &fake, &Credential::basic("u", "x")).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unauthorized(Said::default()));
    assert_eq!(client.requests(), 5);
    let error = by_tag(&client, &fake, &Credential::Anonymous).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unauthorized(Said::default()));
    assert!(!error.is_unreachable());
}

#[tokio::test]
async fn a_token_is_asked_for_with_pull_only_and_kept_for_its_own_credential() {
    let fake = with_realm(|seen| match seen.authorization.as_deref() {
        Some("Basic dTpw") => reply(200, &[], r#"{"token":"good","expires_in":300}"#),
        _ => reply(200, &[], r#"{"token":"anonymous"}"#),
    })
    .await;
    let (client, owner) = (client(), Credential::basic("u", "p"));
    for requests in [3, 4] {
        assert!(by_tag(&client, &fake, &owner).await.is_ok());
        assert_eq!(client.requests(), requests);
    }
    assert_eq!(token_requests(&fake)[0].path, "/token?scope=repository%3Ateam%2Fapp%3Apull&service=s");
    for other in [Credential::Anonymous, Credential::basic("u", "x")] {
        let error = by_tag(&client, &fake, &other).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Unauthorized(_)), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_lives_no_time_is_not_kept() {
    let fake = with_realm(|_| reply(200, &[], r#"{"access_token":"good","expires_in":0}"#)).await;
    let client = client();
    for requests in [3, 6] {
        assert!(by_tag(&client, &fake, &Credential::Anonymous).await.is_ok());
        assert_eq!(client.requests(), requests);
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let fake = with_realm(|seen| {
        let asked =
            seen.method == "POST" && seen.body.contains("refresh_token=r3&") | seen.body.ends_with("=r3");
        reply(if asked { 200 } else { 400 }, &[], r#"{"access_token":"good"}"#)
    })
    .await;
    assert!(by_tag(&client(), &fake, &Credential::IdentityToken(Secret::new("r3"))).await.is_ok());
    let asked = token_requests(&fake);
    assert_eq!((asked.len(), asked[0].path.as_str(), &asked[0].authorization), (1, "/token", &None));
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let fake = with_realm(|_| reply(500, &[], "")).await;
    assert!(by_tag(&client(), &fake, &Credential::RegistryToken(Secret::new("good"))).await.is_ok());
    assert!(token_requests(&fake).is_empty());
}

#[tokio::test]
async fn a_token_the_registry_no_longer_takes_is_replaced_once() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let revoked = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&revoked);
    let own: &'static std::sync::OnceLock<String> = Box::leak(Box::default());
    let fake = serving(move |seen| {
        let current = if switch.load(Ordering::SeqCst) { "second" } else { "first" };
        if seen.path.starts_with("/token") {
            return reply(200, &[], format!(r#"{{"token":"{current}","expires_in":600}}"#));
        }
        if seen.authorization.as_deref() == Some(&format!("Bearer {current}")) {
            return good_manifest();
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", own.get().unwrap());
        reply(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    own.set(fake.host()).unwrap();
    let client = client();
    assert!(by_tag(&client, &fake, &Credential::Anonymous).await.is_ok());
    revoked.store(true, Ordering::SeqCst);
    assert!(by_tag(&client, &fake, &Credential::Anonymous).await.is_ok());
    assert_eq!(client.requests(), 6);
}

#[tokio::test]
async fn a_token_endpoint_that_fails() {
    type Answer = fn(&Seen) -> Reply;
    let cases: [(Answer, Cause); 9] = [
        (
            |_| endless(&[b' '; 65536], Duration::ZERO),
            Cause::TooLarge { limit: "REGISTRY_TOKEN_BYTES", bytes: 65536 },
        ),
        (|_| reply(200, &[("content-type", "text/html")], "<html>"), Cause::NotARegistry),
        (|_| reply(200, &[], r#"{"token":"","access_token":""}"#), Cause::Protocol(Violation::Token)),
        (|_| reply(200, &[], "{}"), Cause::Protocol(Violation::Token)),
        (|_| reply(200, &[], "{\"token\":\"a\\r\\nX: y\"}"), Cause::Protocol(Violation::Token)),
        (|_| reply(401, &[], ""), Cause::Unauthorized(Said::default())),
        (|_| reply(403, &[], ""), Cause::Forbidden(Said::default())),
        (|_| reply(429, &[("retry-after", "3600")], ""), Cause::TooManyRequests { retry_after: Some(3600) }),
        (|_| reply(404, &[], ""), Cause::Protocol(Violation::Status(404))),
    ];
    for (answer, expected) in cases {
        let fake = with_realm(answer).await;
        let error = by_tag(&client(), &fake, &Credential::basic("u", "p")).await.unwrap_err();
        assert_eq!(error.cause, expected);
        assert_eq!(token_requests(&fake).len(), 1);
    }
}

#[tokio::test]
async fn a_token_endpoint_that_redirects_is_not_followed() {
    let thief = serving(|_| reply(200, &[], r#"{"token":"good"}"#)).await;
    let to = format!("http://{}/", thief.host());
    let fake = with_realm(move |_| reply(307, &[("location", &to)], "")).await;
    let error = by_tag(&client(), &fake, &Credential::basic("u", "p")).await.unwrap_err();
    assert!(matches!(error.cause, Cause::RealmRefused(_)), "{error}");
    assert!(thief.seen().is_empty());
}

#[tokio::test]
async fn a_realm_that_gets_no_credential() {
    for realm in [
        "http://auth.example/token",
        "http://localhost:1/token",
        "https://169.254.169.254/token",
        "https://user:password@auth.example/token",
        "token",
    ] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let fake = serving(move |_| reply(401, &[("www-authenticate", &challenge)], "")).await;
        let (client, outcomes) = observed();
        let error = by_tag(&client, &fake, &Credential::basic("u", "p")).await.unwrap_err();
        assert!(matches!(error.cause, Cause::RealmRefused(_)), "{realm}: {error}");
        assert_eq!(outcomes.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_401_without_a_challenge_anybody_knows() {
    let fake = serving(|_| reply(401, &[("www-authenticate", "Negotiate")], "")).await;
    let error = by_tag(&client(), &fake, &Credential::basic("u", "p")).await.unwrap_err();
    assert_eq!(error.cause, Cause::Protocol(Violation::Challenge));
}

#[tokio::test]
async fn no_error_shows_a_secret() {
    let fake = with_realm(|_| reply(401, &[], "hunter2")).await;
    let error = by_tag(&client(), &fake, &Credential::basic("u", "hunter2")).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
