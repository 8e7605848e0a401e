//! What stops a partition, and what stops the service.

use conversation::BadState;
use ordered_log::LogError;
use wire::{ConversationKey, Offset, Partition, Position};

/// Log and store disagree: the partition stops, loudly, until an operator has looked. Others go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Alarm {
    #[error(
        "the committed offset {committed} of partition {partition} is not in the log, which holds {start}..{end}; was the topic re-made, or cut by retention before it was stored?"
    )]
    CommittedOutOfLog {
        partition: Partition,
        committed: Offset,
        start: Offset,
        end: Offset,
    },
    #[error(
        "conversation {key} was stored as of {applied}, but the log of partition {partition} ends at {end}; another log was written under this epoch"
    )]
    StoreAheadOfLog {
        key: ConversationKey,
        applied: Position,
        partition: Partition,
        end: Offset,
    },
    #[error(
        "the topic has a partition {partition}, but the lane is cut into {configured}; a lane is re-cut by a new epoch, never in place"
    )]
    MorePartitions { partition: Partition, configured: u32 },
    #[error("conversation {key}: {why}")]
    BadState { key: ConversationKey, why: BadState },
    #[error("the store refuses a row that has no placeholder, of conversation {key}: {why}")]
    RowRefused { key: ConversationKey, why: String },
    #[error(
        "topic {topic} has the id {found}, but epoch {epoch} was recorded with {recorded}; a re-made topic needs a new epoch"
    )]
    OtherTopic {
        topic: String,
        found: String,
        recorded: String,
        epoch: wire::Epoch,
    },
}

/// Why the whole service ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot join the group: {0}")]
    Log(#[from] LogError),
    #[error("the consumer ended although nobody closed it")]
    ConsumerEnded,
}
