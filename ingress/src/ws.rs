//! WebSocket: `GET /v1/connect`. Text frames only, no compression, small buffers; origin and handshake time are checked here.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Sink, Stream};
use process::Kind;
use wire::{CloseCode, ErrorCode, limits};

use crate::accept::Accepted;
use crate::addresses::Slot;
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
    upgrade: WebSocketUpgrade,
) -> Response {
    // More than one, or one that is no text, is none that was allowed.
    let mut origins = headers
        .get_all(header::ORIGIN)
        .iter()
        .map(|o| o.to_str().unwrap_or_default().to_owned());
    let origin = match (origins.next(), origins.next()) {
        (origin, None) => origin,
        _ => Some(String::new()),
    };
    if !node.origin_known(origin.as_deref()) {
        node.meters.handshake("forbidden");
        return Problem::new(ErrorCode::Forbidden, "pages of this origin may not connect").into_response();
    }
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
                WsStream(socket, accepted.slot),
                origin,
                Transport::WebSocket,
                deadline,
            );
            tasks.spawn(Kind::Background, "handshake", Box::pin(greeting));
            std::future::ready(())
        })
}

/// The socket, and its share of what its address may hold.
struct WsStream(WebSocket, #[allow(dead_code)] Option<Arc<Slot>>);

impl FrameStream for WsStream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let Poll::Ready(message) = std::pin::Pin::new(&mut self.0).poll_next(cx) else {
            return Poll::Pending;
        };
        Poll::Ready(match message {
            Some(Ok(Message::Text(text))) => Incoming::Frame(Bytes::from(text)),
            Some(Ok(Message::Binary(_))) => Incoming::Bad("frames are text"),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::Heard,
            Some(Ok(Message::Close(_))) | None => Incoming::Gone,
            Some(Err(error)) if is_too_large(&error) => Incoming::TooLarge,
            Some(Err(_)) => Incoming::Gone,
        })
    }

    fn start(&mut self, frame: Bytes) -> bool {
        text_message(frame).is_some_and(|message| self.start_message(message))
    }

    fn start_ping(&mut self) -> bool {
        self.start_message(Message::Ping(Bytes::new()))
    }

    fn start_close(&mut self, code: CloseCode) -> bool {
        self.start_message(close_message(code))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        std::pin::Pin::new(&mut self.0)
            .poll_flush(cx)
            .map(|result| result.is_ok())
    }
}

impl WsStream {
    fn start_message(&mut self, message: Message) -> bool {
        std::pin::Pin::new(&mut self.0).start_send(message).is_ok()
    }
}

/// Every frame of ours is JSON and therefore UTF-8; one that is not is never written.
fn text_message(frame: Bytes) -> Option<Message> {
    Utf8Bytes::try_from(frame).ok().map(Message::Text)
}

fn close_message(code: CloseCode) -> Message {
    Message::Close(Some(CloseFrame {
        code: code.number(),
        reason: Utf8Bytes::from_static(code.reason()),
    }))
}

/// The one error after which the peer still understands a close. axum hides the library's type; its words are stable.
fn is_too_large(error: &axum::Error) -> bool {
    error.to_string().contains("Message too long")
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
