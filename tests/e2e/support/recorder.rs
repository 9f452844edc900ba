//! A relay of unary calls that keeps what passed, message by message.

use bytes::Bytes;
use h2::RecvStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::{UnixListener, UnixStream};

/// One call, without the gRPC prefixes of its messages.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// `PullImage`, …
    pub method: String,
    pub request: Bytes,
    /// Empty for a call that failed.
    pub response: Bytes,
}

pub struct Recorder {
    socket: PathBuf,
    calls: Arc<Mutex<Vec<Recorded>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Recorder {
    /// Listens on a socket in `dir` and relays to `upstream`.
    pub fn start(dir: &Path, upstream: &Path) -> Self {
        Self::at(&dir.join("recorder.sock"), upstream)
    }

    /// Listens on `socket` and relays to `upstream`.
    pub fn at(socket: &Path, upstream: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (socket, upstream) = (socket.to_owned(), upstream.to_owned());
        let calls = Arc::<Mutex<Vec<Recorded>>>::default();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&socket).unwrap()
        };
        let kept = Arc::clone(&calls);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream.clone(), Arc::clone(&kept)));
            }
        });
        Self { socket, calls, _runtime: runtime }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The calls of a method that succeeded, oldest first.
    pub fn calls(&self, method: &str) -> Vec<Recorded> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.method == method && !call.response.is_empty()).cloned().collect()
    }
}

async fn connection(client: UnixStream, upstream: PathBuf, kept: Arc<Mutex<Vec<Recorded>>>) -> Option<()> {
    let mut incoming = h2::server::handshake(client).await.ok()?;
    let upstream = UnixStream::connect(upstream).await.ok()?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(16 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(upstream)
        .await
        .ok()?;
    tokio::spawn(connection);
    while let Some(Ok((request, mut respond))) = incoming.accept().await {
        let (sender, kept) = (sender.clone(), Arc::clone(&kept));
        tokio::spawn(async move {
            let (head, body) = request.into_parts();
            let method = head.uri.path().rsplit('/').next()?.to_owned();
            let (request, _) = whole(body).await?;
            let mut sender = sender.ready().await.ok()?;
            let (answer, mut stream) =
                sender.send_request(http::Request::from_parts(head, ()), false).ok()?;
            stream.send_data(request.clone(), true).ok()?;
            let (head, body) = answer.await.ok()?.into_parts();
            let (response, trailers) = whole(body).await?;
            let message = |bytes: &Bytes| bytes.slice(bytes.len().min(5)..);
            let call = Recorded { method, request: message(&request), response: message(&response) };
            kept.lock().unwrap().push(call);
            let only_head = trailers.is_none() && response.is_empty();
            let mut stream = respond.send_response(http::Response::from_parts(head, ()), only_head).ok()?;
            if !only_head {
                stream.send_data(response, trailers.is_none()).ok()?;
            }
            trailers.and_then(|trailers| stream.send_trailers(trailers).ok())
        });
    }
    Some(())
}

async fn whole(mut body: RecvStream) -> Option<(Bytes, Option<http::HeaderMap>)> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        bytes.extend_from_slice(&data);
    }
    Some((bytes.into(), body.trailers().await.ok()?))
}
