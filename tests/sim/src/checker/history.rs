//! The history of one run, as JSON lines: what every client, process and fault did, in real-time order. Recorders write it
//! (the client's, the simulation's, the system tests'), the checker reads it. This file is the format's one definition.
//!
//! One line is one [`Entry`]: `{"t_mono_us":12,"proc":"clients","kind":"invoke","op":"send", …the op's own fields}`.
//! - `t_mono_us`: microseconds of one monotonic clock per run; files of several processes are merged by it, equal times by
//!   file order. A line is written **before** the deed for `invoke`, **after** it was seen for everything else.
//! - Fields that are `None`, empty or `false` may be left out. Unknown fields are ignored; an unknown `op` is an error.
//! - `conversation` is the customer's name as in frames; the tenant comes from the connection (or stands beside it).
//! - `hash` is [`body_hash`]: the first 8 bytes, in hex, of SHA-256 over the JSON value of the event's last member exactly as it
//!   stood on the wire (`{"text":"hello"}`), so for a send: over the body's bytes as sent.
//!
//! What a client's recorder writes, in this order for one connection:
//! 1. `connect` invoke; then `connect` ok (the `connected` frame came) or fail / info.
//! 2. `begin` info, once per connection and conversation: from which seq on it expects events (see [`Op::Begin`]).
//! 3. `send` invoke for **every attempt** (a resend of the same id is a second invoke); `sent` ok and `placed` ok for the frames of
//!    that name; `send` fail for an `error` frame that says it will not appear (every code but `unknown`), `send` info for `unknown`.
//!    A send that never got an answer needs no line.
//! 4. `recv` info with `layer: raw` for every `event` and every `placed` frame as it came off the wire, whether it was dropped
//!    afterwards or not; and with `layer: app` when the event is handed to the application (at most once per seq and device).
//! 5. `receipt`, `conversation`, `reset`, `rewind` info for the frames of that name; `ack` invoke for every ack sent.
//! 6. `close` info when the connection has ended; nothing on that `conn` afterwards.
//! 7. `page` ok for every history page read by HTTP; those of the final read after quiesce have `last: true`.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub t_mono_us: u64,
    /// Who wrote it: a name for people, unique per process.
    pub proc: String,
    pub kind: Kind,
    #[serde(flatten)]
    pub op: Op,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is about to be tried.
    Invoke,
    Ok,
    /// A definite refusal: it did not and will not happen.
    Fail,
    /// Outcome unknown (timeout, close, 5xx): it may have happened. Also for what is only observed.
    Info,
    Note,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Customer,
    Agent,
    Supervisor,
    TenantAdmin,
    Operator,
    Bot,
    System,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Customer,
    Agent,
}

/// Where an event was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Off the wire, repeats included.
    Raw,
    /// Handed to the application.
    App,
}

/// How an event came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    #[default]
    Event,
    Placed,
    /// Read by HTTP after a `reset`, or because the client chose to; only with `layer: app`.
    Page,
}

/// One event as somebody saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub seq: u64,
    /// The client id; empty for events of the system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// See the top of the file; empty for a hidden event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// The name of the last member: `message`, `note`, `assigned`, `closed`, `hidden` …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// For a `placed`: the connection's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_role: Option<Role>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from_user: String,
    /// The `agent` inside the last member, if it is an object with such a key (`"assigned":{"agent":"bo"}`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent: String,
}

/// The group's generation, then the offset of the announcement; compared in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation {
    pub group: u64,
    pub announced: u64,
}

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
    },
    /// The connection has ended; nothing is received on it any more. `code` is the server's, if it gave one.
    Close {
        conn: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
    },
    /// From here on `conn` expects the events above `from`: its `since` for the conversation, written with the `connect`
    /// (`resume: true`); else the `last_seq` of the conversation's first `conversation` frame on this connection. (Where a member
    /// of staff is pushed events below that, the checker takes the first of them for the beginning.)
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
    /// A worker took a partition.
    Own {
        worker: String,
        partition: u32,
        generation: Generation,
    },
    /// A worker's or persistence's deed at a receiver (a node, a row, a topic partition) for one partition; ok: it had an effect, fail: refused.
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
    /// The log has the record durably. `seq`: the place the fold gives it; `None` for repeats and what takes none.
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
    },
    /// The row can be read from now on.
    Row {
        tenant: String,
        conversation: String,
        #[serde(flatten)]
        seen: Seen,
    },
    /// The group's committed offset is `offset` from now on; ok: visible, fail: refused.
    Commit {
        group: String,
        partition: u32,
        offset: u64,
        #[serde(default)]
        generation: Generation,
    },
    /// A worker dropped a connection's route because `cause` disconnected.
    Unroute {
        worker: String,
        conn: String,
        cause: String,
    },
    /// All tables, write times included, after the first folding (`replayed: false`) and after a replay from offset 0.
    Digest { replayed: bool, hash: String },
    /// `hits`, with `stop`: how often the fault did something (frames dropped, processes killed). 0: it never took effect.
    Fault {
        name: String,
        target: String,
        state: FaultState,
        #[serde(default)]
        hits: u64,
    },
    /// A border between the parts of a run; see [`Phase`].
    Phase { phase: Phase },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultState {
    Start,
    Stop,
}

/// The end of a run, in this order. A history may lack the last ones; then what they decide is not decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// All faults are over, everything runs, nothing new is sent.
    Healed,
    /// Lag is 0 (or the time for it is over): every connection open now should have been pushed everything.
    Settled,
    /// Every client has connected again and should have everything.
    Reconnected,
}

/// The hash of a body or of an event's last member.
pub fn body_hash(json: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(json)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// A line that is not an entry.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the history is not an entry: {why}")]
pub struct BadLine {
    pub line: usize,
    pub why: serde_json::Error,
}

/// Reads a whole history, in time order.
pub fn read_lines(text: &str) -> Result<Vec<Entry>, BadLine> {
    let mut entries = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        entries.push(serde_json::from_str::<Entry>(line).map_err(|why| BadLine { line: i + 1, why })?);
    }
    entries.sort_by_key(|e| e.t_mono_us);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back() {
        let line = r#"{"t_mono_us":7,"proc":"clients","kind":"info","op":"recv","conn":"c1","conversation":"alice","layer":"app","via":"event","seq":3,"id":"x","hash":"00","what":"message","from_role":"customer","from_user":"alice"}"#;
        let entry: Entry = serde_json::from_str(line).unwrap();
        assert!(matches!(&entry.op, Op::Recv { seen, layer: Layer::App, .. } if seen.seq == 3));
        assert_eq!(serde_json::to_string(&entry).unwrap(), line);
    }

    #[test]
    fn a_hash_is_sixteen_hex_digits() {
        assert_eq!(body_hash(b"{\"text\":\"hello\"}").len(), 16);
    }

    #[test]
    fn an_unknown_op_is_an_error_that_names_its_line() {
        let text = "\n{\"t_mono_us\":1,\"proc\":\"p\",\"kind\":\"ok\",\"op\":\"nonsense\"}\n";
        assert_eq!(read_lines(text).unwrap_err().line, 2);
    }
}
