//! The directory: one fjall database, locked by a file of our own.
//!
//! - Keyspace `records`: chunks under `topic, partition, first offset, count, append time` (see `chunk`). Log records are
//!   written once and never changed, so large values go to blob files (key-value separation): compaction then moves keys of
//!   28 bytes and leaves the records where they were first flushed, and a blob file whose records were all trimmed is
//!   dropped whole. There are no point reads, hence no filters. One keyspace for all partitions: a batch touches one
//!   memtable, and an idle partition keeps no memtable of its own that would hold old journals back.
//! - Keyspace `meta`: topics, starts of trimmed partitions, committed offsets, the start counter.
//!
//! The journal is fjall's: a torn batch at its end is cut off at the next open, so a batch is there whole or not at all; what
//! is more than that is damage, and refused (see `journal`).

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::Path;

use bytes::Bytes;
use fjall::config::FilterPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, OwnedWriteBatch, PersistMode};
use process::disk::GradualSync;
use wire::{Offset, Partition};

use super::chunk::{self, ChunkKey, Records};
use super::journal;
use super::partition::{Found, Newest, Portion};
use crate::{Bounds, LogError, LogRecord, TopicPartition};

const MEMTABLE_BYTES: u64 = 32 << 20;
/// Journals kept until their memtables are flushed; bounds the time an open takes.
const JOURNAL_BYTES: u64 = 128 << 20;
const BLOB_FROM_BYTES: u32 = 512;
const CACHE_BYTES: u64 = 16 << 20;

pub(super) struct Store {
    db: Database,
    pub records: Keyspace,
    pub meta: Keyspace,
    /// How often this directory was opened.
    pub generation: u64,
    _gradual: GradualSync,
    /// Held as long as the database is open.
    _lock: File,
}

/// What is written down about a topic.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct TopicRow {
    pub number: u32,
    pub id: String,
    pub partitions: u32,
    pub compacted: bool,
    pub retention_ms: Option<u64>,
}

const GENERATION: &[u8] = b"generation";

pub(super) fn failed(error: impl std::fmt::Display) -> LogError {
    LogError::Failed(error.to_string())
}

fn corrupt(what: &str) -> LogError {
    LogError::Failed(format!("the log's directory holds a {what} that cannot be read"))
}

fn topic_key(name: &str) -> Vec<u8> {
    [b"t/", name.as_bytes()].concat()
}

fn start_key(topic: u32, partition: Partition) -> Vec<u8> {
    [&b"s/"[..], &topic.to_be_bytes(), &partition.0.to_be_bytes()].concat()
}

/// Names may hold anything but NUL, which Kafka forbids as well.
pub(super) fn committed_key(group: &str, at: &TopicPartition) -> Vec<u8> {
    let partition = at.partition.0.to_be_bytes();
    [b"c/", group.as_bytes(), b"\0", at.topic.as_bytes(), b"\0", &partition].concat()
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl TopicRow {
    fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(64);
        row.extend_from_slice(&self.number.to_be_bytes());
        row.extend_from_slice(&self.partitions.to_be_bytes());
        row.push(u8::from(self.compacted));
        row.extend_from_slice(&self.retention_ms.unwrap_or(u64::MAX).to_be_bytes());
        row.extend_from_slice(self.id.as_bytes());
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let four = |at: usize| Some(u32::from_be_bytes(row.get(at..at + 4)?.try_into().ok()?));
        let retention_ms = number(row.get(9..17)?)?;
        Some(Self {
            number: four(0)?,
            partitions: four(4)?,
            compacted: *row.get(8)? == 1,
            retention_ms: (retention_ms != u64::MAX).then_some(retention_ms),
            id: String::from_utf8(row.get(17..)?.to_vec()).ok()?,
        })
    }
}

