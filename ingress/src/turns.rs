//! A socket that gives the others a turn, and is read no faster than its share. Below our frames a peer can say much that
//! comes to nothing, as a message of empty fragments without end, or pings: whoever reads it goes on in one poll as long as
//! bytes are there, and no limit that counts frames or bodies ever sees them.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use process::config::Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes read in one go. A frame of the largest size takes five turns.
const TURN_BYTES: usize = 16 * 1024;

/// What a socket may say, in bytes: sustained, and at once.
#[derive(Clone, Copy)]
pub struct Share {
    pub per_s: u32,
    pub burst: u32,
}

impl From<&Limits> for Share {
    fn from(limits: &Limits) -> Self {
        match limits.connection_bytes_per_s {
            0 => Self {
                per_s: u32::MAX,
                burst: u32::MAX,
            },
            per_s => Self {
                per_s,
                burst: limits.connection_bytes_burst.max(per_s),
            },
        }
    }
}

pub struct Turns<S> {
    socket: S,
    /// Read since it last waited.
    read: usize,
    share: Share,
    /// Bytes of its share that are left, as of `filled`.
    left: u32,
    filled: Instant,
    /// Until its share is a turn again. Nobody pays for it who stays below.
    rests: Option<Pin<Box<Sleep>>>,
}

impl<S> Turns<S> {
    pub fn new(socket: S, share: Share) -> Self {
        Self {
            socket,
            read: 0,
            share,
            left: share.burst,
            filled: Instant::now(),
            rests: None,
        }
    }

    /// Ready when something is left of its share. The clock is looked at only when nothing is.
    fn poll_share(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let per_s = f64::from(self.share.per_s);
        let turn = f64::from(self.share.burst.min(TURN_BYTES as u32));
        while self.left == 0 {
            if let Some(rests) = &mut self.rests {
                ready!(rests.as_mut().poll(cx));
                self.rests = None;
            }
            let now = Instant::now();
            let came = now.duration_since(self.filled).as_secs_f64() * per_s;
            if came < turn {
                let rest = Duration::from_secs_f64((turn - came) / per_s);
                self.rests = Some(Box::pin(tokio::time::sleep(rest)));
            } else {
                self.left = (came as u32).min(self.share.burst);
                self.filled = now;
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Turns<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read >= TURN_BYTES {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_share(cx));
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        match polled {
            Poll::Pending => self.read = 0,
            Poll::Ready(_) => {
                let bytes = buf.filled().len() - before;
                self.read += bytes;
                self.left = self.left.saturating_sub(bytes as u32);
            }
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

    const UNLIMITED: Share = Share {
        per_s: u32::MAX,
        burst: u32::MAX,
    };

    /// Reads so much, a little at a time, as WebSocket does.
    async fn read(socket: &mut Turns<tokio::io::Repeat>, bytes: usize) {
        let mut got = [0; 1024];
        for _ in 0..bytes / got.len() {
            socket.read_exact(&mut got).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_socket_with_bytes_without_end_is_left_after_a_turn_and_gone_on_with() {
        let mut socket = Turns::new(tokio::io::repeat(b'x'), UNLIMITED);
        let mut reading = Box::pin(read(&mut socket, 4 * TURN_BYTES));
        assert!(
            reading.as_mut().now_or_never().is_none(),
            "more than a turn in one poll"
        );
        reading.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_read_no_faster_than_its_share() {
        let (per_s, burst) = (64 * 1024, 256 * 1024);
        let mut socket = Turns::new(tokio::io::repeat(b'x'), Share { per_s, burst });
        let began = Instant::now();
        read(&mut socket, burst as usize).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "what fits at once waits for nothing");
        read(&mut socket, 10 * per_s as usize).await;
        let took = began.elapsed().as_secs_f64();
        assert!((9.5..10.5).contains(&took), "ten seconds' share in {took} s");

        tokio::time::sleep(Duration::from_secs(3600)).await;
        let began = Instant::now();
        read(&mut socket, burst as usize).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "rested, but waits {took:?}");
        read(&mut socket, 10 * per_s as usize).await;
        let took = began.elapsed().as_secs_f64();
        assert!(
            (9.0..11.0).contains(&took),
            "an hour's rest is one burst, not more: {took} s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_smaller_than_a_turn_is_a_share() {
        let mut socket = Turns::new(
            tokio::io::repeat(b'x'),
            Share {
                per_s: 1024,
                burst: 1024,
            },
        );
        let began = Instant::now();
        read(&mut socket, 11 * 1024).await;
        assert!((9.5..10.5).contains(&began.elapsed().as_secs_f64()));
    }
}
