//! A token's end on a live connection: expiry and revocation, on every transport, and a new token in time (I18).

use std::time::Duration;

use prost::Message as _;
use serde_json::json;
use wire::limits;
use wire::record::{Control, Revoke, control};

use super::house::House;
use super::way::{Client, Way, get, post};
use crate::common::*;

/// Expired, and within what clocks may differ: it holds for five more seconds.
fn expiring() -> i64 {
    in_s(5) - limits::TOKEN_LEEWAY_S as i64
}

fn token_until(user: &str, exp: i64) -> String {
    sign(json!({"tenant":"demo","sub":user,"role":"customer","iat":in_s(-60),"exp":exp}))
}

#[tokio::test]
async fn a_live_connection_ends_with_its_token_on_every_transport() {
    let house = House::start(config()).await;
    let mut all = Vec::new();
    for way in Way::ALL {
        let exp = expiring();
        let client = Client::open(&house.node, way, &token_until("alice", exp))
            .await
            .unwrap();
        all.push((way, exp, client));
    }
    for (way, exp, client) in &mut all {
        let reason = tokio::time::timeout(PATIENCE, client.closed()).await;
        assert_eq!(reason.as_deref(), Ok("token_expired"), "{way:?}");
        // How soon behind its end is decided in `ingress/core`, where time is a value.
        assert!(in_s(0) >= *exp + limits::TOKEN_LEEWAY_S as i64, "{way:?}: too early");
    }
    // Nothing more is accepted.
    let logged = house.counts().0;
    for (way, _, client) in &mut all {
        client.say(json!({"send":{"id":"late","body":{"text":"x"}}})).await;
        assert!(matches!(way, Way::WebSocket | Way::Tcp) || client.hear().await["refused"] == "token_expired");
    }
    assert_eq!(house.counts().0, logged);
}

#[tokio::test]
async fn a_token_refreshed_in_time_keeps_the_connection_on_every_transport() {
    let house = House::start(config()).await;
    let mut all = Vec::new();
    for way in Way::ALL {
        let mut client = Client::open(&house.node, way, &token_until("alice", expiring()))
            .await
            .unwrap();
        let fresh = token_until("alice", in_s(3600));
        client.say(json!({"refresh":{"token":fresh}})).await;
        client.token = fresh;
        all.push((way, client));
    }
    // Longer than the first tokens hold.
    tokio::time::sleep(Duration::from_millis(7_200)).await;
    for (way, client) in &mut all {
        client
            .say(json!({"send":{"id":format!("{way:?}"),"body":{"text":"x"}}}))
            .await;
        loop {
            let frame = client.hear().await;
            assert!(frame.get("close").is_none(), "{way:?}: {frame}");
            if frame["sent"]["id"] == format!("{way:?}") {
                break;
            }
        }
    }
}

fn revoke(house: &House, user: &str, before_ms: i64) {
    let revoke = Revoke {
        tenant: "demo".into(),
        user: user.into(),
        before_ms,
    };
    let record = Control {
        version: 1,
        about: Some(control::About::Revoke(revoke)),
    };
    let key = format!("revoke/demo/{user}");
    house
        .node
        .control
        .feed([(key.as_bytes(), Some(&record.encode_to_vec()[..]))]);
}

#[tokio::test]
async fn a_revoked_user_is_off_every_transport_and_nobody_else() {
    let house = House::start(config()).await;
    let issued =
        |user: &str, iat: i64| sign(json!({"tenant":"demo","sub":user,"role":"customer","iat":iat,"exp":in_s(3600)}));
    let mut all = Vec::new();
    for way in Way::ALL {
        let client = Client::open(&house.node, way, &issued("alice", in_s(-60)))
            .await
            .unwrap();
        all.push((way, client));
    }
    let mut newer = Client::open(&house.node, Way::WebSocket, &issued("alice", in_s(60)))
        .await
        .unwrap();
    let mut bob = Client::open(&house.node, Way::Stream, &issued("bob", in_s(-60)))
        .await
        .unwrap();
    revoke(&house, "alice", in_s(0) * 1000);
    for (way, client) in &mut all {
        let reason = tokio::time::timeout(PATIENCE, client.closed()).await;
        assert_eq!(reason.as_deref(), Ok("revoked"), "{way:?}");
    }
    // The token is no good for anything any more; one issued later is, and so is everybody else's.
    let old = issued("alice", in_s(-60));
    for way in Way::ALL {
        assert_eq!(
            Client::open(&house.node, way, &old).await.err(),
            Some("revoked".into()),
            "{way:?}"
        );
    }
    let base = house.node.http();
    assert_eq!(get(&base, "/v1/conversations/alice/events", &old).await.0, 401);
    let send = json!({"id":"1","body":{"text":"x"}});
    assert_eq!(post(&base, "/v1/conversations/alice/messages", &old, send).await.0, 401);
    newer.say(json!({"refresh":{"token":old}})).await;
    for (client, id) in [(&mut newer, "newer"), (&mut bob, "bob")] {
        client.say(json!({"send":{"id":id,"body":{"text":"x"}}})).await;
        loop {
            let frame = client.hear().await;
            assert!(frame.get("close").is_none(), "{id}: {frame}");
            if frame["sent"]["id"] == id {
                break;
            }
        }
    }
    assert_eq!(house.counts().0, 2);
}
