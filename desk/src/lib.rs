//! The desk's role: owns partitions of `desk`, feeds each tenant's machine (`desk_core`) with its log, and carries out
//! what it says: effects and notices into `messages`, ticks into `desk`, snapshots beside it.
//!
//! What it keeps: records are applied in log order only. An effect is repeated until the log has it, and before any later
//! record of its conversation. A snapshot is written only when every effect of the records in it is in the log; an offset
//! is committed only behind the snapshots; so a take-over repeats whatever may be missing, and the fold drops the rest by
//! the decision's place. A zombie repeats what the log says anyway.
//!
//! Walk: `driver` (group membership, the only `select!`) → `takeover` (snapshots, where to start) → `answering` (one
//! partition at work) → `outbox` (order and repetition of what goes out) → `cut` (snapshots and commits). `lines`: its history for the checker.

mod answering;
mod cut;
mod driver;
mod error;
mod lines;
mod meters;
mod outbox;
mod reports;
mod takeover;

pub use driver::Service;
pub use error::{Alarm, Error};

use wire::LaneTopics;

/// What a desk service is told.
#[derive(Clone)]
pub struct Options {
    pub lane_topics: LaneTopics,
    /// Snapshots are written, and offsets committed, this often while anything changes.
    pub snapshot_interval_ms: u64,
    /// Time's records are written this often for tenants to whom time matters.
    pub tick_interval_ms: u64,
    pub health: process::Health,
    /// What was decided.
    pub recorder: process::Recorder,
}

impl Options {
    pub fn new(lane_topics: LaneTopics, health: process::Health) -> Self {
        Self {
            lane_topics,
            snapshot_interval_ms: 10_000,
            tick_interval_ms: 1_000,
            health,
            recorder: process::Recorder::default(),
        }
    }
}

/// Records after which a snapshot is due ahead of its time.
const SNAPSHOT_RECORDS_MAX: u64 = 20_000;
/// Between two cuts at least so many times what the last one took: saving a large desk costs a twentieth of the time.
const CUT_REST: u32 = 20;
const CUT_REST_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// The last cut of a process that drains may take this long.
const LAST_CUT_MS: u64 = 5_000;
/// Answers to acts older than this are not sent again after a take-over: whoever asked has asked again.
const NOTICE_AGE_MS_MAX: i64 = 10_000;
/// Records of one partition on their way out; beyond it the partition's reading is paused.
const OUTBOX_RECORDS_MAX: usize = 16_384;
/// What the log did not take is offered again this often.
const REPEAT_INTERVAL_MS: u64 = 200;
/// The same while the process leaves.
const LAST_REPEAT_MS: u64 = 20;
/// A tick that was not read back in this time is written again.
const TICK_PATIENCE_MS: u64 = 5_000;
/// What the log holds is compared this often with what was read of it.
const LOOK_INTERVAL_MS: u64 = 2_000;
/// Records read at once while loading snapshots.
const LOAD_RECORDS_MAX: usize = 1_024;
const LOAD_BYTES_MAX: usize = 16 << 20;
