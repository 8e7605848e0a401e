//! History on this machine's disk, nothing installed: `History` on fjall, one directory, one process.
//!
//! `write` returns when the batch is with the operating system (kill -9 loses nothing), `sync` when it is on the disk.
//! Retention is applied when rows are written and read, and `sweep` removes in time what is over.

mod read;
mod rows;
mod stage;
mod sweep;
mod tables;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use process::disk::{GradualSync, Room};
use wire::{ConversationKey, Epoch, Lane, Partition, Tenant};

use crate::retention::now_ms;
use crate::{
    Clock, ClosedSession, Digest, History, OpenSession, Page, PageRange, PartitionWrite, Retention, StoreError,
    StoredConversation,
};
use sweep::{Place, Sweeper};
use tables::{Ages, Tables};
use writer::Writer;

/// A page of at most so many events is read where it is asked for: 50–130 µs were measured for 100 of 300 bytes, hardly more than
/// handing it to another thread and back costs on a busy core. Longer ones go to the blocking pool.
const INLINE_EVENTS_MAX: u32 = 100;

#[derive(Clone)]
pub struct EmbeddedOptions {
    pub retention: Retention,
    /// With less room on the disk writes are `Unavailable`, to be tried again: it covers memtables and compactions. 0: the disk
    /// is not looked at.
    pub free_bytes_kept: u64,
    /// What is over is looked for this often.
    pub sweep_interval_ms: u64,
    pub now_ms: Clock,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            free_bytes_kept: 192 << 20,
            sweep_interval_ms: 600_000,
            now_ms: Arc::new(now_ms),
        }
    }
}

/// Closes its directory when dropped; blocks for the last write then.
pub struct Embedded {
    // The sweeper asks the writer: it ends first.
    sweeper: Option<Sweeper>,
    // Before the tables: the thread ends first.
    writer: Writer,
    tables: Tables,
    _gradual: GradualSync,
    room: Room,
}

impl Embedded {
    /// Opens or makes the store in `dir` and locks it. `Locked` if another process (or another `Embedded`) has it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Arc<Self>, StoreError> {
        Self::open_with(dir, EmbeddedOptions::default())
    }

    pub fn open_with(dir: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Arc<Self>, StoreError> {
        let ages = Ages {
            retention: Arc::new(options.retention),
            now_ms: options.now_ms,
        };
        let tables = Tables::open(dir.as_ref(), ages)?;
        let writer = Writer::start(tables.clone())?;
        let sweeper = match tables.ages.retention.keeps_everything() {
            true => None,
            false => Some(Sweeper::start(writer.jobs(), options.sweep_interval_ms)?),
        };
        Ok(Arc::new(Self {
            sweeper,
            writer,
            tables,
            _gradual: GradualSync::start(dir.as_ref()),
            room: Room::new(dir.as_ref(), options.free_bytes_kept),
        }))
    }

    /// Removes what is over now; gives the number of rows. Runs by itself where retention is set.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let mut rows = 0;
        let mut from = Some(Place::default());
        while let Some(place) = from {
            let swept = self.writer.sweep(place).await?;
            rows += swept.rows;
            from = swept.next;
        }
        Ok(rows)
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
        if let Some(why) = self.room.is_short() {
            return Err(StoreError::Unavailable(why));
        }
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

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.stop();
        }
    }
}
