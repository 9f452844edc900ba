//! The way to the runtime: one connection per client, and what happens when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::support::client::{Answer, Client, EVENTS, LIST, PULL, VERSION, request, reset_reason};
use crate::support::daemon::{Crivet, Place};
use crate::support::raw::{END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw};
use crate::support::runtime::{FakeRuntime, send_data};
use crate::support::{framed, until, within};

#[tokio::test]
async fn each_client_connection_has_one_to_the_runtime() {
    let place = Place::new();
    let runtime = FakeRuntime::echo(place.path());
    let crivet = Crivet::audit(&place).await;
    let (one, two) = (crivet.client().await, crivet.client().await);
    assert_eq!(runtime.connections(), 0, "dialled before it was needed");
    let calls = (0..20).map(|_| one.call(VERSION, b"x"));
    futures_util::future::join_all(calls).await;
    assert_eq!(runtime.connections(), 1);
    two.call(PULL, b"x").await;
    two.call(VERSION, b"x").await;
    assert_eq!(runtime.connections(), 2);
    let seen: Vec<usize> = runtime.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(seen[..20], [0; 20]);
    assert_eq!(seen[20..], [1; 2]);
    drop(two);
    until("the runtime loses the client that left", 5, || runtime.open_connections() == 1).await;
}

#[tokio::test]
async fn what_one_client_does_not_read_does_not_hang_another() {
    let place = Place::new();
    let _runtime = FakeRuntime::with(
        place.path(),
        |_| {},
        |mut call| async move {
            if call.path() == VERSION {
                call.read().await.unwrap();
                return call.answer(b"1").await;
            }
            let mut stream = call.start();
            while send_data(&mut stream, Bytes::from_static(&[0; 16 * 1024])).await.is_ok() {}
        },
    );
    let crivet = Crivet::audit(&place).await;
    let a = Client::with(crivet.listen(), 64 * 1024, 64 * 1024).await;
    let b = crivet.client().await;
    let mut unread = Vec::new();
    for _ in 0..50 {
        unread.push(a.stream(EVENTS).await);
    }
    for _ in 0..20 {
        assert_eq!(within("B's call", 2, b.call(VERSION, b"x")).await.code(), 0);
    }
}

