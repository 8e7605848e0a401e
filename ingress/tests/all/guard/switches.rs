//! What operators hold off: exactly what a switch names is answered `degraded`, per lane and tenant, until it ends; all else goes on.

use prost::Message as _;
use serde_json::{Value, json};
use wire::record::{Control, Switch, control};

use super::house::{House, answered_by};
use super::way::{Client, Way};
use crate::common::*;

impl House {
    fn switch(&self, version: u64, (lane, tenant, name): (&str, &str, &str), on: bool, until_ms: i64) {
        let about = control::About::Switch(Switch {
            lane: lane.into(),
            tenant: tenant.into(),
            name: name.into(),
            on,
            until_ms,
            why: "the tests".into(),
        });
        let record = Control {
            version,
            about: Some(about),
        };
        let key = format!("switch/{lane}/{tenant}/{name}");
        let fed = self
            .node
            .control
            .feed([(key.as_bytes(), Some(&record.encode_to_vec()[..]))]);
        assert_eq!(fed.changed, 1);
    }
}

async fn past(client: &mut Client, kind: &str) -> Value {
    loop {
        let frame = client.hear().await;
        if frame.get(kind).is_some() {
            return frame;
        }
    }
}

/// Says a frame with id `x` and one with an answer behind it; what the first was answered with, if anything.
async fn asked(client: &mut Client, frame: Value) -> Option<String> {
    // A send is always answered; of the others nothing may come.
    let wait_ms = if frame.get("send").is_some() { 60_000 } else { 100 };
    client.say(frame).await;
    client.say(json!({"ping":{}})).await;
    let mut code = None;
    loop {
        let frame = client.hear().await;
        if let Some(error) = frame["error"]["code"].as_str() {
            code = Some(error.to_owned());
        } else if frame["sent"]["id"].is_string() {
            code = Some("sent".into());
        } else if frame.get("pong").is_some() {
            // A report may come a moment later than the pong.
            if code.is_none()
                && let Some(late) = client.hear_within(wait_ms).await
            {
                code = late["error"]["code"].as_str().map(str::to_owned);
                if late["sent"]["id"].is_string() {
                    code = Some("sent".into());
                }
            }
            return code;
        }
    }
}

#[tokio::test]
async fn each_switch_degrades_what_it_names_and_nothing_else() {
    let house = House::start(config()).await;
    house.put("demo", "alice", answered_by("bo"));
    let mut alice = Client::open(&house.node, Way::WebSocket, &token("alice", "customer"))
        .await
        .unwrap();
    let mut fresh = Client::open(&house.node, Way::WebSocket, &token("fresh", "customer"))
        .await
        .unwrap();
    let mut bo = Client::open(&house.node, Way::WebSocket, &token("bo", "agent"))
        .await
        .unwrap();
    for client in [&mut alice, &mut fresh, &mut bo] {
        past(client, "conversation").await;
    }
    let send = json!({"send":{"id":"x","body":{"text":"hello"}}});
    let reply = json!({"send":{"id":"x","conversation":"alice","body":{"text":"hello"}}});
    let request = json!({"act":{"id":"x","request":{}}});
    let typing = json!({"typing":{}});
    let status = json!({"status":{"state":"busy","id":"x"}});
    let degraded = Some("degraded".to_owned());
    let sent = Some("sent".to_owned());
    // (the switch, [typing, status, a message and a request with an open session, and without one])
    let off = |name: &str| match name {
        "typing" => [true, false, false, false, false, false],
        "presence" => [false, true, false, false, false, false],
        "new_sessions" => [false, false, false, false, true, true],
        _ => [false; 6],
    };
    let names = [
        "typing",
        "presence",
        "receipts",
        "history_search",
        "webhooks",
        "attachments",
        "new_sessions",
        "",
    ];
    for (version, name) in (1u64..).zip(names) {
        if !name.is_empty() {
            house.switch(2 * version, ("", "", name), false, 0);
        }
        let want = off(name);
        let pick = |i: usize, normal: &Option<String>| if want[i] { degraded.clone() } else { normal.clone() };
        assert_eq!(
            asked(&mut alice, typing.clone()).await,
            pick(0, &None),
            "{name}: typing"
        );
        assert_eq!(asked(&mut bo, status.clone()).await, pick(1, &None), "{name}: status");
        assert_eq!(asked(&mut alice, send.clone()).await, pick(2, &sent), "{name}: message");
        assert_eq!(
            asked(&mut alice, request.clone()).await,
            pick(3, &None),
            "{name}: request"
        );
        assert_eq!(
            asked(&mut fresh, send.clone()).await,
            pick(4, &sent),
            "{name}: a first message"
        );
        assert_eq!(
            asked(&mut fresh, request.clone()).await,
            pick(5, &None),
            "{name}: a first request"
        );
        assert_eq!(asked(&mut bo, reply.clone()).await, sent, "{name}: the agent's reply");
        if !name.is_empty() {
            house.switch(2 * version + 1, ("", "", name), true, 0);
        }
    }
}

