//! Every op of a history: its fields, who writes it, when, and with which `kind`. The one place where the format's lines are
//! defined; how lines are framed and what is common to all stands in `history`.
//!
//! | op | written by | decides |
//! |---|---|---|
//! | `connect` `close` `begin` `send` `sent` `placed` `recv` `ack` `receipt` `conversation` `reset` `rewind` | every client | I1–I10, I15, I18, L1 |
//! | `page` | whoever reads history | I1–I5, I7, I10 |
//! | `own` `out` `unroute` | delivery workers, and the receivers of what they do (nodes) | I11, I15 |
//! | `record` | the log's side: whoever folds the log beside the system (persistence may, as it folds) | I12, I13, I16, L1 |
//! | `row` `commit` `account` `dead_letter` | persistence | I12, I20, L1 |
//! | `member` | whoever folds | I7, I10 |
//! | `digest` | the replay after the run | I14 |
//! | `assign` `capacity` | the desk, after each record of its log that changed something | I16 |
//! | `control` | the operator (ok) and every process that tails the topic (info, note) | I17 |
//! | `revoke` | the operator | I18 |
//! | `sample` | any process, now and then | I19 |
//! | `fault` `phase` | whoever runs the run | void, and where the parts begin |
//!
//! A field added later is optional and left out when it says nothing, so old histories stay readable.

use serde::{Deserialize, Serialize};

use super::history::{FaultState, Generation, Layer, Phase, Role, Seen, Side, Via};

