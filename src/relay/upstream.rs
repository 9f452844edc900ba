//! One upstream connection per client connection, dialled when first needed and replaced when it is lost.
//!
//! Never shared between clients: unread streams of one would hang the calls of another.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};

use super::body::{Passing, RequestBody, h2_error};
use super::gather::Gather;
use super::{descriptors, http2};
use crate::cri::methods::Service;
use crate::cri::reply::Reply;

/// Where the two CRI services are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The socket of `runtime.v1.RuntimeService`.
    pub runtime: Arc<Path>,
    /// The socket of `runtime.v1.ImageService`; often the same.
    pub image: Arc<Path>,
}

impl Endpoints {
    /// Endpoints of these sockets.
    pub fn new(runtime: PathBuf, image: PathBuf) -> Endpoints {
        Endpoints { runtime: runtime.into(), image: image.into() }
    }
}

/// Why a call has no answer of the runtime's.
#[derive(Debug)]
pub enum NoAnswer {
    /// The runtime reset the call; the client's stream is reset with the same code.
    Reset(h2::Reason),
    /// crivet's own answer.
    Reply(Reply),
}

impl From<Reply> for NoAnswer {
    fn from(reply: Reply) -> NoAnswer {
        NoAnswer::Reply(reply)
    }
}

impl NoAnswer {
    /// A trailers-only response; an error resets the stream with its code.
    pub fn into_response<B: Default>(self) -> Result<Response<B>, h2::Error> {
        match self {
            NoAnswer::Reset(reason) => Err(reason.into()),
            NoAnswer::Reply(reply) => Ok(reply.into_response()),
        }
    }
}

/// The runtime, as one client connection sees it.
pub struct Upstream {
    runtime: Connection,
    /// Absent where both services are on one socket.
    image: Option<Connection>,
}

/// A connection, and which of them in a row it is.
type Dialled = (SendRequest<RequestBody>, u64);

struct Connection {
    socket: Arc<Path>,
    sender: Mutex<Option<Dialled>>,
    /// Connections dialled so far; locked while another is.
    dialled: tokio::sync::Mutex<u64>,
}

impl Upstream {
    /// Not connected yet.
    pub fn new(endpoints: &Endpoints) -> Upstream {
        let connection = |socket: &Arc<Path>| Connection {
            socket: Arc::clone(socket),
            sender: Mutex::default(),
            dialled: tokio::sync::Mutex::default(),
        };
        let image = (endpoints.image != endpoints.runtime).then(|| connection(&endpoints.image));
        Upstream { runtime: connection(&endpoints.runtime), image }
    }

    fn connection(&self, service: Service) -> &Connection {
        match (service, &self.image) {
            (Service::Image, Some(image)) => image,
            _ => &self.runtime,
        }
    }

    /// The socket a service's calls go to.
    pub fn socket(&self, service: Service) -> &Arc<Path> {
        &self.connection(service).socket
    }

    /// Sends a call whose body passes through; once more if the runtime never processed it.
    pub async fn send_passing(
        &self,
        service: Service,
        head: &http::request::Parts,
        body: &Passing,
    ) -> Result<Response<Incoming>, NoAnswer> {
        self.connection(service).send(head, || body.again().map(RequestBody::Passing)).await
    }

    /// Sends a call whose body was read whole; once more if the runtime never processed it.
    pub async fn send_whole(
        &self,
        service: Service,
        head: &http::request::Parts,
        mut body: impl FnMut() -> RequestBody,
    ) -> Result<Response<Incoming>, NoAnswer> {
        self.connection(service).send(head, || Some(body())).await
    }
}

impl Connection {
    async fn send(
        &self,
        head: &http::request::Parts,
        mut again: impl FnMut() -> Option<RequestBody>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let mut tried = false;
        let mut next = again();
        loop {
            let Some(body) = next.take() else { return Err(cut_off(&self.socket).into()) };
            let (mut sender, dialled) = self.sender().await?;
            let mut request = Request::new(body);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let never_sent = error.take_message().is_some();
            let error = error.into_error();
            let ending = never_sent || is_remote_goaway(&error);
            if ending {
                self.forget(dialled);
            }
            next = if !tried && (ending || is_refused(&error)) { again() } else { None };
            if next.is_none() {
                return Err(no_answer(&error, &self.socket));
            }
            tried = true;
        }
    }

    async fn sender(&self) -> Result<Dialled, Reply> {
        match self.living() {
            Some(sender) => Ok(sender),
            // Boxed: calls that find a connection should not carry the room to make one.
            None => Box::pin(self.dial()).await,
        }
    }

    async fn dial(&self) -> Result<Dialled, Reply> {
        let mut dialled = self.dialled.lock().await;
        if let Some(sender) = self.living() {
            return Ok(sender);
        }
        let away = |error: &dyn std::fmt::Display| {
            Reply::unavailable(format!("the runtime at {} cannot be reached: {error}", self.socket.display()))
        };
        let stream = descriptors::connect(&self.socket).await.map_err(|error| away(&error.kind()))?;
        let (sender, connection) = http2::client()
            .handshake(Gather::new(stream))
            .await
            .map_err(|_| away(&"it does not speak HTTP/2"))?;
        tokio::spawn(async move {
            // The calls on it have each been told.
            let _ = connection.await;
        });
        *dialled += 1;
        *self.slot() = Some((sender.clone(), *dialled));
        Ok((sender, *dialled))
    }

    fn living(&self) -> Option<Dialled> {
        self.slot().as_ref().filter(|(sender, _)| !sender.is_closed()).cloned()
    }

    /// Old streams finish on the connection; new ones get another. A connection that has taken its place stays.
    fn forget(&self, dialled: u64) {
        self.slot().take_if(|(_, current)| *current == dialled);
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Dialled>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call that the runtime did not answer ends with: the runtime's own reset, else Unavailable.
pub fn no_answer(error: &hyper::Error, socket: &Path) -> NoAnswer {
    match h2_error(error).filter(|h2| h2.is_reset() && h2.is_remote()).and_then(h2::Error::reason) {
        Some(reason) => NoAnswer::Reset(reason),
        None => NoAnswer::Reply(cut_off(socket)),
    }
}

/// For a call whose connection was lost, as gRPC's own clients say it.
pub fn cut_off(socket: &Path) -> Reply {
    Reply::unavailable(format!("the runtime at {} cut the call off", socket.display()))
}

/// RFC 9113 section 8.7: a refused stream was not processed. Its connection is as good as before.
fn is_refused(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|h2| h2.is_remote() && h2.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// RFC 9113 section 8.7: streams above a GOAWAY's last stream ID were not processed.
fn is_remote_goaway(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|h2| h2.is_remote() && h2.is_go_away())
}
