//! From a socket to a good token, or to a close: the same for every transport that carries frames.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ingress_core::{Greeting, Handshaking};
use process::Kind;
use tokio::time::Instant;
use wire::CloseCode;

use crate::addresses::Slot;
use crate::auth::TokenError;
use crate::clock::Clock;
use crate::conn::{Conn, Transport};
use crate::connection::{ConnectionTask, FrameStream, Incoming};
use crate::node::{Hello, Node};

/// A close to somebody without a token is tried this long.
const FAREWELL_MS: u64 = 1_000;

/// Runs until the connection's own task has taken over, or the peer was told to go.
pub async fn run<S: FrameStream>(
    node: Arc<Node>,
    mut stream: S,
    origin: Option<String>,
    transport: Transport,
    deadline: Instant,
) {
    let code = match tokio::time::timeout_at(deadline, greet(&node, &mut stream, origin, transport)).await {
        Ok(Some(Ok(conn))) => {
            let task = ConnectionTask::new(stream, conn, Arc::clone(&node));
            node.tasks.spawn(Kind::Background, "connection", task);
            return;
        }
        Ok(Some(Err(code))) => code,
        Ok(None) => return,
        Err(_) => {
            node.meters.handshake("timeout");
            CloseCode::ConnectTimeout
        }
    };
    node.meters.closed(Some(code));
    let farewell = async {
        if stream.start_close(code) && poll_fn(|cx| stream.poll_flush(cx)).await {
            // A stream that cannot be understood any more is not read: closed at once, its reset could overtake the close.
            if matches!(code, CloseCode::TooLarge | CloseCode::BadFrame) {
                std::future::pending::<()>().await;
            }
            while !matches!(poll_fn(|cx| stream.poll_next(cx)).await, Incoming::Gone) {}
        }
    };
    // Whoever does not say goodbye in time is cut off.
    let _ = tokio::time::timeout(Duration::from_millis(FAREWELL_MS), farewell).await;
}

/// `None`: the peer went away.
async fn greet<S: FrameStream>(
    node: &Arc<Node>,
    stream: &mut S,
    origin: Option<String>,
    transport: Transport,
) -> Option<Result<Arc<Conn>, CloseCode>> {
    let mut session = Handshaking::default();
    loop {
        let frame = match poll_fn(|cx| stream.poll_next(cx)).await {
            Incoming::Frame(frame) => frame,
            Incoming::Bad(_) => Bytes::new(),
            Incoming::Heard => continue,
            Incoming::Broken(code) => return Some(Err(code)),
            Incoming::Gone => return None,
        };
        match session.handle_frame(node.clock.now_ms(), &frame) {
            Greeting::Verify(connect) => {
                let slot = None; // the stream has it
                return Some(admit(
                    node,
                    connect,
                    Came {
                        origin,
                        transport,
                        slot,
                    },
                ));
            }
            Greeting::Answer(answer) => {
                if !stream.start(answer) || !poll_fn(|cx| stream.poll_flush(cx)).await {
                    return None;
                }
            }
            Greeting::Close(code) => {
                node.meters.handshake("bad_frame");
                return Some(Err(code));
            }
        }
    }
}

/// How a `connect` frame came.
pub struct Came {
    pub origin: Option<String>,
    pub transport: Transport,
    /// Its share of what its address may hold, where no socket of its own has it.
    pub slot: Option<Arc<Slot>>,
}

/// A `connect` frame → a connection, or the code it is refused with.
pub fn admit(node: &Arc<Node>, connect: wire::frames::Connect<'_>, came: Came) -> Result<Arc<Conn>, CloseCode> {
    let claims = node
        .verifier
        .verify(&connect.token, Clock::wall_ms())
        .map_err(|error| {
            tracing::debug!(%error, "a token was refused");
            node.meters.handshake("bad_token");
            match error {
                TokenError::Expired => CloseCode::TokenExpired,
                _ => CloseCode::BadToken,
            }
        })?;
    let hello = Hello {
        device: connect.device.map(|d| d.into_owned()),
        since: connect.since,
        origin: came.origin,
        slot: came.slot,
    };
    node.connect(claims, hello, came.transport)
        .map_err(|refused| refused.code)
}
