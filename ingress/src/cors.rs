//! Pages of other origins: those a tenant lists may use the HTTP API and the streams. Which tenant's page it is the token says,
//! and is checked again there; cookies are never involved.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::node::Node;

/// Browsers may keep the answer to their question this long.
const MAX_AGE_S: &str = "600";

pub async fn answer(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    // What the binary adds (development tokens!) is for its own page only.
    if !request.uri().path().starts_with("/v1/") {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let known = origin
        .as_ref()
        .is_some_and(|o| o.to_str().is_ok_and(|o| node.origin_known(Some(o))));
    let asks = request.method() == Method::OPTIONS;
    let mut response = match (asks, known) {
        (false, _) => next.run(request).await,
        (true, true) => StatusCode::NO_CONTENT.into_response(),
        (true, false) => StatusCode::FORBIDDEN.into_response(),
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin.filter(|_| known) else {
        return response;
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if asks {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type"),
        );
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_S));
    }
    response
}
