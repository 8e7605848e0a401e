//! Reads partition 0 of a topic from its start for ever, on a thread of its own, without a group.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use tokio::sync::mpsc;
use wire::{Offset, Partition};

use super::gather::Gather;
use super::reader::{Reader, group_of_nobody, is_passing, list};
use super::{KafkaOptions, settings, unavailable};
use crate::{LogError, TailEvent, Topic, TopicPartition};

const EVENTS_MAX: usize = 256;
/// How soon a tail nobody listens to is noticed.
const LOOK: Duration = Duration::from_millis(200);

/// The end of the partition is what a tail waits at, not an error of the client.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        if !matches!(error, KafkaError::PartitionEOF(_)) && !is_passing(&error) {
            tracing::warn!(%error, reason, "a Kafka tail");
        }
    }
}

impl ConsumerContext for Quiet {}

/// Blocking, as long as the broker takes to say where the topic ends.
pub(super) fn start(
    options: KafkaOptions,
    reader: Arc<Reader>,
    topic: Topic,
) -> Result<mpsc::Receiver<TailEvent>, LogError> {
    let at = TopicPartition {
        topic,
        partition: Partition(0),
    };
    let end = reader.bounds(&at)?.end;
    let config = settings::tailing(&options, &group_of_nobody());
    let consumer: BaseConsumer<Quiet> = BaseConsumer::from_config_and_context(&config, Quiet).map_err(unavailable)?;
    consumer
        .assign(&list(&at, KafkaOffset::Beginning)?)
        .map_err(unavailable)?;
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    std::thread::Builder::new()
        .name("kafka-tail".into())
        .spawn(move || run(&consumer, &sender, end))
        .map_err(|e| LogError::Failed(e.to_string()))?;
    Ok(receiver)
}

/// Ends when nobody listens. Caught up: at the end there was at the start, or, where its last records were compacted away,
/// at the partition's end.
fn run(consumer: &BaseConsumer<Quiet>, events: &mpsc::Sender<TailEvent>, end: Offset) {
    let mut catching_up = true;
    if end == Offset::ZERO {
        catching_up = false;
        let _ = events.blocking_send(TailEvent::CaughtUp);
    }
    while !events.is_closed() {
        match consumer.poll(LOOK) {
            Some(Ok(message)) => {
                let next = Offset(message.offset().unsigned_abs()).next();
                let mut gather = Gather::default();
                gather.push(&message);
                for record in gather.take() {
                    let _ = events.blocking_send(TailEvent::Record(record));
                }
                if catching_up && next >= end {
                    catching_up = false;
                    let _ = events.blocking_send(TailEvent::CaughtUp);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) if catching_up => {
                catching_up = false;
                let _ = events.blocking_send(TailEvent::CaughtUp);
            }
            Some(Err(error)) if !is_passing(&error) => tracing::warn!(%error, "a Kafka tail"),
            _ => {}
        }
    }
}
