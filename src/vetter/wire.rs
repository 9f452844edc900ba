//! The private protocol between relay and vetter, generated from `proto/vetter.proto`, and its frames.

use prost::Message;
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::limits;
use crate::relay::clients::millis;
use crate::trust::Trust;

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

/// The trusted roots, for whoever asks how the vetter is.
pub fn trust(trust: &Trust) -> Vec<TrustRoot> {
    let one = |(name, state): (&str, &crate::trust::State)| {
        let (ends_first, ends) = state
            .ends()
            .map_or((String::new(), 0), |(material, end)| (material.key().to_owned(), millis(end)));
        TrustRoot {
            name: name.to_owned(),
            source: state.source.clone(),
            origin: state.origin.as_str().to_owned(),
            version: state.root.as_ref().map(|root| root.version().to_string()).unwrap_or_default(),
            at: state.at.map_or(0, millis),
            expires: state.expires.map_or(0, millis),
            ends,
            ends_first,
            newest: state.root.as_ref().and_then(|root| root.newest()).map_or(0, millis),
            error: state.error.clone().unwrap_or_default(),
        }
    };
    trust.states().map(one).collect()
}
