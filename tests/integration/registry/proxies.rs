//! HTTP proxies between the client and registries. Loopback is never proxied, so the registries are names that lead nowhere
//! by themselves.

use std::sync::{Arc, Mutex};

use crivet::image::Reference;
use crivet::registry::{Cause, Client, Credential, FetchError, ProxySettings, Settings, Unreachable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

use super::fake::{Fake, reply};
use super::{good_manifest, serving, settings, soon};

const PLAIN: &str = "plain.invalid:5000";
const TLS: &str = "tls.invalid";

fn client(proxy: &str, no: &str) -> Client {
    let proxy = Some(format!("http://user:pass@{proxy}"));
    let proxies = ProxySettings { https: proxy.clone(), http: proxy, no: Some(no.to_owned()) };
    let settings = Settings { plain_http: vec![PLAIN.to_owned()], proxies, ..settings() };
    Client::new(&settings, Arc::new(|_| {})).unwrap()
}

async fn pull(client: &Client, registry: &str, credential: &Credential) -> Result<(), FetchError> {
    let repo = Reference::parse(&format!("{registry}/team/app:v1")).unwrap();
    client.manifest_by_tag(&repo, "v1", credential, soon()).await.map(drop)
}

/// A proxy that answers each tunnel's request so, and keeps what it was asked.
async fn tunnels(answer: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            log.lock().unwrap().push(String::from_utf8_lossy(&head[..read]).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, asked)
}

#[tokio::test]
async fn plain_http_goes_through_the_proxy_by_its_whole_address() {
    let proxy: Fake = serving(|seen| match seen.authorization {
        Some(_) => good_manifest(),
        None => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], ""),
    })
    .await;
    pull(&client(&proxy.host(), ""), PLAIN, &Credential::basic("u", "p")).await.unwrap();
    for seen in proxy.seen() {
        assert_eq!(seen.path, format!("http://{PLAIN}/v2/team/app/manifests/v1"));
        assert_eq!(seen.headers["proxy-authorization"], "Basic dXNlcjpwYXNz");
        assert_eq!(seen.headers["host"], PLAIN);
    }
    assert_eq!(proxy.seen()[1].authorization.as_deref(), Some("Basic dTpw"));
}

#[tokio::test]
async fn https_goes_through_a_tunnel_that_alone_is_shown_the_proxys_login() {
    let (proxy, asked) = tunnels("HTTP/1.1 200 OK\r\n\r\nno TLS").await;
    let error = pull(&client(&proxy, ""), TLS, &Credential::basic("u", "p")).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable(Unreachable::NoConnection), "no TLS at its end");
    let asked = asked.lock().unwrap()[0].clone();
    let mut lines = asked.lines();
    assert_eq!(lines.next(), Some("CONNECT tls.invalid:443 HTTP/1.1"));
    assert!(asked.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n"));
    assert!(!asked.contains("dTpw"), "the registry's credential in the clear: {asked}");
}

#[tokio::test]
async fn proxy_that_refuses_is_named_as_the_reason() {
    for (answer, why) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Unreachable::ProxyLogin),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", Unreachable::Proxy),
        ("no HTTP", Unreachable::Proxy),
        ("", Unreachable::Proxy),
    ] {
        let (proxy, _) = tunnels(answer).await;
        let error = pull(&client(&proxy, ""), TLS, &Credential::Anonymous).await.unwrap_err();
        assert_eq!(error.cause, Cause::Unreachable(why), "{answer}");
        assert!(error.is_unreachable());
    }
    let proxy = serving(|_| reply(407, &[], "")).await;
    let error = pull(&client(&proxy.host(), ""), PLAIN, &Credential::Anonymous).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable(Unreachable::ProxyLogin));
}

#[tokio::test]
async fn proxy_that_is_away_is_not_gone_past() {
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap().to_string();
    for registry in [TLS, PLAIN] {
        let error = pull(&client(&address, ""), registry, &Credential::Anonymous).await.unwrap_err();
        assert_eq!(error.cause, Cause::Unreachable(Unreachable::Proxy), "{registry}");
    }
}

#[tokio::test]
async fn proxy_that_is_none_is_not_gone_past() {
    let proxies =
        ProxySettings { https: Some("socks5://127.0.0.1:1080".to_owned()), ..ProxySettings::default() };
    let client = Client::new(&Settings { proxies, ..settings() }, Arc::new(|_| {})).unwrap();
    let error = pull(&client, TLS, &Credential::Anonymous).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable(Unreachable::ProxyUnusable));
}

#[tokio::test]
async fn exempt_hosts_and_loopback_are_asked_directly() {
    let (proxy, registry) = (serving(|_| good_manifest()).await, serving(|_| good_manifest()).await);
    let client = client(&proxy.host(), "plain.invalid");
    pull(&client, &registry.host(), &Credential::Anonymous).await.unwrap();
    let error = pull(&client, PLAIN, &Credential::Anonymous).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable(Unreachable::Name));
    assert!(proxy.seen().is_empty());
}
