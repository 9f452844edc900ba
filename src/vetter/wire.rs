//! The private protocol between relay and vetter, generated from `proto/vetter.proto`, and its frames.

use prost::Message;
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::limits;

#[allow(missing_docs, unused_qualifications, clippy::all)]
mod generated {
    tonic::include_proto!("crivet.vetter");

    impl std::fmt::Debug for Auth {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Auth { redacted }")
        }
    }

    impl std::fmt::Debug for CredentialFile {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("CredentialFile { redacted }")
        }
    }
}

pub use generated::*;

/// The socket pair, framed.
pub type Link = Framed<UnixStream, LengthDelimitedCodec>;

/// Frames a socket of the pair.
pub fn link(socket: UnixStream) -> Link {
    LengthDelimitedCodec::builder().max_frame_length(limits::LINK_FRAME_BYTES).new_framed(socket)
}

/// A message as a frame's bytes.
pub fn frame<M: Message>(message: &M) -> bytes::Bytes {
    message.encode_to_vec().into()
}
