//! Server-sent events: `POST /v1/stream` with the `connect` frame as body; the answer is the connection. Its frames go up by
//! `POST /v1/frames`. There is no task: the response body is polled, and takes what waits.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use ingress_core::{Greeting, Handshaking};
use wire::{CloseCode, ErrorCode, limits};

use crate::accept::Accepted;
use crate::bearer::{origin_of, refused_connect};
use crate::conn::{Conn, Transport};
use crate::handshake::{Came, admit};
use crate::node::Node;
use crate::problem::Problem;
use crate::tcp::close_frame;

/// Bytes taken at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// Opens a stream.
#[utoipa::path(
    post, path = "/v1/stream", tag = "transports",
    request_body(content = serde_json::Value, description = "The `connect` frame.", content_type = "application/json"),
    responses(
        (status = 200, description = "Server frames, one an event, until a `close` frame.", content_type = "text/event-stream", body = String),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 413, body = Problem), (status = 429, body = Problem)
    )
)]
pub async fn stream(
    State(node): State<Arc<Node>>,
    Extension(accepted): Extension<Accepted>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match open(&node, &accepted, &headers, &body, Transport::Sse) {
        Ok(conn) => respond(node, conn),
        Err(problem) => problem.into_response(),
    }
}

/// A body that is a `connect` frame → a connection.
pub fn open(
    node: &Arc<Node>,
    accepted: &Accepted,
    headers: &HeaderMap,
    body: &[u8],
    transport: Transport,
) -> Result<Arc<Conn>, Problem> {
    if body.len() > limits::FRAME_BYTES_MAX {
        return Err(Problem::new(ErrorCode::TooLarge, "the frame is too large"));
    }
    let origin = origin_of(headers);
    let Ok(slot) = node.addresses.enter_request(accepted.peer.ip(), headers) else {
        node.meters.handshake("too_many");
        return Err(refused_connect(CloseCode::RateLimited));
    };
    match Handshaking::default().handle_frame(node.clock.now_ms(), body) {
        Greeting::Verify(connect) => {
            let from = Came {
                origin,
                transport,
                slot,
            };
            admit(node, connect, from).map_err(refused_connect)
        }
        _ => Err(Problem::new(ErrorCode::BadFrame, "the body must be one connect frame")),
    }
}

fn respond(node: Arc<Node>, conn: Arc<Conn>) -> Response {
    let body = Body::new(
        EventStream {
            node,
            conn,
            ended: false,
        }
        .boxed_unsync(),
    );
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that gather would turn live into late.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct EventStream {
    node: Arc<Node>,
    conn: Arc<Conn>,
    ended: bool,
}

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let now_ms = self.node.clock.now_ms();
        self.conn.register_waker(cx.waker());
        let output = self.conn.take_output(now_ms, CHUNK_BYTES);
        let mut chunk = Vec::new();
        for frame in &output.frames {
            put_event(&mut chunk, frame);
        }
        if output.ping {
            chunk.extend_from_slice(b": ping\n\n");
            // Nothing ever comes from the client here; that the socket took what we wrote before is the sign of life.
            self.conn.session().handle_alive(now_ms);
        }
        if let Some(code) = output.close {
            put_event(&mut chunk, &close_frame(code));
            self.ended = true;
        }
        if chunk.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.node.disconnect(&self.conn);
    }
}

/// `data: …`, a line for each line: a body may be pretty-printed, and line breaks outside strings mean nothing in JSON.
fn put_event(out: &mut Vec<u8>, frame: &[u8]) {
    for line in frame.split(|b| *b == b'\n' || *b == b'\r') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_with_line_breaks_stays_one_event() {
        let mut out = Vec::new();
        put_event(&mut out, b"{\"a\":\r\n1}");
        assert_eq!(out, b"data: {\"a\":\ndata: \ndata: 1}\n\n");
    }
}