#[tokio::test]
async fn a_switch_is_for_its_lane_and_tenant_and_ends_when_it_says() {
    let house = House::start(config()).await;
    let mut alice = Client::open(&house.node, Way::Stream, &token("alice", "customer"))
        .await
        .unwrap();
    past(&mut alice, "conversation").await;
    let typing = json!({"typing":{}});
    let degraded = Some("degraded".to_owned());
    house.switch(1, ("elsewhere", "", "typing"), false, 0);
    house.switch(2, ("", "other", "typing"), false, 0);
    assert_eq!(
        asked(&mut alice, typing.clone()).await,
        None,
        "neither this lane's nor this tenant's"
    );
    house.switch(3, ("standard", "demo", "typing"), false, in_s(3600) * 1000);
    alice.say(typing.clone()).await;
    let answer = past(&mut alice, "error").await;
    assert_eq!(answer["error"]["code"], "degraded");
    let retry_ms = answer["error"]["retry_after_ms"].as_u64().unwrap();
    assert!((3_590_000..=3_600_000).contains(&retry_ms), "{retry_ms}");
    assert_eq!(house.counts().2, 1, "only the first typing went on");
    house.switch(4, ("standard", "demo", "typing"), false, in_s(-1) * 1000);
    assert_eq!(asked(&mut alice, typing.clone()).await, None, "it has ended");
    house.switch(5, ("standard", "", "typing"), false, 0);
    assert_eq!(asked(&mut alice, typing.clone()).await, degraded, "its lane's");
    house.switch(6, ("standard", "demo", "typing"), true, 0);
    assert_eq!(asked(&mut alice, typing).await, None, "the narrower one counts");
}

#[tokio::test]
async fn receipts_held_off_are_not_written_and_other_frames_are() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut alice = node.connect("alice", "customer").await;
    let register = worker.attach("alice", 0, wire::link::Access::Full).await;
    alice.recv().await;
    let frame = |text: Value| {
        wire::link::from_worker::Item::Frame(wire::link::Frame {
            partition: register.partition,
            generation: register.generation,
            connections: vec![register.connection],
            frame: text.to_string().into(),
        })
    };
    let receipt = json!({"receipt":{"conversation":"alice","side":"agent","recv":1,"read":1}});
    let queue = json!({"queue":{"conversation":"alice","position":1}});
    worker.send(frame(receipt.clone())).await;
    assert_eq!(alice.recv().await, receipt);
    let house = House {
        node,
        sessions: Default::default(),
        linked: Default::default(),
        registered: Default::default(),
    };
    house.switch(1, ("", "demo", "receipts"), false, 0);
    worker.send(frame(receipt.clone())).await;
    worker.send(frame(queue.clone())).await;
    assert_eq!(alice.recv().await, queue);
    house.switch(2, ("", "demo", "receipts"), true, 0);
    worker.send(frame(receipt.clone())).await;
    assert_eq!(alice.recv().await, receipt);
}
