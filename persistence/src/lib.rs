//! Log → rows. A consumer group of its own reads `messages`, runs the same fold as delivery, and writes the events and
//! the conversations' state to the store. Its committed offset says what is in the store, and delivery relies on it.
//!
//! The order that everything rests on, per partition (I12): event and session rows → state rows and watermarks →
//! `History::sync` → commit. Whatever dies in between, the next owner writes the same bytes at the same write times (I14).
//!
//! Walk: `driver` (group membership) → `inbox` (backpressure) → `partition` (one partition's life) → `core` (pure: what a
//! batch does to the rows) → `write` (until it is done) → `dead_letters` (what could not be read). `lines`: its
//! history for the checker.

pub mod core;
mod dead_letters;
mod driver;
mod error;
mod inbox;
mod lines;
mod meters;
mod partition;
mod placeholder;
mod write;

pub use driver::Service;
pub use error::{Alarm, Error};

use wire::LaneTopics;

/// What a persistence service is told.
#[derive(Clone)]
pub struct Options {
    pub lane_topics: LaneTopics,
    /// The broker's id of the `messages` topic, as recorded with the epoch; empty: not checked.
    pub messages_topic_id: String,
    /// State rows are written, and offsets committed, this often.
    pub commit_interval_ms: u64,
    /// A partition's batches are at least so far apart, unless full: fewer, fuller writes. The first after a pause is not delayed.
    pub gather_ms: u64,
    /// Memory for conversations' states, per partition. What waits to be written may exceed it.
    pub resident_bytes_per_partition: usize,
    /// Supervises the partitions' tasks: a panic in one stops the process.
    pub tasks: process::Tasks,
    pub health: process::Health,
    /// What was folded, can be read and is committed.
    pub recorder: process::Recorder,
}

impl Options {
    pub fn new(lane_topics: LaneTopics, tasks: process::Tasks, health: process::Health) -> Self {
        Self {
            lane_topics,
            messages_topic_id: String::new(),
            commit_interval_ms: 500,
            gather_ms: 50,
            resident_bytes_per_partition: 32 << 20,
            tasks,
            health,
            recorder: process::Recorder::default(),
        }
    }
}

/// Records folded and written as one batch: large under load, small when little happens.
const FOLD_RECORDS_MAX: usize = 4_096;
const FOLD_BYTES_MAX: usize = 4 << 20;
/// Batches of one partition on their way to the store. Two keep store and fold busy at once.
const WRITES_IN_FLIGHT_MAX: usize = 2;
/// Records that may wait for a commit before one is begun ahead of its time.
const UNCOMMITTED_RECORDS_MAX: u64 = 65_536;
/// Loads of cold conversations at once, per partition.
const LOADS_IN_FLIGHT_MAX: usize = 64;
/// What a partition may hold unread before its reading is paused.
const INBOX_RECORDS_MAX: usize = 16_384;
const INBOX_BYTES_MAX: usize = 16 << 20;
/// Handing a partition over must be done before the group's session timeout.
const HANDOVER_MS_MAX: u64 = 4_000;
/// Waits between attempts at a store or log that is away.
const RETRY_MS_MIN: u64 = 50;
const RETRY_MS_MAX: u64 = 5_000;
/// Lag is measured this often.
const LAG_INTERVAL_MS: u64 = 2_000;