/// An answer that names the runtime's socket, at once.
async fn is_away(client: &Client, place: &Place, path: &str) {
    let begun = Instant::now();
    let answer = client.call(path, b"x").await;
    assert_eq!(answer.code(), 14, "{path}: {}", answer.message());
    assert!(answer.is_trailers_only());
    let socket = place.path().join("runtime.sock").display().to_string();
    assert!(answer.message().contains(&socket), "{path}: {}", answer.message());
    assert!(begun.elapsed() < Duration::from_secs(1), "{path} took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_runtime_that_is_away_is_unavailable_at_once_and_used_as_soon_as_it_is_back() {
    let place = Place::new();
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    for round in 0..3 {
        for path in [VERSION, LIST, EVENTS, PULL] {
            is_away(&client, &place, path).await;
        }
        let runtime = FakeRuntime::echo(place.path());
        for path in [VERSION, LIST, EVENTS, PULL] {
            let answer = client.call(path, b"x").await;
            assert_eq!(answer.code(), 0, "round {round} {path}: {}", answer.message());
        }
        assert_eq!(runtime.connections(), 1);
        // The socket stays behind: nobody answers on it.
        runtime.die().await;
    }
    assert!(client.is_open());
}

#[tokio::test]
async fn a_runtime_that_dies_in_mid_call_is_unavailable() {
    for path in [LIST, PULL] {
        let place = Place::new();
        let (begun, mut began) = mpsc::unbounded_channel();
        let runtime = FakeRuntime::start(place.path(), move |mut call| {
            let begun = begun.clone();
            async move {
                let headers_only = call.read().await.unwrap().data.len() > 5;
                let mut stream = headers_only.then(|| call.start());
                if let Some(stream) = &mut stream {
                    send_data(stream, framed(b"some")).await.unwrap();
                }
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
            }
        });
        let crivet = Crivet::audit(&place).await;
        let client = crivet.client().await;
        let (before, _) = client.begin(path, b"").await;
        let (during, _) = client.begin(path, b"x").await;
        for _ in 0..2 {
            within("the call", 5, began.recv()).await.unwrap();
        }
        runtime.die().await;
        for (response, said) in [(before, 0), (during, 9)] {
            let answer = within("the end", 5, Answer::of(response)).await.unwrap();
            assert_eq!(answer.code(), 14, "{path}: {}", answer.message());
            assert!(answer.message().ends_with("runtime.sock cut the call off"), "{}", answer.message());
            assert_eq!(answer.data.len(), said, "{path}");
        }
        let _back = FakeRuntime::echo(place.path());
        assert_eq!(client.call(path, b"x").await.code(), 0);
    }
}

#[tokio::test]
async fn after_a_graceful_goaway_old_calls_finish_and_new_ones_go_to_a_new_connection() {
    let place = Place::new();
    let (begun, mut began) = mpsc::unbounded_channel();
    let gate = Arc::new(tokio::sync::Notify::new());
    let opened = Arc::clone(&gate);
    let runtime = FakeRuntime::start(place.path(), move |mut call| {
        let (begun, opened) = (begun.clone(), Arc::clone(&opened));
        async move {
            call.read().await.unwrap();
            if call.path() != VERSION {
                begun.send(()).unwrap();
                opened.notified().await;
            }
            call.answer(b"done").await;
        }
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let (list, _) = client.begin(LIST, b"x").await;
    let (pull, _) = client.begin(PULL, b"x").await;
    for _ in 0..2 {
        within("the call", 5, began.recv()).await.unwrap();
    }
    runtime.go_away();
    // Sent while the GOAWAY is on its way, and after it.
    for batch in 0..5 {
        let calls = (0..20).map(|_| client.call(VERSION, b"x"));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.code(), 0, "batch {batch}: {}", answer.message());
        }
    }
    assert_eq!(runtime.connections(), 2, "more connections than one in the place of the old one");
    gate.notify_one();
    gate.notify_one();
    for response in [list, pull] {
        let answer = within("an old call", 5, Answer::of(response)).await.unwrap();
        assert_eq!((answer.code(), answer.data), (0, framed(b"done").to_vec()));
    }
    until("the old connection ends", 5, || runtime.open_connections() == 1).await;
    let connections: Vec<usize> = runtime
        .seen()
        .iter()
        .filter(|seen| seen.head.uri.path() != VERSION)
        .map(|seen| seen.connection)
        .collect();
    assert_eq!(connections, [0, 0]);
    assert!(client.is_open());
}

/// A runtime that refuses the first `refusals` calls.
fn refusing(place: &Place, refusals: usize) -> (FakeRuntime, Arc<AtomicUsize>) {
    let calls = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&calls);
    let runtime = FakeRuntime::start(place.path(), move |mut call| {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            if number < refusals {
                return call.respond.send_reset(Reason::REFUSED_STREAM);
            }
            let seen = call.read().await.unwrap();
            call.answer(&seen.data).await;
        }
    });
    (runtime, calls)
}

#[tokio::test]
async fn a_refused_stream_is_tried_once_more_and_not_twice() {
    for path in [VERSION, PULL] {
        let place = Place::new();
        let (runtime, calls) = refusing(&place, 1);
        let crivet = Crivet::audit(&place).await;
        let answer = crivet.client().await.call(path, b"again").await;
        assert_eq!((answer.code(), answer.data), (0, framed(&framed(b"again")).to_vec()), "{path}");
        assert_eq!(calls.load(Ordering::SeqCst), 2, "{path}");
        assert_eq!(runtime.connections(), 1, "a refused stream is no reason to leave a connection");
        drop(crivet);

        let place = Place::new();
        let (_runtime, calls) = refusing(&place, 2);
        let crivet = Crivet::audit(&place).await;
        let client = crivet.client().await;
        let error = client.send(request(path), framed(b"again")).await.unwrap_err();
        assert_eq!(reset_reason(&error), Reason::REFUSED_STREAM, "{path}");
        assert_eq!(calls.load(Ordering::SeqCst), 2, "{path}");
    }
}

