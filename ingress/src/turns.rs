//! A socket that gives the others a turn, and is read no faster than its share. Below our frames a peer can say much that
//! comes to nothing, as a message of empty fragments without end does: whoever reads it goes on in one poll as long as bytes
//! are there, and no limit that counts frames or bodies ever sees it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ingress_core::buckets::{Bucket, Rate, RetryAfterMs};
use process::config::Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes read in one go, and charged at once: some twelve messages, or 600 fragments of a byte. Of 1 KiB it costs 15 %
/// of the throughput at 16 in flight, of 4 nothing to be seen; of 16, who waits behind twenty such sockets waits longer.
const TURN_BYTES: u32 = 4 * 1024;

/// Bytes a socket may say; `None`: without limit.
pub fn share(limits: &Limits) -> Option<Rate> {
    (limits.connection_bytes_per_s > 0).then(|| Rate {
        per_s: limits.connection_bytes_per_s,
        // Less than a turn could not be charged.
        burst: limits.connection_bytes_burst.max(TURN_BYTES),
    })
}

pub struct Turns<S> {
    socket: S,
    /// Read and not charged yet.
    read: usize,
    share: Option<Rate>,
    bucket: Bucket,
    began: Instant,
    /// Until the next turn may be charged. Nobody pays for it who stays below its share.
    rests: Option<Pin<Box<Sleep>>>,
}

impl<S> Turns<S> {
    pub fn new(socket: S, share: Option<Rate>) -> Self {
        Self {
            socket,
            read: 0,
            share,
            bucket: Bucket::default(),
            began: Instant::now(),
            rests: None,
        }
    }

    /// Ready while the turn lasts. At its end it is charged, and the others have theirs.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.read >= TURN_BYTES as usize {
            if let Some(rests) = &mut self.rests {
                ready!(rests.as_mut().poll(cx));
                self.rests = None;
            }
            let now_ms = self.began.elapsed().as_millis() as u64;
            let charged = self.share.map(|rate| self.bucket.take(now_ms, TURN_BYTES, rate));
            if let Some(Err(RetryAfterMs(ms))) = charged {
                self.rests = Some(Box::pin(tokio::time::sleep(Duration::from_millis(ms))));
                continue;
            }
            self.read -= TURN_BYTES as usize;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Turns<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx));
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.read += buf.filled().len() - before;
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

    /// Reads so much, a little at a time, as WebSocket does.
    async fn read(socket: &mut Turns<tokio::io::Repeat>, bytes: usize) {
        let mut got = [0; 1024];
        for _ in 0..bytes / got.len() {
            socket.read_exact(&mut got).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_socket_with_bytes_without_end_is_left_after_a_turn_and_gone_on_with() {
        let mut socket = Turns::new(tokio::io::repeat(b'x'), None);
        let mut reading = Box::pin(read(&mut socket, 4 * TURN_BYTES as usize));
        assert!(
            reading.as_mut().now_or_never().is_none(),
            "more than a turn in one poll"
        );
        reading.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_read_no_faster_than_its_share() {
        let (per_s, burst) = (64 * 1024, 256 * 1024);
        let mut socket = Turns::new(tokio::io::repeat(b'x'), Some(Rate { per_s, burst }));
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
        let per_s = TURN_BYTES / 16;
        let limits = Limits {
            connection_bytes_per_s: per_s,
            connection_bytes_burst: 1,
            ..Limits::default()
        };
        let mut socket = Turns::new(tokio::io::repeat(b'x'), share(&limits));
        let began = Instant::now();
        // One turn is there, and another is read before it is charged.
        read(&mut socket, 4 * TURN_BYTES as usize).await;
        let took = began.elapsed().as_secs_f64();
        assert!((31.0..33.0).contains(&took), "two turns in {took} s");
    }
}
