//! Writes one cut: still the owner? → nobody else wrote among the snapshots? → snapshots → commit.
//!
//! Snapshots are not fenced by the log, commits are. So a zombie is found out by a commit before it writes any; one that
//! paused just between the two has written older snapshots, and the owner, who counts where the snapshots end, writes
//! its own anew before it commits again.

use std::sync::Arc;

use bytes::Bytes;
use ordered_log::{CommitError, ConsumerControl, Log, Producer, TopicPartition, append};
use wire::Offset;

use crate::answering::Cut;

pub(crate) enum CutEnd {
    /// The snapshots end here, and the offset is committed.
    Done(Offset),
    /// Somebody else wrote among them; they end here.
    Disturbed(Offset),
    Fenced,
    Failed(String),
}

pub(crate) struct Writing {
    pub log: Arc<dyn Log>,
    pub producer: Arc<dyn Producer>,
    pub control: Arc<dyn ConsumerControl>,
    pub snapshots: TopicPartition,
    /// Where the snapshots end by our own count.
    pub expected_end: Offset,
}

impl Writing {
    pub async fn write(self, at: &TopicPartition, cut: Cut) -> CutEnd {
        match self.control.commit(vec![(at.clone(), cut.from)]).await {
            Ok(()) => {}
            Err(CommitError::Fenced) => return CutEnd::Fenced,
            Err(CommitError::Failed(why)) => return CutEnd::Failed(why),
        }
        let mut end = match self.log.bounds(&self.snapshots).await {
            Ok(bounds) => bounds.end,
            Err(why) => return CutEnd::Failed(why.to_string()),
        };
        let disturbed = end != self.expected_end;
        for (tenant, snapshot) in cut.snapshots {
            let key = Bytes::copy_from_slice(tenant.as_str().as_bytes());
            let topic = self.snapshots.topic.clone();
            match append(
                &*self.producer,
                topic,
                self.snapshots.partition,
                Some(key),
                Some(snapshot),
            )
            .await
            {
                Ok(appended) => end = appended.offset.next(),
                Err(why) => return CutEnd::Failed(why.to_string()),
            }
        }
        if disturbed {
            return CutEnd::Disturbed(end);
        }
        match self.control.commit(vec![(at.clone(), cut.through)]).await {
            Ok(()) => CutEnd::Done(end),
            Err(CommitError::Fenced) => CutEnd::Fenced,
            Err(CommitError::Failed(why)) => CutEnd::Failed(why),
        }
    }
}
