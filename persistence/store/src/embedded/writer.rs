//! The one thread that writes. fjall's calls block (and stall when flushing falls behind), so they stay off the runtime;
//! writes that queue up behind one another become one batch and one system call.

use std::thread::JoinHandle;

use fjall::PersistMode;
use tokio::sync::{mpsc, oneshot};

use super::stage::{Highest, Stage};
use super::sweep::{self, Place, Swept};
use super::tables::{Tables, failed};
use crate::{PartitionWrite, StoreError};

/// Writes that wait; beyond it callers do.
const QUEUE_JOBS: usize = 64;
/// Rows of one batch: what readers' latency pays for fewer system calls.
const BATCH_ROWS_MAX: usize = 8_192;
const BATCH_BYTES: usize = 64 * 1024;
/// So much is synced without being asked: the disk takes its requests in turn, and a log on it would wait for all that was
/// written since persistence last asked, 3 MiB or more. See `process::disk::GradualSync` for what fjall writes later.
const UNSYNCED_BYTES_MAX: usize = 512 * 1024;

type Reply = oneshot::Sender<Result<(), StoreError>>;
pub(super) type SweepReply = oneshot::Sender<Result<Swept, StoreError>>;

pub(super) enum Job {
    Write(PartitionWrite, Reply),
    Sync(Reply),
    Ping(Reply),
    /// Removes some of what is over. Here, so that nothing is written beneath it.
    Sweep(Place, SweepReply),
}

pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn start(tables: Tables) -> Result<Self, StoreError> {
        let highest = Highest::load(&tables)?;
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS);
        let mut rooms = Rooms::new(tables, highest, queue);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || while rooms.turn() {})
            .map_err(|e| StoreError::Failed(format!("the store's writer cannot start: {e}")))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub async fn write(&self, batch: PartitionWrite) -> Result<(), StoreError> {
        self.ask(|reply| Job::Write(batch, reply)).await
    }

    pub async fn sync(&self) -> Result<(), StoreError> {
        self.ask(Job::Sync).await
    }

    pub async fn ping(&self) -> Result<(), StoreError> {
        self.ask(Job::Ping).await
    }

    pub async fn sweep(&self, from: Place) -> Result<Swept, StoreError> {
        let stopped = || StoreError::Failed("the store's writer has stopped".into());
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Job::Sweep(from, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Another way in, for the sweeper; the thread ends only when it is gone too.
    pub fn jobs(&self) -> Option<mpsc::Sender<Job>> {
        self.jobs.clone()
    }

    async fn ask(&self, job: impl FnOnce(Reply) -> Job) -> Result<(), StoreError> {
        let stopped = || StoreError::Failed("the store's writer has stopped".into());
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    /// Ends the thread, so that the directory is free when this returns.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It panicked, and said so: there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Rooms {
    tables: Tables,
    highest: Highest,
    /// Something was written since the last sync; at the start by an earlier process, perhaps.
    is_dirty: bool,
    /// About as many bytes are in the journal since then.
    unsynced_bytes: usize,
    queue: mpsc::Receiver<Job>,
}

impl Rooms {
    fn new(tables: Tables, highest: Highest, queue: mpsc::Receiver<Job>) -> Self {
        Self {
            tables,
            highest,
            is_dirty: true,
            unsynced_bytes: 0,
            queue,
        }
    }

    /// Takes what is queued, writes it as one batch, and answers. `false` when the store is closed.
    fn turn(&mut self) -> bool {
        let Some(first) = self.queue.blocking_recv() else {
            return false;
        };
        let tables = self.tables.clone();
        let mut stage = Stage::new(&tables, BATCH_BYTES);
        let mut written: Vec<Reply> = Vec::new();
        let mut synced: Vec<Reply> = Vec::new();
        let mut sweeps: Vec<(Place, SweepReply)> = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Write(write, reply) => match stage.add(&write, &mut self.highest) {
                    Ok(true) => written.push(reply),
                    Ok(false) => {
                        // Its reads must see what is staged: that goes first, then this alone.
                        let before = std::mem::replace(&mut stage, Stage::new(&tables, BATCH_BYTES));
                        answer(&mut written, self.commit(before));
                        let mut alone = Stage::new(&tables, BATCH_BYTES);
                        let outcome = alone.add_careful(&write, &mut self.highest);
                        let outcome = outcome.and_then(|()| self.commit(alone));
                        answer(&mut vec![reply], outcome);
                    }
                    Err(e) => {
                        // Part of it is staged: written or not, the caller repeats all of it.
                        answer(&mut vec![reply], Err(e));
                    }
                },
                Job::Sync(reply) => synced.push(reply),
                Job::Ping(reply) => answer(&mut vec![reply], Ok(())),
                Job::Sweep(from, reply) => sweeps.push((from, reply)),
            }
            if stage.rows() < BATCH_ROWS_MAX {
                next = self.queue.try_recv().ok();
            }
        }
        let outcome = self.commit(stage);
        let is_written = outcome.is_ok();
        answer(&mut written, outcome);
        if is_written && self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            // If it fails, so does the next that is asked for.
            let _ = self.persist();
        }
        for (from, reply) in sweeps {
            self.is_dirty = true;
            // Whoever asked may have gone.
            let _ = reply.send(sweep::portion(&self.tables, from));
        }
        if !synced.is_empty() {
            let outcome = if is_written {
                self.persist()
            } else {
                Err(StoreError::Failed("the write before the sync failed".into()))
            };
            answer(&mut synced, outcome);
        }
        true
    }

    /// Hands the batch to the operating system: from here on it survives this process, not yet a loss of power.
    fn commit(&mut self, stage: Stage<'_>) -> Result<(), StoreError> {
        if stage.is_empty() {
            return Ok(());
        }
        self.is_dirty = true;
        self.unsynced_bytes += stage.bytes();
        let batch = stage.finish().durability(Some(PersistMode::Buffer));
        batch.commit().map_err(failed)
    }

    fn persist(&mut self) -> Result<(), StoreError> {
        if self.is_dirty {
            self.tables.db.persist(PersistMode::SyncData).map_err(failed)?;
            self.is_dirty = false;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }
}

