//! The service running on an embedded log of its own, and what a test asks of both.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ordered_log::embedded::{Embedded as EmbeddedLog, EmbeddedOptions};
use ordered_log::{Log, Pace, TopicPartition, TopicSpec, append};
use persistence::{Options, Service};
use process::{Drain, Health, Kind, Tasks};
use store::History;
use tokio::time::{sleep, timeout};
use wire::record::Record;
use wire::{Epoch, Lane, LaneTopics, Offset, Partition};

use super::key;

pub const PARTITIONS: u32 = 3;
/// Longer than anything takes that does not hang.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn topics() -> LaneTopics {
    LaneTopics {
        lane: Lane::new("core").unwrap(),
        epoch: Epoch(1),
        partitions: PARTITIONS,
    }
}

pub async fn a_log() -> Arc<EmbeddedLog> {
    let log = EmbeddedLog::open_temp(EmbeddedOptions::default()).unwrap();
    let spec = |name: String| TopicSpec {
        name,
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    log.create_topics(&[spec(topics().messages()), spec(topics().dead_letters())])
        .await
        .unwrap();
    log
}

pub struct Running {
    pub tasks: Tasks,
    pub health: Health,
}

impl Running {
    pub fn start(log: &Arc<EmbeddedLog>, store: Arc<dyn History>) -> Self {
        Self::start_on(Arc::clone(log) as Arc<dyn Log>, store)
    }

    pub fn start_on(log: Arc<dyn Log>, store: Arc<dyn History>) -> Self {
        Self::start_with(log, store, |_| {})
    }

    pub fn start_with(log: Arc<dyn Log>, store: Arc<dyn History>, change: impl FnOnce(&mut Options)) -> Self {
        let tasks = Tasks::new(Drain::new(PATIENCE));
        let health = Health::new();
        let mut options = Options {
            commit_interval_ms: 30,
            ..Options::new(topics(), tasks.clone(), health.clone())
        };
        change(&mut options);
        let service = Service::new(options, log, store);
        tasks.spawn(Kind::Essential, "persistence", service.run(tasks.drain().clone()));
        Self { tasks, health }
    }

    pub async fn stop(self) {
        self.tasks.drain().start("test");
        assert_eq!(self.tasks.join(PATIENCE).await, process::tasks::Joined::All);
        assert_eq!(self.tasks.failure(), None);
    }
}

pub async fn say(log: &EmbeddedLog, customer: &str, record: &Record) -> (Partition, Offset) {
    let partition = topics().partition_of(&key(customer));
    let value = Some(wire::codec::encode(record));
    put(log, partition, Some(key(customer).to_key()), value).await
}

pub async fn put(
    log: &EmbeddedLog,
    partition: Partition,
    key: Option<Bytes>,
    value: Option<Bytes>,
) -> (Partition, Offset) {
    let producer = log.producer().await.unwrap();
    let appended = append(&*producer, topics().messages().into(), partition, key, value)
        .await
        .unwrap();
    (partition, appended.offset)
}

pub fn at(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topics().messages().into(),
        partition: Partition(partition),
    }
}

pub async fn committed(log: &EmbeddedLog) -> Vec<u64> {
    let all: Vec<TopicPartition> = (0..PARTITIONS).map(at).collect();
    let committed = log.committed(&topics().persistence_group(), &all).await.unwrap();
    committed.into_iter().map(|o| o.map_or(0, |o| o.0)).collect()
}

pub async fn ends(log: &EmbeddedLog) -> Vec<u64> {
    let mut ends = Vec::new();
    for p in 0..PARTITIONS {
        ends.push(log.bounds(&at(p)).await.unwrap().end.0);
    }
    ends
}

pub async fn until_committed(log: &EmbeddedLog) {
    let wanted = ends(log).await;
    let all = async {
        while committed(log).await != wanted {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("everything is committed in time");
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let all = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all).await.expect(what);
}

/// Commits 0 for every partition, as an operator would.
pub async fn set_back(log: &Arc<EmbeddedLog>) {
    let mut consumer = log
        .consume(
            &topics().persistence_group(),
            &[topics().messages().into()],
            Pace::AtOnce,
        )
        .await
        .unwrap();
    loop {
        match consumer.events.recv().await.expect("the group lives") {
            ordered_log::ConsumerEvent::Assigned(all) if all.len() == PARTITIONS as usize => break,
            _ => {}
        }
    }
    let zero = (0..PARTITIONS).map(|p| (at(p), Offset(0))).collect();
    consumer.control.commit(zero).await.unwrap();
    consumer.control.close().await;
    assert_eq!(committed(log).await, [0; PARTITIONS as usize]);
}
