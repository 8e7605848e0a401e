//! The one thread that appends: drains the queue, commits everything in one synced batch, then tells everyone.
//!
//! Order of each round: batch durable → records visible to readers → reports → `flush` of each sink once → readers woken.
//! So whoever holds a report can read the record, and nobody reads a record that could still get lost.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fjall::OwnedWriteBatch;
use process::metrics::{
    Counter, Gauge, Histogram, LOG_APPEND_SECONDS, LOG_APPENDED_TOTAL, LOG_BATCH_RECORDS, LOG_COMMIT_SECONDS,
    PRODUCE_IN_FLIGHT,
};
use tokio::sync::oneshot;
use wire::Offset;

use super::Shared;
use super::chunk::{self, CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, ChunkKey, Records};
use super::group::Group;
use super::partition::{Newest, PartitionLog};
use super::store::Store;
use crate::record::count_errors;
use crate::sinks::Sinks;
use crate::{Appended, CommitError, ProduceError, Reports, TopicPartition};

pub(super) enum Op {
    Append(Append),
    Commit(Commit),
    /// Answered after every report of what was queued before.
    Barrier(oneshot::Sender<()>),
}

pub(super) struct Append {
    pub part: Arc<PartitionLog>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
    pub token: u64,
    pub reports: Arc<dyn Reports>,
    pub bytes: usize,
    pub handed_over: Instant,
}

pub(super) struct Commit {
    pub group: Arc<Group>,
    pub member: u64,
    pub offsets: Vec<(TopicPartition, Offset)>,
    pub reply: oneshot::Sender<Result<(), CommitError>>,
}

/// What one round collects for a partition; kept between rounds for its allocations.
#[derive(Default)]
struct Scratch {
    part: Option<Arc<PartitionLog>>,
    appends: Vec<Append>,
    chunks: Vec<(ChunkKey, Bytes)>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    store: Arc<Store>,
    /// By `PartitionLog::index`.
    scratch: Vec<Scratch>,
    touched: Vec<usize>,
    commits: Vec<(Commit, bool)>,
    barriers: Vec<oneshot::Sender<()>>,
    sinks: Sinks,
    appended: Counter,
    batch_records: Histogram,
    commit_seconds: Histogram,
    append_seconds: Histogram,
    in_flight: Gauge,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, store: Arc<Store>) -> Self {
        Self {
            shared,
            store,
            scratch: Vec::new(),
            touched: Vec::new(),
            commits: Vec::new(),
            barriers: Vec::new(),
            sinks: Sinks::default(),
            appended: LOG_APPENDED_TOTAL.with(&[("log", "embedded")]),
            batch_records: LOG_BATCH_RECORDS.get(),
            commit_seconds: LOG_COMMIT_SECONDS.get(),
            append_seconds: LOG_APPEND_SECONDS.get(),
            in_flight: PRODUCE_IN_FLIGHT.get(),
        }
    }

    pub fn run(mut self) {
        let mut ops = Vec::new();
        while self.shared.queue.drain(&mut ops) {
            self.round(&mut ops);
        }
    }

    fn round(&mut self, ops: &mut Vec<Op>) {
        let (items, mut bytes, mut records) = (ops.len(), 0, 0);
        for op in ops.drain(..) {
            match op {
                Op::Append(append) => {
                    bytes += append.bytes;
                    records += 1;
                    self.collect(append);
                }
                Op::Commit(commit) => self.commits.push((commit, false)),
                Op::Barrier(done) => self.barriers.push(done),
            }
        }
        let now_ms = (self.shared.options.now_ms)();
        let mut batch = self.store.batch(self.touched.len() + self.commits.len());
        for &index in &self.touched {
            encode(&mut self.scratch[index], now_ms, &mut batch, &self.store);
        }
        for (commit, allowed) in &mut self.commits {
            // Here, not where it was asked: between the two the partition may have gone to somebody else.
            *allowed = commit.group.owns(commit.member, &commit.offsets);
            if *allowed {
                for (at, offset) in &commit.offsets {
                    self.store.put_committed(&mut batch, &commit.group.name, at, *offset);
                }
            }
        }
        let outcome = match self.shared.failed() {
            // An earlier batch may or may not be on the disk: this one is not even tried.
            Some(why) => Err(ProduceError::Unavailable(why)),
            None => self.commit(batch),
        };
        self.tell(outcome, records);
        self.shared.queue.done(items, bytes);
        self.in_flight.set(self.shared.queue.held() as f64);
    }

    fn collect(&mut self, append: Append) {
        let index = append.part.index;
        if index >= self.scratch.len() {
            self.scratch.resize_with(index + 1, Scratch::default);
        }
        let scratch = &mut self.scratch[index];
        if scratch.appends.is_empty() {
            self.touched.push(index);
            scratch.part.get_or_insert_with(|| append.part.clone());
        }
        scratch.appends.push(append);
    }

    fn commit(&mut self, batch: OwnedWriteBatch) -> Result<(), ProduceError> {
        if batch.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let result = batch.commit();
        self.commit_seconds.record(began.elapsed().as_secs_f64());
        result.map_err(|error| {
            let why =
                format!("the embedded log could not write: {error}; it takes nothing more until it is started again");
            tracing::error!("{why}");
            self.shared.fail(why.clone());
            ProduceError::Unknown(why)
        })
    }

    fn tell(&mut self, outcome: Result<(), ProduceError>, records: usize) {
        if records > 0 {
            self.batch_records.record(records as f64);
        }
        let now = Instant::now();
        for &index in &self.touched {
            let scratch = &mut self.scratch[index];
            let Some(part) = &scratch.part else { continue };
            let first = part.end();
            let chunks = std::mem::take(&mut scratch.chunks);
            match &outcome {
                Ok(()) => {
                    if let Some((last, _)) = chunks.last() {
                        let (end, at_ms) = (last.end(), last.at_ms);
                        let records = chunks
                            .iter()
                            .flat_map(|(key, bytes)| Records::new(key, bytes.clone()))
                            .flatten();
                        part.publish(records, end, at_ms, &self.shared.rings);
                    }
                    for (append, at) in scratch.appends.drain(..).zip(first.0..) {
                        let took = now.saturating_duration_since(append.handed_over);
                        self.append_seconds.record(took.as_secs_f64());
                        append.reports.report(append.token, Ok(Appended { offset: Offset(at) }));
                        self.sinks.add(append.reports);
                    }
                }
                Err(error) => {
                    for append in scratch.appends.drain(..) {
                        append.reports.report(append.token, Err(error.clone()));
                        self.sinks.add(append.reports);
                    }
                }
            }
        }
        for (commit, allowed) in self.commits.drain(..) {
            let answer = match &outcome {
                _ if !allowed => Err(CommitError::Fenced),
                Ok(()) => {
                    self.shared.committed(&commit.group.name, &commit.offsets);
                    Ok(())
                }
                Err(error) => Err(CommitError::Failed(error.to_string())),
            };
            let _ = commit.reply.send(answer);
        }
        self.sinks.flush();
        for index in self.touched.drain(..) {
            if let Some(part) = &self.scratch[index].part {
                part.wake_readers();
            }
        }
        for barrier in self.barriers.drain(..) {
            let _ = barrier.send(());
        }
        match &outcome {
            Ok(()) => self.appended.increment(records as u64),
            Err(error) => count_errors("embedded", error, records as u64),
        }
    }
}

