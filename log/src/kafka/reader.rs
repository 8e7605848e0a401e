//! Questions without a group: records at a place, a partition's bounds, a group's committed offsets. All of it blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::Offset;

use super::gather::Gather;
use super::{KafkaOptions, code_of, settings, unavailable};
use crate::{Bounds, LogError, LogRecord, TopicPartition};

/// Reads that run at once; each has a client of its own.
const READERS_MAX: usize = 4;
/// Clients kept for asking committed offsets, one per group.
const GROUPS_MAX: usize = 32;

pub(super) struct Reader {
    options: KafkaOptions,
    /// Asks for metadata and watermarks.
    probe: BaseConsumer,
    idle: Mutex<Vec<BaseConsumer>>,
    turns: Arc<Semaphore>,
    groups: Mutex<HashMap<String, Arc<BaseConsumer>>>,
}

pub(super) fn list(at: &TopicPartition, offset: KafkaOffset) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(&at.topic, at.partition.0 as i32, offset)
        .map_err(|e| LogError::Failed(e.to_string()))?;
    Ok(list)
}

fn offset(raw: i64) -> Offset {
    Offset(raw.max(0).unsigned_abs())
}

/// A group nobody joins and nobody commits for: librdkafka fetches only with one.
pub(super) fn group_of_nobody() -> String {
    format!("switchboard.reader.{}", uuid::Uuid::new_v4())
}

