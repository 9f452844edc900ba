//! CRI calls as bytes: a bench needs requests with more fields than crivet reads.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use hyper_util::rt::TokioIo;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// A protobuf message under construction; the fields used here have numbers below 16 and short values.
#[derive(Clone, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn text(self, number: u8, text: &str) -> Message {
        self.bytes(number, text.as_bytes())
    }

    pub fn message(self, number: u8, message: &Message) -> Message {
        self.bytes(number, &message.0)
    }

    pub fn number(mut self, number: u8, value: u8) -> Message {
        self.0.extend([number << 3, value]);
        self
    }

    /// Of a field with a number of 16 to 2047.
    pub fn far_text(mut self, number: u16, text: &str) -> Message {
        let tag = number << 3 | 2;
        self.0.extend([(tag & 0x7f) as u8 | 0x80, (tag >> 7) as u8]);
        self.with_length(text.as_bytes())
    }

    fn bytes(mut self, number: u8, bytes: &[u8]) -> Message {
        self.0.push(number << 3 | 2);
        self.with_length(bytes)
    }

    fn with_length(mut self, bytes: &[u8]) -> Message {
        let mut length = bytes.len();
        while length > 0x7f {
            self.0.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        self.0.push(length as u8);
        self.0.extend_from_slice(bytes);
        self
    }
}

/// The text of field 1: an ID, in the answers that have one.
pub fn first_text(answer: &[u8]) -> String {
    let [10, length, rest @ ..] = answer else { return String::new() };
    String::from_utf8(rest[..usize::from(*length)].to_vec()).unwrap()
}

pub struct Client {
    channel: Channel,
}

impl Client {
    pub fn connect(socket: &Path) -> Client {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Client { channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector) }
    }

    /// One call, with the kubelet's deadline; its answer, and how long it took.
    pub async fn call(&self, method: &str, request: &Message) -> (Result<Vec<u8>, Status>, Duration) {
        let mut grpc =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(16 * 1024 * 1024);
        grpc.ready().await.unwrap();
        let mut asked = Request::new(request.0.clone());
        if method != "ImageService/PullImage" {
            asked.set_timeout(Duration::from_secs(120));
        }
        let path = format!("/runtime.v1.{method}").parse().unwrap();
        let started = Instant::now();
        let answer = grpc.unary(asked, path, Raw).await;
        (answer.map(tonic::Response::into_inner), started.elapsed())
    }
}

#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
