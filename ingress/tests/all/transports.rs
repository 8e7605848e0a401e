//! The other transports: raw TCP, server-sent events, long polling, and frames by POST. One session core, four ways in.

use crate::common::*;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::limits;
use wire::link::{Access, from_node};

struct Tcp(TcpStream);

impl Tcp {
    async fn open(node: &TestNode) -> Self {
        Self(TcpStream::connect(node.handle.addresses.tcp.unwrap()).await.unwrap())
    }

    async fn send(&mut self, frame: Value) {
        let text = frame.to_string();
        self.0.write_all(&(text.len() as u32).to_be_bytes()).await.unwrap();
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn recv(&mut self) -> Value {
        let length = soon(self.0.read_u32()).await.unwrap();
        let mut frame = vec![0; length as usize];
        soon(self.0.read_exact(&mut frame)).await.unwrap();
        serde_json::from_slice(&frame).unwrap()
    }
}

#[tokio::test]
async fn tcp_carries_the_same_frames_in_any_pieces() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut alice = Tcp::open(&node).await;
    alice
        .send(json!({"connect":{"token":token("alice", "customer"),"since":4,"device":"phone"}}))
        .await;
    assert_eq!(alice.recv().await["connected"]["user"], "alice");
    let register = worker.attach("alice", 4, Access::Full).await;
    assert_eq!((register.since[0].seq, register.device.as_str()), (4, "phone"));
    alice.recv().await;

    let text = json!({"send":{"id":"1","body":{"text":"x"}}}).to_string();
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0]);
    for byte in &bytes {
        alice.0.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(alice.recv().await["sent"]["id"], "1");
    let twice = [bytes.clone(), bytes].concat();
    alice.0.write_all(&twice).await.unwrap();
    alice.recv().await;
    assert_eq!(alice.recv().await["sent"]["id"], "1");
    worker.push(&register, "alice", 5).await;
    assert_eq!(alice.recv().await["event"]["seq"], 5);
}

