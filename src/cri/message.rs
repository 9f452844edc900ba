//! One gRPC message out of the bytes of a unary call's body (gRPC over HTTP/2, "Length-Prefixed-Message").

use prost::Message;

/// Why a body is not the one message a unary call has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body ended inside the five-byte prefix or the message.
    #[error("the call's message is cut short: {found} of {expected} bytes")]
    Truncated {
        /// Bytes that the prefix announces, prefix included.
        expected: usize,
        /// Bytes that were there.
        found: usize,
    },
    /// The compressed flag is set.
    #[error("the call's message is compressed, which no kubelet does; send it without grpc-encoding")]
    Compressed,
    /// More bytes than one message.
    #[error("the call has {extra} bytes after its message; a unary call has exactly one message")]
    Trailing {
        /// Bytes after the message.
        extra: usize,
    },
    /// Not the protobuf message it should be.
    #[error("the call's message is no valid {message}: {reason}")]
    Malformed {
        /// The message's name.
        message: &'static str,
        /// prost's reason.
        reason: String,
    },
}

const PREFIX: usize = 5;

/// The message's bytes, without the prefix.
pub fn only_message(body: &[u8]) -> Result<&[u8], MessageError> {
    let truncated = |expected| MessageError::Truncated { expected, found: body.len() };
    let (prefix, message) = body.split_first_chunk::<PREFIX>().ok_or(truncated(PREFIX))?;
    let [flag, length @ ..] = prefix;
    if *flag != 0 {
        return Err(MessageError::Compressed);
    }
    let length = u32::from_be_bytes(*length) as usize;
    match message.len().checked_sub(length) {
        None => Err(truncated(PREFIX.saturating_add(length))),
        Some(0) => Ok(message),
        Some(extra) => Err(MessageError::Trailing { extra }),
    }
}

/// Decodes a message; `name` is for the error.
pub fn decode<M: Message + Default>(name: &'static str, bytes: &[u8]) -> Result<M, MessageError> {
    M::decode(bytes).map_err(|error| MessageError::Malformed { message: name, reason: error.to_string() })
}

/// A message as a unary call's body.
pub fn encode<M: Message>(message: &M) -> bytes::Bytes {
    let bytes = message.encode_to_vec();
    let mut body = Vec::with_capacity(PREFIX + bytes.len());
    body.push(0);
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(&bytes);
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::PullImageResponse;

    fn valid() -> Vec<u8> {
        encode(&PullImageResponse { image_ref: "sha256:ab".into() }).to_vec()
    }

    #[test]
    fn a_valid_body_is_its_message() {
        let body = valid();
        let message: PullImageResponse = decode("PullImageResponse", only_message(&body).unwrap()).unwrap();
        assert_eq!(message.image_ref, "sha256:ab");
    }

    #[test]
    fn every_truncation_is_noticed() {
        let body = valid();
        for end in 0..body.len() {
            assert!(matches!(only_message(&body[..end]), Err(MessageError::Truncated { .. })), "{end}");
        }
    }

    #[test]
    fn compressed() {
        let mut body = valid();
        body[0] = 1;
        assert_eq!(only_message(&body), Err(MessageError::Compressed));
    }

    #[test]
    fn two_messages() {
        let body = [valid(), valid()].concat();
        assert!(matches!(only_message(&body), Err(MessageError::Trailing { extra: 16 })));
    }

    #[test]
    fn garbage() {
        let result = decode::<PullImageResponse>("PullImageResponse", &[0xff; 9]);
        assert!(
            result.unwrap_err().to_string().starts_with("the call's message is no valid PullImageResponse")
        );
    }
}
