//! What somebody does to topics and groups behind our back, on a real Kafka: a topic made anew (F47), cut (F46) or given more
//! partitions (F43), a group's offsets deleted (F46). Nothing goes on silently at another place.
//!
//! Runs where SWITCHBOARD_TEST_KAFKA names a broker (host:port).

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordered_log::*;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use wire::{Offset, Partition};

const SOON: Duration = Duration::from_secs(120);

struct Broker {
    log: Arc<Kafka>,
    admin: AdminClient<DefaultClientContext>,
    topic: Topic,
    group: String,
}

/// `None`, and said so, where there is no broker.
fn broker(test: &str) -> Option<Broker> {
    let Ok(brokers) = std::env::var("SWITCHBOARD_TEST_KAFKA") else {
        let said = format!("SKIPPED {test}: SWITCHBOARD_TEST_KAFKA names no broker\n");
        std::io::stderr().write_all(said.as_bytes()).expect("stderr");
        return None;
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let unique = format!("{}-{}", now.as_micros(), std::process::id());
    let options = KafkaOptions {
        brokers: brokers.clone(),
        stalled_after_ms: 2_000,
        // Seen soon: what a topic looks like is otherwise asked for every 5 minutes.
        extra: vec![("topic.metadata.refresh.interval.ms".into(), "1000".into())],
        ..KafkaOptions::default()
    };
    Some(Broker {
        log: Kafka::connect(options).expect("a client"),
        admin: ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .create()
            .expect("an admin"),
        topic: format!("{test}-{unique}").into(),
        group: format!("switchboard.{test}.persistence.e1-{unique}"),
    })
}

impl Broker {
    /// A member that has read five records and committed that.
    async fn five_read_and_committed(&self) -> Consumer {
        self.say(0..5).await;
        let (mut consumer, _) = self.join(2).await;
        let control = &consumer.control;
        control.start(&self.at(0), Offset::ZERO).await.expect("started");
        take(&mut consumer, 5).await;
        let committed = consumer.control.commit(vec![(self.at(0), Offset(5))]).await;
        committed.expect("committed");
        consumer
    }

    fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition {
            topic: self.topic.clone(),
            partition: Partition(partition),
        }
    }

    async fn make(&self) -> String {
        let spec = TopicSpec {
            name: self.topic.to_string(),
            partitions: 2,
            compacted: false,
            retention_ms: None,
            replication: 1,
        };
        self.log.create_topics(&[spec]).await.expect("made");
        self.log.topic(&self.topic).await.expect("asked").expect("there").id
    }

    async fn make_anew(&self) -> String {
        let gone = self.admin.delete_topics(&[&self.topic], &AdminOptions::new()).await;
        assert!(gone.expect("asked").iter().all(Result::is_ok));
        let deadline = Instant::now() + SOON;
        while self.log.topic(&self.topic).await.expect("asked").is_some() {
            assert!(Instant::now() < deadline, "it stays");
        }
        self.make().await
    }

    async fn say(&self, texts: std::ops::Range<u64>) {
        let producer = self.log.producer().await.expect("a producer");
        for n in texts {
            let value = Some(Bytes::from(n.to_string()));
            append(&*producer, self.topic.clone(), Partition(0), None, value)
                .await
                .expect("appended");
        }
    }

    /// A member that owns `count` partitions, each with its committed offset.
    async fn join(&self, count: usize) -> (Consumer, Vec<Assigned>) {
        let mut consumer = self
            .log
            .consume(&self.group, std::slice::from_ref(&self.topic), Pace::AtOnce)
            .await
            .expect("a member");
        let owned = assigned(&mut consumer, count).await;
        (consumer, owned)
    }
}

async fn assigned(consumer: &mut Consumer, count: usize) -> Vec<Assigned> {
    let mut owned: Vec<Assigned> = Vec::new();
    let all = async {
        while owned.len() != count {
            match consumer.events.recv().await.expect("the member lives") {
                ConsumerEvent::Assigned(more) => owned.extend(more),
                ConsumerEvent::Revoked { partitions, done } => {
                    owned.retain(|a| !partitions.contains(&a.at));
                    let _ = done.send(());
                }
                ConsumerEvent::Lost(partitions) => owned.retain(|a| !partitions.contains(&a.at)),
                _ => {}
            }
        }
    };
    tokio::time::timeout(SOON, all).await.expect("assigned in time");
    owned
}

/// Takes events until so many records came; gives the offsets.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<Offset> {
    let mut got = Vec::new();
    let all = async {
        while got.len() < count {
            match consumer.events.recv().await.expect("the member lives") {
                ConsumerEvent::Records(batch) => got.extend(batch.records.into_iter().map(|r| r.offset)),
                event => println!("{event:?}"),
            }
        }
    };
    tokio::time::timeout(SOON, all).await.expect("records in time");
    got
}

