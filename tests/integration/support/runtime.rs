//! A runtime that does what a test tells it, and keeps exactly what it received.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use crivet::cri::v1;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, request};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::framed;

/// A call as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub connection: usize,
    pub head: request::Parts,
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// A call to be answered.
pub struct Call {
    /// Counts the runtime's connections, from 0.
    pub connection: usize,
    pub head: request::Parts,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Call {
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Reads the whole request and keeps it.
    pub async fn read(&mut self) -> Result<Seen, h2::Error> {
        let mut data = Vec::new();
        while let Some(chunk) = self.body.data().await {
            let chunk = chunk?;
            self.body.flow_control().release_capacity(chunk.len())?;
            data.extend_from_slice(&chunk);
        }
        let trailers = self.body.trailers().await?;
        let seen = Seen { connection: self.connection, head: self.head.clone(), data, trailers };
        self.seen.lock().unwrap().push(seen.clone());
        Ok(seen)
    }

    /// Answers with headers as a gRPC server sends them.
    pub fn start(&mut self) -> SendStream<Bytes> {
        self.start_with(Response::builder().header("content-type", "application/grpc").body(()).unwrap())
    }

    pub fn start_with(&mut self, response: Response<()>) -> SendStream<Bytes> {
        self.respond.send_response(response, false).unwrap()
    }

    /// A whole answer with one message and status 0.
    pub async fn answer(&mut self, message: &[u8]) {
        let mut stream = self.start();
        let _ = send_data(&mut stream, framed(message)).await;
        let _ = stream.send_trailers(status(0));
    }

    /// Ends the call with a status and nothing else.
    pub fn trailers_only(&mut self, code: u16, message: &str) {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", code)
            .header("grpc-message", message)
            .body(())
            .unwrap();
        self.respond.send_response(response, true).unwrap();
    }

    /// Waits until the caller has given up, and says how.
    pub async fn cancelled(&mut self) -> Reason {
        std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await.unwrap()
    }
}

/// Trailers with a status.
pub fn status(code: u16) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.into())])
}

/// Sends data as the windows allow, and leaves the stream open.
pub async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => stream.send_data(data.split_to(capacity?.min(data.len())), false)?,
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Order {
    #[default]
    Serve,
    GoAway,
}

pub struct FakeRuntime {
    socket: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    order: watch::Sender<Order>,
    lists: Arc<Mutex<Lists>>,
    accepting: JoinHandle<()>,
}

/// What crivet itself is told when it asks for the runtime's containers: none, unless a test says so. Such calls do
/// not count among those that arrived.
#[derive(Clone, Default)]
pub struct Lists {
    pub containers: v1::ListContainersResponse,
    pub sandboxes: v1::ListPodSandboxResponse,
    /// The handler answers instead.
    pub by_handler: bool,
}

