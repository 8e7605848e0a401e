//! What was read of one partition and not taken yet. Counted in records and bytes; full, it pauses the partition's
//! reading, and lets it go on when most of it was taken. So a store that is away is felt at the log, never in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use ordered_log::{ConsumerControl, LogRecord, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::{FOLD_BYTES_MAX, FOLD_RECORDS_MAX, INBOX_BYTES_MAX, INBOX_RECORDS_MAX};

pub(crate) struct Inbox {
    at: TopicPartition,
    control: Arc<dyn ConsumerControl>,
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Default)]
struct Inner {
    records: VecDeque<LogRecord>,
    bytes: usize,
    paused: bool,
}

impl Inner {
    /// There is as much as one batch takes.
    fn is_full(&self) -> bool {
        self.records.len() >= FOLD_RECORDS_MAX || self.bytes >= FOLD_BYTES_MAX
    }
}

impl Inbox {
    pub fn new(at: TopicPartition, control: Arc<dyn ConsumerControl>) -> Self {
        Self {
            at,
            control,
            inner: Mutex::default(),
            filled: Notify::new(),
        }
    }

    /// Never waits. What was read before the pause took effect is still taken in.
    pub fn put(&self, records: Vec<LogRecord>) {
        let mut inner = self.inner.lock();
        let (was_empty, was_full) = (inner.records.is_empty(), inner.is_full());
        inner.bytes += records.iter().map(bytes_of).sum::<usize>();
        inner.records.extend(records);
        // In between, whoever waits for more has nothing to look at.
        let tell = was_empty || (!was_full && inner.is_full());
        if !inner.paused && (inner.records.len() > INBOX_RECORDS_MAX || inner.bytes > INBOX_BYTES_MAX) {
            inner.paused = true;
            // Under the lock, so that a pause and a resume cannot overtake each other.
            self.control.pause(&self.at);
        }
        drop(inner);
        if tell {
            self.filled.notify_one();
        }
    }

    /// At most so much, at least one record if there is one.
    pub fn take(&self, records_max: usize, bytes_max: usize) -> Vec<LogRecord> {
        let mut inner = self.inner.lock();
        let mut taken = Vec::with_capacity(inner.records.len().min(records_max));
        let mut bytes = 0;
        while taken.len() < records_max {
            let Some(size) = inner.records.front().map(bytes_of) else {
                break;
            };
            if !taken.is_empty() && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            taken.extend(inner.records.pop_front());
        }
        inner.bytes -= bytes;
        if inner.paused && inner.records.len() <= INBOX_RECORDS_MAX / 4 && inner.bytes <= INBOX_BYTES_MAX / 4 {
            inner.paused = false;
            self.control.resume(&self.at);
        }
        taken
    }

    /// Returns when there is something to take, and it is `from` already or a batch is full. For one waiter.
    pub async fn ready(&self, from: Instant) {
        loop {
            let (is_empty, is_full) = {
                let inner = self.inner.lock();
                (inner.records.is_empty(), inner.is_full())
            };
            if is_empty {
                self.filled.notified().await;
            } else if is_full || Instant::now() >= from {
                return;
            } else {
                // More may come until then, or nothing: both are looked at again.
                let _ = timeout_at(from, self.filled.notified()).await;
            }
        }
    }

    /// Append time of the oldest record nobody took.
    pub fn oldest_at_ms(&self) -> Option<i64> {
        self.inner.lock().records.front().map(|r| r.at_ms)
    }
}

fn bytes_of(record: &LogRecord) -> usize {
    128 + record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, bytes::Bytes::len)
}
