//! A node's WebSocket edge, from a real socket to a log and a worker played by the test.

use std::time::Duration;

use crate::common::*;
use futures::SinkExt;
use futures::StreamExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wire::link::{Access, Close, Frame, Generation, Registered, Reset, from_node, from_worker};
use wire::record::desk_record::Input;
use wire::record::{Audience, Kind, Role};
use wire::{CloseCode, limits};

#[tokio::test]
async fn a_message_goes_from_the_socket_to_the_log_and_a_push_comes_back() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut alice = node.connect("alice", "customer").await;
    let register = worker.attach("alice", 4, Access::Full).await;
    assert!(register.fresh);
    assert_eq!((register.user.as_str(), register.tenant.as_str()), ("alice", "demo"));
    assert_eq!(alice.recv().await["conversation"]["last_seq"], 4);

    alice
        .text(r#"{"send":{"id":"m1","body":{"text": "h\u00e9",  "n":1e400}}}"#)
        .await;
    assert_eq!(alice.recv().await, json!({"sent":{"id":"m1"}}));
    let (key, record) = node.log.messages().remove(0);
    assert_eq!(key, "demo/alice");
    assert_eq!(&record.member[..], br#""message":{"text": "h\u00e9",  "n":1e400}"#);
    assert_eq!((record.kind(), record.audience()), (Kind::Message, Audience::Everyone));
    assert!(record.numbered && record.wants_agent && record.received_at_ms > 0);
    let from = record.from.unwrap();
    assert_eq!(
        (from.role(), from.user.as_str(), record.id.as_str()),
        (Role::Customer, "alice", "m1")
    );
    let origin = record.origin.unwrap();
    assert_eq!(
        (origin.node, origin.connection),
        (node.handle.id().0, register.connection)
    );

    worker.push(&register, "alice", 6).await;
    worker.push(&register, "alice", 5).await;
    worker.push(&register, "alice", 5).await;
    worker.push(&register, "alice", 6).await;
    assert_eq!(alice.recv().await, json!({"event":{"seq":5}}));
    assert_eq!(alice.recv().await, json!({"event":{"seq":6}}));

    alice.send(json!({"ack":{"recv":99,"read":5}})).await;
    match worker.next().await {
        from_node::Item::Acked(acked) => {
            assert_eq!((acked.recv, acked.read, acked.connection), (6, 5, register.connection));
            assert_eq!(acked.generation, register.generation);
        }
        other => panic!("{other:?}"),
    }
    drop(alice);
    assert!(matches!(worker.next().await, from_node::Item::Unregister(u) if u.connection == register.connection));
    until("the connection is forgotten", || node.handle.open_connections() == 0).await;
}

#[tokio::test]
async fn what_a_replaced_owner_still_pushes_is_refused() {
    let mut node = start().await;
    let mut worker = node.worker(7).await;
    let mut alice = node.connect("alice", "customer").await;
    let register = worker.attach("alice", 0, Access::Full).await;
    alice.recv().await;
    let older = Generation {
        group: 6,
        announced: 99,
    };
    worker.push_as(&register, "alice", 1, Some(older)).await;
    let newer = Generation { group: 8, announced: 0 };
    worker.push_as(&register, "alice", 1, Some(newer)).await;
    worker.push(&register, "alice", 2).await;
    worker.push_as(&register, "alice", 2, Some(newer)).await;
    assert_eq!(alice.recv().await["event"]["seq"], 1);
    assert_eq!(alice.recv().await["event"]["seq"], 2);
}

#[tokio::test]
async fn a_new_owner_is_told_where_each_connection_stands() {
    let mut node = start().await;
    let mut first = node.worker(1).await;
    let mut alice = node.connect("alice", "customer").await;
    let register = first.attach("alice", 0, Access::Full).await;
    alice.recv().await;
    first.push(&register, "alice", 1).await;
    first.push(&register, "alice", 2).await;
    alice.recv().await;
    alice.recv().await;
    alice.send(json!({"ack":{"recv":1,"read":0}})).await;
    first.next().await;

    let mut second = node.worker(2).await;
    let again = second.register().await;
    assert!(!again.fresh && again.connection == register.connection && again.rank == register.rank);
    assert_eq!(again.generation.unwrap().group, 2);
    let place = &again.places[0];
    assert_eq!(
        (place.conversation.as_str(), place.written, place.recv, place.attached),
        ("alice", 2, 1, true)
    );
    first.push(&register, "alice", 3).await;
    second.push(&again, "alice", 3).await;
    assert_eq!(alice.recv().await["event"]["seq"], 3);
}

#[tokio::test]
async fn a_lost_link_is_dialled_again_and_everybody_registered() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut alice = node.connect("alice", "customer").await;
    let register = worker.attach("alice", 3, Access::Full).await;
    alice.recv().await;
    drop(worker);
    let mut worker = node.next_link().await;
    let again = worker.register().await;
    assert_eq!((again.connection, again.places[0].written), (register.connection, 3));

    worker.not_owner(&again).await;
    assert_eq!(
        worker.register().await.connection,
        register.connection,
        "asked again after a while"
    );
}

