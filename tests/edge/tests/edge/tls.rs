//! TLS with certificates made here: clients over every transport, the terminal client and the generator, and the link's mutual TLS.
//! Each time a good one, an expired one, another authority's, another name's, and none.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Tls, Transport};
use futures::future::join_all;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::{Authority, Signed};
use crate::house::{House, SECRET, binary, free_port, token};
use crate::nodes::Lane;
use crate::person::{Hello, Person, WAYS, pair};

async fn dev(signed: &Signed) -> House {
    let mut house = House::dev(&[("tls.cert_file", &signed.cert), ("tls.key_file", &signed.key)], &[]);
    house.ready().await;
    house
}

/// Runs a command of the binary to its end.
fn run(args: &[&str]) -> Output {
    Command::new(binary().expect("the test has looked for it"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_talk_over_tls_and_believe_only_their_authority() {
    if binary().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let house = dev(&ours.sign(dir.path(), "good", "localhost", false)).await;
    let tls = |ca: &Authority| Some(Tls::of_file(&ca.file).unwrap());
    for way in WAYS {
        let name = format!("{way:?}");
        let (mut alice, mut bo) = pair(&house, way, tls(&ours), &name).await;
        let seq = alice.say(None, "over TLS").await;
        assert_eq!(bo.hears("over TLS").await, seq, "{name}");
    }
    let expired = dev(&ours.sign(dir.path(), "expired", "localhost", true)).await;
    let elsewhere = dev(&ours.sign(dir.path(), "elsewhere", "elsewhere.example", false)).await;
    for (what, server, ca, why) in [
        ("another authority", &house, &theirs, "UnknownIssuer"),
        ("an expired certificate", &expired, &ours, "expired"),
        ("another's name", &elsewhere, &ours, "not valid for name"),
    ] {
        for way in WAYS {
            let hello = Hello {
                tls: tls(ca),
                ..Hello::default()
            };
            let mut alice = Person::connect(server, way, "customer", "alice", hello);
            let ended = alice
                .until("a refusal", |i| matches!(i, client::Incoming::Disconnected { .. }))
                .await;
            let client::Incoming::Disconnected { reason, .. } = &ended else {
                unreachable!()
            };
            assert!(reason.contains(why), "{way:?}: {what}: {reason}");
        }
        // The commands too.
        let (url, ca) = (format!("wss://localhost:{}", server.ws), ca.file.display().to_string());
        let load = [
            "load",
            "--url",
            &url,
            "--ca",
            &ca,
            "--pairs",
            "1",
            "--duration",
            "1s",
            "--dev-secret",
            SECRET,
        ];
        let out = run(&load);
        assert!(!out.status.success(), "{what}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(why), "{what}: {out:?}");
    }
    let (url, ca) = (format!("wss://localhost:{}", house.ws), ours.file.display().to_string());
    let load = [
        "load",
        "--url",
        &url,
        "--ca",
        &ca,
        "--pairs",
        "2",
        "--duration",
        "1s",
        "--warmup",
        "0s",
        "--dev-secret",
        SECRET,
    ];
    let out = run(&load);
    assert!(out.status.success(), "{out:?}");
    for scheme in ["wss", "https", "tls"] {
        let port = if scheme == "tls" { house.tcp } else { house.ws };
        let url = format!("{scheme}://localhost:{port}");
        let token = token("terminal", "customer");
        let out = run(&[
            "chat", "--url", &url, "--ca", &ca, "--token", &token, "--user", "terminal",
        ]);
        assert!(out.status.success(), "{scheme}: {out:?}");
        assert!(
            String::from_utf8_lossy(&out.stderr).contains("connected to"),
            "{scheme}: {out:?}"
        );
    }
    // Who speaks in the clear, or an old protocol, is not answered.
    for port in [house.ws, house.tcp] {
        let mut clear = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        clear
            .write_all(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(100), clear.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(!answer.starts_with(b"HTTP") && !answer.contains(&b'{'), "{answer:?}");
    }
}

/// Who is answered at all is answered in this time.
const ANSWERED: Duration = Duration::from_secs(100);
/// For an answer that must not come one can only wait a while.
const NOT_ANSWERED: Duration = Duration::from_secs(5);

/// Does the worker begin to speak HTTP/2 with whoever shows this?
async fn link_answers(port: u16, ca: &Path, shown: Option<&Signed>, patience: Duration) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(signed) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&signed.cert).unwrap()],
                PrivateKeyDer::from_pem_file(&signed.key).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let Ok(mut stream) = connector.connect(name, socket).await else {
        return false;
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    if stream.write_all(preface).await.is_err() || stream.flush().await.is_err() {
        return false;
    }
    let mut first = [0; 9];
    let read = tokio::time::timeout(patience, stream.read_exact(&mut first)).await;
    // A frame of type SETTINGS, or nothing.
    matches!(read, Ok(Ok(_))) && first[3] == 4
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_speaks_to_nobody_without_a_certificate_of_its_authority() {
    if binary().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let worker = ours.sign(dir.path(), "worker", "localhost", false);
    let port = free_port();
    let mut house = House::dev(
        &[
            ("link.listen", &format!("127.0.0.1:{port}")),
            ("link.tls.cert_file", &worker.cert),
            ("link.tls.key_file", &worker.key),
            ("link.tls.ca_file", &ours.file.display().to_string()),
        ],
        &[],
    );
    house.ready().await;
    let good = ours.sign(dir.path(), "node", "node-1", false);
    let expired = ours.sign(dir.path(), "node-expired", "node-1", true);
    let foreign = theirs.sign(dir.path(), "node-foreign", "node-1", false);
    let answers = async |shown, patience| link_answers(port, &ours.file, shown, patience).await;
    assert!(answers(Some(&good), ANSWERED).await);
    assert!(!answers(None, NOT_ANSWERED).await, "no certificate");
    assert!(!answers(Some(&expired), NOT_ANSWERED).await, "an expired one");
    assert!(!answers(Some(&foreign), NOT_ANSWERED).await, "another authority's");
    assert!(
        !link_answers(port, &theirs.file, Some(&good), NOT_ANSWERED).await,
        "the node does not believe the worker"
    );
    let mut clear = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    clear
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut first = [0; 9];
    let read = tokio::time::timeout(NOT_ANSWERED, clear.read_exact(&mut first)).await;
    assert!(!matches!(read, Ok(Ok(_))) || first[3] != 4, "in the clear: {first:?}");
    assert!(answers(Some(&good), ANSWERED).await, "and it still works");
}

/// All that is in the way of a node that has everything but its links.
const NO_LINKS: &str = "links: looking for the partitions' owners\n";
/// A node looks for the owners for 30 s, and is ready without them then: it is watched for much less.
const WATCHED: Duration = Duration::from_secs(5);
const STARTED: Duration = Duration::from_secs(180);

/// The link's keys for who shows this and believes that authority.
fn link_tls(ca: &Authority, shown: &Signed) -> Vec<(&'static str, String)> {
    vec![
        ("link.tls.cert_file", shown.cert.clone()),
        ("link.tls.key_file", shown.key.clone()),
        ("link.tls.ca_file", ca.file.display().to_string()),
    ]
}

/// It comes as far as its links and stays there, and it has dialled in vain.
async fn has_no_links(what: &str, node: &House) {
    let began = Instant::now();
    while node.troubles().await.as_deref() != Some(NO_LINKS) {
        assert!(began.elapsed() < STARTED, "{what}: never so far\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let began = Instant::now();
    while began.elapsed() < WATCHED {
        let troubles = node.troubles().await;
        assert_eq!(troubles.as_deref(), Some(NO_LINKS), "{what}\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let failed = node
        .metric("switchboard_link_connects_total", "outcome=\"failed\"")
        .await;
    assert!(failed > 0.0, "{what}: it did not dial\n{}", node.log());
}

/// Needs Kafka and a CQL server, as the tests in `nodes` do.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_not_ready_without_a_certificate_of_the_workers_authority() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let worker = ours.sign(dir.path(), "worker", "localhost", false);
    // Whom it refuses at the handshake, and why, the library says at this level.
    let verbose = [("RUST_LOG", "info,tonic=debug")];
    let Some(lane) = Lane::start("links", &link_tls(&ours, &worker), &verbose).await else {
        return;
    };
    let shows = ours.sign(dir.path(), "node", "node-1", false);
    let expired = ours.sign(dir.path(), "node-expired", "node-1", true);
    let foreign = theirs.sign(dir.path(), "node-foreign", "node-1", false);
    let node = |shown: &Signed, server_name: &str| {
        let mut set = link_tls(&ours, shown);
        set.push(("link.tls.server_name", server_name.to_owned()));
        lane.node(&set)
    };
    let mut good = node(&shows, "localhost");
    let bad = [
        ("another authority's certificate", node(&foreign, "localhost")),
        ("an expired certificate", node(&expired, "localhost")),
        ("a worker of another name", node(&shows, "elsewhere.example")),
        // It dials 127.0.0.1, which the worker's certificate does not name.
        ("a worker of another name than dialled", node(&shows, "")),
    ];
    let refused = join_all(bad.iter().map(|(what, node)| has_no_links(what, node)));
    tokio::join!(good.ready(), refused);
    // Each says so; whose certificate is wrong is known to who looks at it.
    for (what, node) in &bad {
        let log = node.log();
        assert!(log.contains("a worker cannot be reached"), "{what}\n{log}");
        let names = !what.starts_with("a worker of another name") || log.contains("not valid for name");
        assert!(names, "{what}\n{log}");
    }
    // The worker is there for who may speak to it: a place comes over the link alone.
    let mut alice = Person::connect(&good, Transport::WebSocket, "customer", "alice", Hello::default());
    alice.begun().await;
    alice.say(None, "over the link").await;
    let log = lane.worker.log();
    for why in ["UnknownIssuer", "certificate expired"] {
        let line = format!("invalid peer certificate: {why}");
        assert!(log.contains(&line), "the worker does not say {line}\n{log}");
    }
}
