//! One partition in memory: its bounds, its newest records, and who wants to hear of more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use wire::Offset;

use super::chunk::ChunkKey;
use crate::{Bounds, LogRecord, TopicPartition};

/// What a partition always keeps, however full the shared budget is.
const RING_BYTES_KEPT: usize = 262_144;
/// What a record costs in the ring besides its bytes.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// A topic and its partitions.
pub(super) struct TopicState {
    pub number: u32,
    pub id: String,
    pub compacted: bool,
    pub retention_ms: Option<u64>,
    pub partitions: Vec<Arc<PartitionLog>>,
}

/// The newest chunk of a key in a compacted topic.
pub(super) struct Newest {
    pub chunk: ChunkKey,
    pub tombstone: bool,
}

pub(super) struct PartitionLog {
    pub at: TopicPartition,
    pub topic_number: u32,
    pub compacted: bool,
    /// Dense over all partitions of the log: the writer's scratch space is addressed by it.
    pub index: usize,
    start: AtomicU64,
    end: AtomicU64,
    last_at_ms: AtomicI64,
    ring: Mutex<Ring>,
    readers: Mutex<Vec<Arc<Notify>>>,
    /// Of a compacted topic: where the newest record of each key is. Empty otherwise.
    pub newest: Mutex<HashMap<Bytes, Newest>>,
}

/// What the rings of all partitions may hold.
pub(super) struct RingBudget {
    pub partition_bytes_max: usize,
    pub total_bytes_max: usize,
    pub total_bytes: AtomicUsize,
}

#[derive(Default)]
struct Ring {
    records: VecDeque<LogRecord>,
    bytes: usize,
}

fn weight(record: &LogRecord) -> usize {
    RECORD_OVERHEAD_BYTES + record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len)
}

/// A limit on what is handed over at once.
#[derive(Clone, Copy)]
pub(super) struct Portion {
    pub records_max: usize,
    pub bytes_max: usize,
}

impl Portion {
    /// Takes records while they fit; at least one.
    pub fn take(self, from: impl Iterator<Item = LogRecord>) -> Vec<LogRecord> {
        let mut bytes = 0;
        let mut taken = Vec::new();
        for record in from.take(self.records_max.max(1)) {
            bytes += weight(&record);
            if !taken.is_empty() && bytes > self.bytes_max {
                break;
            }
            taken.push(record);
        }
        taken
    }
}

/// What a partition looks like when it is opened.
pub(super) struct Found {
    pub bounds: Bounds,
    pub last_at_ms: i64,
    pub newest: HashMap<Bytes, Newest>,
}

impl PartitionLog {
    pub fn new(at: TopicPartition, topic_number: u32, compacted: bool, index: usize, found: Found) -> Self {
        Self {
            at,
            topic_number,
            compacted,
            index,
            start: AtomicU64::new(found.bounds.start.0),
            end: AtomicU64::new(found.bounds.end.0),
            last_at_ms: AtomicI64::new(found.last_at_ms),
            ring: Mutex::default(),
            readers: Mutex::default(),
            newest: Mutex::new(found.newest),
        }
    }

    pub fn bounds(&self) -> Bounds {
        // The end is read last: it only grows, and the start never passes it.
        let start = Offset(self.start.load(Ordering::Acquire));
        Bounds { start, end: self.end() }
    }

    pub fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    pub fn last_at_ms(&self) -> i64 {
        self.last_at_ms.load(Ordering::Acquire)
    }

    /// Makes durable records visible. Writer thread only.
    pub fn publish(&self, records: impl Iterator<Item = LogRecord>, end: Offset, at_ms: i64, budget: &RingBudget) {
        let mut ring = self.ring.lock();
        let before = ring.bytes;
        for record in records {
            ring.bytes += weight(&record);
            ring.records.push_back(record);
        }
        let others = budget.total_bytes.load(Ordering::Relaxed).saturating_sub(before);
        while ring.bytes > budget.partition_bytes_max
            || (ring.bytes > RING_BYTES_KEPT && others + ring.bytes > budget.total_bytes_max)
        {
            let Some(oldest) = ring.records.pop_front() else { break };
            ring.bytes -= weight(&oldest);
        }
        // Only the writer thread changes the total.
        budget.total_bytes.store(others + ring.bytes, Ordering::Relaxed);
        self.last_at_ms.store(at_ms, Ordering::Release);
        self.end.store(end.0, Ordering::Release);
    }

    /// Records up to `start` are gone. Writer thread only.
    pub fn trimmed(&self, start: Offset) {
        self.start.fetch_max(start.0, Ordering::AcqRel);
    }

    /// The records from `from` on if the ring reaches back so far; `None`: they are in the tree only.
    pub fn recent(&self, from: Offset, portion: Portion) -> Option<Vec<LogRecord>> {
        let ring = self.ring.lock();
        let first = ring.records.front()?.offset;
        // Every appended record passes through the ring, so its offsets have no holes.
        let skip = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        Some(portion.take(ring.records.range(skip.min(ring.records.len())..).cloned()))
    }

    pub fn subscribe(&self, reader: &Arc<Notify>) {
        let mut readers = self.readers.lock();
        if !readers.iter().any(|r| Arc::ptr_eq(r, reader)) {
            readers.push(reader.clone());
        }
    }

    pub fn unsubscribe(&self, reader: &Arc<Notify>) {
        self.readers.lock().retain(|r| !Arc::ptr_eq(r, reader));
    }

    /// Wakes whoever reads here; a reader of many partitions is woken once, the rest is an atomic each.
    pub fn wake_readers(&self) {
        for reader in self.readers.lock().iter() {
            reader.notify_one();
        }
    }
}
