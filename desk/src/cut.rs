//! Writes one cut: still the owner? → what nobody reads any more is taken away → the desks, piece by piece → commit.
//!
//! Snapshots are not fenced by the log, commits are. So a zombie is found out by a commit before it writes any; one that
//! paused just between the two writes what the owner would have written at that position, under keys of its own.

use std::sync::Arc;

use bytes::Bytes;
use ordered_log::{CommitError, ConsumerControl, ProduceError, Producer, TopicPartition, append};
use wire::Tenant;

use crate::answering::Cut;

pub(crate) enum CutEnd {
    /// The desks stand under these keys, and the offset is committed.
    Done(Vec<(Tenant, Vec<Bytes>)>),
    Fenced,
    Failed(String),
}

pub(crate) struct Writing {
    pub producer: Arc<dyn Producer>,
    pub control: Arc<dyn ConsumerControl>,
    pub snapshots: TopicPartition,
}

impl Writing {
    pub async fn write(self, at: &TopicPartition, cut: Cut) -> CutEnd {
        match self.steps(at, cut).await {
            Ok(written) => CutEnd::Done(written),
            Err(end) => end,
        }
    }

    async fn steps(&self, at: &TopicPartition, cut: Cut) -> Result<Vec<(Tenant, Vec<Bytes>)>, CutEnd> {
        self.control.commit(vec![(at.clone(), cut.from)]).await?;
        for key in cut.obsolete {
            self.put(key, None).await?;
        }
        let mut written = Vec::with_capacity(cut.desks.len());
        for desk in &cut.desks {
            let mut keys = Vec::new();
            // Each is made when the one before is in the log: the loop this runs in has its turns in between.
            for piece in desk.pieces() {
                keys.push(piece.key.clone());
                self.put(piece.key, Some(piece.value)).await?;
            }
            written.push((desk.tenant().clone(), keys));
        }
        self.control.commit(vec![(at.clone(), cut.through)]).await?;
        Ok(written)
    }

    async fn put(&self, key: Bytes, value: Option<Bytes>) -> Result<(), CutEnd> {
        let topic = self.snapshots.topic.clone();
        append(&*self.producer, topic, self.snapshots.partition, Some(key), value).await?;
        Ok(())
    }
}

impl From<CommitError> for CutEnd {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Fenced => CutEnd::Fenced,
            CommitError::Failed(why) => CutEnd::Failed(why),
        }
    }
}

impl From<ProduceError> for CutEnd {
    fn from(error: ProduceError) -> Self {
        CutEnd::Failed(error.to_string())
    }
}
