//! What is thrown away: records past their retention, and expired deletion markers of compacted topics.
//!
//! Older records of a compacted topic's keys go in the same batch that brings the newer one (see `writer`), so compaction is
//! never behind; what remains here are the markers. The last record of a partition always stays: its offset says where the
//! next one goes.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::Shared;
use super::chunk::ChunkKey;
use super::partition::{PartitionLog, TopicState};
use super::store::{Store, failed};
use crate::LogError;

/// Chunks removed in one batch, so that the writer never waits long for the journal.
const CHUNKS_AT_ONCE: usize = 1_024;

/// The thread that runs it.
pub(super) struct Upkeep {
    stop: SyncSender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Upkeep {
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel(1);
        let interval = Duration::from_millis(shared.options.upkeep_interval_ms);
        let thread = std::thread::Builder::new().name("log-upkeep".into()).spawn(move || {
            while matches!(stopped.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
                if let Err(error) = run(&shared) {
                    tracing::warn!(%error, "upkeep of the embedded log failed; it is tried again");
                }
            }
        })?;
        Ok(Self { stop, thread })
    }

    pub fn stop(self) {
        let _ = self.stop.try_send(());
        if self.thread.join().is_err() {
            tracing::error!("the embedded log's upkeep had panicked");
        }
    }
}

pub(super) fn run(shared: &Shared) -> Result<(), LogError> {
    let store = shared.store()?;
    let now_ms = (shared.options.now_ms)();
    let topics: Vec<Arc<TopicState>> = shared.topics.read().values().cloned().collect();
    for topic in topics {
        for part in &topic.partitions {
            if topic.compacted {
                let kept_ms = i64::try_from(shared.options.tombstones_kept_ms).unwrap_or(i64::MAX);
                drop_markers(&store, part, now_ms.saturating_sub(kept_ms))?;
            } else if let Some(retention_ms) = topic.retention_ms {
                let retention_ms = i64::try_from(retention_ms).unwrap_or(i64::MAX);
                while trim(&store, part, now_ms.saturating_sub(retention_ms))? {}
            }
        }
    }
    Ok(())
}

/// Removes chunks from the front that are older than `before_ms`; true if there may be more.
fn trim(store: &Store, part: &PartitionLog, before_ms: i64) -> Result<bool, LogError> {
    let front = store.front(part.topic_number, part.at.partition, CHUNKS_AT_ONCE)?;
    let old: Vec<&ChunkKey> = front.iter().take_while(|chunk| chunk.at_ms < before_ms).collect();
    let Some(last) = old.last() else { return Ok(false) };
    let mut batch = store.batch(old.len() + 1);
    for chunk in &old {
        batch.remove(&store.records, chunk.encode());
    }
    store.put_start(
        &mut batch,
        part.topic_number,
        part.at.partition,
        last.end(),
        part.last_at_ms(),
    );
    // The start moves first: a reader that finds a chunk gone sees why.
    part.trimmed(last.end());
    batch.commit().map_err(failed)?;
    Ok(old.len() == CHUNKS_AT_ONCE)
}

fn drop_markers(store: &Store, part: &PartitionLog, before_ms: i64) -> Result<(), LogError> {
    let mut batch = store.batch(0);
    let end = part.end();
    part.newest.lock().retain(|_, newest| {
        let expired = newest.tombstone && newest.chunk.at_ms < before_ms && newest.chunk.end() < end;
        if expired {
            batch.remove(&store.records, newest.chunk.encode());
        }
        !expired
    });
    if !batch.is_empty() {
        batch.commit().map_err(failed)?;
    }
    Ok(())
}
