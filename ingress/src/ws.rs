//! WebSocket: `GET /v1/connect`. Text frames only, no compression, small buffers; origin and handshake time are checked here.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Sink, Stream};
use process::Kind;
use wire::{CloseCode, ErrorCode, limits};

use crate::accept::Accepted;
use crate::addresses::Slot;
use crate::bearer::{origin_of, refused_connect};
use crate::conn::Transport;
use crate::connection::{FrameStream, Incoming};
use crate::handshake;
use crate::node::Node;
use crate::problem::Problem;

/// What an idle connection pays for reading.
const READ_BUFFER_BYTES: usize = 1024;
/// Frames of one wake-up are gathered up to this size before the socket sees them; the rest comes with the flush.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Never reached: at most `WRITE_BYTES` and one frame are handed over before a flush.
const WRITE_BUFFER_BYTES_MAX: usize = 1024 * 1024;

pub async fn connect(
    State(node): State<Arc<Node>>,
    Extension(accepted): Extension<Accepted>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) if has_one_key(&headers) => upgrade,
        Ok(_) => {
            return Problem::new(ErrorCode::BadFrame, "one Sec-WebSocket-Key of 16 bytes is needed").into_response();
        }
        Err(WebSocketUpgradeRejection::InvalidWebSocketVersionHeader(_)) => return other_version(),
        Err(other) => return other.into_response(),
    };
    let origin = origin_of(&headers);
    if !node.origin_known(origin.as_deref()) {
        node.meters.handshake("forbidden");
        return Problem::new(ErrorCode::Forbidden, "pages of this origin may not connect").into_response();
    }
    let Ok(slot) = node.addresses.enter_request(accepted.peer.ip(), &headers) else {
        node.meters.handshake("too_many");
        return refused_connect(CloseCode::RateLimited).into_response();
    };
    let slot = slot.or(accepted.slot);
    let deadline = accepted.at + Duration::from_millis(node.connect_timeout_ms);
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(limits::FRAME_BYTES_MAX)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .on_upgrade(move |socket| {
            // Not kept inside axum's task: a connection's own task is smaller, and the process knows of it.
            let tasks = node.tasks.clone();
            let greeting = handshake::run(
                node,
                WsStream::new(socket, slot),
                origin,
                Transport::WebSocket,
                deadline,
            );
            tasks.spawn(Kind::Background, "handshake", Box::pin(greeting));
            std::future::ready(())
        })
}

/// RFC 6455, section 4.2.1: one key, the base64 of 16 bytes. A client without it would not check our answer either.
fn has_one_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return false;
    };
    let key = key.as_bytes();
    let digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digit)
}

/// Section 4.4: says which version would do.
fn other_version() -> Response {
    let code = StatusCode::UPGRADE_REQUIRED.as_u16();
    let mut response = Problem::with_status(code, "bad_frame", "this is WebSocket version 13").into_response();
    let version = HeaderValue::from_static("13");
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
    response
}

/// The socket, and its share of what its address may hold.
struct WsStream {
    socket: WebSocket,
    _slot: Option<Arc<Slot>>,
    /// WebSocket's own code for what the peer did to the protocol below our frames.
    violation: Option<u16>,
}

impl WsStream {
    fn new(socket: WebSocket, slot: Option<Arc<Slot>>) -> Self {
        Self {
            socket,
            _slot: slot,
            violation: None,
        }
    }

    fn start_message(&mut self, message: Message) -> bool {
        std::pin::Pin::new(&mut self.socket).start_send(message).is_ok()
    }

    fn failed(&mut self, error: &axum::Error) -> Incoming {
        let code = match Failure::of(error) {
            Failure::TooLarge => CloseCode::TooLarge,
            Failure::Violation(code) => {
                self.violation = Some(code);
                CloseCode::BadFrame
            }
            Failure::Gone => return Incoming::Gone,
        };
        Incoming::Broken(code)
    }
}

impl FrameStream for WsStream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let Poll::Ready(message) = std::pin::Pin::new(&mut self.socket).poll_next(cx) else {
            return Poll::Pending;
        };
        Poll::Ready(match message {
            Some(Ok(Message::Text(text))) => Incoming::Frame(Bytes::from(text)),
            Some(Ok(Message::Binary(_))) => Incoming::Bad("frames are text"),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::Heard,
            Some(Ok(Message::Close(_))) => {
                // The library's answer to it waits for a flush. Whoever said goodbye is not waited for.
                let _ = self.poll_flush(cx);
                Incoming::Gone
            }
            None => Incoming::Gone,
            Some(Err(error)) => self.failed(&error),
        })
    }

    fn start(&mut self, frame: Bytes) -> bool {
        text_message(frame).is_some_and(|message| self.start_message(message))
    }

    fn start_ping(&mut self) -> bool {
        self.start_message(Message::Ping(Bytes::new()))
    }

    fn start_close(&mut self, code: CloseCode) -> bool {
        self.start_message(close_message(self.violation.unwrap_or(code.number()), code))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        std::pin::Pin::new(&mut self.socket)
            .poll_flush(cx)
            .map(|result| result.is_ok())
    }
}

/// Every frame of ours is JSON and therefore UTF-8; one that is not is never written.
fn text_message(frame: Bytes) -> Option<Message> {
    Utf8Bytes::try_from(frame).ok().map(Message::Text)
}

fn close_message(number: u16, code: CloseCode) -> Message {
    Message::Close(Some(CloseFrame {
        code: number,
        reason: Utf8Bytes::from_static(code.reason()),
    }))
}

/// What an error of the library means. axum hides its type; its words are stable, and `tests/hostile` holds it to them.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    TooLarge,
    Violation(u16),
    Gone,
}

impl Failure {
    fn of(error: &axum::Error) -> Self {
        let text = error.to_string();
        let says = |what: &str| text.contains(what);
        if says("Message too long") {
            Failure::TooLarge
        } else if says("UTF-8") {
            Failure::Violation(close_code::INVALID)
        } else if says("WebSocket protocol error") && !says("without closing") && !says("after") {
            Failure::Violation(close_code::PROTOCOL)
        } else {
            Failure::Gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Conn;
    use crate::connection::ConnectionTask;

    #[test]
    fn an_idle_connection_is_small() {
        // Beside these: the socket's own 1 KiB read buffer, the runtime's and the allocator's share.
        assert!(
            size_of::<ConnectionTask<WsStream>>() <= 512,
            "{}",
            size_of::<ConnectionTask<WsStream>>()
        );
        assert!(size_of::<Conn>() <= 640, "{}", size_of::<Conn>());
    }
}
