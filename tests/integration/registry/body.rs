//! What comes back: its bytes, its size, its pace.

use std::time::Duration;

use crivet::image::Digest;
use crivet::registry::{Cap, Cause, Credential, Unreachable, Violation};
use tokio::time::Instant;

use super::fake::{Fake, endless, reply};
use super::{MANIFEST, OCI_MANIFEST, cause, client, good_manifest, repo, serving, soon};

const SMALL: Cap = Cap { limit: "SOME_BYTES", bytes: 16 };

#[tokio::test]
async fn a_manifest_is_fetched_by_tag_by_digest_and_by_head() {
    let fake = serving(|_| good_manifest()).await;
    let (client, repo) = (client(), repo(&fake));
    let digest = Digest::of(MANIFEST.as_bytes());
    let fetched = client.manifest_by_tag(&repo, "v1", &Credential::Anonymous, soon()).await.unwrap();
    assert_eq!((fetched.digest, fetched.media_type.as_str()), (digest, OCI_MANIFEST));
    assert_eq!(fetched.bytes, MANIFEST);
    let fetched = client.manifest(&repo, &digest, &Credential::Anonymous, soon()).await.unwrap();
    assert_eq!(fetched.digest, digest);
    assert_eq!(client.head(&repo, "v1", &Credential::Anonymous, soon()).await.unwrap(), digest);
    assert_eq!(client.requests(), 3);
    let seen: Vec<_> = fake.seen().into_iter().map(|s| (s.method, s.path)).collect();
    assert_eq!(
        seen,
        [
            ("GET".to_owned(), "/v2/team/app/manifests/v1".to_owned()),
            ("GET".to_owned(), format!("/v2/team/app/manifests/{digest}")),
            ("HEAD".to_owned(), "/v2/team/app/manifests/v1".to_owned()),
        ]
    );
}

#[tokio::test]
async fn other_bytes_than_the_digest_asked_for() {
    let fake = serving(|_| reply(200, &[], "evil")).await;
    let (expected, found) = (Digest::of(b"good"), Digest::of(b"evil"));
    let mismatch = Cause::DigestMismatch { expected, found };
    let none = Credential::Anonymous;
    let error = client().manifest(&repo(&fake), &expected, &none, soon()).await.unwrap_err();
    assert_eq!(error.cause, mismatch);
    assert!(!error.is_unreachable());
    let error = client().blob(&repo(&fake), &expected, SMALL, &none, soon()).await.unwrap_err();
    assert_eq!(error.cause, mismatch);
}

#[tokio::test]
async fn a_docker_content_digest_that_is_not_the_bodys() {
    let lie = Digest::of(b"lie");
    let fake = serving(move |_| reply(200, &[("docker-content-digest", &lie.to_string())], MANIFEST)).await;
    let found = Digest::of(MANIFEST.as_bytes());
    assert_eq!(cause(&fake).await, Cause::DigestMismatch { expected: lie, found });
    // Also where the body is the one asked for: somebody on the way is lying.
    let error = client().manifest(&repo(&fake), &found, &Credential::Anonymous, soon()).await.unwrap_err();
    assert_eq!(error.cause, Cause::DigestMismatch { expected: lie, found });
}

#[tokio::test]
async fn a_head_without_a_digest_or_with_another_algorithm() {
    let none = Credential::Anonymous;
    for (value, violation) in [
        (None, Violation::NoHeader("Docker-Content-Digest")),
        (Some("sha512:00"), Violation::BadHeader("Docker-Content-Digest")),
    ] {
        let fake = serving(move |_| {
            let headers: Vec<_> = value.iter().map(|v| ("docker-content-digest", *v)).collect();
            reply(200, &headers, MANIFEST)
        })
        .await;
        let error = client().head(&repo(&fake), "v1", &none, soon()).await.unwrap_err();
        assert_eq!(error.cause, Cause::Protocol(violation));
    }
}

#[tokio::test]
async fn a_web_page_for_a_manifest() {
    let fake = serving(|_| reply(200, &[("content-type", "text/html; charset=utf-8")], "<html>")).await;
    assert_eq!(cause(&fake).await, Cause::NotARegistry);
    let error = client().manifest(&repo(&fake), &Digest::of(b""), &Credential::Anonymous, soon()).await;
    assert_eq!(error.unwrap_err().cause, Cause::NotARegistry);
}