#[tokio::test]
async fn a_tcp_length_beyond_the_limit_closes_before_and_after_the_handshake() {
    let node = start().await;
    for length in [limits::FRAME_BYTES_MAX as u32 + 1, i32::MIN as u32, u32::MAX] {
        let mut stranger = Tcp::open(&node).await;
        stranger.0.write_u32(length).await.unwrap();
        assert_eq!(stranger.recv().await["close"]["code"], 3505);
    }
    let mut alice = Tcp::open(&node).await;
    alice
        .send(json!({"connect":{"token":token("alice", "customer")}}))
        .await;
    alice.recv().await;
    alice.0.write_u32(u32::MAX).await.unwrap();
    assert_eq!(alice.recv().await, json!({"close":{"code":3505,"reason":"too_large"}}));
    let mut rest = vec![];
    soon(alice.0.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_tcp_peer_without_a_good_token_is_told_why() {
    let node = start().await;
    let mut stranger = Tcp::open(&node).await;
    stranger.send(json!({"connect":{"token":"no"}})).await;
    assert_eq!(
        stranger.recv().await,
        json!({"close":{"code":3500,"reason":"bad_token"}})
    );
    let hasty = start_with(config(), |options| options.connect_timeout_ms = 300).await;
    let mut slow = Tcp::open(&hasty).await;
    slow.0.write_all(&[0, 0]).await.unwrap();
    assert_eq!(slow.recv().await["close"]["code"], 3504);
}

/// The frames of a stream's events.
struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    async fn open(node: &TestNode, user: &str) -> Self {
        let connect = json!({"connect":{"token":token(user, "customer")}});
        let response = soon(
            reqwest::Client::new()
                .post(format!("{}/v1/stream", node.http()))
                .body(connect.to_string())
                .send(),
        );
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            buffer: String::new(),
        }
    }

    async fn recv(&mut self) -> Value {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let data: String = event.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
                self.buffer = rest.to_owned();
                if data.is_empty() {
                    continue;
                }
                return serde_json::from_str(&data).unwrap();
            }
            let chunk = soon(self.response.chunk()).await.unwrap().expect("the stream goes on");
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

async fn post(node: &TestNode, path: &str, user: &str, body: Value) -> (u16, Value) {
    let request = reqwest::Client::new()
        .post(format!("{}{path}", node.http()))
        .body(body.to_string());
    let response = soon(request.bearer_auth(token(user, "customer")).send()).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_stream_goes_down_and_its_frames_come_up_by_post() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut alice = Events::open(&node, "alice").await;
    let session = alice.recv().await["connected"]["session"].as_str().unwrap().to_owned();
    let register = worker.attach("alice", 0, Access::Full).await;
    alice.recv().await;
    worker.push(&register, "alice", 1).await;
    assert_eq!(alice.recv().await["event"]["seq"], 1);

    let frames = json!({"session":session,"frames":[
        {"send":{"id":"1","body":{"text":"x"}}}, {"ack":{"recv":9}}, {"nope":{}}, {"ping":{}}, {"typing":{}},
        {"send":{"id":"2","body":{"nope":"x"}}}, {"act":{"id":"a","close":{}}},
    ]});
    let (status, answers) = post(&node, "/v1/frames", "alice", frames).await;
    assert_eq!(status, 200);
    assert_eq!(answers[0], json!({"sent":{"id":"1"}}));
    assert_eq!(answers[1]["error"]["code"], "bad_frame");
    assert_eq!(answers[2], json!({"pong":{}}));
    assert_eq!(
        (answers[3]["error"]["code"].as_str(), answers[3]["error"]["id"].as_str()),
        (Some("invalid_body"), Some("2"))
    );
    assert_eq!(answers.as_array().unwrap().len(), 4);
    assert!(matches!(worker.next().await, from_node::Item::Acked(a) if a.recv == 1 && a.node == 0));
    assert!(matches!(worker.next().await, from_node::Item::Typing(_)));
    assert_eq!(node.log.messages()[0].1.origin.unwrap().connection, register.connection);
    assert_eq!(node.log.desk().len(), 1);

    let (status, problem) = post(&node, "/v1/frames", "bob", json!({"session":session,"frames":[]})).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (404, Some("not_found")),
        "a session is its user's own"
    );
    drop(alice);
    until("the stream's end is the connection's", || {
        node.handle.open_connections() == 0
    })
    .await;
}

