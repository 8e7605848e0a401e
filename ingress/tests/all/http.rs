//! The HTTP API: history, send, problems, and its own description.

use crate::common::*;
use process::config::AgentsRead;
use serde_json::{Value, json};
use wire::link::from_node;

async fn get(node: &TestNode, path: &str, token: Option<String>) -> (u16, String, Value) {
    let mut request = reqwest::Client::new().get(format!("{}{path}", node.http()));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = soon(request.send()).await.unwrap();
    let kind = response
        .headers()
        .get("content-type")
        .map(|v| v.to_str().unwrap().to_owned())
        .unwrap_or_default();
    (
        response.status().as_u16(),
        kind,
        response.json().await.unwrap_or_default(),
    )
}

async fn send(node: &TestNode, conversation: &str, token: String, body: &str) -> (u16, Value) {
    let url = format!("{}/v1/conversations/{conversation}/messages", node.http());
    let response = soon(
        reqwest::Client::new()
            .post(url)
            .bearer_auth(token)
            .body(body.to_owned())
            .send(),
    )
    .await
    .unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

fn seqs(page: &Value) -> Vec<u64> {
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["seq"].as_u64().unwrap())
        .collect()
}

const EVENTS: &str = "/v1/conversations/alice/events";

#[tokio::test]
async fn history_comes_in_rising_pages_and_hides_what_is_for_staff() {
    let node = start().await;
    for seq in 1..=250 {
        node.history.put("demo/alice", seq, seq == 249);
    }
    let alice = || Some(token("alice", "customer"));
    let (status, kind, page) = get(&node, EVENTS, alice()).await;
    assert_eq!(
        (status, kind.as_str(), page["last_seq"].as_u64()),
        (200, "application/json", Some(250))
    );
    assert_eq!(seqs(&page), (151..=250).collect::<Vec<_>>());
    assert_eq!(page["events"][99]["text"], "whatever  250");
    assert_eq!(
        page["events"][98],
        json!({"conversation":"alice","seq":249,"at":7,"hidden":{}})
    );
    let (_, _, page) = get(&node, &format!("{EVENTS}?after=10&limit=3"), alice()).await;
    assert_eq!(seqs(&page), [11, 12, 13]);
    let (_, _, page) = get(&node, &format!("{EVENTS}?before=10&limit=3"), alice()).await;
    assert_eq!(seqs(&page), [7, 8, 9]);
    let (_, _, page) = get(&node, EVENTS, Some(token("bo", "agent"))).await;
    assert_eq!(page["events"][98]["text"], "whatever  249");
}

#[tokio::test]
async fn history_is_refused_to_strangers_and_says_why() {
    let node = start().await;
    node.history.put("demo/alice", 1, false);
    let (status, kind, problem) = get(&node, EVENTS, None).await;
    assert_eq!(
        (status, kind.as_str(), problem["code"].as_str()),
        (401, "application/problem+json", Some("bad_token"))
    );
    for (path, token, status) in [
        (EVENTS, token("bob", "customer"), 403),
        (EVENTS, token("root", "operator"), 403),
        (EVENTS, "nonsense".to_owned(), 401),
        (
            EVENTS,
            sign(json!({"tenant":"demo","sub":"alice","role":"customer","exp":in_s(-60)})),
            401,
        ),
        (
            "/v1/conversations/alice/events?after=1&before=2",
            token("alice", "customer"),
            400,
        ),
        (
            "/v1/conversations/alice/events?after=x",
            token("alice", "customer"),
            400,
        ),
        ("/v1/conversations/a%0Ab/events", token("alice", "customer"), 400),
        ("/v1/nothing", token("alice", "customer"), 404),
        ("/v1/frames", token("alice", "customer"), 405),
        ("/v1/connect", token("alice", "customer"), 400),
    ] {
        let (got, kind, problem) = get(&node, path, Some(token)).await;
        assert_eq!((got, kind.as_str()), (status, "application/problem+json"), "{path}");
        assert_eq!(problem["status"], status, "{path}");
    }
    let other = sign(json!({"tenant":"other","sub":"alice","role":"customer","exp":in_s(60)}));
    let (_, _, page) = get(&node, EVENTS, Some(other)).await;
    assert_eq!(
        page,
        json!({"events":[],"last_seq":0}),
        "another tenant's alice is somebody else"
    );
    *node.history.away.lock() = true;
    let (status, _, problem) = get(&node, EVENTS, Some(token("alice", "customer"))).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("unavailable")));
}

