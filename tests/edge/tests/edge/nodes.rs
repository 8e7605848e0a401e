//! Two nodes on a real Kafka and a real CQL server: frames of a stream on one, posted to the other; and that naming a session is no
//! proof; and what an operator decides. Needs `SWITCHBOARD_TEST_KAFKA` and `SWITCHBOARD_TEST_CQL` (host:port); without them it says so and tests nothing.

use std::time::{Duration, Instant};

use client::{Incoming, Transport};
use serde_json::{Value, json};
use wire::CloseCode;

use crate::house::{House, SECRET, binary, free_port, token};
use crate::person::{Hello, Person};

fn config(kafka: &str, cql: &str, lane: &str) -> String {
    format!(
        r#"
lane = "{lane}"
dev = true
partitions = 3
replication = 1
[log]
kind = "kafka"
brokers = ["{kafka}"]
[store]
kind = "cql"
nodes = ["{cql}"]
keyspace = "{lane}"
replication = 1
[[tenants.demo.keys]]
kid = "dev"
alg = "HS256"
secret = "{SECRET}"
[[tenants.other.keys]]
kid = "dev"
alg = "HS256"
secret = "{SECRET}"
"#
    )
}

/// Posts one frame; its answers.
async fn post(house: &House, token: &str, session: &str, frame: Value) -> Value {
    let body = json!({"session": session, "frames": [frame]}).to_string();
    let request = reqwest::Client::new().post(format!("http://127.0.0.1:{}/v1/frames", house.ws));
    let response = request.bearer_auth(token).body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

#[tokio::test]
async fn frames_go_up_by_another_node_than_the_stream_comes_down() {
    if binary().is_none() {
        return;
    }
    let (Ok(kafka), Ok(cql)) = (
        std::env::var("SWITCHBOARD_TEST_KAFKA"),
        std::env::var("SWITCHBOARD_TEST_CQL"),
    ) else {
        println!("SKIPPED: SWITCHBOARD_TEST_KAFKA and SWITCHBOARD_TEST_CQL are not set");
        return;
    };
    let lane = format!("edge{}", std::process::id());
    // `dev` makes topics and tables, and stays as the worker; the nodes join its lane.
    let link = format!("127.0.0.1:{}", free_port());
    let mut worker = House::dev(
        &[
            ("lane", &lane),
            ("store.keyspace", &lane),
            ("partitions", "3"),
            ("log.kind", "kafka"),
            ("log.brokers", &format!("[\"{kafka}\"]")),
            ("store.kind", "cql"),
            ("store.nodes", &format!("[\"{cql}\"]")),
            ("link.listen", &link),
        ],
        &[],
    );
    worker.ready().await;
    let config = config(&kafka, &cql, &lane);
    let mut nodes = [
        House::serve("ingress", &config, &[]),
        House::serve("ingress", &config, &[]),
    ];
    for node in &mut nodes {
        node.ready().await;
    }
    let [home, other] = &nodes;
    for way in [Transport::Events, Transport::LongPoll] {
        let (customer, agent) = (format!("alice-{way:?}"), format!("bo-{way:?}"));
        let mut bo = Person::connect(other, Transport::WebSocket, "agent", &agent, Hello::default());
        bo.available().await;
        let mut alice = Person::connect(home, way, "customer", &customer, Hello::default());
        alice.begun().await;
        alice.request(&agent).await;
        alice.active_with(&agent).await;
        bo.active_with(&agent).await;

        // Her message by the other node: `sent` in the answer, its place on her stream, the event at the agent.
        let mine = token(&customer, "customer");
        let send = json!({"send":{"id":"by-the-other","body":{"text":"by the other"}}});
        let answers = post(other, &mine, &alice.session, send).await;
        assert_eq!(answers, json!([{"sent":{"id":"by-the-other"}}]));
        let placed = alice
            .until(
                "its place",
                |i| matches!(i, Incoming::Placed { id, .. } if id == "by-the-other"),
            )
            .await;
        let Incoming::Placed { seq, .. } = placed else {
            unreachable!()
        };
        assert_eq!(bo.hears("by the other").await, seq);
        // The agent's answer, and her ack by the other node: the receipt comes.
        let answered = bo.say(Some(&customer), "heard").await;
        alice.hears("heard").await;
        post(
            other,
            &mine,
            &alice.session,
            json!({"ack":{"recv":answered,"read":answered}}),
        )
        .await;
        bo.until(
            "the receipt",
            |i| matches!(i, Incoming::Receipt { read, .. } if *read >= answered),
        )
        .await;
        // Typing, too.
        post(other, &mine, &alice.session, json!({"typing":{}})).await;
        bo.until("typing", |i| matches!(i, Incoming::Typing { .. })).await;
        // The answer of an act goes to her stream.
        let act = json!({"act":{"id":"asked-again","request":{"agent":agent,"only":true}}});
        post(other, &mine, &alice.session, act).await;
        alice
            .until("done", |i| matches!(i, Incoming::Done { id } if id == "asked-again"))
            .await;

        // Somebody else names her session: nothing of it reaches her, and nothing is acked for her.
        let stranger = token(&format!("mallory-{way:?}"), "customer");
        for frame in [
            json!({"send":{"id":"forged","body":{"text":"forged"}}}),
            json!({"act":{"id":"forged","request":{}}}),
            json!({"act":{"id":"forged","rate":{"stars":5}}}),
            json!({"typing":{"conversation":customer}}),
        ] {
            post(other, &stranger, &alice.session, frame).await;
        }
        let last = bo.say(Some(&customer), "after the stranger").await;
        let mut forged = 0;
        alice
            .until("the agent", |i| {
                forged += u32::from(format!("{i:?}").contains("forged"));
                matches!(i, Incoming::Event(e) if e.seq == last)
            })
            .await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        alice.say(None, "flush").await;
        assert_eq!(forged, 0, "{way:?}");
        assert!(!format!("{:?}", alice.heard).contains("forged"), "{way:?}");
    }
    what_an_operator_decides_counts_on_every_node(&nodes, &kafka).await;
}

/// `switchboard control`, as an operator types it.
fn order(kafka: &str, words: &[&str]) -> String {
    let binary = binary().expect("the binary");
    let brokers = format!("log.brokers=[\"{kafka}\"]");
    let mut command = std::process::Command::new(binary);
    let command = command.arg("control").args(words);
    let done = command
        .args(["--set", "log.kind=kafka", "--set", &brokers])
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{words:?}: {}", said(&done.stderr));
    said(&done.stdout)
}

/// A revoked user's connections end within 5 s on every node and no older token comes in; a newer one does, and after `restore` all do.
async fn what_an_operator_decides_counts_on_every_node(nodes: &[House; 2], kafka: &str) {
    let user = format!("zoe{}", std::process::id());
    let old = token(&user, "customer");
    let with = |token: &str| Hello {
        token: Some(token.to_owned()),
        ..Hello::default()
    };
    let connect =
        |node: &House, token: &str| Person::connect(node, Transport::WebSocket, "customer", &user, with(token));
    let is_out = |i: &Incoming| {
        matches!(i, Incoming::Disconnected { code, retry_in_ms, .. }
            if *code == Some(CloseCode::Revoked.number()) && retry_in_ms.is_none())
    };
    let mut devices = [connect(&nodes[0], &old), connect(&nodes[1], &old)];
    for device in &mut devices {
        device.begun().await;
    }
    // A token says its second only.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let told = order(kafka, &["revoke", "demo", &user]);
    let began = Instant::now();
    assert!(told.contains(&format!("revoked demo {user}")), "{told}");
    for device in &mut devices {
        device.until("its end", is_out).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for node in nodes {
        connect(node, &old).until("a refusal", is_out).await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    connect(&nodes[0], &token(&user, "customer")).begun().await;
    order(kafka, &["restore", "demo", &user]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for node in nodes {
        connect(node, &old).begun().await;
    }
}
