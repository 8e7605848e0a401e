//! Role × verb × conversation, over every transport and every HTTP route, against a table written by hand: nobody gets in where
//! they do not belong. What counts is what reached the log, the desk's log and the link, not only what was answered.

use process::config::AgentsRead;
use serde_json::{Value, json};
use wire::Tenant;

use super::house::{House, answered_by};
use super::way::{Client, Way, get, post};
use crate::common::*;

/// The columns. What a frame of each kind comes to: M in `messages`, D in `desk`, L over the link, `-` forbidden, `n` not
/// assigned, `.` nothing at all.
const VERBS: [&str; 15] = [
    "send", "note", "recall", "typing", "status", "request", "close", "accept", "transfer", "rate", "tag", "join",
    "leave", "watch", "ack",
];

struct Row {
    who: &'static str,
    tenant: &'static str,
    user: &'static str,
    role: &'static str,
    /// The conversation it names.
    at: &'static str,
    want: &'static str,
}

const fn row(
    who: &'static str,
    tenant: &'static str,
    (user, role): (&'static str, &'static str),
    at: &'static str,
    want: &'static str,
) -> Row {
    Row {
        who,
        tenant,
        user,
        role,
        at,
        want,
    }
}

/// `alice` of tenant demo is answered by the agent bo and `carl` by the bot helper; `bob` by somebody else. Columns as in VERBS.
const TABLE: [Row; 13] = [
    row(
        "a customer in its own",
        "demo",
        ("alice", "customer"),
        "alice",
        "M - M L - D D - - D - - - - L",
    ),
    row(
        "a customer in another's",
        "demo",
        ("alice", "customer"),
        "bob",
        "- - - . - - - - - - - - - - .",
    ),
    row(
        "a namesake of another tenant",
        "other",
        ("alice", "customer"),
        "bob",
        "- - - . - - - - - - - - - - .",
    ),
    row(
        "an agent where it answers",
        "demo",
        ("bo", "agent"),
        "alice",
        "M M M L D D D D D - D - D - L",
    ),
    row(
        "an agent where another does",
        "demo",
        ("bo", "agent"),
        "bob",
        "n n n . D D n D n - n - D - .",
    ),
    row(
        "an agent nobody gave anything",
        "demo",
        ("idle", "agent"),
        "alice",
        "n n n . D D n D n - n - D - .",
    ),
    row(
        "an agent of another tenant",
        "other",
        ("bo", "agent"),
        "alice",
        "n n n . D D n D n - n - D - .",
    ),
    row(
        "an agent named as the customer",
        "demo",
        ("alice", "agent"),
        "alice",
        "n n n . D D n D n - n - D - .",
    ),
    row(
        "a bot where it answers",
        "demo",
        ("helper", "bot"),
        "carl",
        "M M M L D D D D D - D - D - L",
    ),
    row(
        "a bot where another does",
        "demo",
        ("helper", "bot"),
        "bob",
        "n n n . D D n D n - n - D - .",
    ),
    row(
        "a supervisor where it answers",
        "demo",
        ("sue", "supervisor"),
        "dora",
        "M M M L D D D D D - D D D D L",
    ),
    row(
        "a supervisor where another does",
        "demo",
        ("sue", "supervisor"),
        "bob",
        "n n n . D D D D D - n D D D .",
    ),
    row(
        "a supervisor of another tenant",
        "other",
        ("sue", "supervisor"),
        "dora",
        "n n n . D D D D D - n D D D .",
    ),
];

fn frame(verb: &str, at: &str) -> Value {
    match verb {
        "send" => json!({"send":{"id":"x","conversation":at,"body":{"text":"hello"}}}),
        "typing" => json!({"typing":{"conversation":at}}),
        "status" => json!({"status":{"id":"x","state":"available"}}),
        "ack" => json!({"ack":{"conversation":at,"recv":1,"read":1}}),
        deed => json!({"act":{"id":"x","conversation":at,deed:{}}}),
    }
}

async fn house() -> House {
    let house = House::start(config()).await;
    for (conversation, agent) in [("alice", "bo"), ("carl", "helper"), ("dora", "sue"), ("bob", "zed")] {
        house.put("demo", conversation, answered_by(agent));
    }
    house
}

fn token_of(row: &Row) -> String {
    sign(json!({"tenant":row.tenant,"sub":row.user,"role":row.role,"exp":in_s(3600)}))
}

