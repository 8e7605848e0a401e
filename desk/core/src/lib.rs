//! Who answers whom: one deterministic machine per tenant, fed with nothing but its log. Pure: no clock, no IO.
//!
//! `Desk::apply(position, append time, record) → outputs`. The same records in the same order give the same outputs and
//! the same state, from the start or from a snapshot, so a replay repeats what was said before and decides nothing anew.
//!
//! Walk: `desk` (what one record does, in which order) → `acts` (people's deeds) → `serve` (who gets whom) → `line`
//! (who waits) → `agents` (who is there) → `session` → `output` (the records that go out) → `snapshot`.
//!
//! What holds after every record (I16): a conversation is nowhere, in line, or with one agent; nobody is given a session
//! beyond their capacity; nobody waits while an eligible agent has room; what a conversation shows is what the desk has,
//! and every change of it names its cause.
//!
//! **Event members.** `"assigned":{"agent":…}`, `"queued":{"group":…}` (with `"cause":"agent_gone"` after an agent was
//! lost), `"transferred":{"agent":…,"from":…,"group"?}` and `"closed":{"by":"customer|agent|desk"}` come from the system;
//! `"joined":{"agent":…}`, `"left":{"agent":…}`, `"rated":{…}`, and for staff only `"note":{"text":…}` (a transfer's) and
//! `"tagged":{…}`, come from the person. A request that is served at once is one event: `assigned`. Watching has none.

mod acts;
mod agents;
mod answered;
mod clock;
mod deed;
mod desk;
mod line;
mod output;
mod serve;
mod session;
mod settings;
mod snapshot;

pub use agents::{Agent, AgentState};
pub use desk::{Counts, Desk};
pub use output::{Cause, Output, What};
pub use session::{Session, Stage};
pub use settings::Settings;
pub use snapshot::{BadSnapshot, Piece, Restored, Restoring};

/// The group of whoever names none; every agent serves it.
pub const DEFAULT_GROUP: &str = "default";
/// An agent's capacity is never above this.
pub const CAPACITY_MAX: u32 = 1_000;
/// Acts whose answers are remembered, per tenant.
const ANSWERED_MAX: usize = 1_024;
/// Closes remembered, so that a question asked before a close opens nothing after it.
const CLOSES_MAX: usize = 256;
/// A session still asked for this long after its last decision is shown again: its effect may have been missed.
const SHOWN_AGAIN_MS: i64 = 10_000;
