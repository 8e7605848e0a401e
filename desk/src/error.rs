//! What stops a partition, and what stops the service.

use desk_core::BadSnapshot;
use ordered_log::LogError;
use wire::{Offset, Position};

/// Log and snapshots disagree, or are of a newer build: the partition stops, loudly; others go on.
#[derive(Debug, thiserror::Error)]
pub enum Alarm {
    #[error(
        "the committed offset {committed} is not in the log, which holds {start}..{end}; was the topic re-made, or cut by retention?"
    )]
    CommittedOutOfLog {
        committed: Offset,
        start: Offset,
        end: Offset,
    },
    #[error(
        "it was read up to {next}, and now the log holds {start}..{end}; was the topic re-made? A re-made topic needs a new epoch"
    )]
    LogCut { next: Offset, start: Offset, end: Offset },
    #[error(
        "the desk of tenant {tenant} was saved as of {position}, but its log ends at {end}; another log was written under this epoch"
    )]
    SnapshotAheadOfLog {
        tenant: String,
        position: Position,
        end: Offset,
    },
    #[error("the desk of tenant {tenant}: {why}")]
    BadSnapshot { tenant: String, why: BadSnapshot },
}

/// Why the whole service ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot join the group: {0}")]
    Log(#[from] LogError),
    #[error("the consumer ended although nobody closed it")]
    ConsumerEnded,
}
