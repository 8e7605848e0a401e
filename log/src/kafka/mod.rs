//! The ordered log on Kafka, by librdkafka.
//!
//! `producer`: acks=all, reports from the producer's own thread. `consumer`: one poll loop on a thread of its own per member,
//! `rebalance` what it does when partitions come and go, `gather` how records are handed over. `reader`: random access,
//! bounds and committed offsets without a group. `tail`: a compacted topic for ever. `topics`: making and recognising them.
//!
//! Group protocol: classic, eager range assignment, dynamic members. Which gotcha each setting answers stands in `settings`.
//!
//! What Kafka or this client cannot give:
//! - The group's generation is not readable through rdkafka's safe interface: `Assigned::generation` is 0.
//! - Append times are the broker's clock (`message.timestamp.type=LogAppendTime`); Kafka lets them fall when it is set back.

mod consumer;
mod gather;
mod producer;
mod reader;
mod rebalance;
mod settings;
mod tail;
mod topics;
mod wake;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc;
use wire::Offset;
use wire::limits::{PRODUCE_TIMEOUT_MS, SESSION_TIMEOUT_MS};

use self::reader::Reader;
use crate::{
    Bounds, Consumer, Log, LogError, LogRecord, Producer, TailEvent, Topic, TopicInfo, TopicPartition, TopicSpec,
};

/// Called before each poll of a member; for tests that stop one.
pub type BeforePoll = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone)]
pub struct KafkaOptions {
    /// `host:port`, separated by commas.
    pub brokers: String,
    pub client_id: String,
    pub session_timeout_ms: u64,
    /// A member that does not poll for longer leaves its group; also how long a rebalance waits for a member.
    pub poll_interval_max_ms: u64,
    /// How long a member may take to let go of its partitions; well below `poll_interval_max_ms`.
    pub release_timeout_ms: u64,
    pub produce_timeout_ms: u64,
    /// 0 or 1: batches grow by themselves under load.
    pub linger_ms: u64,
    pub idempotent: bool,
    /// A question to the broker that takes longer is `Unavailable`.
    pub ask_timeout_ms: u64,
    /// More settings of librdkafka (security, for one), put over ours.
    pub extra: Vec<(String, String)>,
    pub before_poll: Option<BeforePoll>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            client_id: "switchboard".into(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            poll_interval_max_ms: 30_000,
            release_timeout_ms: 5_000,
            produce_timeout_ms: PRODUCE_TIMEOUT_MS,
            linger_ms: 0,
            idempotent: true,
            ask_timeout_ms: 5_000,
            extra: Vec::new(),
            before_poll: None,
        }
    }
}

pub struct Kafka {
    options: KafkaOptions,
    reader: Arc<Reader>,
    /// Shared by all producers: the limits are the process's.
    in_flight: Arc<InFlight>,
}

/// Records handed to librdkafka and not yet reported, and their bytes.
#[derive(Default)]
struct InFlight {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

impl Kafka {
    /// Does not wait for a broker: what needs one says `Unavailable` until there is one.
    pub fn connect(options: KafkaOptions) -> Result<Arc<Self>, LogError> {
        Ok(Arc::new(Self {
            reader: Arc::new(Reader::new(options.clone())?),
            options,
            in_flight: Arc::default(),
        }))
    }
}

fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}

/// The code inside, whichever operation failed.
fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    error.rdkafka_error_code()
}

/// The label of an error that librdkafka reports.
fn kind_of(error: &KafkaError) -> &'static str {
    match code_of(error) {
        Some(RDKafkaErrorCode::AllBrokersDown) => "all_brokers_down",
        Some(
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve | RDKafkaErrorCode::OperationTimedOut,
        ) => "transport",
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL) => {
            "authentication"
        }
        _ => "other",
    }
}

/// Runs what blocks on a thread where that is allowed.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(run)
        .await
        .map_err(|e| LogError::Failed(e.to_string()))?
}

#[async_trait]
impl Log for Kafka {
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        topics::create(&self.options, &self.reader, topics).await
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        topics::describe(&self.options, &self.reader, name).await
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        let (options, in_flight) = (self.options.clone(), self.in_flight.clone());
        let producer = blocking(move || producer::KafkaProducer::start(options, in_flight)).await?;
        Ok(Arc::new(producer))
    }

    async fn consume(&self, group: &str, topics: &[Topic]) -> Result<Consumer, LogError> {
        for topic in topics {
            if topics::partitions(&self.reader, topic).await?.is_none() {
                return Err(LogError::NoTopic(topic.to_string()));
            }
        }
        let (options, reader) = (self.options.clone(), self.reader.clone());
        let (group, topics) = (group.to_owned(), topics.to_vec());
        blocking(move || consumer::start(options, reader, &group, &topics)).await
    }

    async fn read(
        &self,
        at: &TopicPartition,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let (reader, at) = (self.reader.clone(), at.clone());
        let turn = reader.turn().await?;
        blocking(move || {
            let _turn = turn;
            reader.read(&at, from, records_max, bytes_max)
        })
        .await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        let (reader, at) = (self.reader.clone(), at.clone());
        blocking(move || reader.bounds(&at)).await
    }

    async fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        let (reader, group, at) = (self.reader.clone(), group.to_owned(), at.to_vec());
        blocking(move || reader.committed(&group, &at)).await
    }

    async fn tail(&self, topic: Topic) -> Result<mpsc::Receiver<TailEvent>, LogError> {
        if topics::partitions(&self.reader, &topic).await?.is_none() {
            return Err(LogError::NoTopic(topic.to_string()));
        }
        let (options, reader) = (self.options.clone(), self.reader.clone());
        blocking(move || tail::start(options, reader, topic)).await
    }
}
