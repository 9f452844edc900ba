//! What no kubelet sends.

use bytes::Bytes;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::client::{CREATE, PULL, VERSION, request};
use crate::support::daemon::{Crivet, Place};
use crate::support::raw::{self, CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, Raw};
use crate::support::runtime::FakeRuntime;
use crate::support::{framed, noise, until, within};

const SANDBOX: &str = "/runtime.v1.RuntimeService/RunPodSandbox";
const VETTED: [&str; 3] = [PULL, CREATE, SANDBOX];

async fn still_serves(crivet: &Crivet) {
    assert_eq!(crivet.client().await.call(VERSION, b"x").await.code(), 0);
}

#[tokio::test]
async fn bytes_that_are_no_http2_end_their_own_connection_only() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let bystander = crivet.client().await;
    let long = noise(3, 1 << 20);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &long,
    ] {
        let mut socket = UnixStream::connect(crivet.listen()).await.unwrap();
        // It may be closed before all is written.
        let _ = socket.write_all(bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = within("the end of the connection", 5, socket.read_to_end(&mut answer)).await;
    }
    assert_eq!(bystander.call(VERSION, b"x").await.code(), 0);
    still_serves(&crivet).await;
}

/// Never answered, never closed: others do not wait for it.
#[tokio::test]
async fn a_client_that_says_nothing_disturbs_nobody() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(UnixStream::connect(crivet.listen()).await.unwrap());
    }
    still_serves(&crivet).await;
}

#[tokio::test]
async fn http2_frames_that_break_the_rules_end_their_own_connection_only() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let head = raw::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", VERSION),
        (":authority", "localhost"),
    ]);
    for break_it in 0..4 {
        let mut client = Raw::connect(crivet.listen()).await;
        match break_it {
            0 => client.send(DATA, 0, 1, b"before any headers").await,
            1 => client.send(HEADERS, END_HEADERS, 2, &head).await,
            2 => client.send(HEADERS, END_HEADERS, 1, &[0xff; 40]).await,
            _ => client.send(CONTINUATION, END_HEADERS, 1, &head).await,
        }
        let end = within("GOAWAY", 5, client.next_of(GOAWAY)).await;
        assert!(end.is_some(), "{break_it}");
        assert!(within("the end", 5, client.next_of(GOAWAY)).await.is_none(), "{break_it}");
    }
    still_serves(&crivet).await;
}

#[tokio::test]
async fn http2_that_is_no_grpc_is_answered_or_passed_on_and_harms_nothing() {
    for mode in ["audit", "enforce"] {
        let place = Place::new();
        let runtime = FakeRuntime::echo(place.path());
        let crivet = Crivet::serve(&place, &format!("mode: {mode}\n")).await;
        let client = crivet.client().await;
        let odd =
            |method: Method, target: &str| Request::builder().method(method).uri(target).body(()).unwrap();
        for path in ["/", "/runtime.v1.RuntimeService", "/runtime.v1.RuntimeService/", "//x/..", "/a%2fb?c=d"]
        {
            let answer = client
                .send(odd(Method::GET, &format!("http://localhost{path}")), Bytes::new())
                .await
                .unwrap();
            assert_eq!(answer.code(), 12, "{mode} {path}");
        }
        let long = format!("http://localhost/{}", "p".repeat(60_000));
        let answer = client.send(odd(Method::POST, &long), Bytes::new()).await.unwrap();
        assert_eq!(answer.code(), 12, "{mode}");
        assert!(answer.message().len() < 1000, "{mode}");
        assert_eq!(runtime.seen().len(), 0, "{mode}");
        // The runtime is the one to refuse a CRI path that is called in an odd way.
        let target = format!("http://localhost{VERSION}");
        for method in [Method::GET, Method::PUT] {
            let answer = client.send(odd(method.clone(), &target), framed(b"x")).await.unwrap();
            assert_eq!(answer.code(), 0, "{mode} {method}");
            assert_eq!(runtime.seen().pop().unwrap().head.method, method, "{mode}");
        }
        // A query is not part of what the table is looked up by.
        let answer = client
            .send(odd(Method::POST, &format!("http://localhost{PULL}?x=y")), framed(&[0xff]))
            .await
            .unwrap();
        assert_eq!(answer.code(), if mode == "audit" { 0 } else { 2 }, "{mode}");
        // CONNECT has no path.
        let _ = client.send(odd(Method::CONNECT, "localhost:1"), Bytes::new()).await;
        assert_eq!(client.call(VERSION, b"x").await.code(), 0, "{mode}");
    }
}

/// Bodies that are not one valid message, and what a refusal says about each.
fn bodies() -> Vec<(&'static str, Bytes, &'static str)> {
    let image = crivet::cri::v1::ImageSpec { image: "registry.local/app:1".into(), ..Default::default() };
    let valid = crivet::cri::v1::PullImageRequest { image: Some(image), ..Default::default() };
    let valid = crivet::cri::message::encode(&valid);
    let mut compressed = valid.to_vec();
    compressed[0] = 1;
    vec![
        ("nothing", Bytes::new(), "cut short"),
        ("half a prefix", valid.slice(..3), "cut short"),
        ("truncated", valid.slice(..valid.len() - 1), "cut short"),
        ("compressed", compressed.into(), "compressed"),
        ("two messages", [valid.clone(), valid.clone()].concat().into(), "exactly one message"),
        ("garbage", framed(&noise(9, 300)), "no valid"),
        ("a wrong wire type", framed(&[0x0d, 1, 2, 3, 4]), "no valid"),
        ("a length beyond the end", framed(&[0x0a, 0xff, 0x7f]), "no valid"),
        ("a prefix of 4 GiB", Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1]), "cut short"),
    ]
}

