//! HTTP/2 frames by hand (RFC 9113 section 4.1), for what no library would send.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub struct Raw {
    socket: UnixStream,
}

impl Raw {
    /// The server's end: reads the preface and says its settings (none).
    pub async fn accept(listener: &UnixListener) -> Raw {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut preface = [0; PREFACE.len()];
        socket.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        let mut raw = Raw { socket };
        raw.send(SETTINGS, 0, 0, b"").await;
        raw
    }

    /// The client's end: writes the preface and its settings (none).
    pub async fn connect(path: &Path) -> Raw {
        let mut socket = UnixStream::connect(path).await.unwrap();
        socket.write_all(PREFACE).await.unwrap();
        let mut raw = Raw { socket };
        raw.send(SETTINGS, 0, 0, b"").await;
        raw
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        // Whoever closed the connection is found out at the next read.
        let _ = self.socket.write_all(&frame).await;
    }

    /// The next frame; `None` at the end of the connection. Settings and pings are acknowledged.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        if matches!(kind, SETTINGS | PING) && flags & ACK == 0 {
            let answer = if kind == PING { payload.as_slice() } else { b"" };
            self.send(kind, ACK, 0, answer).await;
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame of a kind.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// An answer with status 0 and no message.
    pub async fn answer(&mut self, stream: u32) {
        let head = block(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]);
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &head).await;
    }
}

/// A header block of literals without indexing (RFC 7541 section 6.2.2); names and values under 127 bytes.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
