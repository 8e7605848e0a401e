//! Listening: sockets are accepted whatever happens, and one that is slow to say what it wants is cut off. Nothing here waits
//! for a peer without a time limit.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::{Drain, Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::addresses::Slot;
use crate::node::Node;
use crate::turns::{Turns, share};

/// When and from where a socket came; an extension of every request on it.
#[derive(Clone)]
pub struct Accepted {
    pub at: Instant,
    pub peer: SocketAddr,
    /// Its share of what its address may hold; kept as long as the socket.
    pub slot: Option<Arc<Slot>>,
}

/// Out of descriptors: nothing gets better by trying at once.
const ACCEPT_AGAIN_MS: u64 = 50;
/// hyper's read buffer: the headers of a request must fit.
const HEADERS_MAX: usize = 100;

/// What is spoken on a listener.
#[derive(Clone, Copy)]
pub enum Spoken {
    Http,
    Tcp,
}

impl Spoken {
    fn name(self) -> &'static str {
        match self {
            Spoken::Http => "http",
            Spoken::Tcp => "tcp",
        }
    }

    /// Over HTTP a proxy names the clients it speaks for, request by request.
    fn names_clients(self) -> bool {
        matches!(self, Spoken::Http)
    }
}

/// Accepts until the drain begins. A spare descriptor lets us tell a peer "no" even when all others are used.
pub async fn accept_loop<F, T>(node: Arc<Node>, listener: TcpListener, drain: Drain, spoken: Spoken, serve: F)
where
    F: Fn(Arc<Node>, TcpStream, Accepted) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let mut spare = File::open("/dev/null").ok();
    while let Some(accepted) = drain.unless_started(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let Ok(slot) = node.addresses.enter_socket(peer.ip(), spoken.names_clients()) else {
                    continue;
                };
                // Small frames must not wait for each other's acknowledgements.
                if stream.set_nodelay(true).is_err() {
                    continue;
                }
                let accepted = Accepted {
                    at: Instant::now(),
                    peer,
                    slot,
                };
                node.tasks.spawn(
                    Kind::Background,
                    spoken.name(),
                    Box::pin(serve(Arc::clone(&node), stream, accepted)),
                );
            }
            Err(error) => {
                node.meters.accept_errors.increment(1);
                if spare.take().is_some() && drops_one(&listener).await {
                    spare = File::open("/dev/null").ok();
                    continue;
                }
                tracing::warn!(%error, "a socket could not be accepted");
                tokio::time::sleep(Duration::from_millis(ACCEPT_AGAIN_MS)).await;
                spare = spare.or_else(|| File::open("/dev/null").ok());
            }
        }
    }
}

/// With the spare descriptor free: takes one peer from the queue and hangs up.
async fn drops_one(listener: &TcpListener) -> bool {
    let waiting = tokio::time::timeout(Duration::from_millis(ACCEPT_AGAIN_MS), listener.accept());
    matches!(waiting.await, Ok(Ok(_)))
}

/// Waits for the first byte: hyper's own timer begins only with it.
pub async fn first_byte(stream: &TcpStream, deadline: Instant) -> io::Result<()> {
    match tokio::time::timeout_at(deadline, stream.readable()).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What one HTTP connection needs.
#[derive(Clone)]
pub struct HttpSettings {
    pub router: Router,
    pub header_timeout_ms: u64,
    pub header_bytes_max: usize,
    pub tls: Option<tokio_rustls::TlsAcceptor>,
}

/// One socket of the HTTP listener.
pub async fn serve_http(node: Arc<Node>, stream: TcpStream, accepted: Accepted, settings: HttpSettings) {
    let deadline = accepted.at + Duration::from_millis(settings.header_timeout_ms);
    if first_byte(&stream, deadline).await.is_err() {
        return;
    }
    let Some(acceptor) = settings.tls.clone() else {
        return serve_requests(node, stream, accepted, settings).await;
    };
    match tokio::time::timeout_at(deadline, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve_requests(node, stream, accepted, settings).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => {}
    }
}

async fn serve_requests<S>(node: Arc<Node>, stream: S, accepted: Accepted, settings: HttpSettings)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (router, peer) = (settings.router, accepted.peer);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(accepted.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(settings.header_timeout_ms))
        .max_buf_size(settings.header_bytes_max.max(8192))
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Turns::new(stream, share(&node.limits))), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let drain = node.tasks.drain().clone();
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%peer, %error, "an HTTP connection ended badly");
            }
            return;
        }
        () = drain.started() => connection.as_mut().graceful_shutdown(),
    }
    // Streams on it end with their session; a request under way is finished.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an HTTP connection ended badly while draining");
    }
}
