//! The HTTP API: history pages, send, frames of streams, and its own description.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ingress_core::{Claims, Need, SessionName, Verb, rights};
use process::config::AgentsRead;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{EventRow, PageRange};
use utoipa::{IntoParams, OpenApi, ToSchema};
use wire::frames::{ErrorFrame, ServerFrame};
use wire::link::Access;
use wire::record::Role;
use wire::{ConversationKey, ErrorCode, Seq, User, event, limits};

use crate::bearer;
use crate::links::access_of;
use crate::node::Node;
use crate::poll::array;
use crate::problem::Problem;
use crate::requests::{Party, exchange};

/// Frames of one POST.
const FRAMES_PER_POST_MAX: usize = 64;
/// A POST of frames: a few large ones, or many small.
pub const POST_BYTES_MAX: usize = 4 * limits::FRAME_BYTES_MAX;
/// A page is cut where its events exceed this; the client asks for the rest.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(OpenApi)]
#[openapi(
    info(title = "Switchboard", description = "Customer-service messaging. Frames are described by the AsyncAPI document."),
    paths(events, send, frames, crate::sse::stream, crate::poll::poll),
    components(schemas(Problem, SendRequest, Sent, FramesRequest, PageAnswer)),
    modifiers(&BearerToken, &Refusals)
)]
struct Api;

struct BearerToken;

impl utoipa::Modify for BearerToken {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        api.components
            .get_or_insert_with(Default::default)
            .add_security_scheme("token", scheme);
    }
}

/// Refusals are problems, and are said to be.
struct Refusals;

impl utoipa::Modify for Refusals {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let operations = api
            .paths
            .paths
            .values_mut()
            .flat_map(|path| [&mut path.get, &mut path.post]);
        for operation in operations.flatten() {
            for (status, response) in &mut operation.responses.responses {
                if let utoipa::openapi::RefOr::T(response) = response
                    && status.starts_with(['4', '5'])
                    && let Some(problem) = response.content.shift_remove("application/json")
                {
                    response.content.insert("application/problem+json".into(), problem);
                }
            }
        }
    }
}

/// The OpenAPI 3.1 document of this API, for `/v1/openapi.json` and drift checks.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

pub fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/connect", get(crate::ws::connect))
        .route("/v1/stream", post(crate::sse::stream))
        .route("/v1/poll", post(crate::poll::poll))
        .route("/v1/frames", post(frames))
        .route("/v1/conversations/{customer}/events", get(events))
        .route("/v1/conversations/{customer}/messages", post(send))
        .route("/v1/openapi.json", get(|| async { Json(openapi()) }))
}

// ---- history ----

#[derive(Deserialize, IntoParams)]
struct PageQuery {
    /// The events after this seq.
    after: Option<u64>,
    /// The events below this seq. Neither: the newest.
    before: Option<u64>,
    /// At most this many, 1 … 1000; 100 if left out.
    limit: Option<u32>,
}

/// A page of history; events rise by seq.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // its bytes are put together by hand: events are passed on as they are stored
struct PageAnswer {
    /// The objects inside `event` frames, as pushed.
    events: Vec<serde_json::Value>,
    /// The highest seq stored.
    last_seq: u64,
}

/// What was said in a conversation.
#[utoipa::path(
    get, path = "/v1/conversations/{customer}/events", tag = "conversations", security(("token" = [])),
    params(("customer" = String, Path, description = "The conversation: its customer's id."), PageQuery),
    responses(
        (status = 200, body = PageAnswer), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)
    )
)]
async fn events(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    customer: Result<Path<String>, axum::extract::rejection::PathRejection>,
    query: Result<Query<PageQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let claims = bearer::claims(&node, &headers)?;
    let conversation = conversation_of(customer)?;
    let Query(query) = query.map_err(|e| Problem::new(ErrorCode::BadFrame, e.body_text()))?;
    let range = match (query.after, query.before) {
        (None, None) => PageRange::Newest,
        (Some(seq), None) => PageRange::After(Seq(seq)),
        (None, Some(seq)) => PageRange::Before(Seq(seq)),
        (Some(_), Some(_)) => return Err(Problem::new(ErrorCode::BadFrame, "give after or before, not both")),
    };
    let limit = query
        .limit
        .unwrap_or(limits::PAGE_EVENTS_DEFAULT)
        .clamp(1, limits::PAGE_EVENTS_MAX);
    // First: the right to read may have to be asked for elsewhere.
    take_read(&node, &claims)?;
    may_read(&node, &claims, &conversation).await?;
    let key = ConversationKey::new(claims.tenant.clone(), conversation);
    let page = node.history.page(&key, range, limit).await.map_err(|error| {
        tracing::warn!(%error, "history could not be read");
        Problem::new(ErrorCode::Unavailable, "history cannot be read now").retry_after_ms(Some(1_000))
    })?;
    let customer = claims.role == Role::Customer;
    let forward = matches!(range, PageRange::After(_));
    Ok(page_response(
        &page.events,
        page.last_seq,
        key.customer.as_str(),
        customer,
        forward,
    ))
}

