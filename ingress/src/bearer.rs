//! `Authorization: Bearer …` of an HTTP request → verified claims, or the problem that says why not.

use axum::http::{HeaderMap, header};
use ingress_core::Claims;
use wire::{CloseCode, ErrorCode};

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
    let claims = node
        .verifier
        .verify(token, Clock::wall_ms())
        .map_err(|e| Problem::unauthorized(e.to_string()))?;
    if node.is_revoked(&claims) {
        return Err(Problem::unauthorized("the token is revoked"));
    }
    let tenant = node.tenant(&claims.tenant);
    let origin = headers.get(header::ORIGIN).map(|o| o.to_str().unwrap_or_default());
    if !tenant.is_some_and(|t| t.origin_allowed(origin)) {
        return Err(Problem::new(
            ErrorCode::Forbidden,
            "pages of this origin may not use this tenant's API",
        ));
    }
    Ok(claims)
}

/// What a refused `connect` is over HTTP.
pub fn refused_connect(code: CloseCode) -> Problem {
    let status = match code {
        CloseCode::BadToken | CloseCode::TokenExpired | CloseCode::Revoked => {
            return Problem::unauthorized(code.reason());
        }
        CloseCode::Forbidden => 403,
        CloseCode::TooLarge => 413,
        CloseCode::RateLimited => 429,
        CloseCode::BadFrame => 400,
        _ => 503,
    };
    Problem::with_status(status, code.reason(), "the connection was refused")
        .retry_after_ms(code.reconnect().then_some(1_000))
}
