//! Turns librdkafka's messages into batches: one allocation holds the keys and values of a whole batch.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use wire::Offset;
use wire::limits::BATCH_RECORDS_MAX;

use crate::LogRecord;

pub(super) const BATCH_BYTES_MAX: usize = 262_144;

#[derive(Default)]
pub(super) struct Gather {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

struct Mark {
    offset: Offset,
    at_ms: i64,
    key_len: Option<usize>,
    value_len: Option<usize>,
    headers: Vec<(String, Bytes)>,
}

impl Gather {
    pub fn push(&mut self, message: &BorrowedMessage<'_>) {
        self.bytes.extend_from_slice(message.key().unwrap_or_default());
        self.bytes.extend_from_slice(message.payload().unwrap_or_default());
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|h| (h.key.to_owned(), Bytes::copy_from_slice(h.value.unwrap_or_default())))
                .collect()
        });
        self.marks.push(Mark {
            offset: Offset(message.offset().unsigned_abs()),
            at_ms: message.timestamp().to_millis().unwrap_or(0),
            key_len: message.key().map(<[u8]>::len),
            value_len: message.payload().map(<[u8]>::len),
            headers,
        });
    }

    pub fn len(&self) -> usize {
        self.marks.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_full(&self) -> bool {
        self.marks.len() >= BATCH_RECORDS_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    /// What was gathered, oldest first.
    pub fn take(&mut self) -> Vec<LogRecord> {
        let mut bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let mut part = |len: Option<usize>| len.map(|len| bytes.split_to(len));
        let marks = self.marks.drain(..);
        marks
            .map(|mark| LogRecord {
                offset: mark.offset,
                at_ms: mark.at_ms,
                key: part(mark.key_len),
                value: part(mark.value_len),
                headers: mark.headers,
            })
            .collect()
    }
}
