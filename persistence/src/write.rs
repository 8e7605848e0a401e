//! Writes that end only when they are done: a store that is away is tried again, a value it refuses gets a placeholder.
//! Nothing is ever left out.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use store::{ConversationWrite, EventRow, History, PartitionWrite, StoreError, StoredConversation};
use wire::ConversationKey;

use crate::error::Alarm;
use crate::meters::{Away, Meters};
use crate::placeholder::withheld;
use crate::{RETRY_MS_MAX, RETRY_MS_MIN};

/// The store, with patience.
#[derive(Clone)]
pub(crate) struct Patient {
    pub store: Arc<dyn History>,
    pub away: Away,
    pub meters: Arc<Meters>,
}

impl Patient {
    /// The conversation's row. Waits while the store is away.
    pub async fn load(&self, key: &ConversationKey) -> Option<StoredConversation> {
        self.insist(|| self.store.load(key))
            .await
            .unwrap_or_else(|never| match never {})
    }

    pub async fn sync(&self) {
        self.insist(|| self.store.sync())
            .await
            .unwrap_or_else(|never| match never {})
    }

    /// Returns when every row of it stands, or a placeholder in its place.
    pub async fn write(&self, write: PartitionWrite) -> Result<(), Alarm> {
        match self.try_write(&write).await {
            Ok(()) => Ok(()),
            Err(Refused(_)) => self.write_apart(write).await,
        }
    }

    /// Some value of the batch is refused: find it, conversation by conversation, event by event.
    async fn write_apart(&self, write: PartitionWrite) -> Result<(), Alarm> {
        let empty = PartitionWrite {
            conversations: Vec::new(),
            marks: Vec::new(),
            ..write.clone()
        };
        for conversation in write.conversations {
            let alone = PartitionWrite {
                conversations: vec![conversation],
                ..empty.clone()
            };
            if self.try_write(&alone).await.is_err() {
                for conversation in alone.conversations {
                    self.write_conversation_apart(&empty, conversation).await?;
                }
            }
        }
        for mark in write.marks {
            let key = mark.0.clone();
            let alone = PartitionWrite {
                marks: vec![mark],
                ..empty.clone()
            };
            if let Err(Refused(why)) = self.try_write(&alone).await {
                return Err(Alarm::RowRefused { key, why });
            }
        }
        Ok(())
    }

    async fn write_conversation_apart(
        &self,
        empty: &PartitionWrite,
        mut whole: ConversationWrite,
    ) -> Result<(), Alarm> {
        let Some(key) = whole.key.clone() else { return Ok(()) };
        let alone = |events: Vec<EventRow>| PartitionWrite {
            conversations: vec![ConversationWrite {
                key: Some(key.clone()),
                events,
                ..ConversationWrite::default()
            }],
            ..empty.clone()
        };
        for row in std::mem::take(&mut whole.events) {
            if self.try_write(&alone(vec![row.clone()])).await.is_ok() {
                continue;
            }
            tracing::warn!(seq = row.seq.0, position = %row.position, "the store refuses an event; a placeholder stands in its place");
            self.meters.placeholders.increment(1);
            if let Err(Refused(why)) = self.try_write(&alone(vec![withheld(&key, &row)])).await {
                return Err(Alarm::RowRefused { key, why });
            }
        }
        let rest = PartitionWrite {
            conversations: vec![whole],
            ..empty.clone()
        };
        self.try_write(&rest)
            .await
            .map_err(|Refused(why)| Alarm::RowRefused { key: key.clone(), why })
    }

    async fn try_write(&self, write: &PartitionWrite) -> Result<(), Refused> {
        self.insist_or_refused(|| self.store.write(write.clone())).await
    }

    async fn insist<T, F>(&self, operation: impl Fn() -> F) -> Result<T, std::convert::Infallible>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut retry = Retry::new();
        loop {
            match operation().await {
                Ok(value) => return Ok(value),
                Err(why) => retry.after(&self.away, &why.to_string()).await,
            }
        }
    }

    async fn insist_or_refused<T, F>(&self, operation: impl Fn() -> F) -> Result<T, Refused>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut retry = Retry::new();
        loop {
            match operation().await {
                Ok(value) => return Ok(value),
                Err(StoreError::Refused(why)) => return Err(Refused(why)),
                Err(why) => retry.after(&self.away, &why.to_string()).await,
            }
        }
    }
}

struct Refused(String);

/// Doubling waits between attempts, each up to a quarter longer or shorter so that partitions don't march in step.
pub(crate) struct Retry {
    wait_ms: u64,
    waiting: Option<crate::meters::Waiting>,
}

impl Retry {
    pub fn new() -> Self {
        Self {
            wait_ms: RETRY_MS_MIN,
            waiting: None,
        }
    }

    /// Waits before the next attempt at something of the store, and says so in gauge and health.
    pub async fn after(&mut self, away: &Away, why: &str) {
        if self.waiting.is_none() {
            tracing::warn!(why, "the store is away; trying again until it is back");
            self.waiting = Some(away.wait(why));
        }
        self.pause().await;
    }

    /// Waits before the next attempt.
    pub async fn pause(&mut self) {
        let spread = self.wait_ms / 4;
        let jitter = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::from(d.subsec_nanos()) % (2 * spread + 1));
        tokio::time::sleep(Duration::from_millis(self.wait_ms - spread + jitter)).await;
        self.wait_ms = (self.wait_ms * 2).min(RETRY_MS_MAX);
    }
}
