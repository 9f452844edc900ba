//! What a status means, and what is tried again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crivet::image::Reference;
use crivet::registry::{Cause, Credential, Outcome, Said, Unreachable, Violation};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fake::{Fake, reply};
use super::{by_tag, cause, client, good_manifest, observed, repo, serving, soon};

const UNKNOWN: &str = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"at 10.0.0.7:5000, request 8b1"}]}"#;

#[tokio::test]
async fn not_found_quotes_the_registrys_code_and_nothing_else() {
    let fake = serving(|_| reply(404, &[], UNKNOWN)).await;
    let error = by_tag(&client(), &fake, &Credential::Anonymous).await.unwrap_err();
    assert!(error.is_not_found() && !error.is_unreachable());
    let said = format!("manifest {}/team/app:v1: not found (MANIFEST_UNKNOWN)", fake.host());
    assert_eq!(error.to_string(), said);
}

#[tokio::test]
async fn not_found_as_a_web_page_says_so() {
    let fake = serving(|_| reply(404, &[("content-type", "text/html")], "<html>")).await;
    assert_eq!(cause(&fake).await, Cause::NotFound(Said { code: None, web_page: true }));
}

#[tokio::test]
async fn an_error_body_without_end_takes_nothing_from_the_status() {
    let fake = serving(|_| {
        let mut reply = super::fake::endless(&[b'x'; 4096], Duration::ZERO);
        *reply.status_mut() = http::StatusCode::NOT_FOUND;
        reply
    })
    .await;
    assert_eq!(cause(&fake).await, Cause::NotFound(Said::default()));
}

