//! How a node reaches a worker: a pair of bounded channels when both live in one process, otherwise a gRPC stream. A link is to
//! one run of a worker: whoever was started behind the same address since is hung up on, and gets a link of its own when
//! `owners` names it. Two links to one worker would each register everybody, and bring two answers in any order.

use std::sync::Arc;
use std::time::Duration;

use process::config::MutualTls;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use wire::limits;
use wire::link::from_worker::Item;
use wire::link::link_client::LinkClient;
use wire::link::{FromWorker, ToNode, ToWorker, WorkerHello};
use wire::record::Owner;

/// A link's two ends, if the owner is in this process.
pub type LocalDialer = Arc<dyn Fn(&Owner) -> Option<(mpsc::Sender<ToWorker>, mpsc::Receiver<ToNode>)> + Send + Sync>;

/// Messages in flight between the link's task and its stream.
const STREAM_MESSAGES: usize = 16;
const DIAL_TIMEOUT_MS: u64 = 3_000;
/// A message may hold a batch of large events.
const MESSAGE_BYTES_MAX: usize = limits::LINK_BATCH_ITEMS * limits::RECORD_BYTES_MAX;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("worker {0} has no address and is not in this process")]
    NoAddress(String),
    #[error("the worker's address {0} cannot be dialled")]
    BadAddress(String),
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    #[error("the worker refused the link: {0}")]
    Refused(Box<tonic::Status>),
    #[error("the worker did not answer in time")]
    Timeout,
    #[error("the worker hung up without a hello")]
    NoHello,
    #[error("`owners` names an earlier run of it: {0} answers there and has announced nothing yet")]
    StartedAgain(String),
}

/// Mutual TLS between nodes and workers, read once.
#[derive(Clone)]
pub struct LinkTls(ClientTlsConfig);

impl LinkTls {
    /// `None` if it is not configured.
    pub fn load(config: &MutualTls) -> std::io::Result<Option<Self>> {
        if !config.is_on() {
            return Ok(None);
        }
        let ca = Certificate::from_pem(std::fs::read(&config.ca_file)?);
        let mut tls = ClientTlsConfig::new().ca_certificate(ca);
        if !config.cert_file.is_empty() {
            let identity = Identity::from_pem(std::fs::read(&config.cert_file)?, std::fs::read(&config.key_file)?);
            tls = tls.identity(identity);
        }
        if !config.server_name.is_empty() {
            tls = tls.domain_name(&config.server_name);
        }
        Ok(Some(Self(tls)))
    }
}

/// The receiving end.
pub enum Incoming {
    Local(mpsc::Receiver<ToNode>),
    Remote(Box<Streaming<ToNode>>),
}

impl Incoming {
    /// `None`: the link is down.
    pub async fn next(&mut self) -> Option<ToNode> {
        match self {
            Incoming::Local(receiver) => receiver.recv().await,
            Incoming::Remote(stream) => stream.message().await.unwrap_or_else(|status| {
                tracing::debug!(%status, "a link broke");
                None
            }),
        }
    }
}

/// A link on which the worker has said that it is the one whom `owner` names.
pub async fn dial(
    owner: &Owner,
    local: Option<&LocalDialer>,
    tls: Option<&LinkTls>,
) -> Result<(mpsc::Sender<ToWorker>, Incoming), DialError> {
    let greeted = async {
        let (sender, mut incoming) = connect(owner, local, tls).await?;
        let worker = hello(&mut incoming).await.ok_or(DialError::NoHello)?;
        if worker.worker != owner.worker_incarnation {
            return Err(DialError::StartedAgain(worker.name));
        }
        Ok((sender, incoming))
    };
    let in_time = tokio::time::timeout(Duration::from_millis(DIAL_TIMEOUT_MS), greeted).await;
    in_time.unwrap_or(Err(DialError::Timeout))
}

/// The first thing a worker says, before it has heard of anybody.
async fn hello(incoming: &mut Incoming) -> Option<WorkerHello> {
    match incoming.next().await?.items.into_iter().next()? {
        FromWorker {
            item: Some(Item::Hello(hello)),
        } => Some(hello),
        _ => None,
    }
}

async fn connect(
    owner: &Owner,
    local: Option<&LocalDialer>,
    tls: Option<&LinkTls>,
) -> Result<(mpsc::Sender<ToWorker>, Incoming), DialError> {
    if let Some((sender, receiver)) = local.and_then(|dial| dial(owner)) {
        return Ok((sender, Incoming::Local(receiver)));
    }
    if owner.link_address.is_empty() {
        return Err(DialError::NoAddress(owner.worker.clone()));
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let bad = |_| DialError::BadAddress(owner.link_address.clone());
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", owner.link_address))
        .map_err(bad)?
        .connect_timeout(Duration::from_millis(DIAL_TIMEOUT_MS))
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    if let Some(LinkTls(tls)) = tls {
        endpoint = endpoint.tls_config(tls.clone())?;
    }
    let mut client = LinkClient::new(endpoint.connect().await?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (sender, receiver) = mpsc::channel(STREAM_MESSAGES);
    let answer = client.attach(ReceiverStream::new(receiver)).await;
    let stream = answer
        .map_err(|status| DialError::Refused(Box::new(status)))?
        .into_inner();
    Ok((sender, Incoming::Remote(Box::new(stream))))
}
