//! Long polling: `POST /v1/poll` with the `connect` frame opens a session and answers its first frames; with
//! `{"session":"…"}` and the bearer token it waits for more. What an answer carried and the client never got is got again by
//! connecting anew with `since`.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use ingress_core::SessionName;
use serde::Deserialize;
use wire::ErrorCode;

use crate::accept::Accepted;
use crate::bearer;
use crate::conn::{Conn, Transport};
use crate::http;
use crate::node::Node;
use crate::problem::Problem;
use crate::sse;
use crate::tcp::close_frame;

/// Bytes of one answer.
const ANSWER_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
struct Again {
    session: String,
}

/// Opens or continues a polled session.
#[utoipa::path(
    post, path = "/v1/poll", tag = "transports",
    request_body(content = serde_json::Value, description = "The `connect` frame, or `{\"session\":\"…\"}` with the bearer token.", content_type = "application/json"),
    responses(
        (status = 200, description = "An array of server frames; empty if nothing came in time.", body = Vec<serde_json::Value>),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 413, body = Problem), (status = 429, body = Problem)
    )
)]
pub async fn poll(
    State(node): State<Arc<Node>>,
    Extension(accepted): Extension<Accepted>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let found = match http::object::<Again>(&body) {
        Ok(again) => find(&node, &headers, &again.session),
        Err(_) => sse::open(&node, &accepted, &headers, &body, Transport::Poll),
    };
    match found {
        Ok(conn) => answer(&node, &conn).await,
        Err(problem) => problem.into_response(),
    }
}

fn find(node: &Arc<Node>, headers: &HeaderMap, session: &str) -> Result<Arc<Conn>, Problem> {
    let claims = bearer::claims(node, headers)?;
    let gone = || Problem::new(ErrorCode::NotFound, "there is no such session here; connect again");
    let name: SessionName = session.parse().map_err(|_| gone())?;
    if name.node != node.id {
        return Err(gone());
    }
    let conn = node
        .find(name.connection)
        .filter(|c| c.transport == Transport::Poll)
        .ok_or_else(gone)?;
    // Somebody else's session is no session: not even its existence is told.
    if conn.account.user != claims.user || *conn.tenant() != claims.tenant || conn.session().role != claims.role {
        return Err(gone());
    }
    Ok(conn)
}

async fn answer(node: &Arc<Node>, conn: &Arc<Conn>) -> Response {
    let turn = conn.polls.fetch_add(1, Ordering::Relaxed) + 1;
    // An older poll of the session that still waits is answered, empty, now.
    conn.wake();
    conn.session().handle_alive(node.clock.now_ms());
    let mut over = false;
    let waited = poll_fn(|cx| {
        if conn.polls.load(Ordering::Relaxed) != turn {
            return Poll::Ready(Vec::new());
        }
        conn.register_waker(cx.waker());
        let output = conn.take_output(node.clock.now_ms(), ANSWER_BYTES);
        let mut frames: Vec<Bytes> = output.frames.into();
        if let Some(code) = output.close {
            frames.push(close_frame(code));
            over = true;
        }
        if frames.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(frames)
        }
    });
    let frames = tokio::time::timeout(Duration::from_millis(node.poll_wait_ms), waited)
        .await
        .unwrap_or_default();
    conn.session().handle_alive(node.clock.now_ms());
    if over {
        node.disconnect(conn);
    }
    array(&frames)
}

/// `[frame,frame]`.
pub fn array(frames: &[Bytes]) -> Response {
    let mut out = Vec::with_capacity(2 + frames.iter().map(|f| f.len() + 1).sum::<usize>());
    out.push(b'[');
    for (i, frame) in frames.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(frame);
    }
    out.push(b']');
    let mut response = out.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
