//! The service on the embedded log: decisions reach the conversations, in order whatever fails, and survive the desk's end.

#![allow(clippy::unwrap_used)]

mod flaky;
mod saved;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use desk::{Options, Service};
use flaky::Flaky;
use ordered_log::embedded::{Embedded, EmbeddedOptions};
use ordered_log::{Log, TopicPartition, TopicSpec, append};
use process::{Drain, Health, Kind, Tasks};
use prost::Message;
use saved::{save, standing};
use tokio::time::{sleep, timeout};
use wire::record::desk_record::Input;
use wire::record::{Act, AgentConnection, Alive, DeskRecord, Origin, Presence, Record, Role, Sender, SessionState};
use wire::{Epoch, Lane, LaneTopics, Offset, Partition, Tenant};

const PARTITIONS: u32 = 3;
/// Longer than anything takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(90);

fn topics() -> LaneTopics {
    LaneTopics {
        lane: Lane::new("core").unwrap(),
        epoch: Epoch(1),
        partitions: PARTITIONS,
    }
}

async fn a_log() -> Arc<Embedded> {
    let log = Embedded::open_temp(EmbeddedOptions::default()).unwrap();
    let spec = |name: String, compacted| TopicSpec {
        name,
        partitions: PARTITIONS,
        compacted,
        retention_ms: None,
        replication: 1,
    };
    let all = [
        spec(topics().messages(), false),
        spec(topics().desk(), false),
        spec(topics().desk_snapshots(), true),
    ];
    log.create_topics(&all).await.unwrap();
    log
}

struct Running(Tasks, Health);

impl Running {
    fn start(log: Arc<dyn Log>) -> Self {
        Self::start_with(log, 100)
    }

    fn start_with(log: Arc<dyn Log>, snapshot_interval_ms: u64) -> Self {
        let tasks = Tasks::new(Drain::new(PATIENCE));
        let health = Health::new();
        let options = Options {
            snapshot_interval_ms,
            tick_interval_ms: 50,
            ..Options::new(topics(), health.clone())
        };
        tasks.spawn(
            Kind::Essential,
            "desk",
            Service::new(options, log).run(tasks.drain().clone()),
        );
        Self(tasks, health)
    }

    async fn stop(self) {
        self.0.drain().start("test");
        assert_eq!(self.0.join(PATIENCE).await, process::tasks::Joined::All);
        assert_eq!(self.0.failure(), None);
    }
}

fn desk_place(tenant: &str) -> TopicPartition {
    let partition = topics().desk_partition_of(&Tenant::new(tenant).unwrap());
    TopicPartition {
        topic: topics().desk().into(),
        partition,
    }
}

async fn put(log: &Embedded, tenant: &str, input: Input) {
    let value = DeskRecord {
        version: 1,
        input: Some(input),
    }
    .encode_to_vec();
    let at = desk_place(tenant);
    let producer = log.producer().await.unwrap();
    let key = Some(Bytes::copy_from_slice(tenant.as_bytes()));
    append(&*producer, at.topic, at.partition, key, Some(value.into()))
        .await
        .unwrap();
}

fn act(role: Role, user: &str, id: &str, customer: &str, deed: &str) -> Input {
    Input::Act(Act {
        from: Some(Sender {
            role: role.into(),
            user: user.into(),
        }),
        id: id.into(),
        origin: Some(Origin { node: 1, connection: 7 }),
        customer: customer.into(),
        deed: deed.to_owned().into(),
        seen_seq: u64::MAX,
        ..Act::default()
    })
}