#[tokio::test]
async fn a_blob_one_byte_over_its_cap_announced_or_not() {
    let digest = Digest::of(&[b'x'; 17]);
    let too_large = Cause::TooLarge { limit: "SOME_BYTES", bytes: 16 };
    let blob = async |fake: &Fake, cap| {
        client().blob(&repo(fake), &digest, cap, &Credential::Anonymous, soon()).await.map_err(|e| e.cause)
    };
    let announced = serving(|_| reply(200, &[], vec![b'x'; 17])).await;
    assert_eq!(blob(&announced, SMALL).await, Err(too_large.clone()));
    let chunked = Fake::raw(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11\r\nxxxxxxxxxxxxxxxxx\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(blob(&chunked, SMALL).await, Err(too_large));
    let fits = Cap { bytes: 17, ..SMALL };
    assert_eq!(blob(&announced, fits).await.unwrap().len(), 17);
    assert_eq!(blob(&chunked, fits).await.unwrap().len(), 17);
}

#[tokio::test]
async fn a_size_announced_over_the_cap_is_not_waited_for() {
    let fake = Fake::raw("HTTP/1.1 200 OK\r\ncontent-length: 4194305\r\n\r\n").await;
    assert_eq!(cause(&fake).await, Cause::TooLarge { limit: "MANIFEST_BYTES", bytes: 4 << 20 });
}

#[tokio::test]
async fn an_endless_body_stops_at_the_limit() {
    let fake = serving(|_| endless(&[b'x'; 65536], Duration::ZERO)).await;
    assert_eq!(cause(&fake).await, Cause::TooLarge { limit: "MANIFEST_BYTES", bytes: 4 << 20 });
}

#[tokio::test]
async fn a_body_that_drips_ends_at_the_deadline() {
    let fake = serving(|_| endless(b"x", Duration::from_millis(20))).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let error =
        client().manifest_by_tag(&repo(&fake), "v1", &Credential::Anonymous, deadline).await.unwrap_err();
    assert_eq!(error.cause, Cause::Timeout);
    assert!(error.is_unreachable());
}

#[tokio::test]
async fn a_server_that_never_answers_ends_at_the_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repo = crivet::image::Reference::parse(&format!("{}/a:b", listener.local_addr().unwrap())).unwrap();
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = client().manifest_by_tag(&repo, "b", &Credential::Anonymous, deadline).await.unwrap_err();
    assert_eq!(error.cause, Cause::Timeout);
}

#[tokio::test]
async fn a_content_length_that_promises_more_than_comes() {
    let fake = Fake::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort").await;
    assert_eq!(cause(&fake).await, Cause::Unreachable(Unreachable::BrokenOff));
}

#[tokio::test]
async fn a_content_length_that_promises_less_than_comes() {
    let body = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{MANIFEST}");
    let fake = Fake::raw(body).await;
    let expected = Digest::of(MANIFEST.as_bytes());
    let error = client().manifest(&repo(&fake), &expected, &Credential::Anonymous, soon()).await.unwrap_err();
    let found = Digest::of(&MANIFEST.as_bytes()[..4]);
    assert_eq!(error.cause, Cause::DigestMismatch { expected, found });
}

#[tokio::test]
async fn headers_over_the_limit_by_size_or_number() {
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(128 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(1000));
    for answer in [large, many] {
        let fake = Fake::raw(answer).await;
        let cause = cause(&fake).await;
        assert!(
            matches!(cause, Cause::TooLarge { limit, .. } if limit.contains("REGISTRY_HEADER_BYTES")),
            "{cause:?}"
        );
    }
}

#[tokio::test]
async fn bytes_that_are_no_http() {
    let fake = Fake::raw("SSH-2.0-OpenSSH_9.2\r\n").await;
    assert_eq!(cause(&fake).await, Cause::Protocol(Violation::Http));
}

#[tokio::test]
async fn a_compressed_body_nobody_asked_for() {
    let fake = serving(|_| reply(200, &[("content-encoding", "gzip")], "\x1f")).await;
    assert_eq!(cause(&fake).await, Cause::Protocol(Violation::Encoding));
}

#[tokio::test]
async fn a_tag_that_would_name_another_path() {
    let fake = serving(|_| good_manifest()).await;
    for tag in ["", "../../other/manifests/v1", "v1?x=y", "v1#", ".hidden", &"x".repeat(129)] {
        let error =
            client().manifest_by_tag(&repo(&fake), tag, &Credential::Anonymous, soon()).await.unwrap_err();
        assert_eq!(error.cause, Cause::Protocol(Violation::Name), "{tag}");
    }
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn no_more_requests_at_a_time_than_the_limit_per_host() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (now, most): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repo = crivet::image::Reference::parse(&format!("{}/a:b", listener.local_addr().unwrap())).unwrap();
    let (count, peak) = (Arc::clone(&now), Arc::clone(&most));
    tokio::spawn(async move {
        // Each connection is one request in flight: none is ever answered.
        let mut open = Vec::new();
        loop {
            open.push(listener.accept().await.unwrap());
            peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
    });
    let client = Arc::new(client());
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (client, repo) = (Arc::clone(&client), repo.clone());
            tokio::spawn(async move { client.head(&repo, "b", &Credential::Anonymous, soon()).await.is_ok() })
        })
        .collect();
    while most.load(Ordering::SeqCst) < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((most.load(Ordering::SeqCst), client.requests()), (4, 4));
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}
