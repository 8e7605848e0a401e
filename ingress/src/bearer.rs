//! `Authorization: Bearer …` of an HTTP request → verified claims, or the problem that says why not.

use axum::http::{HeaderMap, header};
use ingress_core::Claims;
use wire::{CloseCode, ErrorCode};

use crate::auth::TokenError;
use crate::clock::Clock;
use crate::node::Node;
use crate::problem::Problem;

/// Exactly one header, and never a query parameter: those reach access logs.
pub fn claims(node: &Node, headers: &HeaderMap) -> Result<Claims, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(Problem::unauthorized(
            "send one Authorization header: Bearer and a token",
        ));
    };
    let token = value.to_str().ok().and_then(|v| v.split_once(' '));
    let token = match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => {
            return Err(Problem::unauthorized(
                "the Authorization header is not Bearer and a token",
            ));
        }
    };
    let claims = node.verifier.verify(token, Clock::wall_ms()).map_err(|e| match e {
        TokenError::Expired => Problem::with_status(401, CloseCode::TokenExpired.reason(), e.to_string()),
        e => Problem::unauthorized(e.to_string()),
    })?;
    if node.is_revoked(&claims) {
        let code = CloseCode::Revoked.reason();
        return Err(Problem::with_status(401, code, "the token is revoked"));
    }
    let tenant = node.tenant(&claims.tenant);
    let origin = origin_of(headers);
    if !tenant.is_some_and(|t| t.origin_allowed(origin.as_deref())) {
        return Err(Problem::new(
            ErrorCode::Forbidden,
            "pages of this origin may not use this tenant's API",
        ));
    }
    Ok(claims)
}

/// Where a browser's page came from. More than one, or one that is no text, is none that was allowed.
pub fn origin_of(headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(header::ORIGIN).iter();
    match (given.next(), given.next()) {
        (None, _) => None,
        (Some(origin), None) => Some(origin.to_str().unwrap_or_default().to_owned()),
        _ => Some(String::new()),
    }
}

/// What a refused `connect` is over HTTP.
pub fn refused_connect(code: CloseCode) -> Problem {
    let status = match code {
        CloseCode::BadToken | CloseCode::TokenExpired | CloseCode::Revoked => 401,
        CloseCode::Forbidden => 403,
        CloseCode::TooLarge => 413,
        CloseCode::RateLimited => 429,
        CloseCode::BadFrame => 400,
        _ => 503,
    };
    Problem::with_status(status, code.reason(), "the connection was refused")
        .retry_after_ms(code.reconnect().then_some(1_000))
}