/// Events are written as they are stored; a customer sees a stub of what is not meant for it.
fn page_response(rows: &[EventRow], last_seq: Seq, conversation: &str, customer: bool, forward: bool) -> Response {
    let entry = |row: &EventRow| {
        if customer && row.staff_only {
            event::entry_of(&event::hidden_frame(conversation, row.seq, row.at_ms))
        } else {
            row.entry.clone()
        }
    };
    let mut entries: Vec<Bytes> = rows.iter().map(entry).collect();
    let mut bytes: usize = entries.iter().map(|e| e.len()).sum();
    while bytes > PAGE_BYTES_MAX && entries.len() > 1 {
        // A page that goes forward is cut at its end, one that goes back at its beginning: the rest is its next page.
        let cut = if forward { entries.len() - 1 } else { 0 };
        bytes -= entries.remove(cut).len();
    }
    let mut out = Vec::with_capacity(bytes + entries.len() + 64);
    out.extend_from_slice(br#"{"events":["#);
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(entry);
    }
    out.extend_from_slice(format!("],\"last_seq\":{last_seq}}}").as_bytes());
    let mut response = out.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn may_read(node: &Node, claims: &Claims, conversation: &User) -> Result<(), Problem> {
    let no = || Problem::new(ErrorCode::Forbidden, "you may not read this conversation");
    match rights::need(claims.role, Verb::ReadHistory) {
        Need::Own if claims.user == *conversation => return Ok(()),
        Need::Role => {}
        _ => return Err(no()),
    }
    let rule = node.tenant(&claims.tenant).map(|t| t.agents_read).unwrap_or_default();
    if rule == AgentsRead::All || matches!(claims.role, Role::Supervisor | Role::TenantAdmin) {
        return Ok(());
    }
    let session = node.ask(&claims.tenant, conversation).await.ok_or_else(|| {
        Problem::new(ErrorCode::Unavailable, "the conversation's owner did not answer").retry_after_ms(Some(1_000))
    })?;
    let in_group = rule == AgentsRead::Group && claims.groups.contains(&session.group);
    if in_group || access_of(&session, &claims.user) != Access::None {
        Ok(())
    } else {
        Err(no())
    }
}

fn take_read(node: &Node, claims: &Claims) -> Result<(), Problem> {
    let Some(tenant) = node.tenant(&claims.tenant) else {
        return Err(Problem::unauthorized("there is no such tenant"));
    };
    let taken = tenant.account(&claims.user).take_read(node.clock.now_ms());
    taken.map_err(|wait| Problem::new(ErrorCode::RateLimited, "too many requests").retry_after_ms(Some(wait.0)))
}

fn conversation_of(path: Result<Path<String>, axum::extract::rejection::PathRejection>) -> Result<User, Problem> {
    let Path(customer) = path.map_err(|e| Problem::new(ErrorCode::BadFrame, e.body_text()))?;
    User::new(customer).map_err(|e| Problem::new(ErrorCode::BadFrame, e.to_string()))
}

/// A body that is one JSON object; serde alone would read a list too, by its members' order.
pub fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::new(ErrorCode::BadFrame, "the body is not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|e| Problem::new(ErrorCode::BadFrame, e.to_string()))
}

// ---- send ----

/// A message to be sent.
#[derive(Deserialize, ToSchema)]
struct SendRequest<'a> {
    /// Your own id, at most 64 bytes; the same id again is the same message.
    id: String,
    /// As in the `send` frame.
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    body: &'a RawValue,
}

/// It is in the log: it will not be lost.
#[derive(Serialize, ToSchema)]
struct Sent {
    sent: SentId,
}

#[derive(Serialize, ToSchema)]
struct SentId {
    id: String,
}