impl Reader {
    pub fn new(options: KafkaOptions) -> Result<Self, LogError> {
        Ok(Self {
            probe: settings::asking(&options)
                .create()
                .map_err(|e| LogError::Failed(e.to_string()))?,
            options,
            idle: Mutex::default(),
            turns: Arc::new(Semaphore::new(READERS_MAX)),
            groups: Mutex::default(),
        })
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.options.ask_timeout_ms)
    }

    /// Waits for a reader to be free; on the caller's task, so that no blocking thread is held meanwhile.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, LogError> {
        self.turns.clone().acquire_owned().await.map_err(unavailable)
    }

    /// Partitions of a topic; `None` if there is no such topic.
    pub fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        let metadata = self
            .probe
            .fetch_metadata(Some(topic), self.timeout())
            .map_err(|error| LogError::Unavailable(format!("no answer about topic {topic}: {error}")))?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::NoError) => Ok(Some(found.partitions().len() as u32)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(code) => Err(LogError::Unavailable(format!("topic {topic}: {code}"))),
        }
    }

    /// librdkafka says "unknown partition" of one that does not exist, of one without a leader, and of one whose metadata
    /// did not come in time. Which of them it is, is asked of the broker itself.
    fn why_unknown(&self, at: &TopicPartition, error: KafkaError) -> LogError {
        let is_unknown = matches!(
            code_of(&error),
            Some(
                RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
            )
        );
        if !is_unknown {
            return unavailable(error);
        }
        let TopicPartition { topic, partition } = at;
        match self.partitions(topic) {
            Ok(None) => LogError::NoTopic(topic.to_string()),
            Ok(Some(count)) if partition.0 >= count => {
                LogError::NoTopic(format!("{topic} (partition {partition}; it has {count})"))
            }
            Ok(Some(_)) => LogError::Unavailable(format!("{topic} {partition} has no leader at present: {error}")),
            Err(why) => why,
        }
    }

    /// Whether every partition has a leader by now.
    pub fn is_led(&self, topic: &str) -> bool {
        let metadata = self.probe.fetch_metadata(Some(topic), self.timeout());
        metadata.is_ok_and(|m| {
            let partitions: Vec<_> = m.topics().iter().flat_map(|t| t.partitions()).collect();
            !partitions.is_empty() && partitions.iter().all(|p| p.leader() >= 0)
        })
    }

    pub fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        let asked = self
            .probe
            .fetch_watermarks(&at.topic, at.partition.0 as i32, self.timeout());
        let (start, end) = asked.map_err(|error| self.why_unknown(at, error))?;
        Ok(Bounds {
            start: offset(start),
            end: offset(end),
        })
    }

    /// `from` may be the end.
    pub fn in_range(&self, at: &TopicPartition, from: Offset) -> Result<Bounds, LogError> {
        let Bounds { start, end } = self.bounds(at)?;
        if from < start || from > end {
            return Err(LogError::OutOfRange {
                wanted: from,
                start,
                end,
            });
        }
        Ok(Bounds { start, end })
    }

    pub fn read(
        &self,
        at: &TopicPartition,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        if self.in_range(at, from)?.end == from {
            return Ok(Vec::new());
        }
        let idle = self.idle.lock().pop();
        let consumer: BaseConsumer = match idle {
            Some(consumer) => consumer,
            None => settings::reading(&self.options, &group_of_nobody())
                .create()
                .map_err(unavailable)?,
        };
        let records = self.read_with(&consumer, at, from, records_max, bytes_max);
        if records.is_ok() && consumer.unassign().is_ok() {
            self.idle.lock().push(consumer);
        }
        records
    }

    fn read_with(
        &self,
        consumer: &BaseConsumer,
        at: &TopicPartition,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let place = list(at, KafkaOffset::Offset(from.0 as i64))?;
        consumer.assign(&place).map_err(unavailable)?;
        let deadline = Instant::now() + self.timeout();
        let mut gathered = Gather::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match consumer.poll(left) {
                // Something of an earlier read may still be in the queue.
                Some(Ok(message)) if !is_of(&message, at) || message.offset() < from.0 as i64 => {}
                Some(Ok(message)) => {
                    let bytes = message.payload_len() + message.key_len();
                    if gathered.len() > 0 && gathered.bytes() + bytes > bytes_max {
                        break;
                    }
                    gathered.push(&message);
                    if gathered.len() >= records_max {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == at.partition.0 as i32 => break,
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => return Err(unavailable(error)),
                None if left.is_zero() => {
                    return Err(LogError::Unavailable(format!(
                        "{} {} did not answer in time",
                        at.topic, at.partition
                    )));
                }
                None => {}
            }
        }
        Ok(gathered.take())
    }

    pub fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        let consumer = {
            let mut groups = self.groups.lock();
            match groups.get(group) {
                Some(consumer) => consumer.clone(),
                None => {
                    let consumer: BaseConsumer =
                        settings::reading(&self.options, group).create().map_err(unavailable)?;
                    let consumer = Arc::new(consumer);
                    if groups.len() >= GROUPS_MAX {
                        groups.clear();
                    }
                    groups.insert(group.to_owned(), consumer.clone());
                    consumer
                }
            }
        };
        ask_committed(&*consumer, at, self.timeout())
    }
}

/// The committed offsets of the consumer's group.
pub(super) fn ask_committed<C: rdkafka::consumer::ConsumerContext>(
    consumer: &impl Consumer<C>,
    at: &[TopicPartition],
    timeout: Duration,
) -> Result<Vec<Option<Offset>>, LogError> {
    let mut list = TopicPartitionList::with_capacity(at.len());
    for at in at {
        list.add_partition(&at.topic, at.partition.0 as i32);
    }
    let found = consumer.committed_offsets(list, timeout).map_err(unavailable)?;
    at.iter()
        .map(|at| {
            let found = found.find_partition(&at.topic, at.partition.0 as i32);
            let found = found.ok_or_else(|| LogError::Failed("a partition is missing in the answer".into()))?;
            found.error().map_err(unavailable)?;
            Ok(match found.offset() {
                KafkaOffset::Offset(committed) => Some(offset(committed)),
                _ => None,
            })
        })
        .collect()
}

fn is_of(message: &rdkafka::message::BorrowedMessage<'_>, at: &TopicPartition) -> bool {
    message.partition() == at.partition.0 as i32 && message.topic() == &*at.topic
}

/// Errors that librdkafka reports and mends by itself.
pub(super) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        code_of(error),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::PartitionEOF
        )
    ) || matches!(error, KafkaError::PartitionEOF(_))
}
