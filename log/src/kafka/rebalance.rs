//! What a member does when partitions come and go. Runs inside `poll`, on the member's own thread.
//!
//! Coming: assigned at an absolute offset and paused at once, so nothing is fetched before `start` seeks. (Never at a logical
//! one: librdkafka asks for an outdated answer about it again after 500 ms, and then moves the partition there, past a
//! seek that was made meanwhile.) Going: `Revoked` is handed
//! over and its `done` awaited for a bounded time, while the commit thread goes on committing for the owner; then, under the
//! commit lock, ownership ends before librdkafka is told. A commit holds that lock from its check of the ownership to the
//! broker's answer: so none can be sent with the generation of a later assignment.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use process::metrics::KAFKA_ERRORS_TOTAL;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;
use wire::Partition;

use super::KafkaOptions;
use super::consumer::{Command, Polled, Reading};
use super::wake::Wake;
use crate::{ConsumerEvent, TopicPartition};

const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What a member's threads and its control share.
pub(super) struct Member {
    pub options: KafkaOptions,
    pub group: String,
    /// Taken when the member ends, so that its owner sees the end.
    pub events: RwLock<Option<mpsc::Sender<ConsumerEvent>>>,
    pub commands: Mutex<VecDeque<Command>>,
    pub wake: Wake,
    pub closing: AtomicBool,
    /// The commit lock, and what may be committed.
    pub owned: Mutex<HashSet<TopicPartition>>,
    /// Of the poll thread; never locked across a `poll`.
    pub polled: Mutex<Polled>,
}

pub(super) struct Context(pub Arc<Member>);

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        KAFKA_ERRORS_TOTAL
            .with(&[("kind", super::kind_of(&error))])
            .increment(1);
        tracing::warn!(group = self.0.group, %error, reason, "Kafka consumer");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let member = &self.0;
        let result = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => member.take(consumer, list),
            _ => member.give_up(consumer),
        };
        if let Err(error) = result {
            tracing::error!(group = member.group, %error, "a rebalance could not be carried out");
            member
                .polled
                .lock()
                .news
                .push_back(ConsumerEvent::Trouble(Some(error.to_string())));
        }
    }
}

impl Member {
    fn take(&self, consumer: &BaseConsumer<Context>, list: &mut TopicPartitionList) -> Result<(), KafkaError> {
        list.set_all_offsets(KafkaOffset::Offset(0))?;
        consumer.assign(list)?;
        if list.count() > 0 {
            consumer.pause(list)?;
        }
        let taken: Vec<TopicPartition> = list
            .elements()
            .iter()
            .map(|e| TopicPartition {
                topic: e.topic().into(),
                partition: Partition(e.partition().unsigned_abs()),
            })
            .collect();
        *self.owned.lock() = taken.iter().cloned().collect();
        let mut polled = self.polled.lock();
        polled.readings = taken.iter().cloned().map(Reading::new).collect();
        // Told as soon as the committed offsets are known.
        polled.untold = taken;
        Ok(())
    }

    fn give_up(&self, consumer: &BaseConsumer<Context>) -> Result<(), KafkaError> {
        let told: Vec<TopicPartition> = {
            let mut polled = self.polled.lock();
            let readings = std::mem::take(&mut polled.readings);
            let untold = std::mem::take(&mut polled.untold);
            // What was gathered and not handed over is dropped: the next owner reads it again.
            readings
                .into_iter()
                .map(|r| r.at)
                .filter(|at| !untold.contains(at))
                .collect()
        };
        if !told.is_empty() && !self.closing.load(Ordering::Acquire) {
            let lost = consumer.assignment_lost() || !self.ask_release(consumer, told.clone());
            if lost {
                self.owned.lock().clear();
                let mut polled = self.polled.lock();
                polled.news.push_back(ConsumerEvent::Lost(told));
            }
        }
        // A commit under way ends first: librdkafka bounds it by its own timeouts.
        self.owned.lock().clear();
        consumer.unassign()
    }

    /// Tells the owner to let go and waits; false if it did not, or if the partitions were lost meanwhile.
    fn ask_release(&self, consumer: &BaseConsumer<Context>, partitions: Vec<TopicPartition>) -> bool {
        let deadline = Instant::now() + Duration::from_millis(self.options.release_timeout_ms);
        let (done, mut released) = oneshot::channel();
        self.polled
            .lock()
            .news
            .push_back(ConsumerEvent::Revoked { partitions, done });
        loop {
            self.tell_news();
            match released.try_recv() {
                Ok(()) | Err(oneshot::error::TryRecvError::Closed) => return true,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let gone = consumer.assignment_lost() || self.closing.load(Ordering::Acquire) || self.is_deserted();
            if gone || Instant::now() > deadline {
                // If it was not even handed over, it is not handed over any more.
                let mut polled = self.polled.lock();
                polled
                    .news
                    .retain(|news| !matches!(news, ConsumerEvent::Revoked { .. }));
                return self.closing.load(Ordering::Acquire) || self.is_deserted();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Whether nobody takes events any more.
    pub fn is_deserted(&self) -> bool {
        self.events.read().as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    pub fn send(&self, event: ConsumerEvent) -> Result<(), TrySendError<ConsumerEvent>> {
        match &*self.events.read() {
            Some(events) => events.try_send(event),
            None => Err(TrySendError::Closed(event)),
        }
    }

    /// Hands over what is not records; false while there is no room.
    pub fn tell_news(&self) -> bool {
        let mut polled = self.polled.lock();
        while let Some(news) = polled.news.pop_front() {
            match self.send(news) {
                Ok(()) => {}
                Err(TrySendError::Full(news)) => {
                    polled.news.push_front(news);
                    return false;
                }
                Err(TrySendError::Closed(_)) => {}
            }
        }
        true
    }
}
