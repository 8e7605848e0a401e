//! Close codes and error codes: what they are called, and what a client should do about them.

use serde::{Deserialize, Serialize};

/// Why a connection was closed: the WebSocket close code, or the last frame's `close` elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    GoingAway = 3000,
    Internal = 3001,
    PingTimeout = 3003,
    TokenExpired = 3005,
    TooSlow = 3008,
    StaleOwner = 3010,
    RateLimited = 3013,
    BadToken = 3500,
    Replaced = 3501,
    Revoked = 3502,
    BadFrame = 3503,
    ConnectTimeout = 3504,
    TooLarge = 3505,
    Forbidden = 3506,
}

impl CloseCode {
    pub const ALL: [CloseCode; 14] = [
        CloseCode::GoingAway,
        CloseCode::Internal,
        CloseCode::PingTimeout,
        CloseCode::TokenExpired,
        CloseCode::TooSlow,
        CloseCode::StaleOwner,
        CloseCode::RateLimited,
        CloseCode::BadToken,
        CloseCode::Replaced,
        CloseCode::Revoked,
        CloseCode::BadFrame,
        CloseCode::ConnectTimeout,
        CloseCode::TooLarge,
        CloseCode::Forbidden,
    ];

    pub fn number(self) -> u16 {
        self as u16
    }

    pub fn from_number(n: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.number() == n)
    }

    /// 3000–3499: come back, with jitter. 3500 and above: don't, until something has changed.
    pub fn reconnect(self) -> bool {
        self.number() < 3500
    }

    pub fn reason(self) -> &'static str {
        match self {
            CloseCode::GoingAway => "going_away",
            CloseCode::Internal => "internal",
            CloseCode::PingTimeout => "ping_timeout",
            CloseCode::TokenExpired => "token_expired",
            CloseCode::TooSlow => "too_slow",
            CloseCode::StaleOwner => "stale_owner",
            CloseCode::RateLimited => "rate_limited",
            CloseCode::BadToken => "bad_token",
            CloseCode::Replaced => "replaced",
            CloseCode::Revoked => "revoked",
            CloseCode::BadFrame => "bad_frame",
            CloseCode::ConnectTimeout => "connect_timeout",
            CloseCode::TooLarge => "too_large",
            CloseCode::Forbidden => "forbidden",
        }
    }
}

/// Why a frame or request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not JSON, or not exactly one known key.
    BadFrame,
    /// The body is not one JSON object of a known kind.
    InvalidBody,
    TooLarge,
    Forbidden,
    /// An agent that is neither assigned nor joined.
    NotAssigned,
    NotFound,
    Conflict,
    RateLimited,
    /// Lower levels are refused first; try again after `retry_after_ms`.
    Overloaded,
    /// A switch is set.
    Degraded,
    /// It was never produced: it will not appear. Send it again when you like.
    Unavailable,
    /// It may appear: send the same id again.
    Unknown,
    /// The tenant moves to another lane.
    Closing,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadFrame => "bad_frame",
            ErrorCode::InvalidBody => "invalid_body",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotAssigned => "not_assigned",
            ErrorCode::NotFound => "not_found",
            ErrorCode::Conflict => "conflict",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::Degraded => "degraded",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Unknown => "unknown",
            ErrorCode::Closing => "closing",
        }
    }

    /// The HTTP status of a problem with this code.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorCode::BadFrame | ErrorCode::InvalidBody => 400,
            ErrorCode::Forbidden | ErrorCode::NotAssigned => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::Conflict => 409,
            ErrorCode::TooLarge => 413,
            ErrorCode::RateLimited => 429,
            ErrorCode::Overloaded | ErrorCode::Degraded | ErrorCode::Unavailable | ErrorCode::Closing => 503,
            ErrorCode::Unknown => 504,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_is_found_by_its_number_once() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number()), Some(code));
        }
        assert_eq!(CloseCode::from_number(3002), None);
    }

    #[test]
    fn the_json_name_of_an_error_is_its_name() {
        let json = serde_json::to_string(&ErrorCode::RateLimited).unwrap();
        assert_eq!(json, format!("\"{}\"", ErrorCode::RateLimited.as_str()));
    }
}
