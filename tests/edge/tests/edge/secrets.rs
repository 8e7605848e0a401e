//! At the most verbose level, after all that can go right and wrong with tokens, the log holds no token, no secret and no word of
//! what was said; and no name writes a line of its own.

use std::time::Duration;

use client::Incoming;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::house::{House, SECRET, binary, now_s, sign, token, token_until};
use crate::person::{Hello, Person, WAYS, pair};

const SAID: &str = "what-was-said-7319";

#[tokio::test]
async fn the_log_holds_no_token_no_secret_and_no_word_said() {
    if binary().is_none() {
        return;
    }
    for format in ["text", "json"] {
        let everything = [("RUST_LOG", "trace")];
        let mut house = House::dev(&[("logging.format", format)], &everything);
        house.ready().await;
        let mut tokens = vec![
            token("eve", "operator"),
            token_until("eve", "customer", now_s() - 3600),
            format!("{}x", token("eve", "customer")),
            sign(json!({"tenant":"gone","sub":"eve","role":"customer","exp":now_s() + 60})),
            "not-a-token-4711".to_owned(),
        ];
        for way in WAYS {
            let (mut alice, mut bo) = pair(&house, way, None, &format!("{way:?}")).await;
            alice.say(None, SAID).await;
            bo.hears(SAID).await;
            let fresh = token(&format!("customer-{way:?}"), "customer");
            alice.handle.refresh(fresh.clone()).await.unwrap();
            alice.say(None, SAID).await;
            alice.handle.refresh(tokens[2].clone()).await.unwrap();
            // Over a socket it is refused and the old one counts on; over HTTP it is what the next POST shows.
            let refused = |i: &Incoming| matches!(i, Incoming::Error { .. } | Incoming::Disconnected { .. });
            alice.until("a refusal", refused).await;
            tokens.push(fresh);
            for bad in tokens.iter().take(5) {
                let hello = Hello {
                    token: Some(bad.clone()),
                    ..Hello::default()
                };
                let mut eve = Person::connect(&house, way, "customer", "eve", hello);
                eve.until("a refusal", |i| matches!(i, Incoming::Disconnected { .. }))
                    .await;
            }
        }
        let base = format!("http://127.0.0.1:{}", house.ws);
        let http = reqwest::Client::new();
        for token in &tokens {
            for path in [
                "/v1/conversations/eve/events",
                "/v1/conversations/eve/messages",
                "/v1/frames",
                "/v1/poll",
            ] {
                let body = json!({"id":"1","body":{"text":SAID},"frames":[{"send":{"id":"2","body":{"text":SAID}}}]});
                let request = http.post(format!("{base}{path}?token={token}")).bearer_auth(token);
                request.body(body.to_string()).send().await.unwrap();
                http.get(format!("{base}{path}"))
                    .bearer_auth(token)
                    .send()
                    .await
                    .unwrap();
            }
        }
        // Rubbish right behind a token.
        let mut socket = TcpStream::connect(("127.0.0.1", house.tcp)).await.unwrap();
        let connect = format!("{{\"connect\":{{\"token\":\"{}\"}},}}", tokens[0]);
        socket.write_u32(connect.len() as u32).await.unwrap();
        socket.write_all(connect.as_bytes()).await.unwrap();
        socket.write_u32(u32::MAX).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut Vec::new())).await;
        let log = house.log();
        assert!(
            log.len() > 10_000,
            "the level is not the most verbose one: {} bytes",
            log.len()
        );
        for token in &tokens {
            let (head, signature) = token.rsplit_once('.').unwrap_or(("", token.as_str()));
            for part in [
                token.as_str(),
                signature,
                head.rsplit_once('.').map_or(signature, |(_, claims)| claims),
            ] {
                assert!(
                    !log.contains(part),
                    "{format}: a part of a token: {}",
                    line_with(&log, part)
                );
            }
        }
        for secret in [SECRET, SAID] {
            assert!(!log.contains(secret), "{format}: {}", line_with(&log, secret));
        }
        // Nor as bytes: libraries like to show frames so.
        for secret in tokens.iter().map(String::as_str).chain([SECRET, SAID]) {
            for shown in as_bytes(secret) {
                assert!(!log.contains(&shown), "{format}: {}", line_with(&log, &shown));
            }
        }
    }
}

/// The ways bytes are printed.
fn as_bytes(text: &str) -> [String; 3] {
    let joined = |each: fn(u8) -> String, by: &str| text.bytes().map(each).collect::<Vec<_>>().join(by);
    [
        joined(|b| format!("{b:02x}"), ""),
        joined(|b| format!("{b:02X}"), ""),
        joined(|b| b.to_string(), ", "),
    ]
}

fn line_with<'a>(log: &'a str, part: &str) -> &'a str {
    log.lines().find(|line| line.contains(part)).unwrap_or_default()
}

#[tokio::test]
async fn no_stranger_writes_a_line_of_the_log() {
    if binary().is_none() {
        return;
    }
    let mut house = House::dev(&[], &[("RUST_LOG", "trace")]);
    house.ready().await;
    let forged = "2026-01-01T00:00:00Z ERROR forged";
    let names = [
        format!("a\n{forged}"),
        format!("a\r{forged}"),
        "a\u{1b}[31mred".to_owned(),
        "a\u{9b}31mred".to_owned(),
    ];
    let http = reqwest::Client::new();
    let base = format!("http://127.0.0.1:{}", house.ws);
    for name in &names {
        let token = sign(json!({"tenant":"demo","sub":name,"role":"customer","exp":now_s() + 60}));
        let good = token_until("alice", "customer", now_s() + 60);
        let connects = [
            json!({"connect":{"token":token,"device":name}}),
            json!({"connect":{"token":name}}),
            json!({"connect":{"token":good,"device":name}}),
            json!({"connect":{"token":good,"since":{name:1}}}),
            json!({name:{}}),
        ];
        for connect in &connects {
            let text = connect.to_string();
            let mut socket = TcpStream::connect(("127.0.0.1", house.tcp)).await.unwrap();
            socket.write_u32(text.len() as u32).await.unwrap();
            socket.write_all(text.as_bytes()).await.unwrap();
            let send = json!({"send":{"id":name,"conversation":name,"body":{"text":name}}}).to_string();
            socket.write_u32(send.len() as u32).await.unwrap();
            socket.write_all(send.as_bytes()).await.unwrap();
            let _ = tokio::time::timeout(Duration::from_millis(200), socket.read_u32()).await;
            let posted = http.post(format!("{base}/v1/stream")).body(text).send().await;
            drop(posted);
        }
        let escaped: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
        let page = http
            .get(format!("{base}/v1/conversations/{escaped}/events"))
            .bearer_auth(&good)
            .send()
            .await
            .unwrap();
        assert!(page.status().is_client_error());
    }
    let log = house.log();
    assert!(
        !log.lines().any(|line| line.starts_with(forged)),
        "{}",
        line_with(&log, forged)
    );
    assert!(!log.contains('\r'));
    // Our own colours are not these.
    for colour in ["\u{1b}[31mred", "\u{9b}31mred"] {
        assert!(!log.contains(colour), "{:?}", line_with(&log, colour));
    }
}
