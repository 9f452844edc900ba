//! The settings of src/relay/http2.rs: each test here, and those of `messages` that name the file, fails with
//! hyper's default for its setting.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use tokio::net::UnixListener;

use crate::support::client::{Client, EVENTS, LIST, VERSION, request, reset_reason};
use crate::support::daemon::{Crivet, Place};
use crate::support::raw::{self, DATA, END_HEADERS, HEADERS, PING, RST_STREAM, Raw};
use crate::support::runtime::{FakeRuntime, send_data, status};
use crate::support::{framed, within};

/// A client that reads nothing it was not told to, and whose own connection window never runs out.
async fn lazy_client(crivet: &Crivet) -> Client {
    Client::with(crivet.listen(), 4 << 20, (1 << 31) - 1).await
}

/// A runtime that answers `Version` and sends `data`, again and again, on every other call.
fn talkative(place: &Place, data: Bytes, times: usize) -> FakeRuntime {
    FakeRuntime::start(place.path(), move |mut call| {
        let data = data.clone();
        async move {
            if call.path() == VERSION {
                call.read().await.unwrap();
                return call.answer(b"1").await;
            }
            let mut stream = call.start();
            for _ in 0..times {
                if send_data(&mut stream, data.clone()).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        }
    })
}

async fn answers(client: &Client) {
    let answer = within("another call on the connection", 5, client.call(VERSION, b"x")).await;
    assert_eq!(answer.code(), 0, "{}", answer.message());
}

async fn unread(client: &Client, streams: usize) -> Vec<h2::RecvStream> {
    let mut bodies = Vec::new();
    for _ in 0..streams {
        bodies.push(client.stream(LIST).await);
    }
    // The runtime pushes what it can.
    tokio::time::sleep(Duration::from_millis(300)).await;
    bodies
}

/// Connection and stream window, both at hyper's default, towards the runtime.
#[tokio::test]
async fn three_streams_of_2_mib_nobody_reads_disturb_no_other_call() {
    let place = Place::new();
    let _runtime = talkative(&place, vec![0; 2 << 20].into(), 1);
    let crivet = Crivet::audit(&place).await;
    // This client's stream windows are closed after 64 KiB, as a grpc-go client's that does not read.
    let client = Client::with(crivet.listen(), 64 * 1024, (1 << 31) - 1).await;
    let bodies = unread(&client, 3).await;
    answers(&client).await;
    drop(bodies);
}

/// Connection window towards the runtime.
#[tokio::test]
async fn two_hundred_unread_streams_disturb_no_other_call() {
    let place = Place::new();
    let runtime = talkative(&place, vec![0; 256 * 1024].into(), 1);
    let crivet = Crivet::audit(&place).await;
    let client = Client::with(crivet.listen(), 1024, (1 << 31) - 1).await;
    let bodies = unread(&client, 200).await;
    answers(&client).await;
    assert_eq!(runtime.connections(), 1);
    drop(bodies);
}

/// Connection window towards the runtime: h2 derives from it how many small frames may lie unread.
#[tokio::test]
async fn twenty_thousand_small_frames_nobody_reads_disturb_no_other_call() {
    for streams in [1, 20] {
        let place = Place::new();
        let runtime = talkative(&place, vec![0; 60].into(), 20_000 / streams);
        let crivet = Crivet::audit(&place).await;
        let client = Client::with(crivet.listen(), 60, (1 << 31) - 1).await;
        let bodies = unread(&client, streams).await;
        answers(&client).await;
        assert_eq!(runtime.connections(), 1, "{streams} streams");
        drop(bodies);
    }
}

/// Connection window towards the kubelet.
#[tokio::test]
async fn a_hundred_requests_the_runtime_does_not_read_disturb_no_other_call() {
    let place = Place::new();
    let settings = |builder: &mut h2::server::Builder| {
        builder.initial_window_size(1024);
    };
    let _runtime = FakeRuntime::with(place.path(), settings, |mut call| async move {
        if call.path() == VERSION {
            call.read().await.unwrap();
            return call.answer(b"1").await;
        }
        std::future::pending::<()>().await;
    });
    let crivet = Crivet::audit(&place).await;
    let client = lazy_client(&crivet).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let (response, mut stream) = client.open(request(LIST)).await;
        let pushing = tokio::spawn(async move {
            let _ = send_data(&mut stream, vec![0; 256 * 1024].into()).await;
        });
        open.push((response, pushing));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    answers(&client).await;
    for (_, pushing) in open {
        pushing.abort();
    }
}

/// Pending accept resets.
#[tokio::test]
async fn a_hundred_cancels_at_once_disturb_no_other_call() {
    let place = Place::new();
    let _runtime = talkative(&place, Bytes::from_static(b"x"), 1);
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let (pull, _) = client.begin(LIST, b"").await;
    let mut pull = within("the pull's headers", 5, pull).await.unwrap().into_body();
    // A starved relay finds them all at once.
    crivet.signal("STOP");
    for _ in 0..100 {
        let (_, mut stream) = client.begin(VERSION, b"x").await;
        stream.send_reset(Reason::CANCEL);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    crivet.signal("CONT");
    answers(&client).await;
    assert_eq!(within("the pull", 5, pull.data()).await.unwrap().unwrap(), "x");
}

/// Concurrent streams towards the kubelet.
#[tokio::test]
async fn a_thousand_open_streams_disturb_no_other_call() {
    let place = Place::new();
    let runtime = talkative(&place, Bytes::from_static(b"x"), 1);
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let mut open = Vec::new();
    for _ in 0..1000 {
        open.push(within("one more stream", 5, client.begin(EVENTS, b"")).await);
    }
    let mut bodies = Vec::new();
    for (response, _) in open {
        bodies.push(within("a stream's headers", 5, response).await.unwrap().into_body());
    }
    answers(&client).await;
    for body in &mut bodies {
        assert_eq!(within("a stream's message", 5, body.data()).await.unwrap().unwrap(), "x");
    }
    assert_eq!(runtime.connections(), 1);
}

/// Local error resets towards the kubelet.
#[tokio::test]
async fn more_than_a_thousand_broken_calls_disturb_no_other_call() {
    let place = Place::new();
    let _runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for _ in 0..1100 {
        let mut broken = request(VERSION);
        broken.headers_mut().insert("content-length", 7.into());
        let error = client.send(broken, framed(b"")).await.unwrap_err();
        assert_eq!(reset_reason(&error), Reason::PROTOCOL_ERROR);
    }
    answers(&client).await;
}

/// Reset streams remembered, towards the runtime; no pings.
#[tokio::test]
async fn frames_of_cancelled_calls_that_are_still_on_their_way_disturb_no_other_call() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path().join("runtime.sock")).unwrap();
    let late = tokio::spawn(async move {
        let mut runtime = Raw::accept(&listener).await;
        let (mut pings, mut calls, mut cancelled) = (0, 0, Vec::new());
        while let Some(frame) = runtime.next().await {
            match frame.kind {
                PING => pings += 1,
                HEADERS if calls < 1500 => {
                    calls += 1;
                    let head = raw::block(&[(":status", "200"), ("content-type", "application/grpc")]);
                    runtime.send(HEADERS, END_HEADERS, frame.stream, &head).await;
                }
                HEADERS => {
                    // All that was sent before the cancels came.
                    for stream in cancelled.drain(..) {
                        runtime.send(DATA, 0, stream, b"late").await;
                    }
                    runtime.answer(frame.stream).await;
                }
                RST_STREAM => cancelled.push(frame.stream),
                _ => {}
            }
        }
        pings
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for _ in 0..1500 {
        let (response, mut stream) = client.begin(EVENTS, b"").await;
        let body = within("headers", 5, response).await.unwrap().into_body();
        stream.send_reset(Reason::CANCEL);
        drop(body);
    }
    answers(&client).await;
    answers(&client).await;
    drop(client);
    drop(crivet);
    assert_eq!(within("the runtime", 5, late).await.unwrap(), 0, "pings");
}

/// A message of a stream is not held until the next one comes.
#[tokio::test]
async fn what_was_pushed_before_the_client_reads_is_complete() {
    let place = Place::new();
    let _runtime = FakeRuntime::start(place.path(), |mut call| async move {
        call.read().await.unwrap();
        let mut stream = call.start();
        for number in 0..1000_u32 {
            send_data(&mut stream, framed(&number.to_be_bytes())).await.unwrap();
        }
        stream.send_trailers(status(0)).unwrap();
    });
    let crivet = Crivet::audit(&place).await;
    let client = Client::with(crivet.listen(), 64, 1 << 20).await;
    let mut body = client.stream(LIST).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut all = Vec::new();
    while let Some(chunk) = within("more", 5, body.data()).await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    let expected: Vec<u8> = (0..1000_u32).flat_map(|number| framed(&number.to_be_bytes())).collect();
    assert_eq!(all, expected);
}
