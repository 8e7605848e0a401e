//! The whole client against a small server: over WebSocket and raw TCP, with connections that are cut at the worst moment.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fake::{Fake, token};
use client::{Client, Handle, Incoming, Options, Transport};
use tokio::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(60);

async fn next_of<T>(from: &mut Receiver<Incoming>, mut want: impl FnMut(Incoming) -> Option<T>) -> T {
    let waiting = async {
        loop {
            let incoming = from.recv().await.expect("the client ended");
            if let Some(found) = want(incoming) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time")
}

fn connect(url: &str, role: &str, user: &str) -> (Handle, Receiver<Incoming>) {
    let mut options = Options::new(url, token(role, user));
    options.backoff.base_ms = 20;
    Client::connect(options)
}

async fn up(from: &mut Receiver<Incoming>) {
    next_of(from, |i| matches!(i, Incoming::Connected { .. }).then_some(())).await;
}

async fn paired(url: &str) -> [(Handle, Receiver<Incoming>); 2] {
    let mut agent = connect(url, "agent", "bo");
    up(&mut agent.1).await;
    let mut customer = connect(url, "customer", "alice");
    up(&mut customer.1).await;
    let request = serde_json::value::RawValue::from_string(r#"{"agent":"bo","only":true}"#.into()).unwrap();
    customer.0.act(None, "request", request).await.unwrap();
    next_of(&mut customer.1, |i| matches!(i, Incoming::Done { .. }).then_some(())).await;
    [customer, agent]
}

async fn talk_over(url: String) {
    let [mut customer, mut agent] = paired(&url).await;
    let body =
        serde_json::value::RawValue::from_string(r#"{"text":"h\u00e9","n":1e400,"custom":{ "x" : [1,  2] }}"#.into());
    let body = body.unwrap();
    let id = customer.0.send(None, body.clone()).await.unwrap();
    let event = next_of(&mut agent.1, |i| match i {
        Incoming::Event(e) if e.id.as_deref() == Some(&id) => Some(e),
        _ => None,
    })
    .await;
    assert_eq!(event.body(), Some(body.get()), "byte for byte");
    let told = |i| match i {
        Incoming::Sent { id } => Some(id),
        _ => None,
    };
    assert_eq!(next_of(&mut customer.1, told).await, id);
    let placed = next_of(&mut customer.1, |i| match i {
        Incoming::Placed { id, seq, .. } => Some((id, seq)),
        _ => None,
    });
    assert_eq!(placed.await, (id, event.seq));
    agent.0.read(Some("alice"), event.seq).await.unwrap();
    next_of(&mut customer.1, |i| match i {
        Incoming::Receipt { read, .. } if read == event.seq => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_body_arrives_byte_for_byte_over_websocket() {
    let (_fake, ws, _, _tasks) = Fake::start().await;
    talk_over(format!("ws://{ws}")).await;
}

#[tokio::test]
async fn a_body_arrives_byte_for_byte_over_raw_tcp() {
    let (_fake, _, tcp, _tasks) = Fake::start().await;
    talk_over(format!("tcp://{tcp}")).await;
}

/// Every 7th send is logged and its connection cut before the answer; the other side is cut from time to time, too.
#[tokio::test]
async fn cut_at_the_worst_moment_every_message_arrives_once_and_in_order() {
    let (fake, ws, _, _tasks) = Fake::start().await;
    let [mut customer, mut agent] = paired(&format!("ws://{ws}")).await;
    fake.cut_every.store(7, Ordering::Relaxed);
    let messages = 60;
    let sender = customer.0.clone();
    let mut sending = tokio::task::JoinSet::new();
    sending.spawn(async move {
        for n in 0..messages {
            sender.say(None, &n.to_string()).await.unwrap();
        }
    });
    let mut seen = Vec::new();
    let mut last_seq = None;
    while seen.len() < messages {
        let (seq, text) = next_of(&mut agent.1, |i| match i {
            Incoming::Event(e) => Some((e.seq, e.text())),
            _ => None,
        })
        .await;
        assert!(last_seq.is_none_or(|last| seq == last + 1), "{seq} after {last_seq:?}");
        last_seq = Some(seq);
        seen.extend(text);
        if seen.len() % 20 == 0 {
            agent.0.cut().await.unwrap();
        }
    }
    let expected: Vec<String> = (0..messages).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
    let mut sent = 0;
    while sent < messages {
        next_of(&mut customer.1, |i| matches!(i, Incoming::Sent { .. }).then_some(())).await;
        sent += 1;
    }
    assert_eq!(fake.history("alice").len(), messages + 1, "and the assignment");
    assert!(fake.connects.load(Ordering::Relaxed) > 6, "it was cut many times");
}

#[tokio::test]
async fn a_final_close_ends_the_client_and_a_passing_one_brings_it_back() {
    let (fake, _, tcp, _tasks) = Fake::start().await;
    let mut alice = connect(&format!("tcp://{tcp}"), "customer", "alice");
    up(&mut alice.1).await;
    fake.say("alice", r#"{"close":{"code":3008,"reason":"too_slow"}}"#);
    let retry = next_of(&mut alice.1, |i| match i {
        Incoming::Disconnected { code, retry_in_ms, .. } => Some((code, retry_in_ms.is_some())),
        _ => None,
    });
    assert_eq!(retry.await, (Some(3008), true));
    up(&mut alice.1).await;
    fake.say("alice", r#"{"close":{"code":3501,"reason":"replaced"}}"#);
    let retry = next_of(&mut alice.1, |i| match i {
        Incoming::Disconnected { code, retry_in_ms, .. } => Some((code, retry_in_ms)),
        _ => None,
    });
    assert_eq!(retry.await, (Some(3501), None));
    assert!(alice.1.recv().await.is_none());
}

#[tokio::test]
async fn nobody_at_home_is_told_and_tried_again() {
    let mut options = Options::new("ws://127.0.0.1:9", token("customer", "alice"));
    options.transport = Some(Transport::WebSocket);
    options.backoff.base_ms = 1;
    let (_handle, mut incoming) = Client::connect(options);
    for _ in 0..3 {
        let (reason, retry) = next_of(&mut incoming, |i| match i {
            Incoming::Disconnected {
                reason, retry_in_ms, ..
            } => Some((reason, retry_in_ms)),
            _ => None,
        })
        .await;
        assert!(reason.contains("127.0.0.1:9") && retry.is_some(), "{reason}");
    }
}

/// What the recorder writes about a conversation with a cut: every attempt, every raw event, each event handed over once.
#[tokio::test]
async fn a_history_tells_attempts_and_what_was_seen() {
    use client::history::{Recorder, Who};
    let (fake, ws, _, _tasks) = Fake::start().await;
    let file = std::env::temp_dir().join(format!("switchboard-history-{}.jsonl", std::process::id()));
    let who = Who {
        tenant: "demo".into(),
        user: "alice".into(),
        role: "customer".into(),
    };
    let mut options = Options::new(format!("ws://{ws}"), token("customer", "alice"));
    options.backoff.base_ms = 20;
    options.recorder = Some((Recorder::append("test", &file).unwrap(), who));
    let (alice, mut heard) = Client::connect(options);
    up(&mut heard).await;
    fake.cut_every.store(1, Ordering::Relaxed);
    alice.say(None, "one").await.unwrap();
    next_of(&mut heard, |i| matches!(i, Incoming::Disconnected { .. }).then_some(())).await;
    fake.cut_every.store(0, Ordering::Relaxed);
    next_of(&mut heard, |i| matches!(i, Incoming::Sent { .. }).then_some(())).await;
    alice.say(None, "two").await.unwrap();
    next_of(&mut heard, |i| {
        matches!(i, Incoming::Placed { seq: 2, .. }).then_some(())
    })
    .await;
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let told: Vec<String> = lines
        .iter()
        .map(|l| {
            let detail = l.get("layer").or(l.get("resume")).or(l.get("state")).or(l.get("seq"));
            let detail = detail.map_or(String::new(), |d| format!(" {d}"));
            format!("{} {}{detail}", l["op"].as_str().unwrap(), l["kind"].as_str().unwrap())
        })
        .filter(|l| !l.starts_with("ack"))
        .collect();
    let expected = [
        "connect invoke",
        "connect ok",
        "conversation info \"idle\"",
        "begin info",
        "send invoke",
        "close info",
        "connect invoke",
        "begin info true",
        "connect ok",
        "conversation info \"idle\"",
        "recv info \"raw\"",
        "recv info \"app\"",
        "send invoke",
        "sent ok",
        "placed ok 2",
        "recv info \"raw\"",
        "recv info \"app\"",
    ];
    assert_eq!(told, expected, "{text}");
    let conns: std::collections::BTreeSet<_> = lines.iter().map(|l| l["conn"].as_str().unwrap()).collect();
    assert_eq!(conns.len(), 2);
}
