//! TLS with certificates made here: clients over every transport, the terminal client and the generator, and the link's mutual TLS.
//! Each time a good one, an expired one, another authority's, another name's, and none.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use client::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::{Authority, Signed};
use crate::house::{House, SECRET, binary, free_port, token};
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
        let _ = tokio::time::timeout(Duration::from_secs(15), clear.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(!answer.starts_with(b"HTTP") && !answer.contains(&b'{'), "{answer:?}");
    }
}

/// Does the worker begin to speak HTTP/2 with whoever shows this?
async fn link_answers(port: u16, ca: &Path, shown: Option<&Signed>) -> bool {
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
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut first)).await;
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
    let answers = async |shown| link_answers(port, &ours.file, shown).await;
    assert!(answers(Some(&good)).await);
    assert!(!answers(None).await, "no certificate");
    assert!(!answers(Some(&expired)).await, "an expired one");
    assert!(!answers(Some(&foreign)).await, "another authority's");
    assert!(
        !link_answers(port, &theirs.file, Some(&good)).await,
        "the node does not believe the worker"
    );
    let mut clear = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    clear
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut first = [0; 9];
    let read = tokio::time::timeout(Duration::from_secs(10), clear.read_exact(&mut first)).await;
    assert!(!matches!(read, Ok(Ok(_))) || first[3] != 4, "in the clear: {first:?}");
    assert!(answers(Some(&good)).await, "and it still works");
}
