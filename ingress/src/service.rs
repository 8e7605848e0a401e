//! The node as a service: options → bound → running → drained.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use ordered_log::Log;
use process::{Config, ControlView, Drain, Health, Kind, Recorder, Tasks};
use store::History;
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use wire::{Epoch, ErrorCode, LaneTopics, NodeId, limits};

use crate::accept::{self, HttpSettings, Spoken};
use crate::addresses::Addresses as ClientAddresses;
use crate::auth::Verifier;
use crate::error::{Addresses, Error};
use crate::links::{LinkContext, LinkTls, LocalDialer, run_owners};
use crate::node::{Node, NodeParts};
use crate::problem::Problem;
use crate::tenants::{Switches, TenantState};
use crate::{cors, drain, http, presence, sweep, tcp, tls};

/// What a node is told.
pub struct Options {
    pub config: Arc<Config>,
    /// Drawn afresh at each start.
    pub id: NodeId,
    /// Shown to clients.
    pub name: String,
    /// `connect` must come within this time.
    pub connect_timeout_ms: u64,
    /// Answered beside ours on the HTTP listener: the demo page, development tokens.
    pub extra_routes: Option<Router>,
    /// What was logged for somebody, and which owner's deeds had an effect here.
    pub recorder: Recorder,
}

impl Options {
    /// From the configuration, with a new incarnation.
    pub fn new(config: Arc<Config>) -> Self {
        let (id, _) = uuid::Uuid::new_v4().as_u64_pair();
        let name = match config.node.name.as_str() {
            "" => {
                std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "node".into(), |h| h.trim().into())
            }
            name => name.to_owned(),
        };
        Self {
            config,
            // 0 means "this node" on the link.
            id: NodeId(id.max(1)),
            name,
            connect_timeout_ms: limits::CONNECT_TIMEOUT_MS,
            extra_routes: None,
            recorder: Recorder::default(),
        }
    }
}

/// What a node needs from the process.
pub struct Deps {
    pub log: Arc<dyn Log>,
    pub history: Arc<dyn History>,
    pub control: ControlView,
    pub health: Health,
    pub tasks: Tasks,
    /// Reaches workers of this process; `None`: all are remote.
    pub local_dialer: Option<LocalDialer>,
}

/// A node that listens, and does not answer yet.
pub struct Service {
    node: Arc<Node>,
    log: Arc<dyn Log>,
    links: LinkContext,
    http: Option<(TcpListener, HttpSettings)>,
    tcp: Option<(TcpListener, Option<tokio_rustls::TlsAcceptor>)>,
    goaway_batches: u32,
    addresses: Addresses,
}

/// What can be asked of a node that runs.
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
    pub addresses: Addresses,
}

impl Handle {
    pub fn id(&self) -> NodeId {
        self.node.id
    }

    pub fn open_connections(&self) -> usize {
        self.node.open_connections()
    }

    /// Every partition has an owner, and a link to it is up.
    pub fn links_complete(&self) -> bool {
        self.node.links.complete()
    }
}

impl Service {
    /// Checks keys and certificates, and binds. Nothing is accepted before [`Service::run`].
    pub async fn bind(options: Options, deps: Deps) -> Result<Self, Error> {
        let config = Arc::clone(&options.config);
        let topics = LaneTopics {
            lane: config.lane.clone(),
            epoch: Epoch(config.epoch),
            partitions: config.partitions,
        };
        let tenants = config.tenants.iter();
        let tenants = tenants.map(|(t, c)| {
            let switches = Switches::new(deps.control.clone(), config.lane.clone());
            let state = TenantState::new(t.clone(), c, &config.limits, switches);
            (t.clone(), Arc::new(state))
        });
        let node = Arc::new(Node::new(NodeParts {
            id: options.id,
            name: options.name,
            topics,
            verifier: Verifier::new(&config)?,
            tenants: tenants.collect(),
            limits: config.limits,
            connect_timeout_ms: options.connect_timeout_ms,
            request_timeout_ms: config.http.request_timeout_ms,
            poll_wait_ms: config.http.poll_wait_ms,
            poll_idle_ms: config.http.poll_idle_ms,
            addresses: addresses(&config)?,
            control: deps.control,
            history: deps.history,
            tasks: deps.tasks,
            health: deps.health,
            recorder: options.recorder,
        }));
        let acceptor = tls::acceptor(&config.tls)?;
        let link_tls = LinkTls::load(&config.link.tls).map_err(|e| Error::Tls {
            what: "link.tls",
            why: e.to_string(),
        })?;
        let (http, http_at) = bind(&config.listen.ws_http).await?;
        let (tcp, tcp_at) = bind(&config.listen.tcp).await?;
        let settings = HttpSettings {
            router: router(Arc::clone(&node), options.extra_routes),
            header_timeout_ms: config.http.header_timeout_ms.min(options.connect_timeout_ms),
            header_bytes_max: config.http.header_bytes_max,
            tls: acceptor.clone(),
        };
        Ok(Self {
            links: LinkContext {
                node: Arc::clone(&node),
                local: deps.local_dialer,
                tls: link_tls,
            },
            node,
            log: deps.log,
            http: http.map(|listener| (listener, settings)),
            tcp: tcp.map(|listener| (listener, acceptor)),
            goaway_batches: config.drain.goaway_batches,
            addresses: Addresses {
                ws_http: http_at,
                tcp: tcp_at,
            },
        })
    }

