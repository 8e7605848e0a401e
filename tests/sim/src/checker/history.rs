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
//! Every op with its fields, and who writes it when: [`super::op::Op`].
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

pub use super::op::Op;

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