#[tokio::test]
async fn an_agent_reads_what_its_tenant_lets_it_read() {
    let mut config = config();
    let demo = wire::Tenant::new("demo").unwrap();
    config.tenants.get_mut(&demo).unwrap().agents_read = AgentsRead::Own;
    let mut node = start_with(config, |_| {}).await;
    let mut worker = node.worker(1).await;
    for (assigned, status) in [("bo", 200), ("ann", 403)] {
        let (got, ()) = tokio::join!(get(&node, EVENTS, Some(token("bo", "agent"))), async {
            let from_node::Item::Ask(ask) = worker.next().await else {
                panic!()
            };
            worker.send(answer(ask.ask, assigned)).await;
        });
        assert_eq!(got.0, status);
    }
    assert_eq!(get(&node, EVENTS, Some(token("sue", "supervisor"))).await.0, 200);
}

#[tokio::test]
async fn a_message_sent_by_http_is_answered_when_the_log_has_it() {
    let node = start().await;
    let alice = || token("alice", "customer");
    let body = r#"{"id":"1","body":{"text":"a  b"}}"#;
    assert_eq!(
        send(&node, "alice", alice(), body).await,
        (200, json!({"sent":{"id":"1"}}))
    );
    let (key, record) = node.log.messages().remove(0);
    assert_eq!(
        (key.as_str(), &record.member[..]),
        ("demo/alice", &br#""message":{"text":"a  b"}"#[..])
    );
    for (conversation, body, status, code) in [
        ("alice", r#"{"id":"1","body":{"nope":1}}"#, 400, "invalid_body"),
        ("alice", r#"{"id":"","body":{"text":""}}"#, 400, "bad_frame"),
        ("alice", r#"{"body":{"text":""}}"#, 400, "bad_frame"),
        ("alice", "", 400, "bad_frame"),
        ("bob", r#"{"id":"1","body":{"text":""}}"#, 403, "forbidden"),
    ] {
        let (got, problem) = send(&node, conversation, alice(), body).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{body}");
    }
    let long = format!(
        r#"{{"id":"1","body":{{"text":"{}"}}}}"#,
        "x".repeat(wire::limits::BODY_BYTES_MAX)
    );
    assert_eq!(send(&node, "alice", alice(), &long).await.0, 413);
    assert_eq!(send(&node, "alice", alice(), &"x".repeat(1_000_000)).await.0, 413);
    *node.log.mood.lock() = Mood::Refuses;
    assert_eq!(send(&node, "alice", alice(), body).await.0, 503);
    *node.log.mood.lock() = Mood::DoesNotSay;
    assert_eq!(send(&node, "alice", alice(), body).await.0, 504);
    assert_eq!(node.log.messages().len(), 1);
}

#[tokio::test]
async fn an_agent_without_a_connection_sends_where_the_owner_says_it_may() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let body = r#"{"id":"1","body":{"text":"hi"}}"#;
    for (assigned, status) in [("bo", 200), ("ann", 403)] {
        let (got, ()) = tokio::join!(send(&node, "alice", token("bo", "agent"), body), async {
            let from_node::Item::Ask(ask) = worker.next().await else {
                panic!()
            };
            worker.send(answer(ask.ask, assigned)).await;
        });
        assert_eq!(got.0, status);
    }
    assert_eq!(send(&node, "alice", token("root", "tenant_admin"), body).await.0, 403);
}

#[tokio::test]
async fn a_page_of_a_listed_origin_may_use_the_api_and_others_are_not_told_so() {
    let node = start().await;
    for (origin, allowed) in [("https://shop.example", true), ("https://evil.example", false)] {
        let ask = reqwest::Client::new().request(reqwest::Method::OPTIONS, format!("{}{EVENTS}", node.http()));
        let answer = soon(ask.header("origin", origin).send()).await.unwrap();
        assert_eq!(answer.status(), if allowed { 204 } else { 403 });
        let read = reqwest::Client::new()
            .get(format!("{}{EVENTS}", node.http()))
            .header("origin", origin);
        let answer = soon(read.bearer_auth(token("alice", "customer")).send()).await.unwrap();
        assert_eq!(answer.status(), if allowed { 200 } else { 403 });
        let told = answer
            .headers()
            .get("access-control-allow-origin")
            .map(|o| o.to_str().unwrap());
        assert_eq!(told, allowed.then_some(origin));
    }
}

#[tokio::test]
async fn the_api_describes_itself() {
    let node = start().await;
    let (status, _, api) = get(&node, "/v1/openapi.json", None).await;
    assert_eq!(status, 200);
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in [
        "/v1/conversations/{customer}/events",
        "/v1/conversations/{customer}/messages",
        "/v1/frames",
        "/v1/stream",
        "/v1/poll",
    ] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
}

#[tokio::test]
async fn routes_of_the_binary_are_answered_beside_ours() {
    let page = axum::Router::new().route("/", axum::routing::get(|| async { "a page" }));
    let node = start_with(config(), |options| options.extra_routes = Some(page)).await;
    let response = soon(reqwest::get(node.http())).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "a page");
}
