//! A client that shows what the relay really sent: headers, data, trailers and resets.

use std::path::Path;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, response};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::{framed, within};

pub const VERSION: &str = "/runtime.v1.RuntimeService/Version";
pub const LIST: &str = "/runtime.v1.RuntimeService/ListContainers";
pub const EVENTS: &str = "/runtime.v1.RuntimeService/GetContainerEvents";
pub const PULL: &str = "/runtime.v1.ImageService/PullImage";
pub const CREATE: &str = "/runtime.v1.RuntimeService/CreateContainer";

pub struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// Everything that came back for one call.
#[derive(Debug)]
pub struct Answer {
    pub head: response::Parts,
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub async fn of(response: ResponseFuture) -> Result<Answer, h2::Error> {
        let (head, mut body) = response.await?.into_parts();
        let mut data = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            data.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?;
        Ok(Answer { head, data, trailers })
    }

    pub fn is_trailers_only(&self) -> bool {
        self.head.headers.contains_key("grpc-status") && self.trailers.is_none() && self.data.is_empty()
    }

    fn status(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(&self.head.headers)
    }

    pub fn code(&self) -> u16 {
        self.status()["grpc-status"].to_str().unwrap().parse().unwrap()
    }

    pub fn message(&self) -> &str {
        self.status().get("grpc-message").map_or("", |message| message.to_str().unwrap())
    }
}

/// A call's headers as the kubelet sends them.
pub fn request(path: &str) -> Request<()> {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("user-agent", "grpc-go/1.75.0")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

impl Client {
    pub async fn connect(socket: &Path) -> Client {
        // Windows as a grpc-go client that reads everything has them in effect.
        Client::with(socket, 16 << 20, 1 << 30).await
    }

    pub async fn with(socket: &Path, stream_window: u32, connection_window: u32) -> Client {
        let stream = UnixStream::connect(socket).await.unwrap();
        Client::handshake(stream, stream_window, connection_window).await.unwrap()
    }

    /// On a connection that is there already.
    pub async fn on(stream: UnixStream) -> Client {
        Client::handshake(stream, 16 << 20, 1 << 30).await.unwrap()
    }

    async fn handshake(
        stream: UnixStream,
        stream_window: u32,
        connection_window: u32,
    ) -> Result<Client, h2::Error> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .initial_max_send_streams(100_000)
            .max_header_list_size(16 << 20)
            .max_concurrent_reset_streams(100_000);
        let (send, connection) = within("HTTP/2 handshake", 10, builder.handshake(stream)).await?;
        Ok(Client { send, connection: tokio::spawn(connection) })
    }

    /// Whether the connection is still one.
    pub fn is_open(&self) -> bool {
        !self.connection.is_finished()
    }

    /// Closes the connection, as a client that ends.
    pub fn leave(self) {
        self.connection.abort();
    }

    /// Sends headers only; the caller sends the rest.
    pub async fn open(&self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        send.send_request(request, false).unwrap()
    }

    /// A whole call with this body, as it is.
    pub async fn send(&self, request: Request<()>, body: Bytes) -> Result<Answer, h2::Error> {
        let path = request.uri().path().to_owned();
        let call = async {
            let mut send = self.send.clone().ready().await?;
            let (response, mut stream) = send.send_request(request, false)?;
            let sent = send_all(&mut stream, body);
            let answer = Answer::of(response);
            let (sent, answer) = tokio::join!(sent, answer);
            // An answer that comes before the body was read is an answer.
            if answer.is_err() {
                sent?;
            }
            answer
        };
        within(&path, 20, call).await
    }

    /// A whole unary call with this message.
    pub async fn call(&self, path: &str, message: &[u8]) -> Answer {
        self.send(request(path), framed(message)).await.unwrap()
    }

    /// Opens a call with a message and does not wait for anything.
    pub async fn begin(&self, path: &str, message: &[u8]) -> (ResponseFuture, SendStream<Bytes>) {
        let (response, mut stream) = self.open(request(path)).await;
        stream.send_data(framed(message), true).unwrap();
        (response, stream)
    }

    /// Opens a server stream and gives its response's body, unread.
    pub async fn stream(&self, path: &str) -> RecvStream {
        let (response, _) = self.begin(path, b"").await;
        within("the stream's headers", 10, response).await.unwrap().into_body()
    }
}

/// Sends data as the windows allow, and ends the stream.
pub async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(capacity) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            // The other side has answered or reset already.
            return Ok(());
        };
        stream.send_data(body.split_to(capacity?.min(body.len())), false)?;
    }
    stream.send_data(Bytes::new(), true)
}

/// The code a call was reset with.
pub fn reset_reason(error: &h2::Error) -> Reason {
    assert!(error.is_reset(), "not a reset: {error:?}");
    error.reason().unwrap()
}
