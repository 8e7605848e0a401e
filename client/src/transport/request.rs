//! HTTP/1.1 requests over sockets of our own; a connection whose answer has been read is used again. By hyper itself: reqwest
//! speaks TLS only with a second provider of it, or with one set for the whole process of whoever uses this client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::dial::{HTTP, Target, Tls, WS, dial};
use super::refused;
use crate::policy::Ended;

type Sender = SendRequest<Full<Bytes>>;

/// A connection idle for longer is not used again. A server ends idle ones (ours after 10 s, `http.header_timeout_ms`), and a request
/// that crosses that end on its way is lost with an unknown fate.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// One server's HTTP API. Clones share their connection.
#[derive(Clone)]
pub struct Api {
    target: Target,
    tls: Option<Tls>,
    /// The connection nobody uses now, and since when.
    idle: Arc<Mutex<Option<(Sender, Instant)>>>,
}

/// What is asked for.
pub struct Asked<'a> {
    pub method: Method,
    pub path: &'a str,
    pub token: &'a str,
    pub accept: &'static str,
    pub body: Bytes,
}

impl Api {
    /// `http://`, `https://`, or the `ws://` or `wss://` URL of the same node.
    pub fn new(url: &str, tls: Option<Tls>) -> Result<Self, Ended> {
        Ok(Self {
            target: Target::of(url, &[HTTP, WS])?,
            tls,
            idle: Arc::default(),
        })
    }

    /// A request of one's own connection, whose answer is a stream.
    pub async fn open(&self, asked: Asked<'_>) -> Result<Response<Incoming>, Ended> {
        let request = self.request(asked)?;
        let mut sender = self.connect().await?;
        sender.send_request(request).await.map_err(lost)
    }

    /// Status and headers, and the whole body.
    pub async fn ask(&self, asked: Asked<'_>) -> Result<Response<Bytes>, Ended> {
        let mut request = self.request(asked)?;
        let kept = self.idle.lock().take();
        let mut kept = kept
            .filter(|(_, since)| since.elapsed() < IDLE_MAX)
            .map(|(sender, _)| sender);
        loop {
            let (mut sender, used) = match kept.take() {
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            let response = match sender.try_send_request(request).await {
                Ok(response) => response,
                // The connection had ended and nothing of the request went out: it may go over another.
                Err(mut error) => match error.take_message().filter(|_| used) {
                    Some(unsent) => {
                        request = unsent;
                        continue;
                    }
                    None => return Err(lost(error.into_error())),
                },
            };
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(lost)?.to_bytes();
            if sender.ready().await.is_ok() {
                *self.idle.lock() = Some((sender, Instant::now()));
            }
            return Ok(Response::from_parts(parts, body));
        }
    }

    fn request(&self, asked: Asked<'_>) -> Result<Request<Full<Bytes>>, Ended> {
        Request::builder()
            .method(asked.method)
            .uri(asked.path)
            .header(header::HOST, &self.target.host)
            .header(header::ACCEPT, asked.accept)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", asked.token))
            .body(Full::new(asked.body))
            .map_err(|e| Ended::lost(e.to_string()))
    }

    async fn connect(&self) -> Result<Sender, Ended> {
        let stream = dial(&self.target, self.tls.as_ref()).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // It ends when its sender and the answer's body are dropped; how, they hear themselves.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// The answer's body if it is a good one; otherwise what the refusal means.
pub fn good(response: Response<Bytes>) -> Result<Bytes, Ended> {
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    let retry = response.headers().get(header::RETRY_AFTER);
    let retry = retry.and_then(|v| v.to_str().ok()?.parse().ok());
    Err(refused(response.status().as_u16(), response.body(), retry))
}

pub fn lost(error: hyper::Error) -> Ended {
    let why = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    Ended::lost(format!("{error}{}", why.unwrap_or_default()))
}
