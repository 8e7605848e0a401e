//! A log at its worst.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use ordered_log::embedded::Embedded;
use ordered_log::{
    Appended, Bounds, Consumer, Log, LogError, LogRecord, Pace, ProduceError, Producer, Reports, TailEvent, ToProduce,
    Topic, TopicInfo, TopicPartition, TopicSpec,
};
use tokio::sync::mpsc;
use wire::Offset;

/// A log whose producer loses reports: every third record of `messages` is not taken, every fifth is and says `unknown`.
pub struct Flaky {
    log: Arc<Embedded>,
    produced: Arc<AtomicU64>,
    /// Its topics were made anew: to whoever asks, they hold nothing.
    pub is_made_anew: AtomicBool,
}

impl Flaky {
    pub fn of(log: Arc<Embedded>) -> Self {
        Self {
            log,
            produced: Arc::default(),
            is_made_anew: AtomicBool::new(false),
        }
    }
}

struct FlakyProducer {
    producer: Arc<dyn Producer>,
    produced: Arc<AtomicU64>,
}

struct Unsaid(Arc<dyn Reports>);

impl Reports for Unsaid {
    fn report(&self, token: u64, _: Result<Appended, ProduceError>) {
        self.0.report(token, Err(ProduceError::Unknown("lost".into())));
    }
}

#[async_trait]
impl Producer for FlakyProducer {
    fn produce(&self, mut record: ToProduce) -> Result<(), ProduceError> {
        if record.topic.contains("messages") {
            let n = self.produced.fetch_add(1, Ordering::Relaxed);
            if n.is_multiple_of(3) {
                return Err(ProduceError::Unavailable("not now".into()));
            }
            if n.is_multiple_of(5) {
                record.reports = Arc::new(Unsaid(record.reports));
            }
        }
        self.producer.produce(record)
    }

    async fn flush(&self, deadline_ms: u64) {
        self.producer.flush(deadline_ms).await;
    }
}

#[async_trait]
impl Log for Flaky {
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.log.create_topics(topics).await
    }
    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        self.log.topic(name).await
    }
    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        Ok(Arc::new(FlakyProducer {
            producer: self.log.producer().await?,
            produced: Arc::clone(&self.produced),
        }))
    }
    async fn consume(&self, group: &str, topics: &[Topic], pace: Pace) -> Result<Consumer, LogError> {
        self.log.consume(group, topics, pace).await
    }
    async fn read(
        &self,
        at: &TopicPartition,
        from: Offset,
        n: usize,
        bytes: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.log.read(at, from, n, bytes).await
    }
    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        if self.is_made_anew.load(Ordering::Relaxed) {
            return Ok(Bounds {
                start: Offset(0),
                end: Offset(0),
            });
        }
        self.log.bounds(at).await
    }
    async fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        self.log.committed(group, at).await
    }
    async fn tail(&self, topic: Topic) -> Result<mpsc::Receiver<TailEvent>, LogError> {
        self.log.tail(topic).await
    }
}
