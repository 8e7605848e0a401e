//! How records lie in a chunk: the records of one partition that one drain of the queue found, in one value of the tree.
//!
//! A tree that holds one item per record spends more on its items (skip list, journal marks, allocations) than on the
//! records. So a batch is at most a few items: one per partition it touched. All records of a chunk have one append time,
//! which stands in the chunk's key together with the first offset and the count: trimming and opening read keys only.

use bytes::Bytes;
use wire::{Offset, Partition};

use crate::LogRecord;

/// A chunk is closed beyond this, so that reading one record never decodes more (a single larger record has its own).
pub(super) const CHUNK_BYTES_MAX: usize = 262_144;
pub(super) const CHUNK_RECORDS_MAX: usize = wire::limits::BATCH_RECORDS_MAX;

const ABSENT: u32 = u32::MAX;
const LENGTHS: usize = 12;
pub(super) const KEY_LEN: usize = 28;

/// topic, partition, first offset, count, append time: big-endian, so that keys order like offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkKey {
    pub topic: u32,
    pub partition: Partition,
    pub first: Offset,
    pub count: u32,
    pub at_ms: i64,
}

impl ChunkKey {
    pub fn encode(&self) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        key[..4].copy_from_slice(&self.topic.to_be_bytes());
        key[4..8].copy_from_slice(&self.partition.0.to_be_bytes());
        key[8..16].copy_from_slice(&self.first.0.to_be_bytes());
        key[16..20].copy_from_slice(&self.count.to_be_bytes());
        key[20..].copy_from_slice(&self.at_ms.to_be_bytes());
        key
    }

    pub fn decode(key: &[u8]) -> Option<Self> {
        let key: &[u8; KEY_LEN] = key.try_into().ok()?;
        let four = |at: usize| [key[at], key[at + 1], key[at + 2], key[at + 3]];
        let eight = |at: usize| {
            let mut out = [0; 8];
            out.copy_from_slice(&key[at..at + 8]);
            out
        };
        Some(Self {
            topic: u32::from_be_bytes(four(0)),
            partition: Partition(u32::from_be_bytes(four(4))),
            first: Offset(u64::from_be_bytes(eight(8))),
            count: u32::from_be_bytes(four(16)),
            at_ms: i64::from_be_bytes(eight(20)),
        })
    }

    /// The offset after the chunk's last record.
    pub fn end(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.count))
    }
}

/// Where all chunks of a partition lie that begin at `from` or later.
pub(super) fn bound(topic: u32, partition: Partition, from: Offset) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&topic.to_be_bytes());
    key[4..8].copy_from_slice(&partition.0.to_be_bytes());
    key[8..].copy_from_slice(&from.0.to_be_bytes());
    key
}

fn headers_len(headers: &[(String, Bytes)]) -> usize {
    headers.iter().map(|(name, value)| 6 + name.len() + value.len()).sum()
}

/// Bytes a record takes in a chunk.
pub(super) fn encoded_len(key: Option<&Bytes>, value: Option<&Bytes>, headers: &[(String, Bytes)]) -> usize {
    LENGTHS + key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len) + headers_len(headers)
}

/// Appends one record. Lengths fit: the producer refuses what is larger than a topic allows.
pub(super) fn encode(out: &mut Vec<u8>, key: Option<&Bytes>, value: Option<&Bytes>, headers: &[(String, Bytes)]) {
    let length = |bytes: Option<&Bytes>| bytes.map_or(ABSENT, |b| b.len() as u32);
    out.extend_from_slice(&length(key).to_le_bytes());
    out.extend_from_slice(&length(value).to_le_bytes());
    out.extend_from_slice(&(headers_len(headers) as u32).to_le_bytes());
    out.extend_from_slice(key.map_or(&[], |b| b));
    out.extend_from_slice(value.map_or(&[], |b| b));
    for (name, value) in headers {
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// The records of a chunk, sharing its bytes. `None` inside: the bytes are not a chunk.
pub(super) struct Records {
    bytes: Bytes,
    at: usize,
    offset: Offset,
    end: Offset,
    at_ms: i64,
}

impl Records {
    pub fn new(key: &ChunkKey, bytes: Bytes) -> Self {
        Self {
            bytes,
            at: 0,
            offset: key.first,
            end: key.end(),
            at_ms: key.at_ms,
        }
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn part(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len())?;
        let part = self.bytes.slice(self.at..end);
        self.at = end;
        Some(part)
    }

    fn headers(&mut self, len: usize) -> Option<Vec<(String, Bytes)>> {
        let end = self.at.checked_add(len)?;
        let mut headers = Vec::new();
        while self.at < end {
            let name_len = self.part(2)?;
            let name = self.part(usize::from(u16::from_le_bytes([name_len[0], name_len[1]])))?;
            let value_len = self.number()? as usize;
            let value = self.part(value_len)?;
            headers.push((String::from_utf8(name.to_vec()).ok()?, value));
        }
        Some(headers)
    }

    fn record(&mut self) -> Option<LogRecord> {
        let (key_len, value_len, headers_len) = (self.number()?, self.number()?, self.number()?);
        let key = if key_len == ABSENT {
            None
        } else {
            Some(self.part(key_len as usize)?)
        };
        let value = if value_len == ABSENT {
            None
        } else {
            Some(self.part(value_len as usize)?)
        };
        let headers = if headers_len == 0 {
            Vec::new()
        } else {
            self.headers(headers_len as usize)?
        };
        let offset = self.offset;
        self.offset = offset.next();
        Some(LogRecord {
            offset,
            at_ms: self.at_ms,
            key,
            value,
            headers,
        })
    }
}

impl Iterator for Records {
    type Item = Option<LogRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.end {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.offset = self.end;
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn what_was_put_into_a_chunk_comes_out(
            records in proptest::collection::vec(
                (proptest::option::of(bytes()), proptest::option::of(bytes()),
                 proptest::collection::vec((".{0,8}", bytes()), 0..3)), 1..20),
            first in 0u64..1 << 39,
        ) {
            let mut out = Vec::new();
            let mut len = 0;
            for (key, value, headers) in &records {
                encode(&mut out, key.as_ref(), value.as_ref(), headers);
                len += encoded_len(key.as_ref(), value.as_ref(), headers);
            }
            prop_assert_eq!(out.len(), len);
            let key = ChunkKey { topic: 3, partition: Partition(5), first: Offset(first), count: records.len() as u32, at_ms: 77 };
            prop_assert_eq!(ChunkKey::decode(&key.encode()), Some(key));
            let got: Vec<LogRecord> = Records::new(&key, out.into()).map(|r| r.expect("whole")).collect();
            prop_assert_eq!(got.len(), records.len());
            for (i, (got, (key, value, headers))) in got.iter().zip(&records).enumerate() {
                prop_assert_eq!(got.offset, Offset(first + i as u64));
                prop_assert_eq!(&got.key, key);
                prop_assert_eq!(&got.value, value);
                prop_assert_eq!(&got.headers, headers);
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(raw in proptest::collection::vec(any::<u8>(), 0..80), count in 0u32..8) {
            let key = ChunkKey { topic: 0, partition: Partition(0), first: Offset(0), count, at_ms: 0 };
            let _ = Records::new(&key, raw.into()).count();
        }
    }
}
