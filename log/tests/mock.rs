//! Kafka's error codes, from librdkafka's mock cluster: what a producer's caller hears of each, that a fatal one costs the
//! producer and not the process, that a full queue answers at once, and that a stalled partition is seen and revived.
//!
//! The mock proves nothing about durability: the real brokers' tests do. A binary of its own: metrics are the process's, and their
//! recorder comes before anything is counted.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordered_log::*;
use parking_lot::Mutex;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use wire::{Offset, Partition};

const TOPIC: &str = "messages";
const SOON: Duration = Duration::from_secs(90);
/// A call that waited for anything would take longer: reports take up to 3 s. A busy machine may well take this long.
const A_MOMENT: Duration = Duration::from_millis(1_500);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 2, 1).expect("a topic");
    cluster
}

fn kafka(cluster: &Cluster, change: impl FnOnce(&mut KafkaOptions)) -> Arc<Kafka> {
    let mut options = KafkaOptions {
        brokers: cluster.bootstrap_servers(),
        client_id: "mock".into(),
        produce_timeout_ms: 3_000,
        ..KafkaOptions::default()
    };
    change(&mut options);
    Kafka::connect(options).expect("a client")
}

/// What `/metrics` would say of a metric with this label; 0 if nothing.
fn metric(name: &str, label: &str) -> f64 {
    static RENDERED: OnceLock<Box<dyn Fn() -> String + Send + Sync>> = OnceLock::new();
    let render = RENDERED.get_or_init(|| {
        let handle = process::metrics::install_recorder("core", "n1").expect("the first recorder");
        Box::new(move || handle.render())
    });
    let text = render();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok())
        .unwrap_or(0.0)
}

async fn say(producer: &dyn Producer, text: &str) -> Result<Offset, ProduceError> {
    let value = Some(Bytes::copy_from_slice(text.as_bytes()));
    let appended = append(producer, TOPIC.into(), Partition(0), None, value);
    let appended = tokio::time::timeout(SOON, appended).await.expect("a report in time");
    appended.map(|a| a.offset)
}

fn label(outcome: &Result<Offset, ProduceError>) -> &'static str {
    match outcome {
        Ok(_) => "sent",
        Err(ProduceError::Unavailable(_)) => "unavailable",
        Err(ProduceError::Unknown(_)) => "unknown",
        Err(ProduceError::TooLarge) => "too_large",
    }
}

