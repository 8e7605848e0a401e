//! The ordered log on Kafka, by librdkafka.
//!
//! `producer`: acks=all, reports from the producer's own thread. `consumer`: one poll loop on a thread of its own per member,
//! `rebalance` what it does when partitions come and go, `gather` how records are handed over. `reader`: random access,
//! bounds and committed offsets without a group. `tail`: a compacted topic for ever. `topics`: making and recognising them.
//! `watch`: sees partitions that stand still.
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
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc;
use wire::Offset;
use wire::limits::{PRODUCE_TIMEOUT_MS, SESSION_TIMEOUT_MS};

use self::reader::Reader;
use crate::{
    Bounds, Consumer, Log, LogError, LogRecord, Pace, Producer, TailEvent, Topic, TopicInfo, TopicPartition, TopicSpec,
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
    /// Off: see `settings::producing`.
    pub idempotent: bool,
    /// A question to the broker that takes longer is `Unavailable`.
    pub ask_timeout_ms: u64,
    /// What a process asks at its start (topics, groups, tails) is asked again for so long while no broker answers.
    pub start_timeout_ms: u64,
    /// A partition that is read, and that stands still for so long though the log holds more, is stalled.
    pub stalled_after_ms: u64,
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
            idempotent: false,
            ask_timeout_ms: 5_000,
            start_timeout_ms: 20_000,
            stalled_after_ms: 15_000,
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

/// Waits between questions of the start.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(200);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(2);

impl Kafka {
    /// Asks again, less and less often, while no broker answers: a broker that is slow or just starting is not a mistake of
    /// ours. At the deadline: what was asked, how long, and what to look at.
    async fn insist<T, F>(&self, asked: impl Fn() -> F) -> Result<T, LogError>
    where
        F: Future<Output = Result<T, LogError>>,
    {
        let began = Instant::now();
        let deadline = began + Duration::from_millis(self.options.start_timeout_ms);
        let mut wait = ASK_AGAIN_MIN;
        loop {
            let why = match asked().await {
                Err(LogError::Unavailable(why)) => why,
                answer => return answer,
            };
            if Instant::now() + wait >= deadline {
                let brokers = &self.options.brokers;
                let took_s = began.elapsed().as_secs_f64();
                return Err(LogError::Unavailable(format!(
                    "{why} (asked for {took_s:.1} s). Look whether a broker answers at {brokers} (log.brokers) and whether it is \
                     overloaded; start again when it does"
                )));
            }
            tracing::warn!(why, "Kafka does not answer; asking again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(ASK_AGAIN_MAX);
        }
    }

    async fn there(&self, topic: &str) -> Result<(), LogError> {
        match topics::partitions(&self.reader, topic).await? {
            Some(_) => Ok(()),
            None => Err(LogError::NoTopic(topic.to_owned())),
        }
    }
}

#[async_trait]
impl Log for Kafka {
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.insist(|| topics::create(&self.options, &self.reader, topics))
            .await
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        self.insist(|| topics::describe(&self.options, &self.reader, name))
            .await
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        let (options, in_flight) = (self.options.clone(), self.in_flight.clone());
        let producer = blocking(move || producer::KafkaProducer::start(options, in_flight)).await?;
        Ok(Arc::new(producer))
    }

    async fn consume(&self, group: &str, topics: &[Topic], pace: Pace) -> Result<Consumer, LogError> {
        for topic in topics {
            self.insist(|| self.there(topic)).await?;
        }
        let (options, reader) = (self.options.clone(), self.reader.clone());
        let (group, topics) = (group.to_owned(), topics.to_vec());
        blocking(move || consumer::start(options, reader, (&group, pace), &topics)).await
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
        self.insist(|| async {
            self.there(&topic).await?;
            let (options, reader, topic) = (self.options.clone(), self.reader.clone(), topic.clone());
            blocking(move || tail::start(options, reader, topic)).await
        })
        .await
    }
}