/// F47: another id under the same name, a start at the old place refused, and a running member is given nothing of it.
#[tokio::test]
async fn a_topic_made_anew_has_another_id_and_no_old_place_is_read_in_it() {
    let Some(broker) = broker("made-anew") else { return };
    let first = broker.make().await;
    let mut consumer = broker.five_read_and_committed().await;

    assert_ne!(broker.make_anew().await, first);
    broker.say(100..103).await;
    // Long enough for librdkafka to find the new one, and for the watch.
    let mut told = Vec::new();
    let began = tokio::time::Instant::now();
    loop {
        let until = began + if told.is_empty() { SOON } else { Duration::from_secs(15) };
        let Ok(event) = tokio::time::timeout_at(until, consumer.events.recv()).await else {
            break;
        };
        match event.expect("the member lives") {
            ConsumerEvent::Records(batch) => panic!("given {:?}", batch.records),
            ConsumerEvent::Trouble(Some(why)) => told.push(why),
            ConsumerEvent::Revoked { done, .. } => {
                let _ = done.send(());
            }
            event => println!("{event:?}"),
        }
    }
    println!("{told:#?}");
    assert!(!told.is_empty(), "its owner is told");
    consumer.control.close().await;

    // Whoever comes next is refused the committed place, and says so: persistence stops the partition with an alarm.
    let (consumer, owned) = broker.join(2).await;
    let committed = owned.iter().find(|a| a.at == broker.at(0)).and_then(|a| a.committed);
    println!("committed after the topic was made anew: {committed:?}");
    if let Some(committed) = committed {
        let refused = consumer.control.start(&broker.at(0), committed).await;
        assert!(
            matches!(refused, Err(LogError::OutOfRange { end: Offset(3), .. })),
            "{refused:?}"
        );
    }
    consumer.control.close().await;
}

/// F46: a group whose offsets are gone has no place; the caller begins at the start, never at the end.
#[tokio::test]
async fn a_group_whose_offsets_are_gone_has_no_place() {
    let Some(broker) = broker("group-gone") else { return };
    broker.make().await;
    let consumer = broker.five_read_and_committed().await;
    consumer.control.close().await;
    let deadline = Instant::now() + SOON;
    loop {
        // Refused while the broker still sees the member.
        let gone = broker
            .admin
            .delete_groups(&[&broker.group], &AdminOptions::new())
            .await
            .expect("asked");
        if gone.iter().all(Result::is_ok) {
            break;
        }
        assert!(Instant::now() < deadline, "{gone:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (mut consumer, owned) = broker.join(2).await;
    assert!(owned.iter().all(|a| a.committed.is_none()), "{owned:?}");
    consumer
        .control
        .start(&broker.at(0), Offset::ZERO)
        .await
        .expect("started");
    assert_eq!(take(&mut consumer, 5).await[0], Offset::ZERO, "everything comes again");
    consumer.control.close().await;
}

/// F46: what lies before the log's start is refused with its bounds.
#[tokio::test]
async fn a_place_that_was_cut_off_is_refused() {
    let Some(broker) = broker("cut-off") else { return };
    broker.make().await;
    broker.say(0..5).await;
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&broker.topic, 0, KafkaOffset::Offset(3))
        .expect("a place");
    broker
        .admin
        .delete_records(&before, &AdminOptions::new())
        .await
        .expect("cut");
    let (consumer, _) = broker.join(2).await;
    let refused = consumer.control.start(&broker.at(0), Offset(2)).await;
    let wanted = (Offset(2), Offset(3), Offset(5));
    assert!(
        matches!(refused, Err(LogError::OutOfRange { wanted: w, start, end }) if (w, start, end) == wanted),
        "{refused:?}"
    );
    consumer.control.close().await;
}

/// F43: the new partition is seen as what it is, a number nobody configured; the topic is not taken for the configured one.
#[tokio::test]
async fn added_partitions_are_told_by_their_number_and_the_topic_is_refused_at_a_start() {
    let Some(broker) = broker("re-cut") else { return };
    broker.make().await;
    let (mut consumer, owned) = broker.join(2).await;
    assert_eq!(owned.len(), 2);
    let more = NewPartitions::new(&broker.topic, 3);
    broker
        .admin
        .create_partitions(&[more], &AdminOptions::new())
        .await
        .expect("added");
    let owned = assigned(&mut consumer, 3).await;
    assert_eq!(owned.iter().map(|a| a.at.partition.0).max(), Some(2));
    let spec = TopicSpec {
        name: broker.topic.to_string(),
        partitions: 2,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    let refused = broker.log.create_topics(&[spec]).await;
    assert!(
        matches!(
            refused,
            Err(LogError::PartitionCount {
                found: 3,
                wanted: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    consumer.control.close().await;
}