impl Store {
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked(dir.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let journals = journal::journals(&dir.join("db")).map_err(failed)?;
        let db = Database::builder(dir.join("db"))
            .worker_threads(2)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => LogError::Locked(dir.display().to_string()),
                error => failed(error),
            })?;
        for journal in journals {
            if let Some(damage) = journal.damage(dir).map_err(failed)? {
                tracing::error!("{damage}");
                return Err(LogError::Failed(damage));
            }
        }
        let records = db
            .keyspace("records", || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    .filter_policy(FilterPolicy::disabled())
                    .with_kv_separation(Some(
                        KvSeparationOptions::default().separation_threshold(BLOB_FROM_BYTES),
                    ))
            })
            .map_err(failed)?;
        let meta = db.keyspace("meta", KeyspaceCreateOptions::default).map_err(failed)?;
        let last = meta.get(GENERATION).map_err(failed)?;
        let generation = last
            .map_or(Some(0), |g| number(&g))
            .ok_or_else(|| corrupt("start counter"))?
            + 1;
        meta.insert(GENERATION, generation.to_be_bytes()).map_err(failed)?;
        db.persist(PersistMode::SyncAll).map_err(failed)?;
        Ok(Self {
            _gradual: GradualSync::start(dir),
            db,
            records,
            meta,
            generation,
            _lock: lock,
        })
    }

    /// A batch that is on the disk when `commit` returns.
    pub fn batch(&self, items: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), items).durability(Some(PersistMode::SyncData))
    }

    pub fn put_topic(&self, batch: &mut OwnedWriteBatch, name: &str, row: &TopicRow) {
        batch.insert(&self.meta, topic_key(name), row.encode());
    }

    /// `at_ms`: the last append time, so that it never falls even when every record is gone.
    pub fn put_start(&self, batch: &mut OwnedWriteBatch, topic: u32, partition: Partition, start: Offset, at_ms: i64) {
        let row = [start.0.to_be_bytes(), at_ms.to_be_bytes()].concat();
        batch.insert(&self.meta, start_key(topic, partition), row);
    }

    pub fn put_committed(&self, batch: &mut OwnedWriteBatch, group: &str, at: &TopicPartition, offset: Offset) {
        batch.insert(&self.meta, committed_key(group, at), offset.0.to_be_bytes());
    }

    pub fn topics(&self) -> Result<Vec<(String, TopicRow)>, LogError> {
        let mut topics = Vec::new();
        for item in self.meta.prefix("t/") {
            let (key, row) = item.into_inner().map_err(failed)?;
            let name = std::str::from_utf8(&key[2..]).map_err(|_| corrupt("topic"))?;
            topics.push((name.to_owned(), TopicRow::decode(&row).ok_or_else(|| corrupt("topic"))?));
        }
        Ok(topics)
    }

    pub fn committed(&self) -> Result<HashMap<String, HashMap<TopicPartition, Offset>>, LogError> {
        let mut all: HashMap<String, HashMap<TopicPartition, Offset>> = HashMap::new();
        for item in self.meta.prefix("c/") {
            let (key, row) = item.into_inner().map_err(failed)?;
            let (group, at) = committed_from(&key).ok_or_else(|| corrupt("committed offset"))?;
            let offset = number(&row).ok_or_else(|| corrupt("committed offset"))?;
            all.entry(group).or_default().insert(at, Offset(offset));
        }
        Ok(all)
    }

    /// Reads what must be known of a partition; of a compacted one that is every key's newest chunk, and older ones (a
    /// crash beside an expiring marker can leave some) are removed.
    pub fn find(&self, topic: &TopicRow, partition: Partition) -> Result<Found, LogError> {
        let (mut start, mut last_at_ms) = (Offset::ZERO, 0);
        if let Some(row) = self.meta.get(start_key(topic.number, partition)).map_err(failed)? {
            let row_start = row.get(..8).and_then(number);
            let row_at = row.get(8..).and_then(number);
            let (Some(row_start), Some(row_at)) = (row_start, row_at) else {
                return Err(corrupt("start of a partition"));
            };
            (start, last_at_ms) = (Offset(row_start), row_at as i64);
        }
        let mut end = start;
        if let Some(last) = self.chunks(topic.number, partition, Offset::ZERO).next_back() {
            let last = decode_key(&last.key().map_err(failed)?)?;
            end = end.max(last.end());
            last_at_ms = last_at_ms.max(last.at_ms);
        }
        let mut newest: HashMap<Bytes, Newest> = HashMap::new();
        if topic.compacted {
            let mut superseded = self.batch(0);
            for chunk in self.chunks(topic.number, partition, Offset::ZERO) {
                let (key, value) = chunk.into_inner().map_err(failed)?;
                let chunk = decode_key(&key)?;
                for record in Records::new(&chunk, value.into()) {
                    let record = record.ok_or_else(|| corrupt("chunk"))?;
                    let tombstone = record.value.is_none();
                    if let Some(key) = record.key {
                        let old = newest.insert(Bytes::copy_from_slice(&key), Newest { chunk, tombstone });
                        if let Some(old) = old {
                            superseded.remove(&self.records, old.chunk.encode());
                        }
                    }
                }
            }
            superseded.commit().map_err(failed)?;
        }
        Ok(Found {
            bounds: Bounds { start, end },
            last_at_ms,
            newest,
        })
    }

    fn chunks(&self, topic: u32, partition: Partition, from: Offset) -> fjall::Iter {
        let (low, high) = (
            chunk::bound(topic, partition, from),
            chunk::bound(topic, Partition(partition.0 + 1), Offset::ZERO),
        );
        self.records.range(low..high)
    }

    /// The keys of the chunks from the front on, at most `max`.
    pub fn front(&self, topic: u32, partition: Partition, max: usize) -> Result<Vec<ChunkKey>, LogError> {
        let chunks = self.chunks(topic, partition, Offset::ZERO).take(max);
        chunks.map(|c| decode_key(&c.key().map_err(failed)?)).collect()
    }

    /// Records from `from` on. Blocking.
    pub fn read(
        &self,
        topic: u32,
        partition: Partition,
        from: Offset,
        portion: Portion,
    ) -> Result<Vec<LogRecord>, LogError> {
        // The chunk that holds `from` is the last one that begins at or before it.
        let before = chunk::bound(topic, partition, Offset::ZERO)..chunk::bound(topic, partition, from.next());
        let first = match self.records.range(before).next_back() {
            Some(chunk) => decode_key(&chunk.key().map_err(failed)?)?.first,
            None => from,
        };
        let mut error = None;
        let records = self.chunks(topic, partition, first).map_while(|chunk| {
            let read = || -> Result<Records, LogError> {
                let (key, value) = chunk.into_inner().map_err(failed)?;
                Ok(Records::new(&decode_key(&key)?, value.into()))
            };
            read().map_err(|e| error = Some(e)).ok()
        });
        let mut broken = false;
        let whole = records.flatten().map_while(|record| {
            broken |= record.is_none();
            record
        });
        let taken = portion.take(whole.filter(|record| record.offset >= from));
        match error {
            _ if broken => Err(corrupt("chunk")),
            Some(error) => Err(error),
            None => Ok(taken),
        }
    }
}