async fn agent(log: &Embedded, tenant: &str, name: &str, capacity: u32) {
    let presence = Presence {
        node: 1,
        connection: 7,
        agent: name.into(),
        connected: true,
        ..Presence::default()
    };
    put(log, tenant, Input::Presence(presence)).await;
    let status = format!(r#"{{"status":{{"state":"available","capacity":{capacity}}}}}"#);
    put(log, tenant, act(Role::Agent, name, "status", "", &status)).await;
}

/// Everything in `messages`, as (conversation, record), in log order per conversation.
async fn messages(log: &Embedded) -> Vec<(String, Record)> {
    let mut all = Vec::new();
    for p in 0..PARTITIONS {
        let at = TopicPartition {
            topic: topics().messages().into(),
            partition: Partition(p),
        };
        let end = log.bounds(&at).await.unwrap().end;
        let mut from = Offset(0);
        while from < end {
            for record in log.read(&at, from, 1_000, 10_000_000).await.unwrap() {
                from = record.offset.next();
                let decoded = wire::codec::decode(record.key.as_ref(), record.value.as_ref(), Partition(p), PARTITIONS);
                let decoded = decoded.expect("the desk writes what can be read");
                all.push((decoded.key.unwrap().to_string(), decoded.record));
            }
        }
    }
    all
}

/// What the fold would show: per conversation the session of the highest decision, and the events of rising decisions.
/// Panics if a decision that was not seen before comes behind a higher one: it would be dropped for ever.
fn shown(messages: &[(String, Record)]) -> BTreeMap<String, (SessionState, String, Vec<String>)> {
    let mut shown: BTreeMap<String, (SessionState, String, Vec<String>)> = BTreeMap::new();
    let mut seen: HashMap<&str, Vec<(u64, u32)>> = HashMap::new();
    for (key, record) in messages {
        let Some(effect) = &record.effect else { continue };
        let decision = effect.decision.as_ref().unwrap();
        let place = (decision.offset, decision.number);
        let before = seen.entry(key).or_default();
        if before.last().is_some_and(|last| place <= *last) {
            assert!(
                before.contains(&place),
                "{key}: decision {place:?} came behind {before:?}"
            );
            continue;
        }
        before.push(place);
        let session = effect.session.as_ref().unwrap();
        let entry = shown
            .entry(key.clone())
            .or_insert_with(|| (SessionState::SessionIdle, String::new(), Vec::new()));
        entry.0 = session.state();
        entry.1.clone_from(&session.agent);
        if record.numbered {
            entry.2.push(String::from_utf8_lossy(&record.member).into_owned());
        }
    }
    shown
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let all = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, all)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn frames(log: &Embedded) -> Vec<String> {
    let notice = |(_, r): &(String, Record)| {
        r.notice
            .as_ref()
            .map(|n| String::from_utf8_lossy(&n.frame).into_owned())
    };
    messages(log).await.iter().filter_map(notice).collect()
}

#[tokio::test]
async fn a_request_is_answered_in_the_conversation_and_at_the_connection() {
    let log = a_log().await;
    let running = Running::start(log.clone());
    agent(&log, "demo", "bo", 1).await;
    put(
        &log,
        "demo",
        act(Role::Customer, "alice", "r1", "alice", r#"{"request":{}}"#),
    )
    .await;
    put(
        &log,
        "demo",
        act(Role::Customer, "carl", "r2", "carl", r#"{"request":{}}"#),
    )
    .await;
    until("alice has bo and carl waits", || async {
        let shown = shown(&messages(&log).await);
        shown.get("demo/alice").is_some_and(|s| s.1 == "bo")
            && shown
                .get("demo/carl")
                .is_some_and(|s| s.0 == SessionState::SessionQueued)
    })
    .await;
    put(&log, "demo", act(Role::Agent, "bo", "c1", "alice", r#"{"close":{}}"#)).await;
    until("carl has bo", || async {
        shown(&messages(&log).await)["demo/carl"].1 == "bo"
    })
    .await;
    until("everybody has an answer", || async {
        let frames = frames(&log).await;
        ["status", "r1", "r2", "c1"]
            .iter()
            .all(|id| frames.contains(&format!(r#"{{"done":{{"id":"{id}"}}}}"#)))
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn another_tenant_is_another_desk() {
    let log = a_log().await;
    let running = Running::start(log.clone());
    agent(&log, "demo", "bo", 1).await;
    put(
        &log,
        "acme",
        act(Role::Customer, "alice", "r1", "alice", r#"{"request":{}}"#),
    )
    .await;
    until("alice of acme waits", || async {
        shown(&messages(&log).await)
            .get("acme/alice")
            .is_some_and(|s| s.0 == SessionState::SessionQueued)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn garbage_in_the_desks_log_is_left_out() {
    let log = a_log().await;
    let producer = log.producer().await.unwrap();
    let at = desk_place("demo");
    for (key, value) in [
        (Some("demo"), Some("\u{1}garbage")),
        (None, Some("x")),
        (Some("demo"), None),
        (Some("Bad Tenant"), Some("x")),
    ] {
        let (key, value) = (key.map(Bytes::from), value.map(Bytes::from));
        append(&*producer, at.topic.clone(), at.partition, key, value)
            .await
            .unwrap();
    }
    let running = Running::start(log.clone());
    agent(&log, "demo", "bo", 1).await;
    put(
        &log,
        "demo",
        act(Role::Customer, "alice", "r1", "alice", r#"{"request":{}}"#),
    )
    .await;
    until("alice has bo", || async {
        shown(&messages(&log).await)
            .get("demo/alice")
            .is_some_and(|s| s.1 == "bo")
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn ticks_make_time_pass_and_a_lost_agents_sessions_go_back_in_line() {
    let log = a_log().await;
    let running = Running::start(log.clone());
    let settings = wire::record::Settings {
        json: Bytes::from_static(br#"{"grace_ms":300}"#),
    };
    put(&log, "demo", Input::Settings(settings)).await;
    agent(&log, "demo", "bo", 1).await;
    put(
        &log,
        "demo",
        act(Role::Customer, "alice", "r1", "alice", r#"{"request":{}}"#),
    )
    .await;
    let gone = Presence {
        node: 1,
        connection: 7,
        agent: "bo".into(),
        connected: false,
        ..Presence::default()
    };
    put(&log, "demo", Input::Presence(gone)).await;
    until("alice is back in line", || async {
        shown(&messages(&log).await)
            .get("demo/alice")
            .is_some_and(|s| s.0 == SessionState::SessionQueued)
    })
    .await;
    let all = shown(&messages(&log).await);
    assert_eq!(
        all["demo/alice"].2,
        [
            r#""assigned":{"agent":"bo"}"#,
            r#""queued":{"group":"default","cause":"agent_gone"}"#
        ]
    );
    running.stop().await;
}

#[tokio::test]
async fn the_desk_goes_on_where_the_last_one_ended() {
    let log = a_log().await;
    agent(&log, "demo", "bo", 100).await;
    for round in 0..4 {
        let running = Running::start(log.clone());
        for i in 0..10 {
            let customer = format!("c{round}-{i}");
            put(
                &log,
                "demo",
                act(Role::Customer, &customer, "r", &customer, r#"{"request":{}}"#),
            )
            .await;
            if round > 0 {
                let before = format!("c{}-{i}", round - 1);
                put(
                    &log,
                    "demo",
                    act(
                        Role::Agent,
                        "bo",
                        &format!("close {before}"),
                        &before,
                        r#"{"close":{}}"#,
                    ),
                )
                .await;
            }
            put(
                &log,
                "demo",
                Input::Alive(Alive {
                    node: 1,
                    connections: vec![AgentConnection {
                        connection: 7,
                        agent: "bo".into(),
                        ..AgentConnection::default()
                    }],
                }),
            )
            .await;
        }
        // Some rounds end before the snapshot, some behind it.
        sleep(Duration::from_millis(round * 120)).await;
        running.stop().await;
    }
    let running = Running::start(log.clone());
    until("everything is decided", || async {
        let shown = shown(&messages(&log).await);
        shown.len() == 40
            && shown.iter().all(|(key, s)| {
                let last_round = key.contains("/c3-");
                s.0 == if last_round {
                    SessionState::SessionActive
                } else {
                    SessionState::SessionIdle
                }
            })
    })
    .await;
    for (key, (_, _, events)) in shown(&messages(&log).await) {
        assert_eq!(events[0], r#""assigned":{"agent":"bo"}"#, "{key}: {events:?}");
        assert_eq!(
            events.len(),
            if key.contains("/c3-") { 1 } else { 2 },
            "{key}: {events:?}"
        );
    }
    // The offset moved on, so a take-over is short.
    until("the desk commits", || async {
        let committed = log
            .committed(&topics().desk_group(), &[desk_place("demo")])
            .await
            .unwrap()[0];
        committed.is_some_and(|o| o.0 > 60)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn effects_that_fail_are_repeated_before_later_ones_of_their_conversation() {
    let log = a_log().await;
    let running = Running::start(Arc::new(Flaky::of(log.clone())));
    agent(&log, "demo", "bo", 100).await;
    for round in 0..5 {
        for customer in ["a", "b", "c"] {
            put(
                &log,
                "demo",
                act(
                    Role::Customer,
                    customer,
                    &format!("r{round}"),
                    customer,
                    r#"{"request":{}}"#,
                ),
            )
            .await;
            put(
                &log,
                "demo",
                act(
                    Role::Agent,
                    "bo",
                    &format!("{customer}{round}"),
                    customer,
                    r#"{"close":{}}"#,
                ),
            )
            .await;
        }
    }
    // `shown` panics where a decision came too late.
    until("every decision stands", || async {
        let shown = shown(&messages(&log).await);
        shown.len() == 3 && shown.values().all(|s| s.2.len() == 10)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn snapshots_of_another_log_stop_the_partition() {
    let log = a_log().await;
    let mut desk = desk_core::Desk::new(Tenant::new("demo").unwrap());
    let far = wire::Position::new(Epoch(1), Offset(500));
    desk.apply(
        far,
        0,
        &DeskRecord {
            version: 1,
            input: Some(Input::Tick(wire::record::Tick {})),
        },
    );
    save(&log, &desk).await;
    let running = Running::start(log.clone());
    until("the alarm is raised", || async { !running.1.is_ready() }).await;
    assert!(
        running.1.troubles()[0]
            .1
            .contains("another log was written under this epoch")
    );
    running.stop().await;
}

#[tokio::test]
async fn a_topic_made_anew_under_a_running_desk_stops_what_was_read_of_the_old_one() {
    let log = a_log().await;
    let flaky = Arc::new(Flaky::of(log.clone()));
    let running = Running::start(flaky.clone());
    agent(&log, "demo", "bo", 1).await;
    until("the desk has read and is well", || async {
        let committed = log
            .committed(&topics().desk_group(), &[desk_place("demo")])
            .await
            .unwrap()[0];
        committed.is_some_and(|o| o.0 > 1) && running.1.is_ready()
    })
    .await;
    flaky.is_made_anew.store(true, Ordering::Relaxed);
    until("the alarm is raised", || async { !running.1.is_ready() }).await;
    let troubles = running.1.troubles();
    assert!(troubles[0].1.contains("was the topic re-made?"), "{troubles:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_zombies_older_snapshot_behind_the_owners_changes_nothing() {
    let log = a_log().await;
    let running = Running::start(log.clone());
    agent(&log, "demo", "bo", 2).await;
    put(
        &log,
        "demo",
        act(Role::Customer, "alice", "r1", "alice", r#"{"request":{}}"#),
    )
    .await;
    until("the request is answered", || async {
        shown(&messages(&log).await).contains_key("demo/alice")
    })
    .await;
    running.stop().await;
    let mut zombie = desk_core::Desk::new(Tenant::new("demo").unwrap());
    let early = wire::Position::new(Epoch(1), Offset(0));
    zombie.apply(
        early,
        0,
        &DeskRecord {
            version: 1,
            input: Some(Input::Tick(wire::record::Tick {})),
        },
    );
    save(&log, &zombie).await;
    // The heir knows alice: nobody is asked a second time.
    let running = Running::start(log.clone());
    put(&log, "demo", act(Role::Agent, "bo", "c1", "alice", r#"{"close":{}}"#)).await;
    until("the session is closed", || async {
        shown(&messages(&log).await)["demo/alice"].0 == SessionState::SessionIdle
    })
    .await;
    running.stop().await;
    // And what the zombie wrote is taken away with the next cut.
    let (found, _) = standing(&log, "demo").await;
    assert_eq!(found.sessions().len(), 0);
    assert!(found.agents().contains_key("bo"));
}

#[tokio::test]
async fn a_desk_that_drains_is_saved_as_it_is() {
    let log = a_log().await;
    // Never cut by time.
    let running = Running::start_with(log.clone(), 3_600_000);
    agent(&log, "demo", "bo", 2).await;
    let ask = |n: u32| {
        act(
            Role::Customer,
            &format!("c{n}"),
            "r",
            &format!("c{n}"),
            r#"{"request":{}}"#,
        )
    };
    for n in 0..2 {
        put(&log, "demo", ask(n)).await;
    }
    until("both are answered", || async {
        shown(&messages(&log).await).len() == 2
    })
    .await;
    running.stop().await;
    let (desk, _) = standing(&log, "demo").await;
    assert_eq!(desk.sessions().len(), 2);
    let at = [desk_place("demo")];
    let committed = log.committed(&topics().desk_group(), &at).await.unwrap()[0].unwrap();
    assert_eq!(
        desk.position().unwrap().offset.next(),
        committed,
        "nothing is left to repeat"
    );
}

#[tokio::test]
async fn a_desk_with_many_open_sessions_is_taken_over_and_saved_again() {
    let log = a_log().await;
    // A log of two records, and a desk that is that log's: the second record opened more sessions than any record can.
    agent(&log, "demo", "bo", 1_000).await;
    let last = wire::Position::new(Epoch(1), Offset(1));
    let mut large = desk_core::Desk::new(Tenant::new("demo").unwrap());
    for record in log.read(&desk_place("demo"), Offset(0), 2, 1 << 20).await.unwrap() {
        let value = wire::codec::decode_desk(record.value.as_ref()).unwrap();
        large.apply(wire::Position::new(Epoch(1), record.offset), record.at_ms, &value);
    }
    assert_eq!(large.position(), Some(last));
    let mut json: serde_json::Value = serde_json::from_slice(&large.snapshot()).unwrap();
    let session = serde_json::json!({
        "stage": { "Waiting": { "order": 0, "since_ms": 0 } }, "group": "default", "priority": 1, "named": "away", "only": true,
        "joined": [], "watching": [], "opened_ms": 0, "spoke_ms": 0, "last_seq": 1, "decided_ms": 0, "told": [1, 0],
    });
    for n in 0..20_000 {
        let mut session = session.clone();
        session["stage"]["Waiting"]["order"] = serde_json::json!(n);
        json["desk"]["sessions"][format!("c{n}")] = session;
    }
    let large = desk_core::Desk::restore(json.to_string().as_bytes()).unwrap();
    save(&log, &large).await;
    let running = Running::start(log.clone());
    let ask = act(Role::Customer, "alice", "r1", "alice", r#"{"request":{}}"#);
    put(&log, "demo", ask).await;
    until("alice is served", || async {
        shown(&messages(&log).await).contains_key("demo/alice")
    })
    .await;
    until("it is saved", || async {
        standing(&log, "demo").await.0.sessions().len() == 20_001
    })
    .await;
    running.stop().await;
    let (desk, records) = standing(&log, "demo").await;
    assert_eq!(desk.sessions()["alice"].agent(), Some("bo"));
    assert!(records > 10, "{records}");
}
