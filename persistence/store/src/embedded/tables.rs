//! The embedded store's tables on disk: opening, locking, and how fjall is set up for them.

use std::path::Path;
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use crate::{Clock, Retention, StoreError};

const MIB: u64 = 1 << 20;

/// One fjall keyspace each, all in one journal: a batch over several is atomic.
#[derive(Clone)]
pub(super) struct Tables {
    pub db: Database,
    /// conversation, seq → write time, cell.
    pub events: Keyspace,
    /// conversation → write time, state.
    pub states: Keyspace,
    /// conversation → four watermarks.
    pub marks: Keyspace,
    /// partition, conversation → write time, session.
    pub open_sessions: Keyspace,
    /// partition, conversation → write time of the last delete, so that an older put stays dead. Apart from the live rows: a
    /// take-over reads those alone.
    pub deleted_sessions: Keyspace,
    /// agent, opened at, customer → write time, session.
    pub sessions_by_agent: Keyspace,
    /// partition → the highest write time ever written because of it.
    pub positions: Keyspace,
    pub ages: Ages,
}

/// What is too old, as of now.
#[derive(Clone)]
pub(super) struct Ages {
    pub retention: Arc<Retention>,
    pub now_ms: Clock,
}

impl Ages {
    pub fn is_over(&self, tenant: &str, at_ms: i64) -> bool {
        // Most stores keep everything, and need no clock.
        !self.retention.keeps_all_of(tenant) && self.retention.is_over(tenant, at_ms, (self.now_ms)())
    }
}

impl Tables {
    pub fn open(dir: &Path, ages: Ages) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::Failed(format!("{}: {e}", dir.display())))?;
        let open = move || {
            let db = Database::builder(dir)
                .max_journaling_size(1024 * MIB)
                .cache_size(64 * MIB)
                .open()?;
            Ok(Self {
                events: db.keyspace("events", || bulk(64))?,
                states: db.keyspace("states", || bulk(32))?,
                marks: db.keyspace("marks", small)?,
                open_sessions: db.keyspace("open_sessions", small)?,
                deleted_sessions: db.keyspace("deleted_sessions", small)?,
                sessions_by_agent: db.keyspace("sessions_by_agent", small)?,
                positions: db.keyspace("positions", small)?,
                ages,
                db,
            })
        };
        open().map_err(|e| match e {
            fjall::Error::Locked => StoreError::Locked(dir.display().to_string()),
            e => StoreError::Failed(format!("{}: {e}", dir.display())),
        })
    }
}

/// Tables that grow with every message. All conversations are written at once, so each flush overlaps all that was flushed
/// before: what compaction costs is the number of times a row is merged. More runs in level 0 lower it; a page then looks
/// into a few more runs, which their filters keep cheap.
///
/// Memtables: what a write costs is mostly the walk down the memtable, whose misses grow with it, so the larger one was the
/// slower (128 MiB: 6.2 µs of CPU per event, 64 MiB: 4.7, with all flushes and compactions of 4.8 million events in batches of
/// 16 per conversation; below 32 MiB flushing takes it back). States are overwritten in place: a small memtable holds fewer
/// dead versions. Keeping events apart from their keys (fjall's blob files) saved compaction, and cost it again in reads of
/// pages: not taken.
fn bulk(memtable_mib: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_mib * MIB)
        .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(8)))
}

fn small() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(16 * MIB)
}

/// What an error of a read or write means to the caller. fjall refuses all writes after one that failed: there is nothing to retry.
pub(super) fn failed(e: fjall::Error) -> StoreError {
    StoreError::Failed(format!("the embedded store: {e}"))
}
