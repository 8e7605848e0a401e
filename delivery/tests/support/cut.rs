//! A log that answers late, or whose topics are made anew under a running consumer: to whoever asks, it then holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ordered_log::{
    Bounds, Consumer, Log, LogError, LogRecord, Pace, Producer, TailEvent, Topic, TopicInfo, TopicPartition, TopicSpec,
};
use tokio::sync::mpsc;
use wire::Offset;

pub struct CutLog {
    pub inner: Arc<dyn Log>,
    pub cut: AtomicBool,
    /// A tail begins so much later.
    pub tail_late: Duration,
}

impl CutLog {
    pub fn of(inner: Arc<dyn Log>) -> Self {
        Self {
            inner,
            cut: AtomicBool::new(false),
            tail_late: Duration::ZERO,
        }
    }
}

#[async_trait]
impl Log for CutLog {
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.inner.create_topics(topics).await
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        self.inner.topic(name).await
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        self.inner.producer().await
    }

    async fn consume(&self, group: &str, topics: &[Topic], pace: Pace) -> Result<Consumer, LogError> {
        self.inner.consume(group, topics, pace).await
    }

    async fn read(
        &self,
        at: &TopicPartition,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.inner.read(at, from, records_max, bytes_max).await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        if self.cut.load(Ordering::Relaxed) {
            return Ok(Bounds {
                start: Offset::ZERO,
                end: Offset::ZERO,
            });
        }
        self.inner.bounds(at).await
    }

    async fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        self.inner.committed(group, at).await
    }

    async fn tail(&self, topic: Topic) -> Result<mpsc::Receiver<TailEvent>, LogError> {
        tokio::time::sleep(self.tail_late).await;
        self.inner.tail(topic).await
    }
}
