//! What the behaviours are written with: topics of their own, a sink that counts, members that answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ordered_log::*;
use tokio::sync::Notify;
use wire::{Offset, Partition};

use crate::world::World;

pub type Behaviour = fn(&World) -> Pin<Box<dyn Future<Output = ()> + '_>>;

/// A behaviour and its name, from an `async fn`.
macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        pub const ALL: &[(&str, crate::harness::Behaviour)] = &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}
pub(crate) use behaviours;

pub const SOON: Duration = Duration::from_secs(120);

pub fn unique(what: &str) -> String {
    static N: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    format!(
        "{what}-{}-{}-{}",
        now.as_micros(),
        std::process::id(),
        N.fetch_add(1, Ordering::Relaxed)
    )
}

pub fn spec(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions,
        compacted: false,
        retention_ms: None,
        replication: 1,
    }
}

pub async fn topic(world: &World, partitions: u32) -> Topic {
    let name = unique("t");
    world
        .log
        .create_topics(&[spec(&name, partitions)])
        .await
        .expect("a topic");
    name.into()
}

pub fn at(topic: &Topic, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.clone(),
        partition: Partition(partition),
    }
}

/// Counts reports and flushes.
#[derive(Default)]
pub struct Sink {
    pub reports: parking_lot::Mutex<Vec<(u64, Result<Appended, ProduceError>)>>,
    pub flushes: AtomicU64,
    came: Notify,
}

impl Reports for Sink {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        self.reports.lock().push((token, outcome));
    }

    fn flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.came.notify_one();
    }
}

impl Sink {
    pub async fn wait(&self, count: usize) {
        let all = async {
            while self.reports.lock().len() < count {
                self.came.notified().await;
            }
        };
        tokio::time::timeout(SOON, all)
            .await
            .expect("every record gets its report");
    }
}

pub fn record(at: &TopicPartition, key: &str, value: impl Into<Bytes>, token: u64, sink: &Arc<Sink>) -> ToProduce {
    ToProduce {
        topic: at.topic.clone(),
        partition: at.partition,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(value.into()),
        headers: Vec::new(),
        token,
        reports: sink.clone(),
    }
}

/// Appends `values`, waits, and gives their offsets.
pub async fn fill(log: &Arc<dyn Log>, at: &TopicPartition, values: impl IntoIterator<Item = String>) -> Vec<Offset> {
    let producer = log.producer().await.expect("a producer");
    let sink = Arc::new(Sink::default());
    let mut count = 0;
    for value in values {
        producer
            .produce(record(at, "k", value, count as u64, &sink))
            .expect("handed over");
        count += 1;
    }
    sink.wait(count).await;
    let mut reports = std::mem::take(&mut *sink.reports.lock());
    reports.sort_by_key(|(token, _)| *token);
    reports.into_iter().map(|(_, r)| r.expect("appended").offset).collect()
}

pub fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|i| format!("v{i}"))
}

pub fn texts(records: &[LogRecord]) -> Vec<String> {
    let text = |r: &LogRecord| String::from_utf8_lossy(r.value.as_deref().unwrap_or(b"")).into_owned();
    records.iter().map(text).collect()
}

/// A member of a group that remembers what it was told.
pub struct TestMember {
    pub consumer: Consumer,
    pub owned: BTreeMap<TopicPartition, Assigned>,
    pub got: BTreeMap<TopicPartition, Vec<LogRecord>>,
    pub batches: usize,
    pub lost: Vec<TopicPartition>,
    pub trouble: Vec<String>,
    /// Waiting to be let go.
    pub revoked: Option<(Vec<TopicPartition>, tokio::sync::oneshot::Sender<()>)>,
}

impl TestMember {
    pub async fn join(log: &Arc<dyn Log>, group: &str, topics: &[Topic]) -> Self {
        Self::join_at(log, group, topics, Pace::AtOnce).await
    }

    pub async fn join_at(log: &Arc<dyn Log>, group: &str, topics: &[Topic], pace: Pace) -> Self {
        Self {
            consumer: log.consume(group, topics, pace).await.expect("a member"),
            owned: BTreeMap::new(),
            got: BTreeMap::new(),
            batches: 0,
            lost: Vec::new(),
            trouble: Vec::new(),
            revoked: None,
        }
    }

    /// Takes one event; false when there are no more.
    pub async fn step(&mut self) -> bool {
        let Some(event) = self.consumer.events.recv().await else {
            return false;
        };
        match event {
            ConsumerEvent::Assigned(shares) => self.owned.extend(shares.into_iter().map(|a| (a.at.clone(), a))),
            ConsumerEvent::Records(batch) => {
                assert!(
                    self.owned.contains_key(&batch.at),
                    "records of a partition that is not owned"
                );
                let got = self.got.entry(batch.at).or_default();
                if let (Some(last), Some(first)) = (got.last(), batch.records.first()) {
                    assert!(first.offset > last.offset, "no record twice");
                }
                assert!(!batch.records.is_empty(), "a batch has records");
                got.extend(batch.records);
                self.batches += 1;
            }
            ConsumerEvent::Revoked { partitions, done } => {
                for at in &partitions {
                    self.owned.remove(at);
                }
                self.revoked = Some((partitions, done));
            }
            ConsumerEvent::Lost(partitions) => {
                for at in &partitions {
                    self.owned.remove(at);
                }
                self.lost.extend(partitions);
            }
            ConsumerEvent::Trouble(what) => self.trouble.extend(what),
        }
        true
    }

    /// Takes events until `done` says so.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let wait = async {
            while !done(self) {
                assert!(self.step().await, "the events ended before: {what}");
            }
        };
        if tokio::time::timeout(SOON, wait).await.is_err() {
            panic!(
                "waited in vain for: {what}; owned {:?}, trouble {:?}",
                self.owned.keys(),
                self.trouble
            );
        }
    }

    pub async fn until_owns(&mut self, count: usize) {
        self.until(&format!("{count} partitions"), |m| {
            m.let_go();
            m.owned.len() == count
        })
        .await;
    }

    pub async fn until_got(&mut self, at: &TopicPartition, count: usize) {
        self.until(&format!("{count} records"), |m| {
            m.got.get(at).map_or(0, Vec::len) >= count
        })
        .await;
    }

    pub fn let_go(&mut self) {
        if let Some((_, done)) = self.revoked.take() {
            let _ = done.send(());
        }
    }

    /// Starts a partition where the group left it, else at its first record.
    pub async fn start(&self, at: &TopicPartition) {
        let from = self.owned[at].committed.unwrap_or(Offset::ZERO);
        self.consumer.control.start(at, from).await.expect("started");
    }

    /// No event for a while.
    pub async fn quiet(&mut self, ms: u64) {
        let got = tokio::time::timeout(Duration::from_millis(ms), self.consumer.events.recv()).await;
        assert!(got.is_err(), "silence was expected, not {got:?}");
    }
}