fn decode_key(key: &[u8]) -> Result<ChunkKey, LogError> {
    ChunkKey::decode(key).ok_or_else(|| corrupt("chunk's key"))
}

fn committed_from(key: &[u8]) -> Option<(String, TopicPartition)> {
    let key = key.strip_prefix(b"c/")?;
    let (names, partition) = key.split_at_checked(key.len().checked_sub(4)?)?;
    let mut names = names.split(|&b| b == 0);
    let text = |name: &[u8]| String::from_utf8(name.to_vec()).ok();
    let (group, topic) = (text(names.next()?)?, text(names.next()?)?);
    let partition = Partition(u32::from_be_bytes(partition.try_into().ok()?));
    Some((
        group,
        TopicPartition {
            topic: topic.into(),
            partition,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_meta_come_back_as_they_were() {
        for retention_ms in [None, Some(5)] {
            let row = TopicRow {
                number: 7,
                id: "an-id".into(),
                partitions: 12,
                compacted: true,
                retention_ms,
            };
            assert_eq!(TopicRow::decode(&row.encode()), Some(row));
        }
        let at = TopicPartition {
            topic: "a.b".into(),
            partition: Partition(0x0001_0000),
        };
        assert_eq!(committed_from(&committed_key("g", &at)), Some(("g".into(), at)));
    }
}
