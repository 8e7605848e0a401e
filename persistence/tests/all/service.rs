//! The service on the embedded log: stores what is said, survives a store that is away, values it refuses, records
//! nobody can read, hand-overs, and stops loudly where log and store disagree.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::running::*;
use crate::support::{FaultyStore, Rows, effect, key, message};
use bytes::Bytes;
use ordered_log::{Log, TopicPartition};
use store::History;
use tokio::time::sleep;
use wire::record::SessionState;
use wire::{Offset, Partition};

#[tokio::test]
async fn what_is_said_is_stored_and_then_committed() {
    let log = a_log().await;
    let store = FaultyStore::new();
    let running = Running::start(&log, store.clone());
    for i in 0..200u32 {
        let customer = format!("c{}", i % 10);
        say(
            &log,
            &customer,
            &message(true, &customer, &i.to_string(), &format!("text {i}")),
        )
        .await;
    }
    say(&log, "c1", &effect(1, SessionState::SessionActive, 0, true)).await;
    until_committed(&log).await;
    // I12: what is committed is in the store, synced.
    let synced = store.synced.lock().clone();
    assert_eq!(synced.events.len(), 201);
    assert_eq!(synced.states.len(), 10);
    assert_eq!(synced.open[&key("c1").to_string()].1.as_ref().unwrap().0, "bo");
    assert!(synced.entries("c3")[19].contains("text 193"));
    running.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_delays_and_loses_nothing() {
    let log = a_log().await;
    let store = FaultyStore::new();
    let running = Running::start(&log, store.clone());
    say(&log, "alice", &message(true, "alice", "1", "before")).await;
    until_committed(&log).await;
    let before = committed(&log).await;
    store.away.store(true, Ordering::Relaxed);
    for i in 0..50u32 {
        say(&log, "alice", &message(true, "alice", &format!("m{i}"), "meanwhile")).await;
    }
    until("the outage shows in the health", || !running.health.is_ready()).await;
    assert_eq!(committed(&log).await, before);
    store.away.store(false, Ordering::Relaxed);
    until_committed(&log).await;
    assert_eq!(store.rows.lock().entries("alice").len(), 51);
    assert!(running.health.is_ready());
    running.stop().await;
}

#[tokio::test]
async fn a_refused_event_gets_a_placeholder_and_its_neighbours_are_stored() {
    let log = a_log().await;
    let store = FaultyStore::new();
    *store.refused_text.lock() = Some("poison".into());
    for (i, text) in ["one", "poison", "three"].iter().enumerate() {
        say(&log, "alice", &message(true, "alice", &i.to_string(), text)).await;
    }
    let running = Running::start(&log, store.clone());
    until_committed(&log).await;
    let entries = store.rows.lock().entries("alice");
    assert!(entries[0].contains("one") && entries[2].contains("three"));
    assert!(
        entries[1].contains(r#""seq":2"#) && entries[1].contains(r#""withheld":{}"#),
        "{}",
        entries[1]
    );
    assert!(!entries[1].contains("poison"));
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_put_aside_with_its_place_before_the_commit() {
    let log = a_log().await;
    let store = FaultyStore::new();
    let partition = topics().partition_of(&key("alice"));
    let other = Partition((partition.0 + 1) % PARTITIONS);
    let good = wire::codec::encode(&message(true, "alice", "1", "hello"));
    put(
        &log,
        partition,
        Some(key("alice").to_key()),
        Some(Bytes::from_static(b"\xff\xff garbage")),
    )
    .await;
    put(&log, partition, Some(key("alice").to_key()), None).await;
    put(&log, other, Some(key("alice").to_key()), Some(good.clone())).await;
    put(&log, partition, Some(vec![b'x'; 100_000].into()), Some(good.clone())).await;
    put(
        &log,
        partition,
        Some(key("alice").to_key()),
        Some(vec![0u8; 900_000].into()),
    )
    .await;
    put(&log, partition, Some(key("alice").to_key()), Some(good)).await;
    let running = Running::start(&log, store.clone());
    until_committed(&log).await;
    assert_eq!(store.rows.lock().entries("alice").len(), 1);
    let mut letters = Vec::new();
    for p in 0..PARTITIONS {
        let at = TopicPartition {
            topic: topics().dead_letters().into(),
            partition: Partition(p),
        };
        letters.extend(log.read(&at, Offset(0), 100, 10_000_000).await.unwrap());
    }
    let mut reasons: Vec<String> = letters
        .iter()
        .map(|l| {
            let header = |name: &str| {
                let found = l.headers.iter().find(|(n, _)| n == name).unwrap();
                String::from_utf8_lossy(&found.1).into_owned()
            };
            assert_eq!(header("topic"), topics().messages());
            format!("{}@{}", header("reason"), header("offset"))
        })
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "bad_key@2",
            "no_value@1",
            "not_a_record@0",
            "too_large@3",
            "wrong_partition@0"
        ]
    );
    running.stop().await;
}

#[tokio::test]
async fn a_store_ahead_of_the_log_stops_that_partition_and_no_other() {
    let store = FaultyStore::new();
    {
        let log = a_log().await;
        for i in 0..5 {
            say(
                &log,
                "alice",
                &message(true, "alice", &i.to_string(), "in the first log"),
            )
            .await;
        }
        let running = Running::start(&log, store.clone());
        until_committed(&log).await;
        running.stop().await;
    }
    let before: Rows = store.rows.lock().clone();
    // The log is made anew under the same epoch.
    let log = a_log().await;
    let bob = (0..)
        .map(|i| format!("bob{i}"))
        .find(|b| topics().partition_of(&key(b)) != topics().partition_of(&key("alice")))
        .unwrap();
    say(&log, "alice", &message(true, "alice", "again", "in another log")).await;
    say(&log, &bob, &message(true, &bob, "1", "hello")).await;
    let running = Running::start(&log, store.clone());
    until("bob is stored", || store.rows.lock().entries(&bob).len() == 1).await;
    until("the alarm is raised", || !running.health.is_ready()).await;
    assert!(
        running.health.troubles()[0]
            .1
            .contains("another log was written under this epoch")
    );
    assert_eq!(store.rows.lock().entries("alice"), before.entries("alice"));
    assert_eq!(
        committed(&log).await[topics().partition_of(&key("alice")).0 as usize],
        0
    );
    running.stop().await;
}

#[tokio::test]
async fn partitions_change_hands_and_every_row_stands_once() {
    let log = a_log().await;
    let store = FaultyStore::new();
    let first = Running::start(&log, store.clone());
    let mut second = None;
    for i in 0..300u32 {
        let customer = format!("c{}", i % 20);
        say(&log, &customer, &message(true, &customer, &i.to_string(), "hello")).await;
        if i == 100 {
            second = Some(Running::start(&log, store.clone()));
        }
    }
    first.stop().await;
    for i in 300..400u32 {
        let customer = format!("c{}", i % 20);
        say(&log, &customer, &message(true, &customer, &i.to_string(), "hello")).await;
    }
    until_committed(&log).await;
    let rows = store.rows.lock().clone();
    assert_eq!(rows.events.len(), 400);
    for c in 0..20 {
        assert_eq!(rows.entries(&format!("c{c}")).len(), 20);
    }
    second.unwrap().stop().await;
}

#[tokio::test]
async fn the_group_set_back_to_zero_changes_no_byte_of_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = store::embedded::Embedded::open(dir.path()).unwrap();
    let log = a_log().await;
    for i in 0..300u32 {
        let customer = format!("c{}", i % 7);
        say(
            &log,
            &customer,
            &message(i % 3 != 0, &customer, &(i % 290).to_string(), &format!("text {i}")),
        )
        .await;
        if i % 20 == 0 {
            let state = if i % 40 == 0 {
                SessionState::SessionActive
            } else {
                SessionState::SessionIdle
            };
            say(&log, &customer, &effect(u64::from(i) + 1, state, u64::from(i), true)).await;
        }
    }
    let running = Running::start(&log, store.clone());
    until_committed(&log).await;
    running.stop().await;
    let want = store.digest().await.unwrap();

    // A group that never committed begins at the start: the same records, folded by somebody who knows nothing.
    set_back(&log).await;
    let again = Running::start(&log, store.clone());
    until_committed(&log).await;
    again.stop().await;
    assert_eq!(store.digest().await.unwrap(), want);

    // And a store that is filled from nothing by another chunking holds the same bytes.
    let other_dir = tempfile::tempdir().unwrap();
    let other = store::embedded::Embedded::open(other_dir.path()).unwrap();
    set_back(&log).await;
    let third = Running::start(&log, other.clone());
    until_committed(&log).await;
    third.stop().await;
    assert_eq!(other.digest().await.unwrap(), want);
}

