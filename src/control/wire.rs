//! The control socket's messages, generated from `proto/control.proto`, and its frames.

use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::limits;

#[allow(missing_docs, unused_qualifications, clippy::all)]
mod generated {
    tonic::include_proto!("crivet.control");
}

pub use generated::*;

/// Frames a connection to the control socket.
pub fn link(socket: UnixStream) -> Framed<UnixStream, LengthDelimitedCodec> {
    LengthDelimitedCodec::builder().max_frame_length(limits::CONTROL_FRAME_BYTES).new_framed(socket)
}
