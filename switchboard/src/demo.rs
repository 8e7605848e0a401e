//! The demo page and the tokens it asks for. Development only: whoever can open the page can be anybody in the demo tenant.

use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use crate::token;

const PAGE: &str = include_str!("../demo/index.html");
const STYLE: &str = include_str!("../demo/demo.css");
const SCRIPT: &str = include_str!("../demo/demo.js");

#[derive(Deserialize)]
struct Who {
    role: String,
    user: String,
}

/// `/`, its style and script, and `/demo/token?role=customer|agent&user=NAME`.
pub fn routes(secret: String) -> Router {
    Router::new()
        .route("/", get(|| async { text("text/html; charset=utf-8", PAGE) }))
        .route("/demo.css", get(|| async { text("text/css; charset=utf-8", STYLE) }))
        .route(
            "/demo.js",
            get(|| async { text("text/javascript; charset=utf-8", SCRIPT) }),
        )
        .route(
            "/demo/token",
            get(move |Query(who): Query<Who>| async move { demo_token(&who, &secret) }),
        )
}

fn text(kind: &'static str, body: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'",
        ),
    ];
    (headers, body).into_response()
}

fn demo_token(who: &Who, secret: &str) -> Response {
    if who.role != "customer" && who.role != "agent" {
        return (StatusCode::BAD_REQUEST, "role must be customer or agent").into_response();
    }
    match token::demo_token("demo", &who.role, &who.user, secret) {
        Ok(token) => (
            [(header::CACHE_CONTROL, "no-store")],
            Json(serde_json::json!({ "token": token })),
        )
            .into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}
