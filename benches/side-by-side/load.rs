//! A client that costs little itself: h2 alone.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::UnixStream;
use tokio::task::LocalSet;

#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
}

impl Client {
    pub async fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).await.unwrap();
        let mut builder = h2::client::Builder::new();
        // What grpc-go's bandwidth estimate comes to on a unix socket.
        builder.initial_window_size(4 << 20).initial_connection_window_size(16 << 20);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Client { send }
    }

    /// One call, which must succeed; gives its response's bytes.
    pub async fn call(&self, path: &'static str) -> usize {
        let (length, status) = self.try_call(path).await;
        assert_eq!(status, "0", "{path}");
        length
    }

    /// One call with an empty message; gives its response's bytes and its status.
    pub async fn try_call(&self, path: &'static str) -> (usize, String) {
        let request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("user-agent", "grpc-go/1.75.0")
            .header("te", "trailers")
            .header("grpc-timeout", "119999m")
            .body(())
            .unwrap();
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, mut stream) = send.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut length = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            length += chunk.len();
            body.flow_control().release_capacity(chunk.len()).unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
        (length, trailers["grpc-status"].to_str().unwrap().to_owned())
    }

    /// One call after the other; the time of each.
    pub async fn one_by_one(&self, path: &'static str, calls: usize) -> Vec<Duration> {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let begun = Instant::now();
            self.call(path).await;
            times.push(begun.elapsed());
        }
        times
    }
}

/// So many calls at a time on each connection, for so long; calls per second.
pub async fn at_a_time(clients: &[Client], path: &'static str, calls: usize, time: Duration) -> f64 {
    let done = Rc::<Cell<usize>>::default();
    let begun = Instant::now();
    let workers = LocalSet::new();
    for client in clients {
        for _ in 0..calls {
            let (client, done) = (client.clone(), Rc::clone(&done));
            workers.spawn_local(async move {
                while begun.elapsed() < time {
                    client.call(path).await;
                    done.set(done.get() + 1);
                }
            });
        }
    }
    workers.await;
    done.get() as f64 / begun.elapsed().as_secs_f64()
}
