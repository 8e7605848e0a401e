//! What stops a partition, and what stops the service.

use ordered_log::LogError;
use wire::{Epoch, Offset, Partition};

/// Log and store disagree, or the log lacks what must be read: the partition stops, loudly, until an operator has looked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Alarm {
    #[error(
        "persistence's committed offset {committed} of partition {partition} is not in the log, which holds {start}..{end}; was the topic re-made, or cut by retention before it was stored?"
    )]
    CommittedOutOfLog {
        partition: Partition,
        committed: Offset,
        start: Offset,
        end: Offset,
    },
    #[error("partition {partition} cannot be read from {from}: {why}")]
    CannotStart {
        partition: Partition,
        from: Offset,
        why: LogError,
    },
    #[error(
        "partition {partition}: offset {from} is not stored yet and the log begins at {start}: its retention is shorter than the store's outage"
    )]
    TailCut {
        partition: Partition,
        from: Offset,
        start: Offset,
    },
    #[error(
        "partition {partition} was read up to {next}, and now the log holds {start}..{end}; was the topic re-made? A re-made topic needs a new epoch"
    )]
    LogCut {
        partition: Partition,
        next: Offset,
        start: Offset,
        end: Offset,
    },
    #[error("partition {partition}: {why}")]
    Core { partition: Partition, why: String },
    #[error(
        "topic {topic} has the id {found}, but epoch {epoch} was recorded with {recorded}; a re-made topic needs a new epoch"
    )]
    OtherTopic {
        topic: String,
        found: String,
        recorded: String,
        epoch: Epoch,
    },
}

/// Why the whole service ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot join the group: {0}")]
    Log(#[from] LogError),
    #[error("the consumer ended although nobody closed it")]
    ConsumerEnded,
    #[error("cannot listen for links on {address}: {why}")]
    Listen { address: String, why: std::io::Error },
    #[error("the links' TLS cannot be set up: {0}")]
    Tls(String),
    #[error("the link server failed: {0}")]
    LinkServer(#[from] tonic::transport::Error),
}
