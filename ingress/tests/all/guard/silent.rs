//! An owner that does not answer: who may speak is read from the conversation's row, and only if the store is away too a send is
//! `unavailable`.

use serde_json::json;

use super::house::{answered_by, state_cell};
use super::way::{Client, Way, get};
use crate::common::*;

#[tokio::test]
async fn where_the_owner_is_silent_the_row_says_who_may_speak() {
    let mut config = config();
    let demo = wire::Tenant::new("demo").unwrap();
    config.tenants.get_mut(&demo).unwrap().agents_read = process::config::AgentsRead::Own;
    // No worker ever comes.
    let node = start_with(config, |_| {}).await;
    let cell = state_cell(&answered_by("bo"));
    node.history.cells.lock().insert("demo/alice".into(), cell);
    node.history
        .cells
        .lock()
        .insert("demo/broken".into(), bytes::Bytes::from_static(b"\xff"));
    for way in Way::ALL {
        let mut bo = Client::open(&node, way, &token("bo", "agent")).await.unwrap();
        for (conversation, want) in [("alice", "sent"), ("nobody", "not_assigned"), ("broken", "unavailable")] {
            let before = node.log.messages().len();
            bo.say(json!({"send":{"id":"x","conversation":conversation,"body":{"text":"hello"}}}))
                .await;
            let answer = bo.hear().await;
            let got = answer["error"]["code"].as_str().unwrap_or("sent");
            assert_eq!(got, want, "{way:?}: {conversation}: {answer}");
            assert_eq!(node.log.messages().len() - before, usize::from(want == "sent"));
        }
        *node.history.away.lock() = true;
        bo.say(json!({"send":{"id":"x","conversation":"alice","body":{"text":"hello"}}}))
            .await;
        let answer = bo.hear().await;
        assert_eq!(answer["error"]["code"], "unavailable", "{way:?}: {answer}");
        assert!(answer["error"]["retry_after_ms"].is_u64());
        *node.history.away.lock() = false;
    }
    // Reading, where it goes by who answers.
    let base = node.http();
    for (user, status) in [("bo", 200), ("zed", 403)] {
        let path = "/v1/conversations/alice/events";
        assert_eq!(get(&base, path, &token(user, "agent")).await.0, status, "{user}");
    }
}