fn answer(replies: &mut Vec<Reply>, outcome: Result<(), StoreError>) {
    for reply in replies.drain(..) {
        // Whoever asked may have gone.
        let _ = reply.send(outcome.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Position, Seq, Tenant, User};

    use super::super::tables::Ages;
    use super::*;
    use crate::{ConversationWrite, EventRow, Retention};

    fn write(seq: u64, bytes: usize) -> Job {
        let mut write = PartitionWrite::new(Lane::new("main").unwrap(), Epoch(1), Partition(0));
        let position = Position::new(Epoch(1), Offset(seq));
        write.conversations.push(ConversationWrite {
            key: Some(ConversationKey::new(
                Tenant::new("demo").unwrap(),
                User::new("alice").unwrap(),
            )),
            events: vec![EventRow {
                seq: Seq(seq),
                staff_only: false,
                at_ms: 1,
                entry: Bytes::from(vec![b'x'; bytes]),
                position,
            }],
            state: Some((Bytes::from_static(b"state"), position)),
            last_seq: Seq(seq),
            ..Default::default()
        });
        Job::Write(write, oneshot::channel().0)
    }

    #[test]
    fn little_waits_for_the_sync_that_is_asked_for_and_much_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let ages = Ages {
            retention: Arc::new(Retention::default()),
            now_ms: Arc::new(|| 1),
        };
        let tables = Tables::open(dir.path(), ages).unwrap();
        let highest = Highest::load(&tables).unwrap();
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS);
        let mut rooms = Rooms::new(tables, highest, queue);
        rooms.persist().unwrap();
        let mut seq = 0;
        let mut turn = |rooms: &mut Rooms, bytes| {
            seq += 1;
            assert!(jobs.try_send(write(seq, bytes)).is_ok());
            assert!(rooms.turn());
        };
        // Two that are below the most together, and a third that brings them above it.
        turn(&mut rooms, UNSYNCED_BYTES_MAX / 3);
        turn(&mut rooms, UNSYNCED_BYTES_MAX / 3);
        assert!(rooms.is_dirty);
        turn(&mut rooms, UNSYNCED_BYTES_MAX / 3);
        assert!(!rooms.is_dirty);
        turn(&mut rooms, 1);
        assert!(rooms.is_dirty);
    }
}
