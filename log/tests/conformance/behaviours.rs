//! Appending, reading, bounds, tails, compaction and retention.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ordered_log::*;
use wire::Offset;

use crate::harness::*;
use crate::world::World;

behaviours![
    offsets_rise_and_records_keep_their_order,
    every_record_is_reported_once_and_sinks_are_flushed,
    a_record_can_be_read_from_any_offset,
    a_read_is_bounded_in_records_and_bytes_but_gives_at_least_one,
    bounds_are_the_first_and_the_next_offset,
    a_read_out_of_range_is_refused,
    absent_and_empty_keys_and_values_differ,
    headers_come_back,
    a_record_of_a_megabyte_passes_and_a_larger_one_is_refused,
    append_times_never_fall,
    topics_are_made_once_and_another_partition_count_is_refused,
    a_topic_that_is_not_there_is_none_and_cannot_be_consumed,
    partitions_do_not_mix,
    flush_waits_for_every_report,
    a_tail_says_caught_up_once_and_goes_live,
    a_tail_of_an_empty_topic_catches_up_at_once,
    compaction_keeps_the_newest_of_each_key,
    retention_moves_the_start,
];

async fn read_all(log: &Arc<dyn Log>, at: &TopicPartition, from: Offset) -> Vec<LogRecord> {
    let mut all: Vec<LogRecord> = Vec::new();
    let mut from = from;
    let end = log.bounds(at).await.expect("bounds").end;
    while from < end {
        let some = log.read(at, from, 100, 1 << 20).await.expect("a read");
        let Some(last) = some.last() else { break };
        from = last.offset.next();
        all.extend(some);
    }
    all
}

async fn offsets_rise_and_records_keep_their_order(world: &World) {
    let at = at(&topic(world, 3).await, 1);
    let offsets = fill(&world.log, &at, numbered(0..500)).await;
    assert!(
        offsets.is_sorted_by(|a, b| a < b),
        "offsets rise in the order of the calls"
    );
    let records = read_all(&world.log, &at, Offset::ZERO).await;
    assert_eq!(texts(&records), numbered(0..500).collect::<Vec<_>>());
    assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), offsets);
}

async fn every_record_is_reported_once_and_sinks_are_flushed(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    let producer = world.log.producer().await.expect("a producer");
    let sinks = [Arc::new(Sink::default()), Arc::new(Sink::default())];
    for token in 0..2_000u64 {
        let sink = &sinks[(token % 2) as usize];
        producer
            .produce(record(&at, "k", "v", token, sink))
            .expect("handed over");
    }
    producer.flush(20_000).await;
    for (i, sink) in sinks.iter().enumerate() {
        sink.wait(1_000).await;
        tokio::time::timeout(SOON, async {
            while sink.flushes.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("flushed after its reports");
        let reports = sink.reports.lock();
        let tokens: BTreeSet<u64> = reports.iter().map(|(token, _)| *token).collect();
        assert_eq!(reports.len(), 1_000);
        assert_eq!(tokens, (0..2_000).filter(|t| t % 2 == i as u64).collect());
        assert!(reports.iter().all(|(_, r)| r.is_ok()));
        assert!((1..=1_000).contains(&sink.flushes.load(Ordering::Relaxed)));
    }
}

async fn a_record_can_be_read_from_any_offset(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    let big = "x".repeat(2_000);
    let offsets = fill(&world.log, &at, numbered(0..300).map(|v| v + &big)).await;
    for i in [0, 1, 7, 150, 298, 299] {
        let records = world.log.read(&at, offsets[i], 2, 1 << 20).await.expect("a read");
        assert_eq!(records[0].offset, offsets[i]);
        assert!(texts(&records)[0].starts_with(&format!("v{i}x")));
        assert_eq!(records.len(), 2.min(300 - i));
    }
}

async fn a_read_is_bounded_in_records_and_bytes_but_gives_at_least_one(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    fill(&world.log, &at, (0..20).map(|_| "x".repeat(10_000))).await;
    assert_eq!(
        world
            .log
            .read(&at, Offset::ZERO, 5, 1 << 20)
            .await
            .expect("a read")
            .len(),
        5
    );
    let few = world
        .log
        .read(&at, Offset::ZERO, 100, 35_000)
        .await
        .expect("a read")
        .len();
    assert!((1..=3).contains(&few), "{few} records in 35,000 bytes");
    assert_eq!(world.log.read(&at, Offset(3), 100, 1).await.expect("a read").len(), 1);
}

async fn bounds_are_the_first_and_the_next_offset(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    let empty = Bounds {
        start: Offset(0),
        end: Offset(0),
    };
    assert_eq!(world.log.bounds(&at).await.expect("bounds"), empty);
    fill(&world.log, &at, numbered(0..10)).await;
    let full = Bounds {
        start: Offset(0),
        end: Offset(10),
    };
    assert_eq!(world.other.bounds(&at).await.expect("bounds"), full);
    assert_eq!(
        world
            .log
            .read(&at, Offset(10), 5, 1_000)
            .await
            .expect("a read at the end"),
        []
    );
}

async fn a_read_out_of_range_is_refused(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    fill(&world.log, &at, numbered(0..3)).await;
    let refused = world.log.read(&at, Offset(4), 5, 1_000).await;
    assert!(
        matches!(
            refused,
            Err(LogError::OutOfRange {
                wanted: Offset(4),
                end: Offset(3),
                ..
            })
        ),
        "{refused:?}"
    );
}

async fn absent_and_empty_keys_and_values_differ(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    let producer = world.log.producer().await.expect("a producer");
    let kinds = [None, Some(Bytes::new()), Some(Bytes::from_static(b"x"))];
    let mut wanted = Vec::new();
    for key in &kinds {
        for value in &kinds {
            let (key, value) = (key.clone(), value.clone());
            wanted.push((key.clone(), value.clone()));
            append(&*producer, at.topic.clone(), at.partition, key, value)
                .await
                .expect("appended");
        }
    }
    let got = read_all(&world.log, &at, Offset::ZERO).await;
    assert_eq!(got.into_iter().map(|r| (r.key, r.value)).collect::<Vec<_>>(), wanted);
}

async fn headers_come_back(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    let producer = world.log.producer().await.expect("a producer");
    let sink = Arc::new(Sink::default());
    let headers = vec![
        ("traceparent".to_owned(), Bytes::from_static(b"00-1")),
        ("empty".to_owned(), Bytes::new()),
    ];
    let mut with = record(&at, "k", "v", 0, &sink);
    with.headers = headers.clone();
    producer.produce(with).expect("handed over");
    producer.produce(record(&at, "k", "v", 1, &sink)).expect("handed over");
    sink.wait(2).await;
    let got = read_all(&world.log, &at, Offset::ZERO).await;
    assert_eq!((&got[0].headers, got[1].headers.len()), (&headers, 0));
}

async fn a_record_of_a_megabyte_passes_and_a_larger_one_is_refused(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    let big = vec![7u8; 1_000_000];
    let producer = world.log.producer().await.expect("a producer");
    let sink = Arc::new(Sink::default());
    producer
        .produce(record(&at, "k", big.clone(), 0, &sink))
        .expect("handed over");
    sink.wait(1).await;
    let refused = producer.produce(record(&at, "k", vec![7u8; 3_000_000], 1, &sink));
    assert_eq!(refused, Err(ProduceError::TooLarge));
    let got = read_all(&world.log, &at, Offset::ZERO).await;
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].value.as_deref(), Some(&big[..]));
    assert_eq!(
        sink.reports.lock().len(),
        1,
        "what was refused at the call gets no report"
    );
}

