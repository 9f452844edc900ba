//! The bodies that pass through the relay: frames as they came, and the few answers of its own.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::upstream::cut_off;
use crate::cri::reply::Reply;

/// A request body on its way to the runtime.
pub enum RequestBody {
    /// Frames as they come from the client.
    Passing(Passing),
    /// A body that was read whole, and is sent as it was.
    Whole(Whole),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Passing(body) => body.poll_frame(cx),
            RequestBody::Whole(body) => Poll::Ready(body.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Passing(body) => body.is_end_stream(),
            RequestBody::Whole(body) => body.is_empty(),
        }
    }

    // No exact size hint, ever: hyper would add a `content-length` that the client did not send.
}

/// A client's request body, of which the first bytes are kept until the call has an answer: for one more try
/// if the runtime never saw the call, and, for a vetted call in audit mode, to know what was asked.
#[derive(Clone)]
pub struct Passing {
    shared: Arc<Mutex<Kept>>,
    /// Frames already given out by this handle.
    given: usize,
}

struct Kept {
    incoming: Incoming,
    frames: Vec<Bytes>,
    bytes: usize,
    cap: usize,
    /// What all calls together may keep, and this call's share of it.
    budget: Option<Arc<Semaphore>>,
    share: Vec<OwnedSemaphorePermit>,
    state: KeptState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeptState {
    Growing,
    Complete,
    /// More than the cap, trailers, an error, or no longer needed: cannot be given out again.
    Lost,
}

impl Passing {
    /// Keeps up to `cap` bytes.
    pub fn new(incoming: Incoming, cap: usize) -> Passing {
        let state = if incoming.is_end_stream() { KeptState::Complete } else { KeptState::Growing };
        let kept =
            Kept { incoming, frames: Vec::new(), bytes: 0, cap, budget: None, share: Vec::new(), state };
        Passing { shared: Arc::new(Mutex::new(kept)), given: 0 }
    }

    /// Keeps up to `cap` bytes, and no more than `budget` has left for all calls together.
    pub fn within(incoming: Incoming, cap: usize, budget: Arc<Semaphore>) -> Passing {
        let passing = Passing::new(incoming, cap);
        lock(&passing.shared).budget = Some(budget);
        passing
    }

    /// The same body from its start, if what was given out so far is still kept.
    pub fn again(&self) -> Option<Passing> {
        let kept = lock(&self.shared);
        (kept.state != KeptState::Lost).then(|| Passing { shared: Arc::clone(&self.shared), given: 0 })
    }

    /// Ends the keeping; the whole body if it has passed and was kept.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut kept = lock(&self.shared);
        let whole = kept.state == KeptState::Complete;
        kept.state = KeptState::Lost;
        let frames = std::mem::take(&mut kept.frames);
        kept.share = Vec::new();
        whole.then(|| frames.concat())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut kept = lock(&self.shared);
        if let Some(frame) = kept.frames.get(self.given) {
            self.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
        }
        let frame = ready!(Pin::new(&mut kept.incoming).poll_frame(cx));
        match &frame {
            _ if kept.state == KeptState::Lost => {}
            None => kept.state = KeptState::Complete,
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) if kept.bytes + data.len() <= kept.cap && kept.takes_share(data.len()) => {
                    kept.bytes += data.len();
                    kept.frames.push(data.clone());
                    self.given += 1;
                    if kept.incoming.is_end_stream() {
                        kept.state = KeptState::Complete;
                    }
                }
                _ => kept.lose(),
            },
            Some(Err(_)) => kept.lose(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let kept = lock(&self.shared);
        self.given >= kept.frames.len() && kept.incoming.is_end_stream()
    }
}

impl Kept {
    fn takes_share(&mut self, bytes: usize) -> bool {
        let Some(budget) = &self.budget else { return true };
        let share =
            u32::try_from(bytes).ok().and_then(|bytes| Arc::clone(budget).try_acquire_many_owned(bytes).ok());
        let taken = share.is_some();
        self.share.extend(share);
        taken
    }

