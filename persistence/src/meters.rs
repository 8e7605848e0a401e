//! The service's metric handles, taken once, and the clock they are measured by.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use process::Health;
use process::metrics::{
    self, COMMITS_TOTAL, CONSUMED_TOTAL, Counter, DEAD_LETTERS_TOTAL, FOLDED_TOTAL, Gauge, Histogram, MARKS_ROWS_TOTAL,
    PERSISTENCE_PAUSED, PLACEHOLDERS_TOTAL, RECORDS_DONE_TOTAL, RECORDS_READ_TOTAL, RECORDS_SKIPPED_TOTAL,
    REPEATS_DROPPED_TOTAL, STATE_ROWS_TOTAL, STORED_TOTAL,
};
use wire::Partition;
use wire::codec::DecodeError;

use crate::core::{Counts, DeadLetter};

pub(crate) const GROUP: &str = "persistence";

pub(crate) struct Meters {
    consumed: Counter,
    folded: Counter,
    repeats: Counter,
    skipped_applied: Counter,
    skipped_decode: Counter,
    skipped_partition: Counter,
    skipped_decision: Counter,
    pub stored: Counter,
    pub state_rows: Counter,
    pub marks_rows: Counter,
    pub placeholders: Counter,
    pub stored_after: Histogram,
    pub commits_ok: Counter,
    pub commits_fenced: Counter,
    pub commits_failed: Counter,
}

impl Meters {
    pub fn new() -> Self {
        let skipped = |reason| RECORDS_SKIPPED_TOTAL.with(&[("group", GROUP), ("reason", reason)]);
        let commits = |outcome| COMMITS_TOTAL.with(&[("group", GROUP), ("outcome", outcome)]);
        Self {
            consumed: CONSUMED_TOTAL.with(&[("group", GROUP)]),
            folded: FOLDED_TOTAL.with(&[("group", GROUP)]),
            repeats: REPEATS_DROPPED_TOTAL.with(&[("group", GROUP)]),
            skipped_applied: skipped("applied"),
            skipped_decode: skipped("decode"),
            skipped_partition: skipped("wrong_partition"),
            skipped_decision: skipped("old_decision"),
            stored: STORED_TOTAL.get(),
            state_rows: STATE_ROWS_TOTAL.get(),
            marks_rows: MARKS_ROWS_TOTAL.get(),
            placeholders: PLACEHOLDERS_TOTAL.get(),
            stored_after: metrics::Stages::new().stored,
            commits_ok: commits("ok"),
            commits_fenced: commits("fenced"),
            commits_failed: commits("failed"),
        }
    }

    pub fn count(&self, counts: &Counts, letters: &[DeadLetter]) {
        self.consumed.increment(counts.records);
        self.folded.increment(counts.rows);
        self.repeats.increment(counts.repeats);
        self.skipped_applied.increment(counts.skipped);
        self.skipped_decision.increment(counts.superseded);
        for letter in letters {
            let counter = match letter.reason {
                DecodeError::WrongPartition => &self.skipped_partition,
                _ => &self.skipped_decode,
            };
            counter.increment(1);
        }
    }

    /// The rows of events that nodes received at these times can be read now.
    pub fn stored(&self, rows: u64, received_at_ms: &[i64]) {
        self.stored.increment(rows);
        let now = now_ms();
        for at in received_at_ms {
            self.stored_after.record((now - at).max(0) as f64 / 1000.0);
        }
    }
}

/// The books of one partition (I20): every record read ends in exactly one outcome, counted when that outcome stands. So
/// with nothing under way they balance, and what is lost on the way is seen.
pub(crate) struct Books {
    read: Counter,
    rows: Counter,
    state_only: Counter,
    repeats: Counter,
    superseded: Counter,
    skipped: Counter,
    unnumbered: Counter,
    dead_letters: Counter,
}

impl Books {
    pub fn new(partition: Partition) -> Self {
        let partition = partition.to_string();
        let done = |outcome| RECORDS_DONE_TOTAL.with(&[("partition", &partition), ("outcome", outcome)]);
        Self {
            read: RECORDS_READ_TOTAL.with(&[("partition", &partition)]),
            rows: done("row"),
            state_only: done("state"),
            repeats: done("repeat"),
            superseded: done("superseded"),
            skipped: done("skipped"),
            unnumbered: done("unnumbered"),
            dead_letters: done("dead_letter"),
        }
    }

    pub fn read(&self, records: u64) {
        self.read.increment(records);
    }

    /// What leaves nothing to be written.
    pub fn folded(&self, counts: &Counts) {
        self.repeats.increment(counts.repeats);
        self.superseded.increment(counts.superseded);
        self.skipped.increment(counts.skipped);
        self.unnumbered.increment(counts.unnumbered);
    }

    pub fn stored(&self, counts: &Counts) {
        self.rows.increment(counts.rows);
        self.state_only.increment(counts.state_only);
    }

    pub fn put_aside(&self) {
        self.dead_letters.increment(1);
    }
}

pub(crate) fn dead_letter_counted(reason: DecodeError) {
    let label = match reason {
        DecodeError::WrongPartition => "wrong_partition",
        DecodeError::TooLarge => "too_large",
        _ => "decode",
    };
    DEAD_LETTERS_TOTAL.with(&[("reason", label)]).increment(1);
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// How many operations wait for something that is away: shown as a gauge and as a health condition.
#[derive(Clone)]
pub(crate) struct Away {
    waiting: Arc<AtomicUsize>,
    gauge: Gauge,
    health: Health,
}

/// One operation that waits; gone with its drop.
pub(crate) struct Waiting(Away);

impl Away {
    pub fn new(health: Health) -> Self {
        let gauge = PERSISTENCE_PAUSED.get();
        gauge.set(0.0);
        Self {
            waiting: Arc::default(),
            gauge,
            health,
        }
    }

    pub fn wait(&self, why: &str) -> Waiting {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.gauge.set(1.0);
            self.health.set(
                "persistence-store",
                Err(format!("what was said waits in the log to be stored: {why}")),
            );
        }
        Waiting(self.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.gauge.set(0.0);
            self.0.health.set("persistence-store", Ok(()));
        }
    }
}
