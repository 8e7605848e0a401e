//! History on this machine's disk, nothing installed: `History` on fjall, one directory, one process.
//!
//! `write` returns when the batch is with the operating system (kill -9 loses nothing), `sync` when it is on the disk.
//! Retention is not applied here: the embedded store keeps everything.

mod read;
mod rows;
mod stage;
mod tables;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use wire::{ConversationKey, Epoch, Lane, Partition, Tenant};

use crate::{
    ClosedSession, Digest, History, OpenSession, Page, PageRange, PartitionWrite, StoreError, StoredConversation,
};
use tables::Tables;
use writer::Writer;

/// A page of at most so many events is read where it is asked for: 50–130 µs were measured for 100 of 300 bytes, hardly more than
/// handing it to another thread and back costs on a busy core. Longer ones go to the blocking pool.
const INLINE_EVENTS_MAX: u32 = 100;

/// Closes its directory when dropped; blocks for the last write then.
pub struct Embedded {
    // Before the tables: the thread ends first.
    writer: Writer,
    tables: Tables,
}

impl Embedded {
    /// Opens or makes the store in `dir` and locks it. `Locked` if another process (or another `Embedded`) has it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Arc<Self>, StoreError> {
        let tables = Tables::open(dir.as_ref())?;
        Ok(Arc::new(Self {
            writer: Writer::start(tables.clone())?,
            tables,
        }))
    }

    /// Runs a long read on the blocking pool.
    async fn aside<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tables) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tables = self.tables.clone();
        tokio::task::spawn_blocking(move || read(&tables))
            .await
            .map_err(|e| StoreError::Failed(format!("a read of the embedded store ended early: {e}")))?
    }
}

#[async_trait]
impl History for Embedded {
    async fn load(&self, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
        read::load(&self.tables, key)
    }

    async fn page(&self, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError> {
        if limit <= INLINE_EVENTS_MAX {
            return read::page(&self.tables, key, range, limit);
        }
        let key = key.clone();
        self.aside(move |tables| read::page(tables, &key, range, limit)).await
    }

    async fn open_sessions(
        &self,
        lane: &Lane,
        epoch: Epoch,
        partition: Partition,
    ) -> Result<Vec<OpenSession>, StoreError> {
        let prefix = rows::partition_key(lane, epoch, partition);
        self.aside(move |tables| read::open_sessions(tables, &prefix)).await
    }

    async fn write(&self, batch: PartitionWrite) -> Result<(), StoreError> {
        self.writer.write(batch).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.writer.sync().await
    }

    async fn sessions_of_agent(
        &self,
        tenant: &Tenant,
        agent: &str,
        limit: u32,
    ) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
        let (tenant, agent) = (tenant.clone(), agent.to_owned());
        self.aside(move |tables| read::sessions_of_agent(tables, &tenant, &agent, limit))
            .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Goes through the writer: a store that takes no writes is not well.
        self.writer.ping().await
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        self.aside(read::digest).await
    }
}
