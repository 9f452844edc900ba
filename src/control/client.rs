//! A command's end of the control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::wire::{
    Answer, ContentReport, ContentRequestsRequest, ContentTaken, Request, Status, StatusRequest, answer,
    link, request,
};
use crate::vetter::wire::{Call, Kind, Verdict, frame};

/// Longest the daemon may take to say how it is.
const STATUS: Duration = Duration::from_secs(5);
/// Longest the daemon may take to write down what it is told.
const TAKEN: Duration = Duration::from_secs(60);
/// Time for an answer's way, beyond what the daemon may take for it.
const LEFT_FOR_THE_ANSWER: Duration = Duration::from_secs(5);

/// Why the daemon could not be asked. One line.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon answers there.
    #[error(
        "crivet does not answer on {socket}: {error}; is it running (systemctl status crivet), and are you root?"
    )]
    Away {
        /// The control socket.
        socket: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// It said why not.
    #[error("crivet answered: {0}")]
    Refused(String),
    /// An answer to something else: a daemon of another version.
    #[error(
        "crivet answered something this command does not know; is the daemon another version? restart it"
    )]
    Unknown,
}

/// A connection to a running daemon.
pub struct Control {
    socket: PathBuf,
    link: Framed<UnixStream, LengthDelimitedCodec>,
}

impl Control {
    /// Connects to the control socket at this path.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(socket: &Path) -> Result<Control, ControlError> {
        match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Control { socket: socket.to_owned(), link: link(stream) }),
            Err(error) => Err(ControlError::Away { socket: socket.to_owned(), error }),
        }
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// It goes away, or is another version.
    pub async fn status(&mut self) -> Result<Status, ControlError> {
        match self.ask(request::Body::Status(StatusRequest {}), STATUS).await? {
            answer::Body::Status(status) => Ok(status),
            _ => Err(ControlError::Unknown),
        }
    }

    /// What the daemon would decide about a call's images, were everything enforced: one `judged` per image, undecided
    /// where that takes longer than `within`. Unless
    /// `keep_nothing`, it keeps the proofs.
    ///
    /// # Errors
    /// It goes away, is another version, or has no vetter.
    pub async fn judge(&mut self, call: Call, within: Duration) -> Result<Verdict, ControlError> {
        let budget_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let call = Call { kind: Kind::Inventory.into(), beside: true, budget_ms, ..call };
        let images = call.images.len();
        match self.ask(request::Body::Judge(call), within + LEFT_FOR_THE_ANSWER).await? {
            answer::Body::Judged(verdict) if verdict.judged.len() == images => Ok(verdict),
            _ => Err(ControlError::Unknown),
        }
    }

    /// Tells what a check of the node's disk found. When this returns, it counts, and outlives the daemon.
    ///
    /// # Errors
    /// It goes away, is another version, or could not keep all of it.
    pub async fn content(&mut self, report: ContentReport) -> Result<ContentTaken, ControlError> {
        match self.ask(request::Body::Content(report), TAKEN).await? {
            answer::Body::Content(taken) => Ok(taken),
            _ => Err(ControlError::Unknown),
        }
    }

    /// The IDs of the images that wait for a check. Whoever asks makes it: they are not handed out again for a while.
    ///
    /// # Errors
    /// It goes away, or is another version.
    pub async fn content_requests(&mut self) -> Result<Vec<String>, ControlError> {
        match self.ask(request::Body::ContentRequests(ContentRequestsRequest {}), STATUS).await? {
            answer::Body::ContentRequests(requests) => Ok(requests.image_ids),
            _ => Err(ControlError::Unknown),
        }
    }

    /// Tells that an image is about to be removed. When this returns, no container is made of it before it was there again for a while.
    ///
    /// # Errors
    /// It must not be removed.
    pub async fn healing(&mut self, id: &str) -> Result<(), ControlError> {
        let report = ContentReport { to_be_removed: vec![id.to_owned()], ..Default::default() };
        self.content(report).await.map(drop)
    }

    async fn ask(&mut self, body: request::Body, within: Duration) -> Result<answer::Body, ControlError> {
        let asked = async {
            self.link.send(frame(&Request { body: Some(body) })).await?;
            self.link.next().await.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?
        };
        let answered = match timeout(within, asked).await {
            Ok(answered) => answered,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let frame = answered.map_err(|error| ControlError::Away { socket: self.socket.clone(), error })?;
        match Answer::decode(frame).ok().and_then(|answer| answer.body) {
            Some(answer::Body::Error(text)) => Err(ControlError::Refused(text)),
            Some(body) => Ok(body),
            None => Err(ControlError::Unknown),
        }
    }
}