#[tokio::test]
async fn in_enforce_mode_what_is_not_one_valid_message_is_refused_in_one_line() {
    let place = Place::new();
    let runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::enforce(&place).await;
    let client = crivet.client().await;
    for path in VETTED {
        for (what, body, says) in bodies() {
            let answer = client.send(request(path), body.clone()).await.unwrap();
            let message = answer.message().to_owned();
            assert_eq!(answer.code(), 2, "{path}, {what}: {message}");
            assert!(
                message.starts_with("SignatureValidationFailed: undecided: "),
                "{path}, {what}: {message}"
            );
            assert!(message.contains(says), "{path}, {what}: {message}");
            assert!(!message.contains("%0A"), "{path}, {what}: {message}");
            let again = client.send(request(path), body).await.unwrap();
            assert_eq!(again.message(), message, "{path}, {what}: another text");
        }
    }
    assert_eq!(runtime.connections(), 0);
}

#[tokio::test]
async fn in_audit_mode_what_is_not_one_valid_message_is_passed_on_as_it_is() {
    let place = Place::new();
    let runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for path in VETTED {
        for (what, body, _) in bodies() {
            let mut odd = request(path);
            odd.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
            let answer = client.send(odd, body.clone()).await.unwrap();
            assert_eq!(answer.code(), 0, "{path}, {what}: {}", answer.message());
            let seen = runtime.seen().pop().unwrap();
            assert_eq!((&seen.data[..], &answer.data[..]), (&body[..], &body[..]), "{path}, {what}");
            assert_eq!(seen.head.headers["grpc-encoding"], "gzip");
        }
    }
    until("the log", 5, || crivet.log().contains("a call was relayed that enforce mode would refuse")).await;
}

#[tokio::test]
async fn a_vetted_call_larger_than_the_limit_is_refused_or_passed_on() {
    let large = vec![0; crivet::limits::VETTED_CALL_BYTES + 1];
    let large = Bytes::from(large);
    let place = Place::new();
    let runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::enforce(&place).await;
    let client = crivet.client().await;
    for path in VETTED {
        let answer = client.send(request(path), large.clone()).await.unwrap();
        assert_eq!(answer.code(), 2, "{path}");
        assert!(answer.message().contains("(limits::VETTED_CALL_BYTES)"), "{path}: {}", answer.message());
    }
    assert_eq!(runtime.connections(), 0);
    drop(crivet);
    let crivet = Crivet::audit(&place).await;
    let answer = crivet.client().await.send(request(PULL), large.clone()).await.unwrap();
    assert_eq!(answer.code(), 0);
    assert!(answer.data == large);
}

#[tokio::test]
async fn a_vetted_call_that_never_arrives_whole_does_not_hold_up_others() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::enforce(&place).await;
    let client = crivet.client().await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let (response, mut stream) = client.open(request(CREATE)).await;
        stream.send_data(Bytes::from_static(&[0, 0, 0, 1]), false).unwrap();
        open.push((response, stream));
    }
    assert_eq!(client.call(VERSION, b"x").await.code(), 0);
    still_serves(&crivet).await;
}

#[tokio::test]
async fn fields_nobody_knows_raise_an_alert_and_pass() {
    for mode in ["audit", "enforce"] {
        let place = Place::new();
        let runtime = FakeRuntime::echo(place.path());
        let crivet = Crivet::serve(&place, &format!("mode: {mode}\n")).await;
        let client = crivet.client().await;
        let mut message = prost::Message::encode_to_vec(&crivet::cri::v1::CreateContainerRequest {
            pod_sandbox_id: "p".into(),
            ..Default::default()
        });
        message.extend_from_slice(b"\x9a\x06\x05image");
        client.call(CREATE, &message).await;
        until("the alert", 5, || crivet.log().contains("fields=CreateContainerRequest.99")).await;
        if mode == "audit" {
            assert_eq!(runtime.seen().pop().unwrap().data, framed(&message));
        }
    }
}

#[tokio::test]
async fn more_connections_than_the_limit_are_closed_and_those_there_are_served() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let first = crivet.client().await;
    assert_eq!(first.call(VERSION, b"x").await.code(), 0);
    let mut others = Vec::new();
    for _ in 0..crivet::limits::CONNECTIONS {
        others.push(UnixStream::connect(crivet.listen()).await.unwrap());
    }
    until("the log names the limit", 5, || crivet.log().contains("limits::CONNECTIONS")).await;
    assert_eq!(first.call(VERSION, b"x").await.code(), 0);
    drop(others);
    let there_is_place = async {
        loop {
            let mut socket = UnixStream::connect(crivet.listen()).await.unwrap();
            // A server says its settings first; a connection that is closed says nothing.
            if socket.read_u8().await.is_ok() {
                return;
            }
        }
    };
    within("a place", 5, there_is_place).await;
    still_serves(&crivet).await;
}