    pub fn handle(&self) -> Handle {
        Handle {
            node: Arc::clone(&self.node),
            addresses: self.addresses,
        }
    }

    /// Serves until the drain has begun and every connection is gone, or its deadline is near.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let Some(producer) = drain.unless_started(self.log.producer()).await else {
            return Ok(());
        };
        self.node.set_producer(producer?);
        self.node.health.set("ingress", Ok(()));
        let node = self.node;
        let tasks = node.tasks.clone();
        let owners = run_owners(self.links, self.log, drain.clone());
        let owners = tasks.spawn(Kind::Worker, "owners", Box::pin(owners));
        tasks.spawn(
            Kind::Essential,
            "sweep",
            Box::pin(sweep::run(Arc::clone(&node), drain.clone())),
        );
        tasks.spawn(
            Kind::Essential,
            "presence",
            Box::pin(presence::run(Arc::clone(&node), drain.clone())),
        );
        if let Some((listener, settings)) = self.http {
            let serve = move |node, stream, accepted| accept::serve_http(node, stream, accepted, settings.clone());
            let accept = accept::accept_loop(Arc::clone(&node), listener, drain.clone(), Spoken::Http, serve);
            tasks.spawn(Kind::Essential, "listen-http", Box::pin(accept));
        }
        if let Some((listener, acceptor)) = self.tcp {
            let serve = move |node, stream, accepted| tcp::serve(node, stream, accepted, acceptor.clone());
            let accept = accept::accept_loop(Arc::clone(&node), listener, drain.clone(), Spoken::Tcp, serve);
            tasks.spawn(Kind::Essential, "listen-tcp", Box::pin(accept));
        }
        drain::run(Arc::clone(&node), drain, self.goaway_batches).await;
        // It follows a topic that never ends.
        owners.abort();
        node.links.close();
        Ok(())
    }
}

fn addresses(config: &Config) -> Result<ClientAddresses, Error> {
    let header = config.http.client_address_header.as_str();
    let header = match header {
        "" => None,
        name => Some(name.parse().map_err(|_| Error::Header(name.to_owned()))?),
    };
    let max = config.limits.connections_per_address_max;
    Ok(ClientAddresses::new(max, header, config.http.trusted_proxies.clone()))
}

async fn bind(address: &str) -> Result<(Option<TcpListener>, Option<SocketAddr>), Error> {
    if address.is_empty() {
        return Ok((None, None));
    }
    let failed = |source| Error::Bind {
        address: address.to_owned(),
        source,
    };
    let listener = listen(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    Ok((Some(listener), Some(at)))
}

/// `TcpListener::bind` with room for more than 1,024 who wait to be accepted.
async fn listen(address: &str) -> std::io::Result<TcpListener> {
    let mut failed = None;
    for at in lookup_host(address).await? {
        let socket = if at.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        match socket.bind(at).and_then(|()| socket.listen(limits::LISTEN_BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| std::io::Error::other("the name has no address")))
}

/// Everything the HTTP listener answers.
fn router(node: Arc<Node>, extra: Option<Router>) -> Router {
    let ours = http::routes()
        .layer(DefaultBodyLimit::max(http::POST_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), in_time))
        .with_state(Arc::clone(&node));
    let all = match extra {
        Some(extra) => ours.merge(extra),
        None => ours,
    };
    all.fallback(|| async { Problem::new(ErrorCode::NotFound, "there is nothing at this address") })
        .method_not_allowed_fallback(|| async {
            Problem::with_status(405, "bad_frame", "this address has other methods")
        })
        .layer(middleware::from_fn(one_meaning))
        .layer(middleware::map_response(as_problem))
        .layer(middleware::from_fn_with_state(node, cors::answer))
}

/// A request that two programs on its way could read in two ways is read by none (RFC 9112, section 3.2). Of two lengths hyper
/// has left one.
async fn one_meaning(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Problem::new(ErrorCode::BadFrame, "one Host is needed").into_response();
    }
    next.run(request).await
}

/// A request whose body does not come, or whose work does not end, is given up. Streams answer at once, and then live on.
async fn in_time(
    axum::extract::State(node): axum::extract::State<Arc<Node>>,
    request: Request,
    next: Next,
) -> Response {
    let within_ms = node.request_timeout_ms.max(node.poll_wait_ms + 5_000);
    let answer = tokio::time::timeout(std::time::Duration::from_millis(within_ms), next.run(request)).await;
    answer.unwrap_or_else(|_| Problem::new(ErrorCode::Unknown, "the request took too long").into_response())
}

/// What the framework itself refuses is said in our words too.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let ours = response.headers().get(header::CONTENT_TYPE);
    if !status.is_client_error() || ours.is_some_and(|t| t.as_bytes().starts_with(b"application/")) {
        return response;
    }
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(ErrorCode::TooLarge, "the body is too large").into_response(),
        other => {
            let mut problem = Problem::with_status(other.as_u16(), "bad_frame", "the request cannot be understood");
            problem.status = other.as_u16();
            problem.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    /// 1,200 fit wherever `net.core.somaxconn` is not below its default of 4,096; 1,024 is what `TcpListener::bind` has room for.
    #[tokio::test]
    async fn many_may_wait_to_be_accepted() {
        let listener = listen("localhost:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let waiting: Vec<_> = (0..1_200)
            .map_while(|_| TcpStream::connect_timeout(&at, Duration::from_secs(30)).ok())
            .collect();
        assert_eq!(waiting.len(), 1_200);
    }
}
