//! Records that could not be read are put aside as they were, with topic, partition, offset and reason in their headers.
//! An offset is committed only after its dead letter is in the log (I20).

use std::sync::Arc;

use bytes::Bytes;
use ordered_log::{Appended, ProduceError, Producer, Reports, ToProduce, Topic, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::core::DeadLetter;
use crate::meters::dead_letter_counted;
use crate::write::Retry;

/// What is kept of a value that the dead-letter topic itself refuses for its size.
const KEPT_BYTES_MAX: usize = 65_536;

pub(crate) const HEADER_TOPIC: &str = "topic";
pub(crate) const HEADER_PARTITION: &str = "partition";
pub(crate) const HEADER_OFFSET: &str = "offset";
pub(crate) const HEADER_REASON: &str = "reason";
/// Bytes of the whole value, where only its head was kept.
pub(crate) const HEADER_CUT_FROM: &str = "cut-from";

#[derive(Clone)]
pub(crate) struct DeadLetters {
    pub producer: Arc<dyn Producer>,
    pub topic: Topic,
}

impl DeadLetters {
    /// Returns when the letter is in the log. One may stand there twice; its headers say so.
    pub async fn put(&self, from: &TopicPartition, letter: DeadLetter) {
        tracing::warn!(topic = %from.topic, partition = from.partition.0, offset = letter.record.offset.0, reason = letter.reason.label(), "a record cannot be read; put aside");
        let mut value = letter.record.value.clone();
        let mut headers = vec![
            (HEADER_TOPIC.to_owned(), Bytes::copy_from_slice(from.topic.as_bytes())),
            (HEADER_PARTITION.to_owned(), from.partition.to_string().into()),
            (HEADER_OFFSET.to_owned(), letter.record.offset.to_string().into()),
            (
                HEADER_REASON.to_owned(),
                Bytes::from_static(letter.reason.label().as_bytes()),
            ),
        ];
        let mut retry = Retry::new();
        loop {
            match self
                .append(from, letter.record.key.clone(), value.clone(), headers.clone())
                .await
            {
                Ok(_) => break,
                Err(ProduceError::TooLarge) if value.as_ref().is_some_and(|v| v.len() > KEPT_BYTES_MAX) => {
                    let whole = value.take().unwrap_or_default();
                    headers.push((HEADER_CUT_FROM.to_owned(), whole.len().to_string().into()));
                    value = Some(whole.slice(..KEPT_BYTES_MAX));
                }
                Err(ProduceError::TooLarge) if value.is_some() => value = None,
                Err(why) => {
                    tracing::warn!(%why, "a dead letter could not be put aside; trying again");
                    retry.pause().await;
                }
            }
        }
        dead_letter_counted(letter.reason);
    }

    async fn append(
        &self,
        from: &TopicPartition,
        key: Option<Bytes>,
        value: Option<Bytes>,
        headers: Vec<(String, Bytes)>,
    ) -> Result<Appended, ProduceError> {
        let (sender, receiver) = oneshot::channel();
        self.producer.produce(ToProduce {
            topic: self.topic.clone(),
            partition: from.partition,
            key,
            value,
            headers,
            token: 0,
            reports: Arc::new(Once(Mutex::new(Some(sender)))),
        })?;
        receiver
            .await
            .unwrap_or_else(|_| Err(ProduceError::Unknown("the producer was dropped".into())))
    }
}

type Answer = oneshot::Sender<Result<Appended, ProduceError>>;

struct Once(Mutex<Option<Answer>>);

impl Reports for Once {
    fn report(&self, _: u64, outcome: Result<Appended, ProduceError>) {
        if let Some(sender) = self.0.lock().take() {
            // Nobody waits any more if the partition was let go.
            let _ = sender.send(outcome);
        }
    }
}