#[tokio::test]
async fn frames_may_be_posted_to_another_node_than_the_streams_or_without_one() {
    let home = start().await;
    let mut alice = Events::open(&home, "alice").await;
    let session = alice.recv().await["connected"]["session"].as_str().unwrap().to_owned();
    let name: ingress_core::SessionName = session.parse().unwrap();

    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let frames = json!({"session":session,"frames":[{"send":{"id":"1","body":{"text":"x"}}}, {"ack":{"recv":3,"read":4}}, {"typing":{}}]});
    let (_, answers) = post(&node, "/v1/frames", "alice", frames).await;
    assert_eq!(answers, json!([{"sent":{"id":"1"}}]));
    let origin = node.log.messages()[0].1.origin.unwrap();
    assert_eq!((origin.node, origin.connection), (name.node.0, name.connection.0));
    match worker.next().await {
        from_node::Item::Acked(a) => {
            assert_eq!((a.node, a.connection), (name.node.0, name.connection.0));
            let whose = a.whose.unwrap();
            assert_eq!((whose.tenant.as_str(), whose.user.as_str()), ("demo", "alice"));
            assert_eq!((a.recv, a.read), (4, 4));
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(worker.next().await, from_node::Item::Typing(t) if t.node == name.node.0 && t.whose.as_ref().unwrap().user == "alice")
    );

    let (_, answers) = post(
        &node,
        "/v1/frames",
        "carol",
        json!({"frames":[{"send":{"id":"2","body":{"text":"x"}}}, {"ack":{"recv":3}}]}),
    )
    .await;
    assert_eq!(answers, json!([{"sent":{"id":"2"}}]));
    assert_eq!(node.log.messages()[1].1.origin, None);
}

#[tokio::test]
async fn a_poll_that_has_nothing_to_say_ends_after_its_wait() {
    let node = start().await;
    let connect = json!({"connect":{"token":token("alice", "customer")}});
    let (_, first) = post(&node, "/v1/poll", "alice", connect).await;
    let again = json!({"session":first[0]["connected"]["session"]});
    assert_eq!(post(&node, "/v1/poll", "alice", again).await, (200, json!([])));
}

#[tokio::test]
async fn a_polled_session_answers_arrays_until_it_ends() {
    let mut config = config();
    // So long that none of the polls below ends by itself.
    config.http.poll_wait_ms = 50_000;
    let mut node = start_with(config, |_| {}).await;
    let mut worker = node.worker(1).await;
    let (status, first) = post(
        &node,
        "/v1/poll",
        "alice",
        json!({"connect":{"token":token("alice", "customer")}}),
    )
    .await;
    assert_eq!(status, 200);
    let session = first[0]["connected"]["session"].clone();
    let register = worker.attach("alice", 0, Access::Full).await;
    let again = json!({"session":session});
    let (_, next) = post(&node, "/v1/poll", "alice", again.clone()).await;
    assert_eq!(next[0]["conversation"]["conversation"], "alice");
    // Of two polls the older is answered when the newer comes; which of them that is, a busy machine decides.
    let (one, other) = (
        post(&node, "/v1/poll", "alice", again.clone()),
        post(&node, "/v1/poll", "alice", again.clone()),
    );
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (older, newer) = futures::future::select(&mut one, &mut other).await.factor_first();
    assert_eq!(older.1, json!([]), "the older of two polls");
    worker.push(&register, "alice", 1).await;
    assert_eq!(newer.await.1[0]["event"]["seq"], 1);
    assert_eq!(post(&node, "/v1/poll", "bob", again.clone()).await.0, 404);
    let close = wire::link::Close {
        connection: register.connection,
        code: 3501,
    };
    worker.send(wire::link::from_worker::Item::Close(close)).await;
    let (_, last) = post(&node, "/v1/poll", "alice", again.clone()).await;
    assert_eq!(last, json!([{"close":{"code":3501,"reason":"replaced"}}]));
    assert_eq!(post(&node, "/v1/poll", "alice", again).await.0, 404);
}

#[tokio::test]
async fn a_stream_that_is_refused_is_a_problem() {
    let node = start().await;
    let post = |body: String| {
        reqwest::Client::new()
            .post(format!("{}/v1/stream", node.http()))
            .body(body)
            .send()
    };
    let response = soon(post(json!({"connect":{"token":"no"}}).to_string())).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(soon(post("{}".into())).await.unwrap().status(), 400);
    let mut alice = Events::open(&node, "alice").await;
    alice.recv().await;
    node.drain.start("test");
    assert!(alice.recv().await["goaway"].is_object());
    assert_eq!(alice.recv().await["close"]["code"], 3000);
    let mut rest = std::pin::pin!(futures::stream::once(alice.response.chunk()));
    assert!(matches!(rest.next().await, Some(Ok(None))));
}

#[tokio::test]
async fn an_address_holds_only_so_many_sockets_and_gets_them_back() {
    let mut config = config();
    config.limits.connections_per_address_max = 1;
    let node = start_with(config, |_| {}).await;
    let alice = node.connect("alice", "customer").await;
    let mut refused = Tcp::open(&node).await;
    assert!(soon(refused.0.read_u32()).await.is_err());
    drop(alice);
    until("the connection is gone", || node.handle.open_connections() == 0).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    node.connect("alice", "customer").await;
}