/// Sends a message, and waits until the log has it.
#[utoipa::path(
    post, path = "/v1/conversations/{customer}/messages", tag = "conversations", security(("token" = [])),
    params(("customer" = String, Path, description = "The conversation: its customer's id.")),
    request_body = SendRequest,
    responses(
        (status = 200, body = Sent), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 413, body = Problem), (status = 429, body = Problem),
        (status = 503, description = "Never produced.", body = Problem),
        (status = 504, description = "It may appear: send the same id again.", body = Problem)
    )
)]
async fn send(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    customer: Result<Path<String>, axum::extract::rejection::PathRejection>,
    body: Bytes,
) -> Result<Response, Problem> {
    let claims = bearer::claims(&node, &headers)?;
    let conversation = conversation_of(customer)?;
    let request: SendRequest<'_> = object(&body)?;
    let frame = wire::frames::ClientFrame::Send(wire::frames::Send {
        id: request.id.as_str().into(),
        conversation: Some(conversation.as_str().into()),
        body: request.body,
    });
    let frame = serde_json::to_vec(&frame).map_err(|e| Problem::new(ErrorCode::BadFrame, e.to_string()))?;
    let party = once(&node, &claims, None)?;
    let answers = exchange(&node, &party, &[frame.into()]).await;
    let Some(answer) = answers.first() else {
        return Err(Problem::new(
            ErrorCode::Unknown,
            "it may have been sent: send the same id again",
        ));
    };
    match serde_json::from_slice::<ServerFrame<'_>>(answer) {
        Ok(ServerFrame::Sent(sent)) => {
            let id = sent.id.into_owned();
            Ok(Json(Sent { sent: SentId { id } }).into_response())
        }
        Ok(ServerFrame::Error(error)) => Err(problem_of(&error)),
        _ => Err(Problem::new(
            ErrorCode::Unknown,
            "it may have been sent: send the same id again",
        )),
    }
}

fn problem_of(error: &ErrorFrame<'_>) -> Problem {
    Problem::new(error.code, error.message.as_ref()).retry_after_ms(error.retry_after_ms)
}

// ---- frames ----

/// Client frames, for a stream or on their own.
#[derive(Deserialize, ToSchema)]
struct FramesRequest<'a> {
    /// The session of the stream or poll they belong to, whichever node holds it.
    #[serde(default)]
    session: Option<String>,
    /// Client frames, in order.
    #[serde(borrow)]
    #[schema(value_type = Vec<serde_json::Value>)]
    frames: Vec<&'a RawValue>,
}

/// Client frames up; their `sent`s and errors come back, pushes go to the stream.
#[utoipa::path(
    post, path = "/v1/frames", tag = "transports", security(("token" = [])),
    request_body = FramesRequest,
    responses(
        (status = 200, description = "An array of server frames.", body = Vec<serde_json::Value>),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 413, body = Problem)
    )
)]
async fn frames(State(node): State<Arc<Node>>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let claims = bearer::claims(&node, &headers)?;
    let request: FramesRequest<'_> = object(&body)?;
    let too_large = request.frames.iter().any(|f| f.get().len() > limits::FRAME_BYTES_MAX);
    if too_large || request.frames.len() > FRAMES_PER_POST_MAX {
        return Err(Problem::new(
            ErrorCode::TooLarge,
            format!("at most {FRAMES_PER_POST_MAX} frames of a frame's size"),
        ));
    }
    let party = party(&node, &claims, request.session.as_deref())?;
    let frames: Vec<Bytes> = request
        .frames
        .iter()
        .map(|f| body.slice_ref(f.get().as_bytes()))
        .collect();
    Ok(array(&exchange(&node, &party, &frames).await))
}

fn party(node: &Arc<Node>, claims: &Claims, session: Option<&str>) -> Result<Party, Problem> {
    let gone = || Problem::new(ErrorCode::NotFound, "there is no such session; connect again");
    let Some(session) = session else {
        return once(node, claims, None);
    };
    let name: SessionName = session.parse().map_err(|_| gone())?;
    if name.node != node.id {
        return once(node, claims, Some(name));
    }
    let conn = node.find(name.connection).ok_or_else(gone)?;
    if conn.account.user != claims.user || *conn.tenant() != claims.tenant || conn.session().role != claims.role {
        return Err(gone());
    }
    Ok(Party::Live(conn))
}

fn once(node: &Node, claims: &Claims, name: Option<SessionName>) -> Result<Party, Problem> {
    let tenant = node
        .tenant(&claims.tenant)
        .ok_or_else(|| Problem::unauthorized("there is no such tenant"))?;
    if rights::need(claims.role, Verb::Connect) == Need::Never {
        return Err(Problem::new(ErrorCode::Forbidden, "this role sends nothing"));
    }
    Ok(Party::once(node, claims, tenant.account(&claims.user), name))
}