/// One answer with this code to a record's produce request, and what its sender hears: without idempotence, and with it.
/// Whatever it was, the next is `sent`.
#[tokio::test]
async fn each_error_code_has_its_outcome_and_the_next_record_is_sent() {
    use RDKafkaRespErr::*;
    let _ = metric("", "");
    let table = [
        (RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, "sent", "sent"),
        (RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, "sent", "sent"),
        (RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, "sent", "sent"),
        (RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, "sent", "sent"),
        (RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, "sent", "sent"),
        (RD_KAFKA_RESP_ERR__TRANSPORT, "sent", "sent"),
        (RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "too_large", "too_large"),
        (RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "unknown", "unknown"),
        (RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, "unknown", "unknown"),
        (RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "unknown", "unknown"),
        // Retried with a new epoch, where there is one.
        (RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, "unknown", "sent"),
        // With idempotence: success, librdkafka says, and names no offset: nobody knows which record that was (gotcha 2).
        (RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER, "unknown", "unknown"),
    ];
    let mut wrong = Vec::new();
    for (code, without, with) in table {
        for (idempotent, wanted) in [(false, without), (true, with)] {
            let cluster = cluster();
            let kafka = kafka(&cluster, |options| options.idempotent = idempotent);
            let producer = kafka.producer().await.expect("a producer");
            let first = say(&*producer, "before").await.expect("sent");
            cluster.request_errors(RDKafkaApiKey::Produce, &[code]);
            let outcome = say(&*producer, "hit").await;
            let next = again(&*producer).await;
            println!("{code:?}, idempotence {idempotent}: {outcome:?}, then {next:?}");
            if label(&outcome) != wanted || next <= first {
                wrong.push(format!(
                    "{code:?}, idempotence {idempotent}: {outcome:?} where {wanted} was due; then {next}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Sends until it is taken: a producer that is being replaced says `unavailable`.
async fn again(producer: &dyn Producer) -> Offset {
    let deadline = Instant::now() + SOON;
    loop {
        match say(producer, "after").await {
            Ok(offset) => return offset,
            Err(why) => assert!(Instant::now() < deadline, "it takes nothing more: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[derive(Default)]
struct Sink(Mutex<Vec<(u64, Result<Appended, ProduceError>)>>);

impl Reports for Sink {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        self.0.lock().push((token, outcome));
    }
}

fn numbered(token: u64, sink: &Arc<Sink>) -> ToProduce {
    ToProduce {
        topic: TOPIC.into(),
        partition: Partition(0),
        key: None,
        value: Some(token.to_string().into()),
        headers: Vec::new(),
        token,
        reports: sink.clone(),
    }
}

#[tokio::test]
async fn a_fatal_error_under_load_replaces_the_producer_and_every_record_gets_one_report() {
    let _ = metric("", "");
    let cluster = cluster();
    // Only with idempotence is there a fatal error to be had.
    let kafka = kafka(&cluster, |options| options.idempotent = true);
    let producer = kafka.producer().await.expect("a producer");
    let replaced = || metric("switchboard_kafka_producer_replaced_total", "");
    let before = replaced();
    let sink = Arc::new(Sink::default());
    let (mut taken, mut took) = (0, Vec::new());
    for token in 0..6_000 {
        if token == 2_000 {
            // On a busy machine nothing may have been sent yet.
            while sink.0.lock().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let fatal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
            cluster.request_errors(RDKafkaApiKey::Produce, &[fatal]);
        }
        let began = Instant::now();
        let result = producer.produce(numbered(token, &sink));
        took.push(began.elapsed());
        match result {
            Ok(()) => taken += 1,
            Err(error) => assert!(matches!(error, ProduceError::Unavailable(_)), "{error}"),
        }
        if token % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    took.sort_unstable();
    // One of them may have met a busy machine; not one in ten.
    assert!(took[took.len() * 9 / 10] < A_MOMENT, "the caller waits for nothing");
    producer.flush(90_000).await;
    let last = again(&*producer).await;
    let mut reports = std::mem::take(&mut *sink.0.lock());
    assert_eq!(reports.len(), taken, "one report each");
    reports.sort_by_key(|(token, _)| *token);
    assert!(reports.is_sorted_by(|a, b| a.0 < b.0), "no token twice");
    let sent: Vec<Offset> = reports
        .iter()
        .filter_map(|(_, r)| Some(r.as_ref().ok()?.offset))
        .collect();
    assert!(sent.is_sorted_by(|a, b| a < b), "in the order of the calls");
    assert!(sent.last().is_some_and(|s| *s < last));
    let unknown = reports
        .iter()
        .filter(|(_, r)| matches!(r, Err(ProduceError::Unknown(_))))
        .count();
    println!("{taken} taken, {} sent, {unknown} unknown", sent.len());
    assert!(unknown > 0 && unknown + sent.len() == taken);
    assert_eq!(replaced(), before + 1.0);
}

/// F52: librdkafka's own queue is full, or our permits are spent.
#[tokio::test]
async fn a_full_queue_answers_unavailable_at_once() {
    for (queue, records_max) in [(Some("10"), 10), (None, wire::limits::PRODUCE_IN_FLIGHT_MAX)] {
        let cluster = cluster();
        let kafka = kafka(&cluster, |options| {
            let small = queue.map(|q| ("queue.buffering.max.messages".to_owned(), q.to_owned()));
            options.extra.extend(small);
            // None of them ends while they are counted.
            options.produce_timeout_ms = 60_000;
        });
        let producer = kafka.producer().await.expect("a producer");
        say(&*producer, "before").await.expect("sent");
        cluster.broker_down(-1).expect("down");
        let sink = Arc::new(Sink::default());
        let (mut taken, mut took, mut refused) = (0, Vec::new(), None);
        for token in 0..records_max as u64 + 100 {
            let began = Instant::now();
            match producer.produce(numbered(token, &sink)) {
                Ok(()) => taken += 1,
                Err(error) => {
                    refused = Some(error);
                    took.push(began.elapsed());
                }
            }
        }
        took.sort_unstable();
        // One of them may have met a busy machine; not most of them.
        let typical = took.get(took.len() / 2).copied().unwrap_or_default();
        println!("{taken} taken, then a refusal took {typical:?}: {refused:?}");
        // The record before may still be counted.
        assert!(
            (records_max - 1..=records_max).contains(&taken),
            "{taken} of {records_max}"
        );
        assert!(matches!(refused, Some(ProduceError::Unavailable(_))), "{refused:?}");
        assert!(typical < A_MOMENT, "{typical:?}: the event loop was held up");
        cluster.broker_up(-1).expect("up");
        again(&*producer).await;
        // At the latest when its time is over: what was on its way when the broker went may wait so long.
        producer.flush(120_000).await;
        assert_eq!(sink.0.lock().len(), taken, "each has its report");
    }
}

#[tokio::test]
async fn a_broker_that_is_slow_is_not_a_topic_that_is_missing() {
    let cluster = cluster();
    // Time enough for a broker that answers, and little for one that does not.
    let patient = kafka(&cluster, |options| options.start_timeout_ms = 60_000);
    let hasty = kafka(&cluster, |options| {
        options.ask_timeout_ms = 400;
        options.start_timeout_ms = 1_500;
    });
    let topic: Topic = TOPIC.into();
    let at = |partition| TopicPartition {
        topic: TOPIC.into(),
        partition: Partition(partition),
    };
    let absent = patient.consume("g", &["absent".into()], Pace::AtOnce).await.err();
    assert!(matches!(absent, Some(LogError::NoTopic(_))), "{absent:?}");
    let absent = patient.bounds(&at(2)).await;
    assert!(
        matches!(&absent, Err(LogError::NoTopic(text)) if text.contains("it has 2")),
        "{absent:?}"
    );

    cluster.partition_leader(TOPIC, 1, None).expect("leaderless");
    let leaderless = hasty.bounds(&at(1)).await;
    assert!(matches!(&leaderless, Err(LogError::Unavailable(_))), "{leaderless:?}");

    cluster
        .broker_round_trip_time(-1, Duration::from_secs(3))
        .expect("slow");
    for refused in [
        hasty
            .consume("g", std::slice::from_ref(&topic), Pace::AtOnce)
            .await
            .err(),
        hasty.tail(topic.clone()).await.err(),
        hasty.bounds(&at(0)).await.err(),
    ] {
        assert!(matches!(refused, Some(LogError::Unavailable(_))), "{refused:?}");
    }
    let text = hasty
        .tail(topic.clone())
        .await
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default();
    assert!(text.contains("log.brokers") && text.contains("asked for"), "{text}");

    // It is back within the deadline of a start: nobody has to start anything again.
    let waiting = kafka(&cluster, |options| {
        options.ask_timeout_ms = 400;
        options.start_timeout_ms = 90_000;
    });
    let (joined, ()) = tokio::join!(
        waiting.consume("g", std::slice::from_ref(&topic), Pace::AtOnce),
        async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.broker_round_trip_time(-1, Duration::ZERO).expect("fast");
        }
    );
    assert!(joined.is_ok(), "{:?}", joined.err());
}

/// A fetch that fails with an offset out of range makes librdkafka give the partition up: silence, though the log holds more.
#[tokio::test]
async fn a_partition_that_stands_still_is_seen_and_revived() {
    let _ = metric("", "");
    let cluster = cluster();
    let kafka = kafka(&cluster, |options| options.stalled_after_ms = 2_000);
    let producer = kafka.producer().await.expect("a producer");
    let at = TopicPartition {
        topic: TOPIC.into(),
        partition: Partition(0),
    };
    let group = "switchboard.core.persistence.e1";
    let mut consumer = kafka
        .consume(group, &[TOPIC.into()], Pace::AtOnce)
        .await
        .expect("a member");
    let mut got = Vec::new();
    let stalled = || metric("switchboard_partition_stalled", r#"group="persistence",partition="0""#);
    let mut step = async |consumer: &mut Consumer, wait: Duration| {
        match tokio::time::timeout(wait, consumer.events.recv()).await {
            Ok(Some(ConsumerEvent::Records(batch))) => got.extend(batch.records.into_iter().map(|r| r.offset)),
            Ok(Some(ConsumerEvent::Assigned(_))) => {
                consumer.control.start(&at, Offset::ZERO).await.expect("started");
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => panic!("the member ended"),
        }
        got.len()
    };
    say(&*producer, "0").await.expect("sent");
    let deadline = Instant::now() + SOON;
    while step(&mut consumer, Duration::from_millis(200)).await < 1 {
        assert!(Instant::now() < deadline, "nothing came");
    }
    let gone = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE; 1];
    let mut was_seen = false;
    // The injected answer may meet a fetch that librdkafka throws away; then nothing stands still, and it is tried again.
    for round in 1..=6 {
        cluster.request_errors(RDKafkaApiKey::Fetch, &gone);
        tokio::time::sleep(Duration::from_millis(300)).await;
        say(&*producer, "1").await.expect("sent");
        let (deadline, began) = (Instant::now() + SOON, Instant::now());
        while step(&mut consumer, Duration::from_millis(20)).await < 1 + round {
            was_seen |= stalled() == 1.0;
            assert!(Instant::now() < deadline, "it was not revived; seen: {was_seen}");
        }
        if was_seen {
            println!("revived after {:?} in round {round}", began.elapsed());
            break;
        }
    }
    assert!(was_seen, "the gauge showed it");
    let deadline = Instant::now() + SOON;
    while stalled() != 0.0 {
        assert!(Instant::now() < deadline, "the gauge stayed");
        step(&mut consumer, Duration::from_millis(50)).await;
    }
    let all: Vec<Offset> = (0..got.len() as u64).map(Offset).collect();
    assert_eq!(got, all, "each once, in order");
    consumer.control.close().await;
}
