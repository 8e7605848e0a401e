//! The `History` trait: what was said, kept. Two implementations (CQL, embedded), one conformance suite.
//!
//! Every write carries the write time of its record's position (`Position::write_time`): replaying any stretch of the log
//! changes nothing, byte for byte. Of two writes of one cell the one with the higher time stands.

use async_trait::async_trait;
use bytes::Bytes;
use wire::{ConversationKey, Epoch, Lane, Partition, Position, Seq, Tenant};

mod cell;
pub mod cql;
mod digest;
pub mod embedded;
mod metered;
mod retention;

pub use cql::{Cql, CqlOptions, schema_cql};
pub use digest::Digest;
pub use embedded::{Embedded, EmbeddedOptions};
pub use metered::Metered;
pub use retention::{Clock, Retention};

/// What the conversation's row holds: its folded state and its watermarks, each one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredConversation {
    /// As encoded by the fold (`conversation::State::encode`).
    pub state: Option<Bytes>,
    pub marks: StoredMarks,
}

/// Watermarks of both sides; merged by maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredMarks {
    pub customer_recv: u64,
    pub customer_read: u64,
    pub agent_recv: u64,
    pub agent_read: u64,
}

impl StoredMarks {
    /// The higher of each.
    pub fn merged(self, other: StoredMarks) -> StoredMarks {
        StoredMarks {
            customer_recv: self.customer_recv.max(other.customer_recv),
            customer_read: self.customer_read.max(other.customer_read),
            agent_recv: self.agent_recv.max(other.agent_recv),
            agent_read: self.agent_read.max(other.agent_read),
        }
    }
}

/// One event of the history: the entry's bytes (`wire::event::entry_of`), never a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    pub seq: Seq,
    /// 0 everyone, 1 staff only: the other side is shown a stub.
    pub staff_only: bool,
    pub at_ms: i64,
    pub entry: Bytes,
    pub position: Position,
}

/// Which part of a conversation a page shows. Pages always rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRange {
    /// The next events after this seq.
    After(Seq),
    /// The last events before this seq.
    Before(Seq),
    Newest,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub events: Vec<EventRow>,
    /// The highest seq stored.
    pub last_seq: Seq,
}

/// A session that is not idle, for whoever takes the partition over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    pub key: ConversationKey,
    /// Empty while nobody is assigned.
    pub agent: String,
    /// `wire::record::SessionState` as a number.
    pub state: i32,
}

/// Everything one batch of records does to one conversation. Written in this order: events and session rows, then the
/// conversation's state.
#[derive(Clone, Debug, Default)]
pub struct ConversationWrite {
    pub key: Option<ConversationKey>,
    pub events: Vec<EventRow>,
    pub state: Option<(Bytes, Position)>,
    /// The highest seq of the conversation as of `state`, whose write time it has: where the newest page is. Set whenever
    /// `state` is; a store never decodes a state.
    pub last_seq: Seq,
    pub open_session: Option<OpenSessionWrite>,
    pub sessions_closed: Vec<ClosedSession>,
}

/// The session as it stands after the batch: a row to put, or to delete.
#[derive(Clone, Debug)]
pub struct OpenSessionWrite {
    pub open: Option<OpenSession>,
    pub position: Position,
}

/// One row each of `sessions_by_agent` and `sessions_by_day`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedSession {
    pub agent: String,
    pub opened_at_ms: i64,
    pub closed_at_ms: i64,
    pub first_seq: Seq,
    pub last_seq: Seq,
    pub position: Position,
}

/// A batch of one partition's conversations.
#[derive(Clone, Debug)]
pub struct PartitionWrite {
    pub lane: Lane,
    pub epoch: Epoch,
    pub partition: Partition,
    pub conversations: Vec<ConversationWrite>,
    /// Merged with what is stored; only rises are written.
    pub marks: Vec<(ConversationKey, StoredMarks)>,
}

impl PartitionWrite {
    /// A write to be filled.
    pub fn new(lane: Lane, epoch: Epoch, partition: Partition) -> Self {
        Self {
            lane,
            epoch,
            partition,
            conversations: Vec::new(),
            marks: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Away, or too slow: try again, the same write changes nothing twice.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The store refuses this value; a placeholder is written in its place.
    #[error("the store refuses the value: {0}")]
    Refused(String),
    #[error("the store's directory {0} is in use by another process")]
    Locked(String),
    #[error("{0}")]
    Failed(String),
}

#[async_trait]
pub trait History: Send + Sync + 'static {
    /// The conversation's row, read at QUORUM; `None` if nothing was ever said.
    async fn load(&self, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError>;

    /// At most `limit` events, rising. A page with a hole is read again at QUORUM.
    async fn page(&self, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError>;

    async fn open_sessions(
        &self,
        lane: &Lane,
        epoch: Epoch,
        partition: Partition,
    ) -> Result<Vec<OpenSession>, StoreError>;

    /// Returns when all of it can be read back, and would be after a kill -9 of this process. Safe to repeat, whole or in part.
    async fn write(&self, batch: PartitionWrite) -> Result<(), StoreError>;

    /// Returns when everything written before survives a loss of power too, as far as the store's own settings promise it.
    /// Called before an offset is committed, once for many writes.
    async fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Closed sessions of an agent, newest first.
    async fn sessions_of_agent(
        &self,
        tenant: &Tenant,
        agent: &str,
        limit: u32,
    ) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError>;

    /// Succeeds when the store answers: for `/readyz` and for a paused consumer that waits.
    async fn ping(&self) -> Result<(), StoreError>;

    /// A fingerprint of all that is stored, write times included, by reading everything: for checks, not for production.
    async fn digest(&self) -> Result<Digest, StoreError> {
        Err(StoreError::Failed("this store has no digest".into()))
    }
}
