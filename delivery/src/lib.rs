//! The delivery role: owns partitions of `messages`, folds them, and pushes every event to the connections that are to have
//! it. What to do is decided by the pure core; this crate carries it out.
//!
//! Walk: `driver` (the only `select!`: one wake-up takes all that has come, asks the core, hands out what came of it) →
//! `duties` (partitions claimed, handed over, lost, stopped) → `ownership` (a partition's life: claimed, announced, read, handed over) → `owners` (who says it owns what) → `work` (loads,
//! pages and questions to the log, beside the loop) → `ports` (links as bounded channels) → `link_server` (gRPC).
//!
//! What happens when it dies: nothing is lost. Its partitions go to another worker, which starts at persistence's committed
//! offset, and nodes register there with the places their connections have.

mod clock;
mod driver;
mod duties;
mod error;
mod handle;
mod link_server;
mod meters;
mod owners;
mod ownership;
mod ports;
mod service;
mod work;

use wire::LaneTopics;

pub use error::{Alarm, Error};
pub use handle::Handle;
pub use link_server::LinkTls;
pub use service::Service;

/// What a delivery service is told.
#[derive(Clone)]
pub struct Options {
    pub lane_topics: LaneTopics,
    /// The worker's name in logs and in `owners`.
    pub name: String,
    /// What nodes of other processes dial, `host:port`; `None`: only nodes of this process reach it.
    pub link_advertise: Option<String>,
    /// The broker's id of the `messages` topic, as recorded with the epoch; empty: not checked.
    pub messages_topic_id: String,
    /// Memory for conversations; beyond it the worker stops reading.
    pub bytes_budget: usize,
    pub tasks: process::Tasks,
    pub health: process::Health,
    /// Who owns what from when on.
    pub recorder: process::Recorder,
}

impl Options {
    pub fn new(lane_topics: LaneTopics, name: String, tasks: process::Tasks, health: process::Health) -> Self {
        Self {
            lane_topics,
            name,
            link_advertise: None,
            messages_topic_id: String::new(),
            bytes_budget: wire::limits::WORKER_BYTES_BUDGET,
            tasks,
            health,
            recorder: process::Recorder::default(),
        }
    }
}

/// The group's name in metrics.
const GROUP: &str = "delivery";
/// What is due by time is looked at this often.
const TICK_MS: u64 = 50;
/// Persistence's committed offsets are asked for, and ours committed to prove our membership, this often.
const COMMITTED_INTERVAL_MS: u64 = 1_000;
/// Lag is measured this often.
const LAG_INTERVAL_MS: u64 = 2_000;
/// Reads of the store at once; more wait in line.
const STORE_READS_IN_FLIGHT_MAX: usize = 256;
/// Reads of the log for bodies that memory let go; each takes about so much, whatever it wants of it.
const READ_BACKS_IN_FLIGHT_MAX: usize = 4;
const READ_BACK_RECORDS: usize = 256;
const READ_BACK_BYTES: usize = 1 << 20;
/// One read of the store or question to the log may take this long, then it is asked again.
const READ_TIMEOUT_MS: u64 = 5_000;
/// Waits between attempts at a store or log that is away.
const RETRY_MS_MIN: u64 = 50;
const RETRY_MS_MAX: u64 = 2_000;
/// Messages under way in one direction of a link, beyond what the core has queued.
const LINK_MESSAGES: usize = 16;
/// Inputs of one source taken in one wake-up: no source starves another.
const INPUTS_PER_TURN: usize = 64;
/// How long a hand-over waits for the last watermarks' reports.
const LAST_MARKS_MS: u64 = 1_500;