#[tokio::test]
async fn a_refused_stream_whose_body_is_not_kept_any_more_is_not_tried_again() {
    let place = Place::new();
    let calls = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&calls);
    let _runtime = FakeRuntime::start(place.path(), move |mut call| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut read = 0;
            while read < 512 * 1024 {
                let chunk = call.body.data().await.unwrap().unwrap();
                call.body.flow_control().release_capacity(chunk.len()).unwrap();
                read += chunk.len();
            }
            call.respond.send_reset(Reason::REFUSED_STREAM);
        }
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let error = client.send(request(LIST), vec![0; 1 << 20].into()).await.unwrap_err();
    // The client has its body, and may.
    assert_eq!(reset_reason(&error), Reason::REFUSED_STREAM);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// Reads a call to its end, says GOAWAY with this last stream, and gives the call's stream.
async fn goaway(runtime: &mut Raw, last: u32) -> u32 {
    let stream = runtime.next_of(HEADERS).await.unwrap().stream;
    while let Some(frame) = runtime.next().await {
        if frame.stream == stream && frame.flags & END_STREAM != 0 {
            break;
        }
    }
    runtime.send(GOAWAY, 0, 0, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat()).await;
    stream
}

#[tokio::test]
async fn a_call_above_the_goaway_s_last_stream_is_tried_once_more_and_not_twice() {
    for path in [VERSION, PULL] {
        for refusals in [1, 2] {
            let place = Place::new();
            let listener = UnixListener::bind(place.path().join("runtime.sock")).unwrap();
            let runtime = tokio::spawn(async move {
                // Held open, as a runtime that stops in order holds them: h2 never reads a GOAWAY that lies in a
                // connection to which it can no longer write.
                let mut refusing = Vec::new();
                for _ in 0..refusals {
                    let mut connection = Raw::accept(&listener).await;
                    goaway(&mut connection, 0).await;
                    refusing.push(connection);
                }
                let mut last = Raw::accept(&listener).await;
                let stream = last.next_of(HEADERS).await.unwrap().stream;
                last.answer(stream).await;
                // Nothing more is closed before the relay has read it.
                while last.next().await.is_some() {}
            });
            let crivet = Crivet::audit(&place).await;
            let answer = crivet.client().await.call(path, b"x").await;
            let expected = if refusals == 1 { 0 } else { 14 };
            assert_eq!(answer.code(), expected, "{path}: {}", answer.message());
            runtime.abort();
        }
    }
}

#[tokio::test]
async fn a_call_the_runtime_may_have_processed_is_not_tried_again() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path().join("runtime.sock")).unwrap();
    let runtime = tokio::spawn(async move {
        let mut first = Raw::accept(&listener).await;
        let stream = goaway(&mut first, 1).await;
        assert_eq!(stream, 1);
        drop(first);
        within("a second connection", 1, listener.accept()).await.unwrap();
    });
    let crivet = Crivet::audit(&place).await;
    let answer = crivet.client().await.call(PULL, b"x").await;
    assert_eq!(answer.code(), 14, "{}", answer.message());
    assert!(runtime.await.unwrap_err().is_panic(), "tried again");
}

/// A kubelet's cancel of one call is a frame for that call alone.
#[tokio::test]
async fn a_cancel_is_one_reset_and_leaves_the_connection() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path().join("runtime.sock")).unwrap();
    let runtime = tokio::spawn(async move {
        let mut runtime = Raw::accept(&listener).await;
        let (mut calls, mut resets) = (Vec::new(), Vec::new());
        while let Some(frame) = runtime.next().await {
            match frame.kind {
                HEADERS => calls.push(frame.stream),
                RST_STREAM => resets.push((frame.stream, frame.payload)),
                _ => {}
            }
            if let ([_, version], 1) = (&calls[..], resets.len()) {
                runtime.answer(*version).await;
                calls.pop();
            }
        }
        assert_eq!(resets, [(calls[0], u32::from(Reason::CANCEL).to_be_bytes().to_vec())]);
    });
    let crivet = Crivet::audit(&place).await;
    let client = crivet.client().await;
    let (response, mut stream) = client.begin(PULL, b"x").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    assert_eq!(client.call(VERSION, b"x").await.code(), 0);
    drop((client, crivet));
    within("the runtime", 5, runtime).await.unwrap();
}
