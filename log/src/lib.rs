//! The ordered log and who owns which partition: one trait, two implementations (Kafka, embedded), one conformance suite.
//!
//! Rules every implementation keeps:
//! - A report `Ok(offset)` means the record is durable, and its offset is above every offset reported before for that
//!   partition by this producer. Anything that cannot be known is `ProduceError::Unknown`.
//! - A partition is read by one member of a group at a time. A member learns of its loss before anybody else reads on,
//!   unless it was paused; then its commits fail with `CommitError::Fenced`.
//! - Nothing starts by itself: an assigned partition is silent until `ConsumerControl::start` names the first offset.
//! - Append times of a partition never fall.

pub mod embedded;
pub mod kafka;
mod record;
mod sinks;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wire::{Offset, Partition};

pub use embedded::{Embedded, EmbeddedOptions};
pub use kafka::{Kafka, KafkaOptions};

/// A topic's name; cheap to clone.
pub type Topic = Arc<str>;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: Partition,
}

/// One record as read.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    pub offset: Offset,
    /// The log's append time, Unix milliseconds.
    pub at_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// Set where the record was found to carry some; empty on the hot path.
    pub headers: Vec<(String, Bytes)>,
}

/// One record to be appended; what it must be stands in `record`.
pub struct ToProduce {
    pub topic: Topic,
    pub partition: Partition,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
    /// Given back with the report.
    pub token: u64,
    pub reports: Arc<dyn Reports>,
}

/// Where delivery reports go. Called from the log's own thread: must not block.
pub trait Reports: Send + Sync {
    /// `Ok((offset, append time))`; the append time is `None` where the log doesn't say.
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>);
    /// Called after a run of reports, so that receivers can be woken once.
    fn flush(&self) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub offset: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// It was never handed to the log: it will not appear.
    #[error("the log takes no records now: {0}")]
    Unavailable(String),
    /// It may appear, or not.
    #[error("the log did not say whether it has the record: {0}")]
    Unknown(String),
    #[error("the record is larger than the topic allows")]
    TooLarge,
}

#[async_trait]
pub trait Producer: Send + Sync + 'static {
    /// Hands one record over without waiting; its report comes later through `reports`, exactly once.
    /// An error here is definite: the record will not appear and no report comes.
    fn produce(&self, record: ToProduce) -> Result<(), ProduceError>;

    /// Waits until every record handed over so far has its report, or the deadline (milliseconds from now).
    async fn flush(&self, deadline_ms: u64);
}

/// Appends one record and waits for its report. For control-plane records; the hot path uses `produce`.
pub async fn append(
    producer: &dyn Producer,
    topic: Topic,
    partition: Partition,
    key: Option<Bytes>,
    value: Option<Bytes>,
) -> Result<Appended, ProduceError> {
    struct Once(parking_lot::Mutex<Option<oneshot::Sender<Result<Appended, ProduceError>>>>);
    impl Reports for Once {
        fn report(&self, _: u64, outcome: Result<Appended, ProduceError>) {
            if let Some(sender) = self.0.lock().take() {
                let _ = sender.send(outcome);
            }
        }
    }
    let (sender, receiver) = oneshot::channel();
    producer.produce(ToProduce {
        topic,
        partition,
        key,
        value,
        headers: Vec::new(),
        token: 0,
        reports: Arc::new(Once(parking_lot::Mutex::new(Some(sender)))),
    })?;
    receiver
        .await
        .unwrap_or_else(|_| Err(ProduceError::Unknown("the producer was dropped".into())))
}

#[derive(Clone, Debug)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: u32,
    pub compacted: bool,
    /// `None`: for ever.
    pub retention_ms: Option<u64>,
    pub replication: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// The broker's own id of this life of the topic: another id under the same name means it was re-made.
    pub id: String,
    pub partitions: u32,
}

