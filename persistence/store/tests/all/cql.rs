//! What only the CQL store promises: an answer in bounded time whatever the server does. Runs where
//! `SWITCHBOARD_TEST_CQL=host:port` names a server.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::proxy::{Mode, Proxy};
use store::{ConversationWrite, Cql, CqlOptions, EventRow, History, PageRange, PartitionWrite, StoreError};
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Position, Seq, Tenant, User};

/// Longer than anything takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(120);

fn server(test: &str) -> Option<String> {
    let server = std::env::var("SWITCHBOARD_TEST_CQL").ok();
    if server.is_none() {
        let said = format!("SKIPPED {test}: SWITCHBOARD_TEST_CQL names no server\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    server
}

fn options(server: &str, keyspace: &str) -> CqlOptions {
    CqlOptions {
        contact_points: vec![server.to_owned()],
        keyspace: format!("{keyspace}_{}", std::process::id()),
        request_timeout_ms: 20_000,
        connect_timeout_ms: 20_000,
        ..Default::default()
    }
}

fn key() -> ConversationKey {
    ConversationKey::new(Tenant::new("demo").unwrap(), User::new("alice").unwrap())
}

fn write_of(events: Vec<EventRow>) -> PartitionWrite {
    let mut write = PartitionWrite::new(Lane::new("core").unwrap(), Epoch(1), Partition(0));
    write.conversations.push(ConversationWrite {
        key: Some(key()),
        state: events.last().map(|last| ("state".into(), last.position)),
        last_seq: events.last().map(|last| last.seq).unwrap_or_default(),
        events,
        ..Default::default()
    });
    write
}

fn event(seq: u64, age_s: i64) -> EventRow {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    EventRow {
        seq: Seq(seq),
        staff_only: false,
        at_ms: now.as_millis() as i64 - age_s * 1_000,
        entry: format!("{seq}").into(),
        position: Position::new(Epoch(1), Offset(seq)),
    }
}

/// Again until it is done: a server that is only busy may take longer than the time given here.
async fn retried<T, F: Future<Output = Result<T, StoreError>>>(deed: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match deed().await {
            Ok(done) => return done,
            Err(e) => {
                assert!(matches!(e, StoreError::Unavailable(_)), "{e}");
                assert!(Instant::now() < deadline, "it did not come back: {e}");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_or_gone_is_unavailable_in_bounded_time_and_then_goes_on() {
    let Some(server) = server("a_server_that_is_silent_or_gone_is_unavailable_in_bounded_time_and_then_goes_on") else {
        return;
    };
    let direct = options(&server, "test_away");
    Cql::create_schema(&direct).await.unwrap();
    let proxy = Proxy::start(&server).await;
    // What it says of a server that is silent, it says in this time.
    let through = CqlOptions {
        contact_points: vec![proxy.address()],
        request_timeout_ms: 2_000,
        connect_timeout_ms: 2_000,
        ..direct.clone()
    };
    let store = retried(|| Cql::connect(through.clone())).await;
    retried(|| store.write(write_of(vec![event(1, 0)]))).await;

    for (round, mode) in [Mode::Silent, Mode::Refuse].into_iter().enumerate() {
        proxy.set(mode);
        let seq = round as u64 + 2;
        let began = Instant::now();
        let outcomes = tokio::join!(
            async { store.write(write_of(vec![event(seq, 0)])).await.err() },
            async { store.load(&key()).await.err() },
            async { store.page(&key(), PageRange::Newest, 5).await.err() },
            async { store.ping().await.err() },
            async { Cql::connect(through.clone()).await.err() },
        );
        let (write, load, page, ping, connect) = outcomes;
        for outcome in [write, load, page, ping, connect] {
            assert!(
                matches!(outcome, Some(StoreError::Unavailable(_))),
                "{mode:?}: {outcome:?}"
            );
        }
        assert!(began.elapsed() < PATIENCE, "{mode:?} took {:?}", began.elapsed());

        proxy.set(Mode::Pass);
        retried(|| store.ping()).await;
        // The same write again, whatever became of the first.
        retried(|| store.write(write_of(vec![event(seq, 0)]))).await;
        let key = key();
        let page = retried(|| store.page(&key, PageRange::Newest, 5)).await;
        assert_eq!(page.last_seq, Seq(seq));
    }
}

#[tokio::test]
async fn a_keyspace_without_tables_is_told_apart_from_a_server_that_is_away() {
    let Some(server) = server("a_keyspace_without_tables_is_told_apart_from_a_server_that_is_away") else {
        return;
    };
    let outcome = Cql::connect(options(&server, "test_nothing")).await;
    match outcome.err() {
        Some(StoreError::Failed(text)) => assert!(text.contains("switchboard schema"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn events_above_the_conversations_last_seq_are_not_shown_yet() {
    let Some(server) = server("events_above_the_conversations_last_seq_are_not_shown_yet") else {
        return;
    };
    let options = options(&server, "test_half");
    Cql::create_schema(&options).await.unwrap();
    let store = Cql::connect(options.clone()).await.unwrap();
    store
        .write(write_of((1..=3).map(|seq| event(seq, 0)).collect()))
        .await
        .unwrap();
    // A writer that died between its events and its state: 5 is there, 4 is not.
    let session = scylla::client::session_builder::SessionBuilder::new()
        .known_node(&server)
        .build()
        .await
        .unwrap();
    let cql = format!(
        "INSERT INTO {}.events (tenant, customer, bucket, seq, event) VALUES ('demo', 'alice', 0, 5, 0x010000000000000000000a) \
         USING TIMESTAMP {}",
        options.keyspace,
        Position::new(Epoch(1), Offset(5)).write_time()
    );
    session.query_unpaged(cql, ()).await.unwrap();
    for range in [PageRange::Newest, PageRange::After(Seq(0)), PageRange::Before(Seq(100))] {
        let page = store.page(&key(), range, 10).await.unwrap();
        let seqs: Vec<_> = page.events.iter().map(|row| row.seq.0).collect();
        assert_eq!((seqs, page.last_seq), (vec![1, 2, 3], Seq(3)));
    }
}
