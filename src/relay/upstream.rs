//! One upstream connection per client connection, dialled when first needed and replaced when it is lost.
//!
//! Never shared between clients: unread streams of one would hang the calls of another.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::body::{Passing, RequestBody, h2_error};
use super::http2;
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

/// The runtime, as one client connection sees it.
pub struct Upstream {
    runtime: Connection,
    /// Absent where both services are on one socket.
    image: Option<Connection>,
}

struct Connection {
    socket: Arc<Path>,
    sender: Mutex<Option<SendRequest<RequestBody>>>,
    dialling: tokio::sync::Mutex<()>,
}

impl Upstream {
    /// Not connected yet.
    pub fn new(endpoints: &Endpoints) -> Upstream {
        let connection = |socket: &Arc<Path>| Connection {
            socket: Arc::clone(socket),
            sender: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
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
        head: http::request::Parts,
        body: &Passing,
    ) -> Result<Response<Incoming>, Reply> {
        self.connection(service).send(head, || body.again().map(RequestBody::Passing)).await
    }

    /// Sends a call whose body was read whole; once more if the runtime never processed it.
    pub async fn send_whole(
        &self,
        service: Service,
        head: http::request::Parts,
        mut body: impl FnMut() -> RequestBody,
    ) -> Result<Response<Incoming>, Reply> {
        self.connection(service).send(head, || Some(body())).await
    }
}

impl Connection {
    async fn send(
        &self,
        head: http::request::Parts,
        mut body: impl FnMut() -> Option<RequestBody>,
    ) -> Result<Response<Incoming>, Reply> {
        let cut_off =
            || Reply::unavailable(format!("the runtime at {} cut the call off", self.socket.display()));
        let mut tried = false;
        loop {
            let body = body().ok_or_else(cut_off)?;
            let mut sender = self.sender().await?;
            let mut request = Request::new(body);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => {
                    let never_sent = error.take_message().is_some();
                    if tried || !(never_sent || never_processed(error.error())) {
                        return Err(cut_off());
                    }
                    self.forget();
                    tried = true;
                }
            }
        }
    }

    async fn sender(&self) -> Result<SendRequest<RequestBody>, Reply> {
        if let Some(sender) = self.living() {
            return Ok(sender);
        }
        let _dialling = self.dialling.lock().await;
        if let Some(sender) = self.living() {
            return Ok(sender);
        }
        let away = |error: &dyn std::fmt::Display| {
            Reply::unavailable(format!("the runtime at {} cannot be reached: {error}", self.socket.display()))
        };
        let stream = UnixStream::connect(&*self.socket).await.map_err(|error| away(&error.kind()))?;
        let (sender, connection) = http2::client()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| away(&"it does not speak HTTP/2"))?;
        tokio::spawn(async move {
            // The calls on it have each been told.
            let _ = connection.await;
        });
        *self.slot() = Some(sender.clone());
        Ok(sender)
    }

    fn living(&self) -> Option<SendRequest<RequestBody>> {
        self.slot().as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    /// Old streams finish on the connection; new ones get another.
    fn forget(&self) {
        *self.slot() = None;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<RequestBody>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 9113 section 8.7: streams above a GOAWAY's last stream ID and refused streams were not processed.
fn never_processed(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|h2| {
        h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}