/// What happened. Fields as named; see the top of the file for who writes what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// `conn` names one connection of the whole run. Without `device` the connection is its own device.
    Connect {
        conn: String,
        tenant: String,
        user: String,
        role: Role,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// With ok: the node's name, if known.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        node: String,
        /// With invoke: when the token shown expires, in the history's time; left out for tokens that outlive the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_us: Option<u64>,
        /// With invoke: the token was made bad on purpose, nothing may come of this connection.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        bad_token: bool,
    },
    /// The connection has ended; nothing is received on it any more. `code` is the server's, if it gave one.
    Close {
        conn: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
    },
    /// From here on `conn` expects the events above `from`: its `since` for the conversation, written with the `connect`
    /// (`resume: true`); else the `last_seq` of the conversation's first `conversation` frame on this connection. (Where a member
    /// of staff is pushed events below that, the checker takes the first of them for the beginning; the conversation's own where a
    /// `reset` comes before any event.)
    Begin {
        conn: String,
        conversation: String,
        from: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        resume: bool,
    },
    Send {
        conn: String,
        conversation: String,
        id: String,
        /// With invoke.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        hash: String,
        /// With fail and info: the error code.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        code: String,
    },
    Sent {
        conn: String,
        conversation: String,
        id: String,
    },
    Placed {
        conn: String,
        conversation: String,
        id: String,
        seq: u64,
    },
    Recv {
        conn: String,
        conversation: String,
        layer: Layer,
        #[serde(default)]
        via: Via,
        #[serde(flatten)]
        seen: Seen,
    },
    Ack {
        conn: String,
        conversation: String,
        recv: u64,
        read: u64,
    },
    Receipt {
        conn: String,
        conversation: String,
        side: Side,
        recv: u64,
        read: u64,
    },
    /// `recv` and `read` are one's own side's. `state` and `agent` as in the frame.
    Conversation {
        conn: String,
        conversation: String,
        last_seq: u64,
        recv: u64,
        read: u64,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        state: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        agent: String,
    },
    Reset {
        conn: String,
        conversation: String,
        last_seq: u64,
    },
    Rewind {
        conn: String,
        conversation: String,
        last_seq: u64,
    },
    /// Some rows of a conversation, rising, read by `user`. `last: true`: part of the final read of everything after quiesce.
    Page {
        tenant: String,
        user: String,
        role: Role,
        conversation: String,
        rows: Vec<Seen>,
        last_seq: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        last: bool,
    },
    /// The user may see the conversation, and is pushed its events, from `from_seq` to `to_seq` (`None`: still); written when it
    /// is known. Without any such line the checker derives the agents' spans from the session events of the final pages.
    Member {
        tenant: String,
        conversation: String,
        user: String,
        from_seq: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to_seq: Option<u64>,
    },
    /// Ok, when a worker's announcement for a partition is in the log and it takes the partition over (or announces again).
    Own {
        worker: String,
        partition: u32,
        generation: Generation,
    },
    /// A worker's or persistence's deed for one partition, written where it arrives: by the node for what came over a link
    /// (`receiver`: the node, `what`: push, conversation, frame, reset, rewind), by whoever commits for a commit (`receiver`:
    /// `committed offset of GROUP`). Ok: it had an effect; fail: refused because a higher generation was heard of before.
    Out {
        worker: String,
        generation: Generation,
        partition: u32,
        receiver: String,
        what: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        conversation: String,
        #[serde(default)]
        seq: u64,
    },
    /// Ok, when the log has the record durably. `seq`: the place the fold gives it; `None` for repeats and what takes none.
    Record {
        partition: u32,
        offset: u64,
        tenant: String,
        conversation: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        id: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        from_user: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        hash: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        /// How the conversation's session stands after this record: `idle`, `wanted`, `queued`, `active`, `left`; empty: not told.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        state: String,
        /// With `active`: who answers.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        agent: String,
    },
    /// Ok, when the store has answered the write: the row can be read from now on.
    Row {
        tenant: String,
        conversation: String,
        #[serde(flatten)]
        seen: Seen,
    },
    /// The group's committed offset is `offset` (the next to be read) from now on; ok: visible, fail: refused. Written after the
    /// broker's answer. `group` of persistence is [`super::PERSISTENCE`]; commits of others promise nothing.
    Commit {
        group: String,
        partition: u32,
        offset: u64,
        #[serde(default)]
        generation: Generation,
    },
    /// Info, when a worker drops a connection's route because `cause` disconnected.
    Unroute {
        worker: String,
        conn: String,
        cause: String,
    },
    /// Ok: all tables, write times included, after the first folding (`replayed: false`) and after a replay from offset 0.
    Digest { replayed: bool, hash: String },
    /// Info, once per batch of records that persistence is done with, `from..to` of one partition: what became of them.
    Account {
        partition: u32,
        from: u64,
        to: u64,
        /// Became events.
        rows: u64,
        /// Changed a session without an event, or the marks, or were notices and seals: no row is due.
        states: u64,
        /// Dropped: a repeat of an id, a decision that was not above the last, or what the stored state had already.
        repeats: u64,
        dead_letters: u64,
    },
    /// Ok, when a record that cannot be folded is in the dead-letter topic.
    DeadLetter { topic: String, partition: u32, offset: u64 },
    /// Ok, by the desk (or a fold of its log beside it): after the record at `offset` of the tenant's desk log, appended at `at_ms`,
    /// the conversation's session is in another place. `state`: `idle`, `wanted`, `queue`, `agent` (then with `agent`) or `left`.
    /// `cause` names why. A desk that replays its log writes the same lines again; they are compared.
    Assign {
        tenant: String,
        conversation: String,
        offset: u64,
        at_ms: i64,
        state: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        agent: String,
        /// In the queue: whose turn it is to answer.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        group: String,
        /// In the queue: nobody but this agent will do.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        only: String,
        cause: String,
    },
    /// Ok, by the desk, when something of this changed: what an agent may take and has after the record at `offset`.
    Capacity {
        tenant: String,
        agent: String,
        offset: u64,
        at_ms: i64,
        n: u64,
        /// The conversations assigned to the agent.
        has: Vec<String>,
        /// Available and connected.
        able: bool,
        /// Serves these; none: every group.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        groups: Vec<String>,
    },
    /// The control topic. Ok, by the operator: `key` has this `version` from now on (`on`: a switch's setting, else true). Info, by a
    /// process: it has applied it. Note, by a process, with an empty key: it has started, and knows nothing yet.
    Control {
        key: String,
        version: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        on: bool,
    },
    /// Ok, by the operator: what this user connected with before counts no more.
    Revoke { tenant: String, user: String },
    /// Info: `of` (a connection, a process, a link) holds `value` of `what`, which has the bound `cap`.
    Sample {
        what: String,
        of: String,
        value: u64,
        cap: u64,
    },
    /// Note. `hits`, with `stop`: how often the fault did something (frames dropped, processes killed). 0: it never took effect.
    Fault {
        name: String,
        target: String,
        state: FaultState,
        #[serde(default)]
        hits: u64,
    },
    /// Note: a border between the parts of a run; see [`Phase`].
    Phase { phase: Phase },
}

impl Op {
    /// The connection and the conversation of what a client did or heard in one.
    pub fn about(&self) -> Option<(&str, &str)> {
        match self {
            Op::Begin { conn, conversation, .. }
            | Op::Send { conn, conversation, .. }
            | Op::Sent { conn, conversation, .. }
            | Op::Placed { conn, conversation, .. }
            | Op::Recv { conn, conversation, .. }
            | Op::Ack { conn, conversation, .. }
            | Op::Receipt { conn, conversation, .. }
            | Op::Conversation { conn, conversation, .. }
            | Op::Reset { conn, conversation, .. }
            | Op::Rewind { conn, conversation, .. } => Some((conn, conversation)),
            _ => None,
        }
    }
}