async fn append_times_never_fall(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    fill(&world.log, &at, numbered(0..5)).await;
    world.step_clock_back();
    fill(&world.log, &at, numbered(5..10)).await;
    let got = read_all(&world.log, &at, Offset::ZERO).await;
    assert!(
        got.is_sorted_by_key(|r| r.at_ms),
        "{:?}",
        got.iter().map(|r| r.at_ms).collect::<Vec<_>>()
    );
    assert!(got[0].at_ms > 0);
}

async fn topics_are_made_once_and_another_partition_count_is_refused(world: &World) {
    let name = unique("t");
    world.log.create_topics(&[spec(&name, 4)]).await.expect("made");
    let made = world.log.topic(&name).await.expect("asked").expect("there");
    assert_eq!(made.partitions, 4);
    assert!(!made.id.is_empty());
    world.other.create_topics(&[spec(&name, 4)]).await.expect("left alone");
    assert_eq!(world.other.topic(&name).await.expect("asked"), Some(made));
    let refused = world.log.create_topics(&[spec(&name, 5)]).await;
    assert!(
        matches!(
            refused,
            Err(LogError::PartitionCount {
                found: 4,
                wanted: 5,
                ..
            })
        ),
        "{refused:?}"
    );
    let (a, b) = (unique("t"), unique("t"));
    world
        .log
        .create_topics(&[spec(&a, 1), spec(&b, 1)])
        .await
        .expect("made");
    let id = async |name: &str| world.log.topic(name).await.expect("asked").expect("there").id;
    assert_ne!(id(&a).await, id(&b).await, "each topic has an id of its own");
}

async fn a_topic_that_is_not_there_is_none_and_cannot_be_consumed(world: &World) {
    let name: Topic = unique("absent").into();
    assert_eq!(world.log.topic(&name).await.expect("asked"), None);
    let refused = world.log.consume("g", std::slice::from_ref(&name), Pace::AtOnce).await;
    assert!(matches!(refused, Err(LogError::NoTopic(_))));
    assert_eq!(
        world.log.topic(&name).await.expect("asked"),
        None,
        "asking does not make it"
    );
}

async fn partitions_do_not_mix(world: &World) {
    let topic = topic(world, 4).await;
    for partition in 0..4 {
        fill(
            &world.log,
            &at(&topic, partition),
            (0..5).map(|i| format!("{partition}.{i}")),
        )
        .await;
    }
    for partition in 0..4 {
        let got = read_all(&world.log, &at(&topic, partition), Offset::ZERO).await;
        assert_eq!(
            texts(&got),
            (0..5).map(|i| format!("{partition}.{i}")).collect::<Vec<_>>()
        );
    }
}