impl FakeRuntime {
    /// Listens at `runtime.sock` in `folder`; every call goes to `handler`.
    pub fn start<H, F>(folder: &Path, handler: H) -> FakeRuntime
    where
        H: Fn(Call) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        FakeRuntime::with(folder, |_| {}, handler)
    }

    /// As `start`, with HTTP/2 settings of the test's.
    pub fn with<H, F>(
        folder: &Path,
        settings: impl Fn(&mut h2::server::Builder) + Send + 'static,
        handler: H,
    ) -> FakeRuntime
    where
        H: Fn(Call) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = folder.join("runtime.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (order, orders) = watch::channel(Order::Serve);
        let (seen, connections, open) =
            <(Arc<Mutex<Vec<Seen>>>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut builder = h2::server::Builder::new();
        builder
            .max_header_list_size(16 << 20)
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 30)
            .max_pending_accept_reset_streams(100_000)
            .max_concurrent_reset_streams(100_000)
            .max_send_buffer_size(64 << 20);
        settings(&mut builder);
        let lists = Arc::<Mutex<Lists>>::default();
        let serving = Serving {
            builder,
            handler: Arc::new(handler),
            seen: Arc::clone(&seen),
            orders,
            lists: Arc::clone(&lists),
        };
        let (counter, opened) = (Arc::clone(&connections), Arc::clone(&open));
        let accepting = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let counts = Counts { all: Arc::clone(&counter), open: Arc::clone(&opened), number: None };
                tasks.spawn(serving.clone().connection(counts, stream));
            }
        });
        FakeRuntime { socket, seen, connections, open, order, lists, accepting }
    }

    /// Answers every call with its own message, and status 0.
    pub fn echo(folder: &Path) -> FakeRuntime {
        FakeRuntime::start(folder, |mut call| async move {
            if let Ok(seen) = call.read().await {
                let mut stream = call.start();
                let _ = send_data(&mut stream, seen.data.into()).await;
                let _ = stream.send_trailers(status(0));
            }
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What crivet is told of the runtime's containers.
    pub fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap()
    }

    /// Connections ever accepted, but for the one over which crivet only asks for itself.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Calls that arrived whole.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The calls that arrived whole, by path.
    pub fn seen_paths(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.head.uri.path().to_owned()).collect()
    }

    /// GOAWAY on all connections that are open now, as a server that stops in order; later ones are served.
    pub fn go_away(&self) {
        self.order.send_replace(Order::GoAway);
    }

    /// Gone, as after a kill; the socket stays behind as it would.
    pub async fn die(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
    }
}

/// A connection counts from its first call on that is not crivet's own look at the containers.
struct Counts {
    all: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    number: Option<usize>,
}

impl Counts {
    fn number(&mut self) -> usize {
        *self.number.get_or_insert_with(|| {
            self.open.fetch_add(1, Ordering::SeqCst);
            self.all.fetch_add(1, Ordering::SeqCst)
        })
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        if self.number.is_some() {
            self.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

struct Serving<H> {
    lists: Arc<Mutex<Lists>>,
    builder: h2::server::Builder,
    handler: Arc<H>,
    seen: Arc<Mutex<Vec<Seen>>>,
    orders: watch::Receiver<Order>,
}

impl<H> Clone for Serving<H> {
    fn clone(&self) -> Self {
        Serving {
            lists: Arc::clone(&self.lists),
            builder: self.builder.clone(),
            handler: Arc::clone(&self.handler),
            seen: Arc::clone(&self.seen),
            orders: self.orders.clone(),
        }
    }
}

impl<H, F> Serving<H>
where
    H: Fn(Call) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    /// The answer to crivet's own question for what there is, which tests of the relay do not mean.
    fn own_look(&self, head: &request::Parts) -> Option<Vec<u8>> {
        let agent = head.headers.get("user-agent")?.to_str().ok()?;
        let lists = self.lists.lock().unwrap();
        match head.uri.path().rsplit('/').next()? {
            _ if lists.by_handler || !agent.starts_with("tonic/") => None,
            "ListContainers" => Some(lists.containers.encode_to_vec()),
            "ListPodSandbox" => Some(lists.sandboxes.encode_to_vec()),
            _ => None,
        }
    }

    async fn connection(mut self, mut counts: Counts, stream: UnixStream) {
        // Orders given before this connection was there are not for it.
        self.orders.mark_unchanged();
        let Ok(mut connection) = self.builder.handshake::<_, Bytes>(stream).await else { return };
        let mut calls = JoinSet::new();
        loop {
            tokio::select! {
                call = connection.accept() => match call {
                    Some(Ok((request, respond))) => {
                        let (head, body) = request.into_parts();
                        let seen = Arc::clone(&self.seen);
                        let own = self.own_look(&head);
                        let connection = if own.is_some() { 0 } else { counts.number() };
                        let mut call = Call { connection, head, body, respond, seen };
                        match own {
                            Some(list) => drop(calls.spawn(async move { call.answer(&list).await })),
                            None => drop(calls.spawn((self.handler)(call))),
                        }
                    }
                    Some(Err(_)) | None => return,
                },
                Some(_) = calls.join_next() => {}
                Ok(()) = self.orders.changed() => connection.graceful_shutdown(),
            }
        }
    }
}
