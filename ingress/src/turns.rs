//! A socket that gives the others a turn. Below our frames a peer can say much that comes to nothing, as a message of empty
//! fragments without end does: whoever reads it goes on in one poll as long as bytes are there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read in one go. A frame of the largest size takes five turns.
const TURN_BYTES: usize = 16 * 1024;

pub struct Turns<S> {
    socket: S,
    /// Read since it last waited.
    read: usize,
}

impl<S> Turns<S> {
    pub fn new(socket: S) -> Self {
        Self { socket, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Turns<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read >= TURN_BYTES {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        match polled {
            Poll::Pending => self.read = 0,
            Poll::Ready(_) => self.read += buf.filled().len() - before,
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Turns<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_socket_with_bytes_without_end_is_left_after_a_turn_and_gone_on_with() {
        // As WebSocket reads: little at a time.
        let mut socket = Turns::new(tokio::io::repeat(b'x'));
        let mut reading = Box::pin(async {
            let mut got = [0; 1024];
            for _ in 0..4 * TURN_BYTES / got.len() {
                socket.read_exact(&mut got).await.unwrap();
            }
        });
        assert!(
            reading.as_mut().now_or_never().is_none(),
            "more than a turn in one poll"
        );
        reading.await;
    }
}
