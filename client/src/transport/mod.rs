//! One connection over any of the four transports: frames in, frames out, and how it ended. Everything here is safe to drop at any await.

mod http;
mod tcp;
mod ws;

use std::time::Duration;

use bytes::Bytes;
use wire::CloseCode;

use crate::policy::Ended;

/// A connection must stand, and a write must be taken, within this time.
const STALL_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// `ws://host:port` (the path is `/v1/connect` if none is given).
    #[default]
    WebSocket,
    /// `tcp://host:port`: a big-endian u32 length before each frame.
    Tcp,
    /// `http://host:port`: server-sent events down, POST up.
    Events,
    /// `http://host:port`: long polling down, POST up.
    LongPoll,
}

impl Transport {
    /// The usual one for a URL's scheme.
    pub fn of_url(url: &str) -> Option<Self> {
        match url.split_once("://")?.0 {
            "ws" => Some(Transport::WebSocket),
            "tcp" => Some(Transport::Tcp),
            "http" => Some(Transport::Events),
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
    pub async fn open(transport: Transport, url: &str, token: &str, connect: Bytes) -> Result<Self, Ended> {
        let opening = async {
            Ok(match transport {
                Transport::WebSocket => Connection::Ws(Box::new(ws::Ws::open(url, connect).await?)),
                Transport::Tcp => Connection::Tcp(tcp::Tcp::open(url, connect).await?),
                Transport::Events => Connection::Http(Box::new(http::Http::stream(url, token, connect).await?)),
                Transport::LongPoll => Connection::Http(Box::new(http::Http::poll(url, token, connect).await?)),
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

/// `scheme://host:port/path` → (`host:port`, `/path` or empty).
pub(crate) fn split_url<'a>(url: &'a str, schemes: &[&str]) -> Result<(&'a str, &'a str), Ended> {
    let refuse = |why: String| Ended {
        code: Some(CloseCode::Forbidden.number()),
        reason: why,
        retry_after_ms: None,
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(refuse(format!("{url} is not a URL; write {}://host:port", schemes[0])));
    };
    if !schemes.contains(&scheme) {
        return Err(refuse(format!(
            "{scheme}:// is not spoken here; write {}://host:port (TLS ends at a proxy)",
            schemes[0]
        )));
    }
    Ok(match rest.find('/') {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, ""),
    })
}

/// What an HTTP refusal means for coming back.
pub(crate) fn refused(status: u16, retry_after_s: Option<u64>) -> Ended {
    let code = match status {
        401 => Some(CloseCode::BadToken.number()),
        403 => Some(CloseCode::Forbidden.number()),
        429 => Some(CloseCode::RateLimited.number()),
        _ => None,
    };
    Ended {
        code,
        reason: format!("HTTP status {status}"),
        retry_after_ms: retry_after_s.map(|s| s.saturating_mul(1000)),
    }
}
