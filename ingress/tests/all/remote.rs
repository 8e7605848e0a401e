//! What crosses machines: the link as a gRPC stream, and TLS on every way in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::*;
use process::config::MutualTls;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use wire::link::link_server::{Link, LinkServer};
use wire::link::{Access, FromWorker, Heartbeat, ToNode, ToWorker, from_node, from_worker};
use wire::record::Owner;

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/certificates");

fn file(name: &str) -> String {
    format!("{CERTIFICATES}/{name}")
}

/// The run of the worker that answers, unless it was started again.
const RUN: u64 = 1 << 40;

/// A worker behind a socket: each stream becomes a link the test plays.
struct Remote(mpsc::Sender<WorkerLink>, Arc<AtomicU64>);

#[tonic::async_trait]
impl Link for Remote {
    type AttachStream = std::pin::Pin<Box<dyn futures::Stream<Item = Result<ToNode, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<ToWorker>>) -> Result<Response<Self::AttachStream>, Status> {
        let (to_worker, from_node) = mpsc::channel(64);
        let (to_node, from_worker) = mpsc::channel(64);
        let mut stream = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                if to_worker.send(message).await.is_err() {
                    return;
                }
            }
        });
        let run = self.1.load(Ordering::Relaxed);
        let link = WorkerLink::new(from_node, to_node, run);
        // As a real worker does: a link that is silent for 4 s is given up, and a busy machine may need that between two steps.
        let beat = link.to_node.downgrade();
        tokio::spawn(async move {
            while let Some(to_node) = beat.upgrade() {
                let item = Some(from_worker::Item::Heartbeat(Heartbeat {}));
                let items = vec![FromWorker { item }];
                if to_node.send(ToNode { items }).await.is_err() {
                    return;
                }
                drop(to_node);
                tokio::time::sleep(std::time::Duration::from_millis(wire::limits::LINK_HEARTBEAT_MS / 2)).await;
            }
        });
        self.0.send(link).await.unwrap();
        let down = futures::StreamExt::map(ReceiverStream::new(from_worker), Ok);
        Ok(Response::new(Box::pin(down)))
    }
}

async fn serve(tls: Option<ServerTlsConfig>) -> (String, mpsc::Receiver<WorkerLink>) {
    serve_run(tls, Arc::new(AtomicU64::new(RUN))).await
}

