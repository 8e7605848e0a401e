//! Two nodes on a real Kafka and a real CQL server: frames of a stream on one, posted to the other; and that naming a
//! session is no proof; and what an operator decides. Needs `SWITCHBOARD_TEST_KAFKA` and `SWITCHBOARD_TEST_CQL`
//! (host:port); without them it says so and tests nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use client::{Incoming, Transport};
use serde_json::{Value, json};
use tokio::process::Command;
use wire::CloseCode;

use crate::house::{House, SECRET, binary, free_port, token};
use crate::person::{Hello, Person};

/// A restored user is let in a moment later; much later is never.
const RESTORED: Duration = Duration::from_secs(120);

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

/// A lane of its own on the real servers. Its worker makes topics and tables; nodes join it.
pub struct Lane {
    pub worker: House,
    kafka: String,
    config: String,
}

impl Lane {
    /// With these further keys of the worker's configuration. `None`: the binary or a server is missing; it has said
    /// so, and nothing is tested.
    pub async fn start(name: &str, more: &[(&str, String)], environment: &[(&str, &str)]) -> Option<Lane> {
        binary()?;
        let (Ok(kafka), Ok(cql)) = (
            std::env::var("SWITCHBOARD_TEST_KAFKA"),
            std::env::var("SWITCHBOARD_TEST_CQL"),
        ) else {
            println!("SKIPPED: SWITCHBOARD_TEST_KAFKA and SWITCHBOARD_TEST_CQL are not set");
            return None;
        };
        // Tests run side by side in one process: each has a name of its own.
        let lane = format!("edge{name}{}", std::process::id());
        let (brokers, nodes) = (format!("[\"{kafka}\"]"), format!("[\"{cql}\"]"));
        let link = format!("127.0.0.1:{}", free_port());
        let mut set = vec![
            ("lane", lane.as_str()),
            ("store.keyspace", lane.as_str()),
            ("partitions", "3"),
            ("log.kind", "kafka"),
            ("log.brokers", brokers.as_str()),
            ("store.kind", "cql"),
            ("store.nodes", nodes.as_str()),
            ("link.listen", link.as_str()),
        ];
        set.extend(more.iter().map(|(key, value)| (*key, value.as_str())));
        let mut worker = House::dev(&set, environment);
        worker.ready().await;
        let config = config(&kafka, &cql, &lane);
        Some(Lane { worker, kafka, config })
    }

    /// A node that has just been started, with these further keys.
    pub fn node(&self, more: &[(&str, String)]) -> House {
        House::serve("ingress", &self.config, more)
    }
}

/// A lane and two nodes of it that are ready.
async fn two_nodes(name: &str) -> Option<(Lane, [House; 2])> {
    let lane = Lane::start(name, &[], &[]).await?;
    let mut nodes = [lane.node(&[]), lane.node(&[])];
    for node in &mut nodes {
        node.ready().await;
    }
    Some((lane, nodes))
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
    // The lane lives as long as its worker.
    let Some((_lane, nodes)) = two_nodes("frames").await else {
        return;
    };
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
}

/// `switchboard control`, as an operator types it.
async fn order(kafka: &str, words: &[&str]) -> String {
    let brokers = format!("log.brokers=[\"{kafka}\"]");
    let done = Command::new(binary().expect("the binary"))
        .arg("control")
        .args(words)
        .args(["--set", "log.kind=kafka", "--set", &brokers])
        .stdin(Stdio::null())
        // Nothing of a test outlives it.
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{words:?}: {}", said(&done.stderr));
    said(&done.stdout)
}

/// A revoked user's connections end in time on every node and no older token comes in; a newer one does, and after
/// `restore` all do.
#[tokio::test]
async fn what_an_operator_decides_counts_on_every_node() {
    let Some((lane, nodes)) = two_nodes("orders").await else {
        return;
    };
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
    // Side by side: the order counts before its process has ended. How soon is decided in the simulation (I17, I18).
    let ending = async {
        for device in &mut devices {
            device.until("its end", is_out).await;
        }
    };
    let revoke = ["revoke", "demo", &user];
    let (told, ()) = tokio::join!(order(&lane.kafka, &revoke), ending);
    assert!(told.contains(&format!("revoked demo {user}")), "{told}");
    for node in &nodes {
        connect(node, &old).until("a refusal", is_out).await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    connect(&nodes[0], &token(&user, "customer")).begun().await;
    order(&lane.kafka, &["restore", "demo", &user]).await;
    for node in &nodes {
        let began = Instant::now();
        loop {
            // Who was refused does not come back by itself.
            let mut zoe = connect(node, &old);
            let answer = zoe.until("an answer", |i| is_out(i) || matches!(i, Incoming::Conversation { .. }));
            if !is_out(&answer.await) {
                break;
            }
            assert!(began.elapsed() < RESTORED, "refused since {:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