/// First offset that can be read, and the offset the next record will get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub start: Offset,
    pub end: Offset,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log cannot be reached: {0}")]
    Unavailable(String),
    #[error("topic {0} does not exist; create it with `switchboard topics create`")]
    NoTopic(String),
    #[error("topic {topic} has {found} partitions where {wanted} are configured")]
    PartitionCount { topic: String, found: u32, wanted: u32 },
    #[error("offset {wanted} is not in the log, which holds {start}..{end}")]
    OutOfRange { wanted: Offset, start: Offset, end: Offset },
    #[error("the log's directory {0} is in use by another process")]
    Locked(String),
    #[error("{0}")]
    Failed(String),
}

#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Creates what is missing; leaves what exists alone. `PartitionCount` if one exists with another count.
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError>;

    /// `None` if there is no such topic.
    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError>;

    /// A producer of its own; a fatal error inside replaces it without the caller noticing.
    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError>;

    /// Joins `group` for all partitions of `topics`.
    async fn consume(&self, group: &str, topics: &[Topic], pace: Pace) -> Result<Consumer, LogError>;

    /// Records from `from` on, at most so many records and bytes (at least one record if there is one); empty at the end.
    async fn read(
        &self,
        at: &TopicPartition,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, LogError>;

    /// Asked afresh, never from a cache.
    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError>;

    /// The group's committed offset (the first one not yet done) per partition; `None` if it never committed.
    async fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError>;

    /// Reads partition 0 of a compacted topic from its start, for ever and without a group.
    /// `TailEvent::CaughtUp` comes once, after the records that were there when the tail began.
    async fn tail(&self, topic: Topic) -> Result<mpsc::Receiver<TailEvent>, LogError>;
}

/// How soon records come to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as they are there: somebody waits for them.
    AtOnce,
    /// Up to [`GATHER_MS`] later, in larger batches: what each batch costs log and reader is paid less often.
    Gathered,
}

/// How long records are held back for [`Pace::Gathered`], in milliseconds, at most.
pub const GATHER_MS: u64 = 50;

#[derive(Clone, Debug)]
pub enum TailEvent {
    Record(LogRecord),
    CaughtUp,
}

/// A member of a group: its events, and what it may ask for.
pub struct Consumer {
    pub events: mpsc::Receiver<ConsumerEvent>,
    pub control: Arc<dyn ConsumerControl>,
}

#[derive(Debug)]
pub enum ConsumerEvent {
    /// These partitions are ours now; silent until started.
    Assigned(Vec<Assigned>),
    /// Records of one started partition, in order, without holes other than compaction's.
    Records(Batch),
    /// These go to somebody else as soon as `done` is sent or dropped: finish, commit, let go.
    Revoked {
        partitions: Vec<TopicPartition>,
        done: oneshot::Sender<()>,
    },
    /// These are somebody else's already: nothing may be committed or written any more.
    Lost(Vec<TopicPartition>),
    /// Nothing can be read at present (or again, with `None`): for health and logs.
    Trouble(Option<String>),
}

#[derive(Clone, Debug)]
pub struct Assigned {
    pub at: TopicPartition,
    /// The group's generation, 0 where it cannot be read. Never falls for a partition.
    pub generation: u64,
    /// The group's committed offset.
    pub committed: Option<Offset>,
}

#[derive(Clone, Debug)]
pub struct Batch {
    pub at: TopicPartition,
    pub records: Vec<LogRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// We are not the owner any more.
    #[error("the partition belongs to another member")]
    Fenced,
    #[error("the commit failed: {0}")]
    Failed(String),
}

#[async_trait]
pub trait ConsumerControl: Send + Sync + 'static {
    /// Starts an assigned partition at `from`. `OutOfRange` if the log does not hold it.
    async fn start(&self, at: &TopicPartition, from: Offset) -> Result<(), LogError>;

    /// Stops reading; what was read already still comes.
    fn pause(&self, at: &TopicPartition);

    fn resume(&self, at: &TopicPartition);

    /// Commits the first offset not yet done per partition, and waits for the answer.
    async fn commit(&self, offsets: Vec<(TopicPartition, Offset)>) -> Result<(), CommitError>;

    /// Leaves the group at once; `events` ends.
    async fn close(&self);
}
