//! The pure core of delivery: who is connected where, what each connection has been pushed, and what comes next.
//!
//! Inputs are the `handle_*` methods of [`Worker`] (each with the time, Unix milliseconds that never fall); outputs are
//! [`Action`]s taken with [`Worker::poll_action`] and link items taken with [`Worker::take_sends`]. The core never waits,
//! reads no clock and knows no socket. After any input the driver takes all actions, then the sends of the links that are
//! ready, for as long as the link's channel has room; taking makes room for cursors that stood still, so ask again.
//!
//! A message's way through the files: `records` (read and folded) → `tail` (kept) → `pump` (pushed by cursor) → `link` (queued).

mod action;
mod claimed;
mod cursor;
mod frames;
mod heard;
mod link;
mod marks;
mod memory;
mod partition;
mod pump;
mod read_back;
mod records;
mod register;
mod resident;
mod sessions;
mod stats;
mod tail;
mod worker;

pub use action::{Action, Loaded, PageRow, PageToken, ProduceTo};
pub use link::LinkId;
pub use marks::Marks;
pub use records::Entry;
pub use stats::Stats;
pub use worker::{Options, Worker};
