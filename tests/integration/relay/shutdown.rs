//! SIGTERM.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::support::client::{Answer, Client, EVENTS, LIST, PULL, VERSION};
use crate::support::daemon::{Crivet, Place};
use crate::support::runtime::{FakeRuntime, send_data};
use crate::support::{framed, within};

/// `GetContainerEvents` never ends, with response headers if the message is not empty; every other call takes
/// `time`; each says that it has begun.
fn runtime(place: &Place, time: Duration) -> (FakeRuntime, mpsc::UnboundedReceiver<()>) {
    let (begun, began) = mpsc::unbounded_channel();
    let runtime = FakeRuntime::start(place.path(), move |mut call| {
        let begun = begun.clone();
        async move {
            let seen = call.read().await.unwrap();
            if call.path() == EVENTS {
                let mut stream = (seen.data.len() > 5).then(|| call.start());
                if let Some(stream) = &mut stream {
                    send_data(stream, framed(b"event")).await.unwrap();
                }
                begun.send(()).unwrap();
                return std::future::pending().await;
            }
            begun.send(()).unwrap();
            tokio::time::sleep(time).await;
            call.answer(b"done").await;
        }
    });
    (runtime, began)
}

fn is_shutting_down(answer: &Answer) {
    assert_eq!(answer.code(), 14, "{}", answer.message());
    assert_eq!(answer.message(), "crivet is shutting down; call again");
}

#[tokio::test]
async fn server_streams_end_at_once_and_calls_in_flight_finish() {
    let place = Place::new();
    let (_runtime, mut began) = runtime(&place, Duration::from_millis(1500));
    let mut crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let (silent, _) = client.begin(EVENTS, b"").await;
    let (stream, _) = client.begin(EVENTS, b"x").await;
    let (list, _) = client.begin(LIST, b"x").await;
    let (pull, _) = client.begin(PULL, b"x").await;
    for _ in 0..4 {
        within("the call", 5, began.recv()).await.unwrap();
    }
    let stopped = Instant::now();
    crivet.signal("TERM");
    for response in [silent, stream] {
        is_shutting_down(&within("the stream's end", 5, Answer::of(response)).await.unwrap());
    }
    assert!(stopped.elapsed() < Duration::from_secs(1), "after {:?}", stopped.elapsed());
    for response in [list, pull] {
        let answer = within("the call's end", 5, Answer::of(response)).await.unwrap();
        assert_eq!((answer.code(), answer.data), (0, framed(b"done").to_vec()));
    }
    assert_eq!(crivet.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_ends_as_unavailable() {
    let place = Place::new();
    let (runtime, mut began) = runtime(&place, Duration::from_secs(60));
    let mut crivet = Crivet::serve(&place, "mode: audit\ndrainTimeout: 300ms\n").await;
    let client = crivet.client().await;
    let (list, _) = client.begin(LIST, b"x").await;
    let (pull, _) = client.begin(PULL, b"x").await;
    for _ in 0..2 {
        within("the call", 5, began.recv()).await.unwrap();
    }
    let stopped = Instant::now();
    crivet.signal("TERM");
    for response in [list, pull] {
        is_shutting_down(&within("the call's end", 5, Answer::of(response)).await.unwrap());
    }
    assert!(stopped.elapsed() >= Duration::from_millis(300), "after {:?}", stopped.elapsed());
    assert_eq!(crivet.ended().await.code(), Some(0));
    assert_eq!(runtime.seen().len(), 2);
}

#[tokio::test]
async fn a_call_whose_answer_has_begun_ends_as_unavailable_too() {
    let place = Place::new();
    let _runtime = FakeRuntime::start(place.path(), |mut call| async move {
        let mut stream = call.start();
        send_data(&mut stream, framed(b"half")).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut crivet = Crivet::serve(&place, "mode: audit\ndrainTimeout: 300ms\n").await;
    let client = crivet.client().await;
    for path in [LIST, PULL] {
        let mut body = client.stream(path).await;
        assert_eq!(within("half", 5, body.data()).await.unwrap().unwrap(), framed(b"half"));
        if path == PULL {
            crivet.signal("TERM");
            assert!(within("the end", 5, body.data()).await.is_none());
            assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "14");
        }
    }
    assert_eq!(crivet.ended().await.code(), Some(0));
}

#[tokio::test]
async fn without_calls_it_ends_at_once_and_nobody_is_served_any_more() {
    for signal in ["TERM", "INT"] {
        let place = Place::new();
        let _runtime = FakeRuntime::echo(place.path());
        let mut crivet = Crivet::audit(&place).await;
        let client = crivet.client().await;
        assert_eq!(client.call(VERSION, b"x").await.code(), 0);
        let stopped = Instant::now();
        crivet.signal(signal);
        assert_eq!(crivet.ended().await.code(), Some(0), "{signal}");
        assert!(stopped.elapsed() < Duration::from_secs(1), "{signal} took {:?}", stopped.elapsed());
        assert!(tokio::net::UnixStream::connect(crivet.listen()).await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_hold_up_the_end() {
    let place = Place::new();
    let _runtime = FakeRuntime::start(place.path(), |mut call| async move {
        let mut stream = call.start();
        while send_data(&mut stream, vec![0; 16 * 1024].into()).await.is_ok() {}
    });
    let mut crivet = Crivet::serve(&place, "mode: audit\ndrainTimeout: 300ms\n").await;
    let client = Client::with(crivet.listen(), 1024, 1024).await;
    let _unread = (client.stream(LIST).await, client.stream(EVENTS).await);
    let stopped = Instant::now();
    crivet.signal("TERM");
    assert_eq!(crivet.ended().await.code(), Some(0));
    assert!(stopped.elapsed() < Duration::from_secs(4), "took {:?}", stopped.elapsed());
}

#[tokio::test]
async fn a_long_call_does_not_keep_those_who_connect_anew_waiting() {
    let place = Place::new();
    let (runtime, mut began) = runtime(&place, Duration::from_secs(60));
    let mut crivet = Crivet::serve(&place, "mode: audit\ndrainTimeout: 2s\n").await;
    let first = crivet.client().await;
    let (pull, _) = first.begin(PULL, b"x").await;
    let (followed, _) = first.begin(EVENTS, b"").await;
    for _ in 0..2 {
        within("the call", 5, began.recv()).await.unwrap();
    }
    crivet.signal("TERM");
    is_shutting_down(&within("the stream's end", 5, Answer::of(followed)).await.unwrap());
    // As a kubelet does when it is told to go: it connects again, and follows the events.
    let second = crivet.client().await;
    let (events, version) = (second.begin(EVENTS, b"x").await.0, second.begin(VERSION, b"x").await.0);
    for _ in 0..2 {
        within("the call", 5, began.recv()).await.unwrap();
    }
    for response in [pull, events, version] {
        is_shutting_down(&within("the call's end", 5, Answer::of(response)).await.unwrap());
    }
    assert_eq!(crivet.ended().await.code(), Some(0));
    assert_eq!(runtime.seen().len(), 4);
}