async fn flush_waits_for_every_report(world: &World) {
    let at = at(&topic(world, 1).await, 0);
    let producer = world.log.producer().await.expect("a producer");
    let sink = Arc::new(Sink::default());
    for token in 0..1_000 {
        producer
            .produce(record(&at, "k", "v", token, &sink))
            .expect("handed over");
    }
    producer.flush(20_000).await;
    assert_eq!(sink.reports.lock().len(), 1_000);
}

async fn tail_texts(events: &mut tokio::sync::mpsc::Receiver<TailEvent>, count: usize) -> Vec<Option<String>> {
    let mut got = Vec::new();
    while got.len() < count {
        let event = tokio::time::timeout(SOON, events.recv())
            .await
            .expect("in time")
            .expect("the tail goes on");
        got.push(match event {
            TailEvent::Record(record) => Some(texts(&[record])[0].clone()),
            TailEvent::CaughtUp => None,
        });
    }
    got
}

async fn a_tail_says_caught_up_once_and_goes_live(world: &World) {
    let at = at(&compacted(world).await, 0);
    let producer = world.log.producer().await.expect("a producer");
    let put = async |key: &str, value: &str| put(&*producer, &at, key, Some(value)).await;
    put("a", "1").await;
    put("b", "2").await;
    let mut events = world.other.tail(at.topic.clone()).await.expect("a tail");
    assert_eq!(
        tail_texts(&mut events, 3).await,
        [Some("1".into()), Some("2".into()), None]
    );
    put("c", "3").await;
    put("d", "4").await;
    assert_eq!(tail_texts(&mut events, 2).await, [Some("3".into()), Some("4".into())]);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), events.recv())
            .await
            .is_err()
    );
}

async fn a_tail_of_an_empty_topic_catches_up_at_once(world: &World) {
    let topic = compacted(world).await;
    let mut events = world.log.tail(topic).await.expect("a tail");
    assert_eq!(tail_texts(&mut events, 1).await, [None]);
}

async fn compacted(world: &World) -> Topic {
    let name = unique("compacted");
    let spec = TopicSpec {
        compacted: true,
        ..spec(&name, 1)
    };
    world.log.create_topics(&[spec]).await.expect("a topic");
    name.into()
}

async fn put(producer: &dyn Producer, at: &TopicPartition, key: &str, value: Option<&str>) {
    let (key, value) = (
        Bytes::copy_from_slice(key.as_bytes()),
        value.map(|v| Bytes::copy_from_slice(v.as_bytes())),
    );
    append(producer, at.topic.clone(), at.partition, Some(key), value)
        .await
        .expect("appended");
}

/// What a compacted topic must hold whenever it compacts: of each key the newest record, deletions included.
async fn compaction_keeps_the_newest_of_each_key(world: &World) {
    let at = at(&compacted(world).await, 0);
    let producer = world.log.producer().await.expect("a producer");
    for round in 0..20 {
        for key in ["a", "b", "c"] {
            put(&*producer, &at, key, Some(&format!("{key}{round}"))).await;
        }
    }
    put(&*producer, &at, "b", None).await;
    world.age(0).await;
    let got = read_all(&world.other, &at, Offset::ZERO).await;
    assert!(got.is_sorted_by_key(|r| r.offset));
    let newest = |key: &str| {
        got.iter()
            .rev()
            .find(|r| r.key.as_deref() == Some(key.as_bytes()))
            .map(|r| r.value.clone())
    };
    assert_eq!(newest("a"), Some(Some("a19".into())));
    assert_eq!(newest("c"), Some(Some("c19".into())));
    assert!(
        matches!(newest("b"), Some(None) | None),
        "a deleted key has at most its marker"
    );
    assert_eq!(
        world.log.bounds(&at).await.expect("bounds").end,
        Offset(61),
        "offsets are never given twice"
    );
}

async fn retention_moves_the_start(world: &World) {
    let name = unique("short");
    let spec = TopicSpec {
        retention_ms: Some(1_000),
        ..spec(&name, 1)
    };
    world.log.create_topics(&[spec]).await.expect("a topic");
    let at = at(&name.into(), 0);
    fill(&world.log, &at, numbered(0..10)).await;
    world.age(5_000).await;
    // Kafka looks every few seconds, and trims whole segments: all records here are in one.
    let deadline = std::time::Instant::now() + SOON;
    let trimmed = loop {
        let bounds = world.log.bounds(&at).await.expect("bounds");
        if bounds.start > Offset(0) || std::time::Instant::now() > deadline {
            break bounds;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert_eq!(
        trimmed,
        Bounds {
            start: Offset(10),
            end: Offset(10)
        }
    );
    let refused = world.log.read(&at, Offset(3), 1, 1_000).await;
    assert!(
        matches!(refused, Err(LogError::OutOfRange { start: Offset(10), .. })),
        "{refused:?}"
    );
    assert_eq!(fill(&world.log, &at, numbered(10..12)).await, [Offset(10), Offset(11)]);
}
