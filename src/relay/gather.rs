//! Writes that wait one turn, so that what belongs together goes out together.
//!
//! h2 writes a call's headers as soon as it has them, and its data, which another task brings, in a second
//! system call: the runtime wakes up twice for every call. One turn of the run queue later both are there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// A connection whose writer lets the tasks that are ready run before it writes.
pub struct Gather {
    io: TokioIo<UnixStream>,
    /// The turn since the last flush has been given.
    waited: bool,
}

impl Gather {
    /// Gathers what is written to a connection.
    pub fn new(stream: UnixStream) -> Gather {
        Gather { io: TokioIo::new(stream), waited: false }
    }

    fn wait_a_turn(&mut self, cx: &Context<'_>) -> bool {
        if !self.waited {
            self.waited = true;
            cx.waker().wake_by_ref();
            return true;
        }
        false
    }
}

impl Read for Gather {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Gather {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.wait_a_turn(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.wait_a_turn(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waited = false;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[tokio::test]
    async fn the_first_write_after_a_flush_waits_a_turn_and_the_others_do_not() {
        let (stream, mut other) = UnixStream::pair().unwrap();
        let mut gather = Gather::new(stream);
        let mut cx = Context::from_waker(Waker::noop());
        for vectored in [false, true] {
            let mut write = |bytes: &[u8]| match vectored {
                false => Pin::new(&mut gather).poll_write(&mut cx, bytes),
                true => Pin::new(&mut gather).poll_write_vectored(&mut cx, &[IoSlice::new(bytes)]),
            };
            assert!(write(b"ab").is_pending());
            assert!(matches!(write(b"ab"), Poll::Ready(Ok(2))));
            assert!(matches!(write(b"c"), Poll::Ready(Ok(1))));
            assert!(Pin::new(&mut gather).poll_flush(&mut cx).is_ready());
        }
        drop(gather);
        let mut written = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut other, &mut written).await.unwrap();
        assert_eq!(written, b"abcabc");
    }
}
