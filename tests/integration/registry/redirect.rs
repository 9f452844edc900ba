//! Where a registry may send us, and what goes along.

use crivet::image::Digest;
use crivet::registry::{Cap, Cause, Credential, Said, Unreachable, Violation};

use super::fake::{Fake, reply};
use super::{by_tag, cause, client, good_manifest, repo, serving, soon};

const BASIC: &str = "Basic dTpw";
const CAP: Cap = Cap { limit: "SOME_BYTES", bytes: 1024 };

/// A registry that wants Basic, and then redirects to `to`.
async fn redirecting(to: String) -> Fake {
    serving(move |seen| match seen.authorization.as_deref() {
        Some(BASIC) => reply(307, &[("location", &to)], ""),
        _ => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], ""),
    })
    .await
}

#[tokio::test]
async fn a_redirect_elsewhere_is_followed_without_the_authorization() {
    let store = serving(|_| reply(200, &[], "blob")).await;
    let fake = redirecting(format!("http://{}/store?sig=1", store.host())).await;
    let credential = Credential::basic("u", "p");
    let blob = client().blob(&repo(&fake), &Digest::of(b"blob"), CAP, &credential, soon()).await;
    assert_eq!(blob.unwrap(), "blob");
    let seen = store.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].path.as_str(), seen[0].authorization.as_deref()), ("/store?sig=1", None));
}

#[tokio::test]
async fn a_redirect_on_the_registry_itself_keeps_the_authorization() {
    let fake = serving(|seen| match (seen.path.as_str(), seen.authorization.as_deref()) {
        (_, None) => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], ""),
        ("/elsewhere", Some(BASIC)) => good_manifest(),
        _ => reply(302, &[("location", "/elsewhere")], ""),
    })
    .await;
    assert!(by_tag(&client(), &fake, &Credential::basic("u", "p")).await.is_ok());
}

#[tokio::test]
async fn a_way_out_and_back_does_not_carry_the_authorization_back() {
    // Set once both addresses are known.
    let registry: &'static std::sync::OnceLock<String> = Box::leak(Box::default());
    let store = serving(move |_| {
        let to = format!("http://{}/v2/other/blobs/x", registry.get().unwrap());
        reply(307, &[("location", &to)], "")
    })
    .await;
    let fake = redirecting(format!("http://{}/", store.host())).await;
    registry.set(fake.host()).unwrap();
    let error = by_tag(&client(), &fake, &Credential::basic("u", "p")).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Unauthorized(_)), "{error}");
    let last = fake.seen().pop().unwrap();
    assert_eq!((last.path.as_str(), last.authorization), ("/v2/other/blobs/x", None));
}

#[tokio::test]
async fn a_challenge_from_where_a_redirect_led_gets_no_credential() {
    let thief = serving(|_| reply(401, &[("www-authenticate", "Basic realm=\"r\"")], "")).await;
    let fake = redirecting(format!("http://{}/", thief.host())).await;
    let error = by_tag(&client(), &fake, &Credential::basic("u", "p")).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unauthorized(Said::default()));
    assert!(thief.seen().iter().all(|s| s.authorization.is_none()));
}

#[tokio::test]
async fn a_realm_named_by_where_a_redirect_led_is_not_asked() {
    let own: &'static std::sync::OnceLock<String> = Box::leak(Box::default());
    let thief = serving(move |_| {
        let challenge = format!("Bearer realm=\"http://{}/token\"", own.get().unwrap());
        reply(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    own.set(thief.host()).unwrap();
    let to = format!("http://{}/blob", thief.host());
    let fake = serving(move |_| reply(307, &[("location", &to)], "")).await;
    let error = by_tag(&client(), &fake, &Credential::basic("u", "p")).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unauthorized(Said::default()));
    let asked: Vec<_> = thief.seen().into_iter().map(|s| s.path).collect();
    assert_eq!(asked, ["/blob"]);
}

#[tokio::test]
async fn a_redirect_loop_ends_at_the_limit() {
    let fake = serving(|_| reply(307, &[("location", "/v2/team/app/manifests/v1")], "")).await;
    let cause = cause(&fake).await;
    assert!(matches!(cause, Cause::RedirectRefused(why) if why.contains("REGISTRY_REDIRECTS")), "{cause:?}");
    assert_eq!(fake.seen().len(), 5);
}

#[tokio::test]
async fn a_redirect_that_is_not_followed() {
    for to in [
        // Plain HTTP to where nothing allows it.
        "http://registry.example/",
        // This node's link: the cloud's metadata service.
        "https://169.254.169.254/latest/",
        "http://169.254.169.254/latest/",
        "https://[fe80::1]/",
        "https://[::ffff:169.254.169.254]/",
        // The same, as the system's resolver reads numbers.
        "https://169.0xfea9fe/",
        "https://user@registry.example/",
        "ftp://127.0.0.1/",
    ] {
        let fake = serving(move |_| reply(307, &[("location", to)], "")).await;
        let error = by_tag(&client(), &fake, &Credential::Anonymous).await.unwrap_err();
        assert!(matches!(error.cause, Cause::RedirectRefused(_)), "{to}: {error}");
        assert!(!error.is_unreachable());
    }
}

#[tokio::test]
async fn a_redirect_to_nowhere_readable() {
    for (headers, violation) in [
        (vec![], Violation::NoHeader("Location")),
        (vec![("location", "relative")], Violation::BadHeader("Location")),
        (vec![("location", "http://")], Violation::BadHeader("Location")),
    ] {
        let fake = serving(move |_| reply(302, &headers, "")).await;
        assert_eq!(cause(&fake).await, Cause::Protocol(violation));
    }
}

#[tokio::test]
async fn tls_garbage() {
    let garbage = Fake::raw("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let to = format!("https://{}/", garbage.host());
    let fake = serving(move |_| reply(307, &[("location", &to)], "")).await;
    assert_eq!(cause(&fake).await, Cause::Unreachable(Unreachable::Tls));
}