#[tokio::test]
async fn forbidden_is_its_own_answer() {
    let fake = serving(|_| reply(403, &[], r#"{"errors":[{"code":"DENIED"}]}"#)).await;
    let error = by_tag(&client(), &fake, &Credential::Anonymous).await.unwrap_err();
    assert_eq!(error.cause, Cause::Forbidden(Said { code: Some("DENIED".to_owned()), web_page: false }));
    assert!(!error.is_unreachable());
}

#[tokio::test]
async fn a_passing_error_is_tried_again() {
    for status in [429, 500, 503] {
        let asked = AtomicUsize::new(0);
        let fake = serving(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => reply(status, &[("retry-after", "0")], ""),
            _ => good_manifest(),
        })
        .await;
        let (client, outcomes) = observed();
        assert!(by_tag(&client, &fake, &Credential::Anonymous).await.is_ok());
        let first = if status == 429 { Outcome::RateLimited } else { Outcome::ServerError };
        assert_eq!(*outcomes.lock().unwrap(), [first, Outcome::Ok]);
    }
}

#[tokio::test]
async fn a_lasting_error_is_tried_three_times() {
    let fake = serving(|_| reply(503, &[("retry-after", "0")], "")).await;
    let error = by_tag(&client(), &fake, &Credential::Anonymous).await.unwrap_err();
    assert_eq!(error.cause, Cause::ServerError { status: 503 });
    assert!(error.is_unreachable());
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test]
async fn a_retry_after_beyond_the_deadline_is_not_waited_for() {
    for (value, retry_after) in [("3600", Some(3600)), ("18446744073709551615", Some(u64::MAX))] {
        let fake = serving(move |_| reply(429, &[("retry-after", value)], "")).await;
        let client = client();
        let call = by_tag(&client, &fake, &Credential::Anonymous);
        let error = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap().unwrap_err();
        assert_eq!(error.cause, Cause::TooManyRequests { retry_after });
        assert!(error.is_unreachable());
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_status_nobody_knows_is_not_tried_again() {
    for (status, expected) in
        [(501, Cause::ServerError { status: 501 }), (418, Cause::Protocol(Violation::Status(418)))]
    {
        let fake = serving(move |_| reply(status, &[], "")).await;
        assert_eq!(cause(&fake).await, expected);
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_part_or_nothing_is_no_manifest() {
    for status in [204, 206] {
        let fake = serving(move |_| reply(status, &[], "")).await;
        assert_eq!(cause(&fake).await, Cause::Protocol(Violation::Status(status)));
    }
}

#[tokio::test]
async fn nobody_listens() {
    let (client, outcomes) = observed();
    let gone: Fake = serving(|_| good_manifest()).await;
    let repo = repo(&gone);
    drop(gone);
    tokio::task::yield_now().await;
    let error = client.head(&repo, "v1", &Credential::Anonymous, soon()).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable(Unreachable::Refused));
    assert!(error.is_unreachable());
    assert_eq!(*outcomes.lock().unwrap(), [Outcome::Unreachable]);
}

/// A registry whose first connections end without an answer; says how many there were.
async fn breaking_off(connections: usize) -> (Reference, std::sync::Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repo = Reference::parse(&format!("{}/team/app:v1", listener.local_addr().unwrap())).unwrap();
    let accepted = std::sync::Arc::<AtomicUsize>::default();
    let count = std::sync::Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            if count.fetch_add(1, Ordering::SeqCst) >= connections {
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
                let _ = stream.write_all(head.as_bytes()).await;
            }
        }
    });
    (repo, accepted)
}

#[tokio::test]
async fn a_connection_that_broke_off_is_tried_once_more() {
    for (broken, expected) in [(1, None), (9, Some(Cause::Unreachable(Unreachable::BrokenOff)))] {
        let (repo, accepted) = breaking_off(broken).await;
        let fetched = client().manifest_by_tag(&repo, "v1", &Credential::Anonymous, soon()).await;
        assert_eq!(fetched.err().map(|error| error.cause), expected);
        assert_eq!(accepted.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_retry_after_as_a_date_is_held_against_the_registrys_clock() {
    let headers =
        [("retry-after", "Sun, 06 Nov 1994 09:49:37 GMT"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")];
    let fake = serving(move |_| reply(429, &headers, "")).await;
    assert_eq!(cause(&fake).await, Cause::TooManyRequests { retry_after: Some(3600) });
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let repo = Reference::parse("registry.invalid/a:b").unwrap();
    let error = client().head(&repo, "b", &Credential::Anonymous, soon()).await.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable(Unreachable::Name));
}

#[tokio::test]
async fn requests_nobody_waits_for_take_no_slot_and_are_tried_once() {
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repository = Reference::parse(&format!("{}/team/app:v1", registry.local_addr().unwrap())).unwrap();
    let client = std::sync::Arc::new(client());
    let guest = std::sync::Arc::new(client.as_guest());
    let ask = |client: &std::sync::Arc<crivet::registry::Client>| {
        let (client, repository) = (std::sync::Arc::clone(client), repository.clone());
        tokio::spawn(async move {
            let _ = client.head(&repository, "v1", &Credential::Anonymous, soon()).await;
        })
    };
    // None is ever answered: more of them than there are slots.
    let guests: Vec<_> = (0..2 * super::settings().max_concurrent_per_host).map(|_| ask(&guest)).collect();
    let mut connections = Vec::new();
    let mut accept = async || {
        let accepted = tokio::time::timeout(Duration::from_secs(5), registry.accept()).await;
        connections.push(accepted.expect("a connection").unwrap());
    };
    for _ in &guests {
        accept().await;
    }
    let live = ask(&client);
    accept().await;
    live.abort();
    guests.iter().for_each(tokio::task::JoinHandle::abort);

    let asked = std::sync::Arc::<AtomicUsize>::default();
    let counted = std::sync::Arc::clone(&asked);
    let fake = serving(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        reply(429, &[("retry-after", "0")], "")
    })
    .await;
    let error = by_tag(&guest, &fake, &Credential::Anonymous).await.unwrap_err();
    assert_eq!(
        (error.cause, asked.load(Ordering::SeqCst)),
        (Cause::TooManyRequests { retry_after: Some(0) }, 1)
    );
}
