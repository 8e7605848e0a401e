//! One connection over any of the four transports: frames in, frames out, and how it ended. Everything here is safe to drop at any await.

pub(crate) mod dial;
mod http;
pub(crate) mod request;
mod tcp;
mod ws;

use std::time::Duration;

use bytes::Bytes;
use wire::CloseCode;

use crate::policy::Ended;

pub use dial::{Io, Tls, TlsError};

/// A connection must stand, and a write must be taken, within this time.
const STALL_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// `ws://host:port`, `wss://` (the path is `/v1/connect` if none is given).
    #[default]
    WebSocket,
    /// `tcp://host:port`, `tls://`: a big-endian u32 length before each frame.
    Tcp,
    /// `http://host:port`, `https://`: server-sent events down, POST up.
    Events,
    /// `http://host:port`, `https://`: long polling down, POST up.
    LongPoll,
}

impl Transport {
    /// The usual one for a URL's scheme.
    pub fn of_url(url: &str) -> Option<Self> {
        match url.split_once("://")?.0 {
            "ws" | "wss" => Some(Transport::WebSocket),
            "tcp" | "tls" => Some(Transport::Tcp),
            "http" | "https" => Some(Transport::Events),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Inbound {
    Frame(Bytes),
    /// The transport's own ping; it has been answered where the transport has an answer of its own.
    Ping {
        answer: bool,
    },
}

pub(crate) enum Connection {
    Ws(Box<ws::Ws>),
    Tcp(tcp::Tcp),
    Http(Box<http::Http>),
}

impl Connection {
    /// Opens it and says the first frame.
    pub async fn open(
        transport: Transport,
        url: &str,
        tls: Option<&Tls>,
        token: &str,
        connect: Bytes,
    ) -> Result<Self, Ended> {
        let opening = async {
            Ok(match transport {
                Transport::WebSocket => Connection::Ws(Box::new(ws::Ws::open(url, tls, connect).await?)),
                Transport::Tcp => Connection::Tcp(tcp::Tcp::open(url, tls, connect).await?),
                Transport::Events => Connection::Http(Box::new(http::Http::stream(url, tls, token, connect).await?)),
                Transport::LongPoll => Connection::Http(Box::new(http::Http::poll(url, tls, token, connect).await?)),
            })
        };
        match tokio::time::timeout(STALL_MAX, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Ended::lost("no connection within 10 s")),
        }
    }

    /// The next thing heard; cancel-safe.
    pub async fn next(&mut self) -> Result<Inbound, Ended> {
        match self {
            Connection::Ws(c) => c.next().await,
            Connection::Tcp(c) => c.next().await,
            Connection::Http(c) => c.next().await,
        }
    }

    /// Writes frames in order.
    pub async fn write(&mut self, frames: Vec<Bytes>) -> Result<(), Ended> {
        let writing = async {
            match self {
                Connection::Ws(c) => c.write(frames).await,
                Connection::Tcp(c) => c.write(frames).await,
                Connection::Http(c) => {
                    c.post(frames);
                    Ok(())
                }
            }
        };
        match tokio::time::timeout(STALL_MAX, writing).await {
            Ok(written) => written,
            Err(_) => Err(Ended::lost("the socket took nothing for 10 s")),
        }
    }

    /// The token of requests from now on; where the connection itself is the proof, there are none.
    pub fn set_token(&mut self, token: &str) {
        if let Connection::Http(c) = self {
            c.set_token(token);
        }
    }

    pub async fn close(self) {
        let closing = async {
            match self {
                Connection::Ws(c) => c.close().await,
                Connection::Tcp(_) | Connection::Http(_) => {}
            }
        };
        // A peer that does not answer the close is left with a closed socket.
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
    }
}

/// A socket to where an `https://` or `wss://` URL leads, for whoever speaks over it by other means.
pub async fn dial(url: &str, tls: &Tls) -> Result<Box<dyn Io>, String> {
    let target = dial::Target::of(url, &[dial::WS, dial::HTTP]).map_err(|e| e.reason)?;
    dial::dial(&target, Some(tls)).await.map_err(|e| e.reason)
}

/// RFC 9457, as far as it matters here.
#[derive(serde::Deserialize)]
struct Problem {
    code: String,
}

/// What an HTTP refusal means for coming back: the problem's code where it is a close code's, otherwise the status.
pub(crate) fn refused(status: u16, body: &[u8], retry_after_s: Option<u64>) -> Ended {
    let told = serde_json::from_slice::<Problem>(body).ok();
    let named = told.and_then(|p| CloseCode::ALL.into_iter().find(|c| c.reason() == p.code));
    let code = match status {
        401 => Some(named.unwrap_or(CloseCode::BadToken)),
        403 => Some(CloseCode::Forbidden),
        429 => Some(CloseCode::RateLimited),
        _ => None,
    };
    Ended {
        code: code.map(CloseCode::number),
        reason: format!("HTTP status {status}"),
        retry_after_ms: retry_after_s.map(|s| s.saturating_mul(1000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_only_expired_is_no_reason_to_stay_away() {
        let expired = refused(401, br#"{"type":"about:blank","code":"token_expired"}"#, None);
        assert_eq!((expired.code, expired.comes_back()), (Some(3005), true));
        for (status, body, code) in [
            (401, &br#"{"code":"bad_token"}"#[..], Some(3500)),
            (401, br#"{"code":"revoked"}"#, Some(3502)),
            (401, b"<html>", Some(3500)),
            (403, b"", Some(3506)),
            (429, br#"{"code":"rate_limited"}"#, Some(3013)),
            (503, br#"{"code":"token_expired"}"#, None),
        ] {
            assert_eq!(refused(status, body, None).code, code, "{status}");
        }
    }
}