/// What a frame came to: what was logged or passed on since, and else the refusal.
async fn came_to(house: &House, client: &mut Client, frame: Value, want: &str) -> &'static str {
    let before = house.counts();
    client.say(frame).await;
    client.say(json!({"ping":{}})).await;
    let mut refused = None;
    loop {
        let frame = client.hear().await;
        match frame["error"]["code"].as_str() {
            Some("forbidden") => refused = Some("-"),
            Some("not_assigned") => refused = Some("n"),
            Some(other) => panic!("{other}: {frame}"),
            None if frame.get("pong").is_some() => break,
            None => {}
        }
    }
    // What goes over the link is counted when the worker has it; for nothing one can only wait a while.
    for _ in 0..if want == "." { 4 } else { 12_000 } {
        if refused.is_some() || house.counts() != before {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let after = house.counts();
    match (after.0 - before.0, after.1 - before.1, after.2 - before.2, refused) {
        (1, 0, 0, None) => "M",
        (0, 1, 0, None) => "D",
        (0, 0, 1, None) => "L",
        (0, 0, 0, None) => ".",
        (0, 0, 0, Some(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_role_does_with_every_verb_what_the_table_says_and_no_more() {
    for way in Way::ALL {
        let house = house().await;
        for row in &TABLE {
            let mut client = Client::open(&house.node, way, &token_of(row)).await.unwrap();
            // Those with a conversation have one event there to ack; staff without one are only registered.
            let begins = row.role == "customer" || row.want.starts_with('M');
            while begins && client.hear().await.get("event").is_none() {}
            let mut got = Vec::new();
            for (verb, want) in VERBS.into_iter().zip(row.want.split(' ')) {
                got.push(came_to(&house, &mut client, frame(verb, row.at), want).await);
            }
            assert_eq!(got.join(" "), row.want, "{way:?}: {}\n{}", row.who, VERBS.join(" "));
        }
        // Whatever another tenant did went to its own desk.
        let keys = house
            .node
            .log
            .records
            .lock()
            .iter()
            .map(|r| r.2.clone().unwrap())
            .collect::<Vec<_>>();
        assert!(keys.iter().any(|k| &k[..] == b"other"));
        assert!(
            house
                .node
                .log
                .messages()
                .iter()
                .all(|(key, _)| key.starts_with("demo/")),
            "nobody of `other` wrote a message"
        );
    }
}

#[tokio::test]
async fn who_may_not_connect_may_not_on_any_transport_nor_by_post() {
    let house = house().await;
    for role in ["tenant_admin", "operator"] {
        let token = token("alice", role);
        for way in Way::ALL {
            assert_eq!(
                Client::open(&house.node, way, &token).await.err(),
                Some("forbidden".into()),
                "{way:?} {role}"
            );
        }
        let base = house.node.http();
        let frames = json!({"frames":[frame("send", "alice"), frame("request", "alice"), frame("status", "alice")]});
        assert_eq!(post(&base, "/v1/frames", &token, frames).await.0, 403, "{role}");
        let send = json!({"id":"1","body":{"text":"x"}});
        assert_eq!(
            post(&base, "/v1/conversations/alice/messages", &token, send).await.0,
            403,
            "{role}"
        );
    }
    assert_eq!(house.counts(), (0, 0, 0));
}

#[tokio::test]
async fn frames_without_a_session_get_no_further_than_with_one() {
    let house = house().await;
    let base = house.node.http();
    for row in &TABLE {
        for (verb, want) in VERBS.iter().zip(row.want.split(' ')) {
            let before = house.counts();
            let frames = json!({"frames":[frame(verb, row.at)]});
            let (status, answers) = post(&base, "/v1/frames", &token_of(row), frames).await;
            assert_eq!(status, 200);
            let after = house.counts();
            // Without a stream there is nothing to type or to ack from.
            let want = if want == "L" { "." } else { want };
            let logged = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
            let came = match (logged, answers[0]["error"]["code"].as_str()) {
                ((1, 0, 0), None) => "M",
                ((0, 1, 0), None) => "D",
                ((0, 0, 0), None) => ".",
                ((0, 0, 0), Some("forbidden")) => "-",
                ((0, 0, 0), Some("not_assigned")) => "n",
                other => panic!("{other:?}"),
            };
            assert_eq!(came, want, "{}: {verb}", row.who);
        }
    }
}

#[tokio::test]
async fn history_and_http_send_follow_the_same_rights() {
    for rule in [AgentsRead::All, AgentsRead::Own] {
        let mut config = config();
        config
            .tenants
            .get_mut(&Tenant::new("demo").unwrap())
            .unwrap()
            .agents_read = rule;
        let house = House::start(config).await;
        for (conversation, agent) in [("alice", "bo"), ("bob", "zed")] {
            house.put("demo", conversation, answered_by(agent));
            house.node.history.put(&format!("demo/{conversation}"), 1, false);
        }
        let base = house.node.http();
        let agents = if rule == AgentsRead::All { 200 } else { 403 };
        // (tenant, user, role, conversation, reading, sending)
        for (tenant, user, role, at, reads, sends) in [
            ("demo", "alice", "customer", "alice", 200, 200),
            ("demo", "alice", "customer", "bob", 403, 403),
            ("demo", "bo", "agent", "alice", 200, 200),
            ("demo", "bo", "agent", "bob", agents, 403),
            ("demo", "alice", "agent", "alice", agents, 403),
            ("demo", "helper", "bot", "alice", agents, 403),
            ("demo", "sue", "supervisor", "bob", 200, 403),
            ("demo", "ada", "tenant_admin", "bob", 200, 403),
            ("demo", "otto", "operator", "bob", 403, 403),
            ("other", "bo", "agent", "alice", 200, 403),
            ("other", "ada", "tenant_admin", "alice", 200, 403),
        ] {
            let token = sign(json!({"tenant":tenant,"sub":user,"role":role,"exp":in_s(3600)}));
            let what = format!("{rule:?}: {role} {user} of {tenant} at {at}");
            let before = house.counts().0;
            let (status, page) = get(&base, &format!("/v1/conversations/{at}/events"), &token).await;
            assert_eq!(status, reads, "{what}");
            let events = page["events"].as_array().map_or(0, Vec::len);
            assert_eq!(events, usize::from(reads == 200 && tenant == "demo"), "{what}: {page}");
            let send = json!({"id":"1","body":{"text":"x"}});
            let (status, _) = post(&base, &format!("/v1/conversations/{at}/messages"), &token, send).await;
            assert_eq!(status, sends, "{what}");
            assert_eq!(house.counts().0 - before, usize::from(sends == 200), "{what}");
        }
        for path in ["/v1/conversations/alice/events", "/v1/openapi.json"] {
            let open = path.ends_with("json");
            let answer = soon(reqwest::get(format!("{base}{path}"))).await.unwrap();
            assert_eq!(
                answer.status().as_u16(),
                if open { 200 } else { 401 },
                "{path} without a token"
            );
        }
    }
}

#[tokio::test]
async fn a_session_is_its_users_own_whoever_knows_its_name() {
    let house = house().await;
    let base = house.node.http();
    for way in Way::ALL {
        let alice = Client::open(&house.node, way, &token("alice", "customer"))
            .await
            .unwrap();
        for stranger in [
            token("bob", "customer"),
            token("alice", "agent"),
            token("alice", "supervisor"),
            sign(json!({"tenant":"other","sub":"alice","role":"customer","exp":in_s(60)})),
        ] {
            let frames = json!({"session":alice.session,"frames":[{"send":{"id":"1","body":{"text":"x"}}}]});
            assert_eq!(post(&base, "/v1/frames", &stranger, frames).await.0, 404, "{way:?}");
            let poll = json!({"session":alice.session});
            assert_eq!(post(&base, "/v1/poll", &stranger, poll).await.0, 404, "{way:?}");
        }
    }
    assert_eq!(house.counts(), (0, 0, 0));
}

#[tokio::test]
async fn a_refresh_keeps_who_one_is_and_nothing_else_is_taken_for_one() {
    let house = house().await;
    for way in Way::ALL {
        let mut bo = Client::open(&house.node, way, &token("bo", "agent")).await.unwrap();
        for other in [
            token("sue", "supervisor"),
            token("bo", "supervisor"),
            token("bob", "customer"),
            sign(json!({"tenant":"other","sub":"bo","role":"agent","exp":in_s(60)})),
            "rubbish".into(),
        ] {
            bo.say(json!({"refresh":{"token":other}})).await;
            loop {
                let answer = bo.hear().await;
                if let Some(code) = answer["error"]["code"].as_str() {
                    assert_eq!(code, "forbidden", "{way:?}");
                    break;
                }
            }
        }
        // It is still the agent it was.
        assert_eq!(
            came_to(&house, &mut bo, frame("watch", "bob"), "-").await,
            "-",
            "{way:?}"
        );
        bo.say(json!({"connect":{"token":token("sue", "supervisor")}})).await;
        loop {
            let answer = bo.hear().await;
            if let Some(code) = answer["error"]["code"].as_str() {
                assert_eq!(code, "bad_frame", "{way:?}: connected twice");
                break;
            }
        }
        assert_eq!(
            came_to(&house, &mut bo, frame("join", "bob"), "-").await,
            "-",
            "{way:?}"
        );
    }
}
