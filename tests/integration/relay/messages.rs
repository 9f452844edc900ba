//! Bodies: their size, their pace, and their end.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::HeaderValue;
use tokio::sync::mpsc;

use crate::support::client::{Answer, EVENTS, LIST, PULL, VERSION, request, send_all};
use crate::support::daemon::{Crivet, Place};
use crate::support::runtime::{FakeRuntime, send_data, status};
use crate::support::{framed, noise, until, within};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn trailers_only_answers_stay_trailers_only() {
    let place = Place::new();
    let _runtime = FakeRuntime::start(place.path(), |mut call| async move {
        call.read().await.unwrap();
        call.trailers_only(5, "no such thing");
    });
    for mode in ["audit", "enforce"] {
        let crivet = Crivet::serve(&place, &format!("mode: {mode}\n")).await;
        let answer = crivet.client().await.call(VERSION, b"x").await;
        assert!(answer.is_trailers_only(), "{mode}: {answer:?}");
        let names: Vec<_> = answer.head.headers.keys().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(names, ["content-type", "grpc-status", "grpc-message"], "{mode}");
        assert_eq!((answer.code(), answer.message()), (5, "no such thing"), "{mode}");
    }
}

/// http2.rs: header list.
#[tokio::test]
async fn a_status_message_of_20_kb_arrives_whole() {
    let place = Place::new();
    let long = "m".repeat(20_000);
    let sent = long.clone();
    let _runtime = FakeRuntime::start(place.path(), move |mut call| {
        let sent = sent.clone();
        async move {
            let seen = call.read().await.unwrap();
            if seen.data.len() == 5 {
                return call.trailers_only(2, &sent);
            }
            let mut stream = call.start();
            send_data(&mut stream, framed(b"some")).await.unwrap();
            let mut trailers = status(2);
            trailers.insert("grpc-message", HeaderValue::from_str(&sent).unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for (path, message) in [(VERSION, &b""[..]), (VERSION, b"x"), (PULL, b""), (PULL, b"x")] {
        let answer = client.call(path, message).await;
        assert_eq!((answer.code(), answer.message()), (2, long.as_str()), "{path} {message:?}");
    }
}

/// http2.rs: header list, towards the kubelet.
#[tokio::test]
async fn metadata_of_20_kb_arrives_whole() {
    let place = Place::new();
    let runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let mut long = request(VERSION);
    long.headers_mut().insert("x-long", HeaderValue::from_str(&"v".repeat(20_000)).unwrap());
    let answer = crivet.client().await.send(long, framed(b"x")).await.unwrap();
    assert_eq!(answer.code(), 0, "{}", answer.message());
    assert_eq!(runtime.seen()[0].head.headers["x-long"].len(), 20_000);
}

#[tokio::test]
async fn messages_of_17_mib_pass_both_ways() {
    let place = Place::new();
    let runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for path in [LIST, PULL] {
        let message = noise(17, 17 * MIB);
        let answer = client.call(path, &message).await;
        assert_eq!(answer.code(), 0, "{path}");
        assert!(answer.data == framed(&message), "{path}: another answer");
        assert!(runtime.seen().pop().unwrap().data == framed(&message), "{path}: another request");
    }
}

#[tokio::test]
async fn a_server_stream_is_delivered_message_by_message() {
    let place = Place::new();
    let (next, said) = mpsc::unbounded_channel::<Vec<u8>>();
    let said = std::sync::Arc::new(tokio::sync::Mutex::new(said));
    let _runtime = FakeRuntime::start(place.path(), move |mut call| {
        let said = std::sync::Arc::clone(&said);
        async move {
            call.read().await.unwrap();
            let mut stream = call.start();
            while let Some(message) = said.lock().await.recv().await {
                stream.send_data(framed(&message), false).unwrap();
            }
            stream.send_trailers(status(0)).unwrap();
        }
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let mut events = client.stream(EVENTS).await;
    for number in 0..20 {
        let message = noise(number, 50);
        next.send(message.clone()).unwrap();
        // The next is sent only after this one has arrived.
        let arrived = within("the message", 5, events.data()).await.unwrap().unwrap();
        assert_eq!(arrived, framed(&message));
    }
    drop(next);
    assert!(within("the end", 5, events.data()).await.is_none());
    assert_eq!(events.trailers().await.unwrap().unwrap(), status(0));
}

/// A runtime whose answer never ends, and that says how much of it it could send.
fn endless(place: &Place) -> (FakeRuntime, mpsc::UnboundedReceiver<usize>) {
    let (count, counted) = mpsc::unbounded_channel();
    let runtime = FakeRuntime::start(place.path(), move |mut call| {
        let count = count.clone();
        async move {
            let mut stream = call.start();
            while send_data(&mut stream, Bytes::from_static(&[0; 16 * 1024])).await.is_ok() {
                count.send(16 * 1024).unwrap();
            }
        }
    });
    (runtime, counted)
}

/// What goes through until nothing more does.
async fn until_it_stands_still(counted: &mut mpsc::UnboundedReceiver<usize>) -> usize {
    let mut sum = 0;
    while let Ok(Some(bytes)) = tokio::time::timeout(Duration::from_millis(300), counted.recv()).await {
        sum += bytes;
        assert!(sum < 64 * MIB, "nothing holds the sender back");
    }
    sum
}

#[tokio::test]
async fn the_runtime_cannot_push_more_than_the_windows_while_the_client_does_not_read() {
    let place = Place::new();
    let (_runtime, mut counted) = endless(&place);
    let crivet = Crivet::audit(&place).await;
    let client = crate::support::client::Client::with(crivet.listen(), 64 * 1024, 1 << 20).await;
    let mut body = client.stream(LIST).await;
    let pushed = until_it_stands_still(&mut counted).await;
    // The client's window of 64 KiB, the relay's own, and a frame between them.
    assert!(pushed <= 256 * 1024, "{pushed} bytes are under way");
    let chunk = body.data().await.unwrap().unwrap();
    assert!(!chunk.is_empty());
    body.flow_control().release_capacity(chunk.len()).unwrap();
    let mut read = chunk.len();
    while read < 2 * pushed {
        let chunk = within("more", 5, body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        read += chunk.len();
    }
}

#[tokio::test]
async fn the_client_cannot_push_more_than_the_windows_while_the_runtime_does_not_read() {
    for (mode, path) in [("audit", LIST), ("audit", PULL), ("enforce", LIST)] {
        let place = Place::new();
        let settings = |builder: &mut h2::server::Builder| {
            builder.initial_window_size(64 * 1024).initial_connection_window_size(1 << 20);
        };
        let _runtime = FakeRuntime::with(place.path(), settings, |mut call| async move {
            call.cancelled().await;
        });
        let crivet = Crivet::serve(&place, &format!("mode: {mode}\n")).await;
        let client = crivet.client().await;
        let (_response, mut stream) = client.open(request(path)).await;
        let (count, mut counted) = mpsc::unbounded_channel();
        let pushing = tokio::spawn(async move {
            while send_data(&mut stream, Bytes::from_static(&[0; 16 * 1024])).await.is_ok() {
                count.send(16 * 1024).unwrap();
            }
        });
        let pushed = until_it_stands_still(&mut counted).await;
        assert!(pushed <= 256 * 1024, "{mode} {path}: {pushed} bytes are under way");
        pushing.abort();
    }
}

#[tokio::test]
async fn a_cancel_reaches_the_runtime_at_once() {
    let place = Place::new();
    let (told, mut how) = mpsc::unbounded_channel();
    let (begun, mut began) = mpsc::unbounded_channel();
    let runtime = FakeRuntime::start(place.path(), move |mut call| {
        let (told, begun) = (told.clone(), begun.clone());
        async move {
            if call.path() == EVENTS {
                let mut stream = call.start();
                begun.send(()).unwrap();
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                return told.send(reset.unwrap()).unwrap();
            }
            begun.send(()).unwrap();
            told.send(call.cancelled().await).unwrap();
        }
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for path in [VERSION, EVENTS, PULL] {
        for whole in [true, false] {
            let (response, mut stream) = client.open(request(path)).await;
            stream.send_data(framed(b"x"), whole).unwrap();
            within("the call", 5, began.recv()).await.unwrap();
            if path == EVENTS {
                let response = response.await.unwrap();
                stream.send_reset(Reason::CANCEL);
                drop(response);
            } else {
                stream.send_reset(Reason::CANCEL);
                drop(response);
            }
            let reason =
                within(&format!("the cancel of {path}, whole: {whole}"), 5, how.recv()).await.unwrap();
            assert_eq!(reason, Reason::CANCEL, "{path}, whole: {whole}");
        }
    }
    drop(client);
    // A client that goes away has cancelled all it had open.
    let leaving = crivet.client().await;
    let open = leaving.begin(PULL, b"x").await;
    within("the call", 5, began.recv()).await.unwrap();
    leaving.leave();
    drop(open);
    until("the runtime is rid of them", 5, || runtime.open_connections() == 0).await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_was_read_arrives() {
    let place = Place::new();
    let _runtime = FakeRuntime::start(place.path(), |mut call| async move {
        call.trailers_only(8, "too much");
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let (response, mut stream) = client.open(request(LIST)).await;
    let sending = tokio::spawn(async move { send_all(&mut stream, noise(1, 8 * MIB).into()).await });
    let answer = within("the answer", 5, Answer::of(response)).await.unwrap();
    assert_eq!((answer.code(), answer.message()), (8, "too much"));
    sending.abort();
    assert_eq!(client.send(request(LIST), framed(b"")).await.unwrap().code(), 8);
}
