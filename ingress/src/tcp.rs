//! Raw TCP (and TLS): each frame after its length; a length of 0 is a ping, both ways.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ingress_core::framing::{self, Framed};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;
use wire::CloseCode;
use wire::frames::{CloseFrame, ServerFrame};

use crate::accept::{Accepted, first_byte};
use crate::addresses::Slot;
use crate::conn::Transport;
use crate::connection::{FrameStream, Incoming};
use crate::handshake;
use crate::node::Node;
use crate::turns::{Turns, share};

/// What an idle connection pays for reading; a larger frame gets its room while it comes.
const READ_BUFFER_BYTES: usize = 1024;

/// One socket of the TCP listener.
pub async fn serve(node: Arc<Node>, stream: TcpStream, accepted: Accepted, tls: Option<tokio_rustls::TlsAcceptor>) {
    let deadline = accepted.at + Duration::from_millis(node.connect_timeout_ms);
    if node.admit().is_err() || first_byte(&stream, deadline).await.is_err() {
        return;
    }
    let rate = share(&node.limits);
    match tls {
        None => {
            handshake::run(
                node,
                Framing::new(Turns::new(stream, rate), accepted.slot),
                None,
                Transport::Tcp,
                deadline,
            )
            .await
        }
        Some(acceptor) => match tokio::time::timeout_at(deadline, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                handshake::run(
                    node,
                    Framing::new(Turns::new(stream, rate), accepted.slot),
                    None,
                    Transport::Tcp,
                    deadline,
                )
                .await
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => {}
        },
    }
}

/// Frames over any byte stream.
struct Framing<S> {
    io: S,
    incoming: BytesMut,
    /// Written once per flush; its memory is given back when it was large.
    outgoing: Vec<u8>,
    written: usize,
    closing: bool,
    /// Its share of what its address may hold.
    _slot: Option<Arc<Slot>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framing<S> {
    fn new(io: S, slot: Option<Arc<Slot>>) -> Self {
        Self {
            io,
            incoming: BytesMut::new(),
            outgoing: Vec::new(),
            written: 0,
            closing: false,
            _slot: slot,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> FrameStream for Framing<S> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            match framing::take_frame(&mut self.incoming) {
                Ok(Some(Framed::Frame(frame))) => return Poll::Ready(Incoming::Frame(frame)),
                Ok(Some(Framed::Ping)) => return Poll::Ready(Incoming::Heard),
                Err(framing::TooLarge(_)) => {
                    // Nothing behind it can be understood: what is left is drained, not read as frames.
                    self.incoming.clear();
                    return Poll::Ready(if self.closing {
                        Incoming::Gone
                    } else {
                        Incoming::Broken(CloseCode::TooLarge)
                    });
                }
                Ok(None) => {}
            }
            if self.incoming.capacity() - self.incoming.len() < READ_BUFFER_BYTES / 2 {
                self.incoming.reserve(READ_BUFFER_BYTES);
            }
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.incoming) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Incoming::Gone),
            }
        }
    }

    fn start(&mut self, frame: Bytes) -> bool {
        framing::put_frame(&mut self.outgoing, &frame);
        true
    }

    fn start_ping(&mut self) -> bool {
        framing::put_frame(&mut self.outgoing, b"");
        true
    }

    fn start_close(&mut self, code: CloseCode) -> bool {
        self.closing = true;
        self.start(close_frame(code))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.written < self.outgoing.len() {
            match Pin::new(&mut self.io).poll_write(cx, &self.outgoing[self.written..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => self.written += n,
                Poll::Ready(_) => return Poll::Ready(false),
            }
        }
        self.outgoing.clear();
        self.outgoing.shrink_to(READ_BUFFER_BYTES);
        self.written = 0;
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if !self.closing || flushed.is_pending() {
            return flushed.map(|result| result.is_ok());
        }
        Pin::new(&mut self.io).poll_shutdown(cx).map(|result| result.is_ok())
    }
}

/// The last frame where there are no close codes.
pub fn close_frame(code: CloseCode) -> Bytes {
    ServerFrame::Close(CloseFrame {
        code: code.number(),
        reason: code.reason().into(),
    })
    .encode()
}