    fn lose(&mut self) {
        self.state = KeptState::Lost;
        self.frames = Vec::new();
        self.share = Vec::new();
    }
}

fn lock(shared: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A response body on its way to the client.
#[derive(Default)]
pub enum ResponseBody {
    /// No body: the status is in the headers.
    #[default]
    Empty,
    /// Frames as they come from the runtime.
    Relayed(Relayed),
    /// A body that was read whole, and is sent as it was.
    Whole(Whole),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            ResponseBody::Empty => Poll::Ready(None),
            ResponseBody::Relayed(body) => body.poll_frame(cx),
            ResponseBody::Whole(body) => Poll::Ready(body.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Empty => true,
            ResponseBody::Relayed(body) => !body.ended && body.incoming.is_end_stream(),
            ResponseBody::Whole(body) => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // An exact zero would make hyper add `content-length: 0` to a trailers-only answer.
            ResponseBody::Empty | ResponseBody::Whole(_) => SizeHint::default(),
            ResponseBody::Relayed(body) => body.incoming.size_hint(),
        }
    }
}

/// A body that was read whole: its data, then its trailers.
#[derive(Default)]
pub struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    /// A body of these bytes and trailers.
    pub fn new(data: Bytes, trailers: Option<HeaderMap>) -> Whole {
        Whole { data: Some(data).filter(|data| !data.is_empty()), trailers }
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        self.data.take().map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers))
    }

    fn is_empty(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

/// The runtime's response body.
///
/// A reset by the runtime is passed on with its code. A connection that is lost ends the call as Unavailable,
/// as gRPC's own clients say it; hyper alone would say INTERNAL_ERROR.
pub struct Relayed {
    incoming: Incoming,
    socket: Arc<Path>,
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    copy: Option<Copy>,
    ended: bool,
}

/// A bounded copy of a response, given away when the response has ended, however it did.
struct Copy {
    data: Vec<u8>,
    cap: usize,
    to: Option<oneshot::Sender<Vec<u8>>>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            // Nobody may be waiting any more.
            let _ = to.send(std::mem::take(&mut self.data));
        }
    }
}

impl Relayed {
    /// A response body from the runtime at `socket`.
    pub fn new(incoming: Incoming, socket: Arc<Path>) -> Relayed {
        Relayed { incoming, socket, stop: None, copy: None, ended: false }
    }

    /// Ends the body as Unavailable when `stop` is done: at shutdown.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Relayed {
        self.stop = Some(Box::pin(stop));
        self
    }

    /// Copies the data, and gives it away at the end; nothing is given if it is more than `cap` bytes.
    pub fn copied(mut self, cap: usize) -> (Relayed, oneshot::Receiver<Vec<u8>>) {
        let (to, copy) = oneshot::channel();
        self.copy = Some(Copy { data: Vec::new(), cap, to: Some(to) });
        (self, copy)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            return self.end(Reply::unavailable("crivet is shutting down; call again".to_owned()));
        }
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Err(error)) if !reset_by_peer(&error) => self.end(cut_off(&self.socket)),
            Some(Ok(frame)) => {
                if let (Some(copy), Some(data)) = (&mut self.copy, frame.data_ref()) {
                    if copy.data.len() + data.len() <= copy.cap {
                        copy.data.extend_from_slice(data);
                    } else {
                        copy.to = None;
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            end => {
                self.copy = None;
                Poll::Ready(end)
            }
        }
    }

    fn end(&mut self, reply: Reply) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.ended = true;
        self.copy = None;
        Poll::Ready(Some(Ok(Frame::trailers(reply.into_trailers()))))
    }
}

/// The HTTP/2 error at the bottom of a hyper error.
pub fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(h2) = error.downcast_ref() {
            return Some(h2);
        }
        source = error.source();
    }
    None
}

fn reset_by_peer(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|h2| h2.is_reset() && h2.is_remote())
}
