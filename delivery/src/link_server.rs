//! Links of other processes' nodes: the gRPC edge. Each stream becomes the same pair of bounded channels that a node of this
//! process would get; nothing else differs.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures::future::{Either, select};
use futures::{Stream, StreamExt};
use process::config::MutualTls;
use process::{Kind, Tasks};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use wire::limits;
use wire::link::link_server::{Link, LinkServer};
use wire::link::{ToNode, ToWorker};

use crate::error::Error;
use crate::handle::Handle;

/// A message may hold a batch of large events.
const MESSAGE_BYTES_MAX: usize = limits::LINK_BATCH_ITEMS * limits::RECORD_BYTES_MAX;

/// Mutual TLS: nodes must show a certificate of our authority.
#[derive(Clone)]
pub struct LinkTls(ServerTlsConfig);

impl LinkTls {
    /// `None` if it is not configured.
    pub fn load(config: &MutualTls) -> std::io::Result<Option<Self>> {
        if !config.is_on() {
            return Ok(None);
        }
        let identity = Identity::from_pem(std::fs::read(&config.cert_file)?, std::fs::read(&config.key_file)?);
        let authority = Certificate::from_pem(std::fs::read(&config.ca_file)?);
        Ok(Some(Self(
            ServerTlsConfig::new().identity(identity).client_ca_root(authority),
        )))
    }
}

struct Edge {
    handle: Handle,
    tasks: Tasks,
}

#[tonic::async_trait]
impl Link for Edge {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<ToNode, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<ToWorker>>) -> Result<Response<Self::AttachStream>, Status> {
        if self.tasks.drain().is_started() {
            return Err(Status::unavailable("this worker is leaving"));
        }
        let (to_driver, from_driver) = self.handle.attach();
        if to_driver.is_closed() {
            return Err(Status::resource_exhausted("too many links wait to be taken"));
        }
        self.tasks
            .spawn(Kind::Background, "link-in", pump_in(request.into_inner(), to_driver));
        Ok(Response::new(Box::pin(ReceiverStream::new(from_driver).map(Ok))))
    }
}

/// Moves what a node sends to the driver, in a task of its own so that acks come in while pushes wait to go out. A driver that
/// has no room makes the node wait. Either side's end ends the other: the driver drops the outgoing channel when this one is
/// dropped, and tonic the stream when the outgoing channel is.
async fn pump_in(mut incoming: Streaming<ToWorker>, to_driver: mpsc::Sender<ToWorker>) {
    loop {
        let next = match select(pin!(incoming.message()), pin!(to_driver.closed())).await {
            Either::Left((next, _)) => next,
            // The driver gave the link up; the node may not have noticed.
            Either::Right(_) => return,
        };
        match next {
            Ok(Some(message)) => {
                if to_driver.send(message).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "a node's link broke");
                return;
            }
        }
    }
}

/// Serves links until the drain begins; links that are up end with the driver.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<LinkTls>,
    handle: Handle,
    tasks: Tasks,
) -> Result<(), Error> {
    let drain = tasks.drain().clone();
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keepalive_interval(Some(Duration::from_millis(limits::LINK_TIMEOUT_MS)));
    if let Some(LinkTls(tls)) = tls {
        server = server.tls_config(tls).map_err(|why| Error::Tls(why.to_string()))?;
    }
    let link = LinkServer::new(Edge { handle, tasks })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let incoming = TcpListenerStream::new(listener);
    server
        .add_service(link)
        .serve_with_incoming_shutdown(incoming, async move { drain.started().await })
        .await?;
    Ok(())
}