async fn serve_run(tls: Option<ServerTlsConfig>, run: Arc<AtomicU64>) -> (String, mpsc::Receiver<WorkerLink>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (links_in, links) = mpsc::channel(4);
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    let serving = server
        .add_service(LinkServer::new(Remote(links_in, run)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    (address, links)
}

fn announce(node: &TestNode, address: &str) {
    announce_run(node, address, RUN, 1);
}

fn announce_run(node: &TestNode, address: &str, run: u64, group_generation: u64) {
    for partition in 0..PARTITIONS {
        let link_address = address.to_owned();
        node.log.announce(Owner {
            link_address,
            ..owner(partition, run, group_generation)
        });
    }
}

async fn talks_over(node: &TestNode, links: &mut mpsc::Receiver<WorkerLink>) {
    let mut worker = soon(links.recv()).await.unwrap();
    worker.hello().await;
    let mut alice = node.connect("alice", "customer").await;
    let register = worker.attach("alice", 0, Access::Full).await;
    alice.recv().await;
    worker.push(&register, "alice", 1).await;
    assert_eq!(alice.recv().await["event"]["seq"], 1);
    alice.send(json!({"ack":{"recv":1}})).await;
    assert!(matches!(worker.next().await, from_node::Item::Acked(a) if a.recv == 1));
}

#[tokio::test]
async fn a_worker_elsewhere_is_dialled_and_dialled_again() {
    let node = start_with_dialer(config(), |_| {}, false).await;
    let (address, mut links) = serve(None).await;
    announce(&node, &address);
    talks_over(&node, &mut links).await;
    let mut again = soon(links.recv()).await.unwrap();
    again.hello().await;
}

/// Two links to one worker would register everybody twice, and its answers on the older one would come in any order (seeds 8003
/// and 14717 of the simulation).
#[tokio::test]
async fn a_worker_started_again_gets_no_link_of_the_run_before() {
    let node = start_with_dialer(config(), |_| {}, false).await;
    let run = Arc::new(AtomicU64::new(RUN + 1));
    let (address, mut links) = serve_run(None, Arc::clone(&run)).await;
    announce(&node, &address);
    let mut alice = node.connect("alice", "customer").await;
    for _ in 0..2 {
        let mut early = soon(links.recv()).await.unwrap();
        assert!(soon(early.from_node.recv()).await.is_none(), "hung up without a word");
    }
    assert!(!node.handle.links_complete());

    announce_run(&node, &address, RUN + 1, 2);
    let mut worker = loop {
        let mut link = soon(links.recv()).await.unwrap();
        if let Some(message) = soon(link.from_node.recv()).await {
            assert!(matches!(&message.items[0].item, Some(from_node::Item::Hello(_))));
            break link;
        }
    };
    let register = worker.attach("alice", 0, Access::Full).await;
    alice.recv().await;
    worker.push(&register, "alice", 1).await;
    assert_eq!(alice.recv().await["event"]["seq"], 1);
    let other = soon_or_none(links.recv()).await;
    assert!(other.is_none(), "one link");
}

#[tokio::test]
async fn node_and_worker_show_each_other_certificates() {
    let read = |name| std::fs::read(file(name)).unwrap();
    let identity = Identity::from_pem(read("localhost.pem"), read("localhost.key"));
    let tls = ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(Certificate::from_pem(read("ca.pem")));
    let (address, mut links) = serve(Some(tls)).await;
    let mut with_tls = config();
    with_tls.link.tls = MutualTls {
        cert_file: file("localhost.pem"),
        key_file: file("localhost.key"),
        ca_file: file("ca.pem"),
        server_name: "localhost".into(),
    };
    let node = start_with_dialer(with_tls, |_| {}, false).await;
    announce(&node, &address);
    talks_over(&node, &mut links).await;

    let stranger = start_with_dialer(config(), |_| {}, false).await;
    announce(&stranger, &address);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    while let Ok(mut link) = links.try_recv() {
        // The first node dials again after its link was dropped; a stranger never gets this far.
        assert!(matches!(link.next().await, from_node::Item::Hello(h) if h.node == node.handle.id().0));
    }
    assert!(!stranger.handle.links_complete());
}

#[tokio::test]
async fn the_listeners_speak_tls() {
    use rustls::pki_types::pem::PemObject;
    let mut config = config();
    config.tls.cert_file = file("localhost.pem");
    config.tls.key_file = file("localhost.key");
    let node = start_with(config, |_| {}).await;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_file(file("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let open = async |address| {
        let socket = TcpStream::connect(address).await.unwrap();
        soon(connector.connect("localhost".try_into().unwrap(), socket))
            .await
            .unwrap()
    };

    let mut tcp = open(node.handle.addresses.tcp.unwrap()).await;
    let connect = json!({"connect":{"token":token("alice", "customer")}}).to_string();
    tcp.write_all(&(connect.len() as u32).to_be_bytes()).await.unwrap();
    tcp.write_all(connect.as_bytes()).await.unwrap();
    let length = soon(tcp.read_u32()).await.unwrap();
    let mut frame = vec![0; length as usize];
    soon(tcp.read_exact(&mut frame)).await.unwrap();
    let frame: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(frame["connected"]["user"], "alice");

    let mut https = open(node.handle.addresses.ws_http.unwrap()).await;
    https
        .write_all(b"GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    soon(https.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"));

    let mut clear = TcpStream::connect(node.handle.addresses.ws_http.unwrap())
        .await
        .unwrap();
    clear.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = vec![];
    let _ = soon(clear.read_to_end(&mut rest)).await;
    assert!(!rest.starts_with(b"HTTP"));
}