#[tokio::test]
async fn a_hand_over_while_the_store_is_away_leaves_the_rest_to_the_next_owner() {
    let log = a_log().await;
    let store = FaultyStore::new();
    let first = Running::start(&log, store.clone());
    say(&log, "alice", &message(true, "alice", "1", "before")).await;
    until_committed(&log).await;
    store.away.store(true, Ordering::Relaxed);
    for i in 0..20u32 {
        say(&log, "alice", &message(true, "alice", &format!("m{i}"), "meanwhile")).await;
    }
    until("the outage is felt", || !first.health.is_ready()).await;
    let before = committed(&log).await;
    first.stop().await;
    assert_eq!(committed(&log).await, before);
    store.away.store(false, Ordering::Relaxed);
    let second = Running::start(&log, store.clone());
    until_committed(&log).await;
    assert_eq!(store.rows.lock().entries("alice").len(), 21);
    second.stop().await;
}

#[tokio::test]
async fn an_outage_with_a_full_inbox_pauses_the_reading_and_ends_without_a_loss() {
    let log = a_log().await;
    let store = FaultyStore::new();
    store.away.store(true, Ordering::Relaxed);
    let running = Running::start(&log, store.clone());
    let producer = log.producer().await.unwrap();
    let partition = topics().partition_of(&key("alice"));
    // Twice what a partition may hold unread.
    let text = "x".repeat(1_000);
    for i in 0..40_000u32 {
        let value = wire::codec::encode(&message(true, "alice", &i.to_string(), &text));
        let record = ordered_log::ToProduce {
            topic: topics().messages().into(),
            partition,
            key: Some(key("alice").to_key()),
            value: Some(value),
            headers: Vec::new(),
            token: 0,
            reports: Arc::new(Nobody),
        };
        producer.produce(record).unwrap();
        if i % 10_000 == 0 {
            producer.flush(60_000).await;
        }
    }
    producer.flush(60_000).await;
    until("the outage is felt", || !running.health.is_ready()).await;
    sleep(Duration::from_millis(300)).await;
    store.away.store(false, Ordering::Relaxed);
    until_committed(&log).await;
    assert_eq!(store.rows.lock().events.len(), 40_000);
    running.stop().await;
}

struct Nobody;

impl ordered_log::Reports for Nobody {
    fn report(&self, _: u64, _: Result<ordered_log::Appended, ordered_log::ProduceError>) {}
}