/// Turns what was collected for a partition into chunks.
fn encode(scratch: &mut Scratch, now_ms: i64, batch: &mut OwnedWriteBatch, store: &Store) {
    let Some(part) = &scratch.part else { return };
    let at_ms = now_ms.max(part.last_at_ms());
    let mut first = part.end();
    let mut appends = scratch.appends.as_slice();
    let mut superseded = Vec::new();
    while !appends.is_empty() {
        let (count, bytes) = if part.compacted {
            (1, appends[0].bytes)
        } else {
            fitting(appends)
        };
        let (now, later) = appends.split_at(count);
        let mut value = Vec::with_capacity(bytes);
        for append in now {
            chunk::encode(&mut value, append.key.as_ref(), append.value.as_ref(), &append.headers);
        }
        let key = ChunkKey {
            topic: part.topic_number,
            partition: part.at.partition,
            first,
            count: count as u32,
            at_ms,
        };
        if part.compacted {
            superseded.extend(supersede(part, &now[0], key));
        }
        scratch.chunks.push((key, value.into()));
        first = key.end();
        appends = later;
    }
    let from = part.end();
    for old in &superseded {
        if old.first < from {
            batch.remove(&store.records, old.encode());
        }
    }
    for (key, bytes) in &scratch.chunks {
        // A key written twice in one round: the older record goes to the readers but not to the disk. (An insertion and a
        // removal of one item in one batch would have one sequence number, and no order.)
        if !superseded.iter().any(|old| old.first == key.first) {
            batch.insert(&store.records, key.encode(), bytes.clone());
        }
    }
}

/// Notes the newest chunk of a key, and gives the one it replaces.
fn supersede(part: &PartitionLog, append: &Append, chunk: ChunkKey) -> Option<ChunkKey> {
    let key = Bytes::copy_from_slice(append.key.as_ref()?);
    let tombstone = append.value.is_none();
    let old = part.newest.lock().insert(key, Newest { chunk, tombstone });
    old.map(|old| old.chunk)
}

/// How many of these go into one chunk, and how long it gets.
fn fitting(appends: &[Append]) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    for append in appends.iter().take(CHUNK_RECORDS_MAX) {
        if count > 0 && bytes + append.bytes > CHUNK_BYTES_MAX {
            break;
        }
        count += 1;
        bytes += append.bytes;
    }
    (count, bytes)
}