/// A registration waits as a name; it leaves for the worker that owns the partition then.
#[tokio::test]
async fn who_waits_to_ask_again_is_not_registered_with_a_worker_that_owns_nothing_any_more() {
    let mut node = start().await;
    let mut first = node.worker(1).await;
    let _alice = node.connect("alice", "customer").await;
    let register = first.register().await;
    first.not_owner(&register).await;
    let mut second = node.worker(2).await;
    assert_eq!(second.register().await.connection, register.connection);
    assert!(soon_or_none(first.any()).await.is_none(), "asked of the second only");
}

#[tokio::test]
async fn a_node_takes_so_many_handshakes_a_second_and_tells_the_others_to_wait() {
    let mut config = config();
    config.limits.handshakes_per_s = 1;
    let node = start_with(config, |_| {}).await;
    // On a busy machine a second may pass between two of them: many at once do not take as many seconds.
    let mut all = Vec::new();
    for _ in 0..30 {
        let mut bob = node.ws().await;
        bob.send(json!({"connect":{"token":token("bob", "customer")}})).await;
        all.push(bob);
    }
    let (mut taken, mut refused) = (0, 0);
    for bob in &mut all {
        match soon(bob.0.next()).await.unwrap().unwrap() {
            Message::Close(Some(frame)) => {
                assert_eq!(u16::from(frame.code), CloseCode::RateLimited.number());
                refused += 1;
            }
            Message::Text(_) => taken += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(taken >= 1 && refused >= 1, "{taken} taken, {refused} refused");
    drop(all);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    node.connect("bob", "customer").await;
}

#[tokio::test]
async fn an_owner_may_raise_the_rank_close_reset_and_send_loose_frames() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut alice = node.connect("alice", "customer").await;
    let register = worker.register().await;
    worker
        .send(from_worker::Item::Registered(Registered {
            connection: register.connection,
            partition: register.partition,
            generation: register.generation,
            rank: register.rank + 1,
        }))
        .await;
    worker.begin(&register, "alice", 0, Access::Full).await;
    alice.recv().await;
    let reset = Reset {
        partition: register.partition,
        generation: register.generation,
        connection: register.connection,
        conversation: "alice".into(),
        last_seq: 9000,
    };
    worker.send(from_worker::Item::Reset(reset)).await;
    assert_eq!(
        alice.recv().await,
        json!({"reset":{"conversation":"alice","last_seq":9000}})
    );
    let frame = Frame {
        partition: register.partition,
        generation: register.generation,
        connections: vec![register.connection],
        frame: r#"{"done":{"id":"a1"}}"#.into(),
    };
    worker.send(from_worker::Item::Frame(frame)).await;
    assert_eq!(alice.recv().await, json!({"done":{"id":"a1"}}));
    drop(worker);
    let mut worker = node.next_link().await;
    assert_eq!(worker.register().await.rank, register.rank + 1);
    let close = Close {
        connection: register.connection,
        code: CloseCode::Replaced.number().into(),
    };
    worker.send(from_worker::Item::Close(close)).await;
    assert_eq!(alice.closed().await, 3501);
}

#[tokio::test]
async fn bad_frames_are_answered_and_the_tenth_closes() {
    let node = start().await;
    let mut alice = node.connect("alice", "customer").await;
    for bad in [
        "",
        "{",
        "[]",
        r#"{"nope":{}}"#,
        r#"{"ping":{},"ping":{}}"#,
        r#"{"send":{"id":"1","id":"2","body":{"text":""}}}"#,
    ] {
        alice.text(bad).await;
        assert_eq!(alice.recv().await["error"]["code"], "bad_frame", "{bad}");
    }
    alice.text(&"[".repeat(10_000)).await;
    assert_eq!(alice.recv().await["error"]["code"], "bad_frame");
    alice.send(json!({"connect":{"token":token("bob", "customer")}})).await;
    assert_eq!(alice.recv().await["error"]["code"], "bad_frame");
    alice.0.send(Message::binary(&b"{\"ping\":{}}"[..])).await.unwrap();
    assert_eq!(alice.recv().await["error"]["code"], "bad_frame");
    alice.send(json!({"ping":{}})).await;
    assert_eq!(alice.recv().await, json!({"pong":{}}));
    alice.text("tenth").await;
    assert_eq!(alice.closed().await, 3503);
    assert!(node.log.messages().is_empty());
}

#[tokio::test]
async fn a_frame_too_large_closes_and_a_body_too_large_is_refused() {
    let node = start().await;
    let mut alice = node.connect("alice", "customer").await;
    let fits = format!(
        r#"{{"send":{{"id":"1","body":{{"text":"{}"}}}}}}"#,
        "x".repeat(limits::BODY_BYTES_MAX - 11)
    );
    alice.text(&fits).await;
    assert_eq!(alice.recv().await["sent"]["id"], "1");
    alice.text(&fits.replace("xx\"", "xxx\"")).await;
    assert_eq!(alice.recv().await["error"]["code"], "too_large");
    alice.text(&"x".repeat(limits::FRAME_BYTES_MAX + 1)).await;
    assert_eq!(alice.closed().await, 3505);
}

#[tokio::test]
async fn whoever_does_not_say_connect_in_time_is_closed() {
    let node = start_with(config(), |options| options.connect_timeout_ms = 300).await;
    // Time enough for who says something.
    let patient = start_with(config(), |options| options.connect_timeout_ms = 3_000).await;
    let mut silent = node.ws().await;
    assert_eq!(silent.closed().await, 3504);
    let mut chatty = patient.ws().await;
    chatty.text("hello?").await;
    assert_eq!(chatty.recv().await["error"]["code"], "bad_frame");
    assert_eq!(chatty.closed().await, 3504);
    let mut early = patient.ws().await;
    early.send(json!({"send":{"id":"1","body":{"text":"let me in"}}})).await;
    assert_eq!(early.closed().await, 3503, "at once");

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = node.handle.addresses.ws_http.unwrap();
    let mut mute = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /v1/connect HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    soon(mute.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    let _ = soon(slow.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_bad_token_closes_with_its_code_and_leaves_nothing_in_the_log() {
    let node = start().await;
    let claims = |exp: i64| json!({"tenant":"demo","sub":"alice","role":"customer","exp":exp});
    for (token, code) in [
        ("no token".to_owned(), 3500),
        (sign(claims(in_s(-60))), 3005),
        (
            sign(json!({"tenant":"gone","sub":"alice","role":"customer","exp":in_s(60)})),
            3500,
        ),
        (token("root", "operator"), 3506),
        (token("root", "system"), 3500),
    ] {
        let mut ws = node.ws().await;
        ws.send(json!({"connect":{"token":token}})).await;
        ws.text(r#"{"send":{"id":"1","body":{"text":"x"}}}"#).await;
        assert_eq!(ws.closed().await, code);
    }
    assert!(node.log.records.lock().is_empty());
}

#[tokio::test]
async fn only_listed_origins_may_connect() {
    let node = start().await;
    let url = format!("ws://{}/v1/connect", node.handle.addresses.ws_http.unwrap());
    for bad in [
        "null",
        "https://shop.example.evil.com",
        "http://shop.example",
        "https://SHOP.example",
    ] {
        let mut request = url.as_str().into_client_request().unwrap();
        request.headers_mut().insert("origin", bad.parse().unwrap());
        match tokio_tungstenite::connect_async(request).await.unwrap_err() {
            tokio_tungstenite::tungstenite::Error::Http(response) => assert_eq!(response.status(), 403),
            other => panic!("{other}"),
        }
    }
    for (tenant, code) in [("demo", None), ("other", Some(3506))] {
        let mut request = url.as_str().into_client_request().unwrap();
        request
            .headers_mut()
            .insert("origin", "https://shop.example".parse().unwrap());
        let mut ws = Ws(tokio_tungstenite::connect_async(request).await.unwrap().0);
        let token = sign(json!({"tenant":tenant,"sub":"a","role":"customer","exp":in_s(60)}));
        ws.send(json!({"connect":{"token":token}})).await;
        match code {
            None => assert_eq!(ws.recv().await["connected"]["user"], "a"),
            Some(code) => assert_eq!(ws.closed().await, code, "the page is not that tenant's"),
        }
    }
}

#[tokio::test]
async fn a_log_that_is_away_is_told_apart_from_one_that_does_not_answer() {
    let node = start().await;
    let mut alice = node.connect("alice", "customer").await;
    for (mood, code) in [(Mood::Refuses, "unavailable"), (Mood::DoesNotSay, "unknown")] {
        *node.log.mood.lock() = mood;
        alice.send(json!({"send":{"id":"m","body":{"text":"x"}}})).await;
        let error = alice.recv().await;
        assert_eq!(
            (error["error"]["code"].as_str(), error["error"]["id"].as_str()),
            (Some(code), Some("m"))
        );
    }
    *node.log.mood.lock() = Mood::Takes;
    alice.send(json!({"send":{"id":"m","body":{"text":"x"}}})).await;
    assert_eq!(alice.recv().await["sent"]["id"], "m");
}

#[tokio::test]
async fn an_agent_is_registered_everywhere_and_the_owner_says_where_it_may_speak() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut bo = node.connect("bo", "agent").await;
    let mut partitions = vec![];
    for _ in 0..PARTITIONS {
        partitions.push(worker.register().await.partition);
    }
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1, 2]);
    assert!(matches!(&node.log.desk()[..], [Input::Presence(p), ..] if p.connected && p.agent == "bo"));

    let send = json!({"send":{"id":"m","conversation":"alice","body":{"text":"x"}}});
    for (agent, code) in [("bo", None), ("ann", Some("not_assigned"))] {
        bo.send(send.clone()).await;
        let from_node::Item::Ask(ask) = worker.next().await else {
            panic!()
        };
        assert_eq!((ask.tenant.as_str(), ask.conversation.as_str()), ("demo", "alice"));
        worker.send(answer(ask.ask, agent)).await;
        let reply = bo.recv().await;
        match code {
            None => assert_eq!(reply["sent"]["id"], "m"),
            Some(code) => assert_eq!(reply["error"]["code"], code),
        }
    }
    bo.send(send).await;
    bo.send(json!({"ping":{}})).await;
    assert_eq!(
        bo.recv().await["error"]["code"],
        "not_assigned",
        "nobody answered for a second, and the conversation's row knows nothing of this agent"
    );
    assert_eq!(bo.recv().await, json!({"pong":{}}), "what came behind it was not lost");
    assert_eq!(node.log.messages().len(), 1);
}

#[tokio::test]
async fn acts_go_to_the_desk_notes_to_the_conversation_and_presence_ends_with_the_connection() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut bo = node.connect("bo", "agent").await;
    let mut here = None;
    let key = wire::ConversationKey::new(wire::Tenant::new("demo").unwrap(), wire::User::new("alice").unwrap());
    let partition = wire::topics::partition_of(&key.to_key(), PARTITIONS);
    for _ in 0..PARTITIONS {
        let register = worker.register().await;
        here = if register.partition == partition.0 {
            Some(register)
        } else {
            here
        };
    }
    let register = here.unwrap();
    worker.begin(&register, "alice", 6, Access::Full).await;
    bo.recv().await;
    worker.push(&register, "alice", 7).await;
    bo.recv().await;

    bo.send(json!({"status":{"state":"available","capacity":3}})).await;
    bo.send(json!({"act":{"id":"a","conversation":"alice","close":{}}}))
        .await;
    bo.send(json!({"act":{"id":"n","conversation":"alice","note":{"text":"psst"}}}))
        .await;
    assert_eq!(bo.recv().await["sent"]["id"], "n");
    let (_, note) = node.log.messages().remove(0);
    assert_eq!(
        (note.audience(), &note.member[..]),
        (Audience::Staff, &br#""note":{"text":"psst"}"#[..])
    );
    assert!(note.numbered && !note.wants_agent);
    let acts: Vec<_> = node
        .log
        .desk()
        .into_iter()
        .filter_map(|i| if let Input::Act(a) = i { Some(a) } else { None })
        .collect();
    assert_eq!(
        (&acts[0].deed[..], acts[0].customer.as_str()),
        (&br#"{"status":{"state":"available","capacity":3}}"#[..], "")
    );
    assert_eq!(
        (&acts[1].deed[..], acts[1].customer.as_str(), acts[1].seen_seq),
        (&br#"{"close":{}}"#[..], "alice", 7)
    );
    until("alive names the agent", || {
        node.log
            .desk()
            .iter()
            .any(|i| matches!(i, Input::Alive(a) if a.connections.iter().any(|c| c.agent == "bo")))
    })
    .await;
    drop(bo);
    until("presence is withdrawn", || {
        node.log
            .desk()
            .iter()
            .any(|i| matches!(i, Input::Presence(p) if !p.connected && p.agent == "bo"))
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off_and_the_others_go_on() {
    let mut config = config();
    config.limits.outbound_bytes_per_connection_max = 200_000;
    let mut node = start_with(config, |_| {}).await;
    let mut worker = node.worker(1).await;
    let slow = node.connect("slow", "customer").await;
    let register = worker.attach("slow", 0, Access::Full).await;
    let mut quick = node.connect("quick", "customer").await;
    let other = worker.attach("quick", 0, Access::Full).await;
    quick.recv().await;
    let big = format!("{{\"event\":\"{}\"}}", "x".repeat(60_000));
    for seq in 1..=500 {
        let push = wire::link::Push {
            partition: register.partition,
            generation: register.generation,
            connections: vec![register.connection],
            conversation: "slow".into(),
            seq,
            frame: big.clone().into(),
            received_at_ms: 0,
        };
        worker.send(from_worker::Item::Push(push)).await;
        tokio::task::yield_now().await;
    }
    until("the slow one is gone", || node.handle.open_connections() == 1).await;
    worker.push(&other, "quick", 1).await;
    assert_eq!(quick.recv().await["event"]["seq"], 1);
    drop(slow);
}

#[tokio::test]
async fn typing_reaches_the_owner_and_a_users_connections_are_bounded() {
    let mut config = config();
    config.limits.connections_per_user_max = 1;
    let mut node = start_with(config, |_| {}).await;
    let mut worker = node.worker(1).await;
    let mut alice = node.connect("alice", "customer").await;
    worker.attach("alice", 0, Access::Full).await;
    alice.send(json!({"typing":{}})).await;
    assert!(matches!(worker.next().await, from_node::Item::Typing(t) if t.conversation == "alice"));
    let mut second = node.ws().await;
    second
        .send(json!({"connect":{"token":token("alice", "customer")}}))
        .await;
    assert_eq!(second.closed().await, 3013);
}

#[tokio::test]
async fn an_expired_token_closes_a_live_connection_unless_it_was_refreshed() {
    let node = start().await;
    let short = |user: &str| {
        sign(json!({"tenant":"demo","sub":user,"role":"customer","exp":in_s(1) - limits::TOKEN_LEEWAY_S as i64}))
    };
    let mut stays = node.ws().await;
    stays.send(json!({"connect":{"token":short("alice")}})).await;
    stays.recv().await;
    stays.send(json!({"refresh":{"token":token("bob", "customer")}})).await;
    assert_eq!(stays.recv().await["error"]["code"], "forbidden");
    stays
        .send(json!({"refresh":{"token":token("alice", "customer")}}))
        .await;
    let mut goes = node.ws().await;
    goes.send(json!({"connect":{"token":short("carol")}})).await;
    assert_eq!(goes.closed().await, 3005);
    stays.send(json!({"ping":{}})).await;
    assert_eq!(stays.recv().await, json!({"pong":{}}));
}

#[tokio::test]
async fn a_revocation_closes_what_was_issued_before_it() {
    use prost::Message as _;
    let node = start().await;
    let mut alice = node.connect("alice", "customer").await;
    let revoke = wire::record::Control {
        version: 1,
        about: Some(wire::record::control::About::Revoke(wire::record::Revoke {
            tenant: "demo".into(),
            user: "alice".into(),
            before_ms: in_s(1) * 1000,
        })),
    };
    let value = revoke.encode_to_vec();
    node.control.feed([(&b"revoke/demo/alice"[..], Some(&value[..]))]);
    assert_eq!(alice.closed().await, 3502);
    let mut again = node.ws().await;
    again
        .send(json!({"connect":{"token":token("alice", "customer")}}))
        .await;
    assert_eq!(again.closed().await, 3502);
}

#[tokio::test]
async fn a_drain_says_goaway_then_closes_and_leaves_no_task() {
    let mut node = start().await;
    let mut worker = node.worker(1).await;
    let mut alice = node.connect("alice", "customer").await;
    worker.attach("alice", 0, Access::Full).await;
    alice.recv().await;
    node.drain.start("test");
    assert!(alice.recv().await["goaway"]["retry_after_ms"].is_u64());
    assert_eq!(alice.closed().await, 3000);
    assert!(
        tokio::net::TcpStream::connect(node.handle.addresses.ws_http.unwrap())
            .await
            .is_err()
    );
    drop(alice);
    drop(worker);
    let joined = node.tasks.join(PATIENCE).await;
    assert_eq!(joined, process::tasks::Joined::All);
    assert_eq!(node.tasks.failure(), None);
}
