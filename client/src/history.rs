//! What a client did and saw, as JSON lines that the checker reads (RELIABILITY.md, "History format"):
//! `{"t_mono":MICROSECONDS,"proc":…,"op":…,"kind":"invoke|ok|fail|info|note", …}`, one object a line, one writer per process.
//!
//! | op | kind | members |
//! |---|---|---|
//! | `connect` | invoke | `since` (a number, an object, or left out); `device` |
//! | `connect` | ok | `user`, `node` |
//! | `resume` | note | `since`: a connect that names a place |
//! | `close` | note | `code` (if there was one), `reason` |
//! | `send` | invoke | `conversation` (a customer's own may be left out), `id`, `hash` |
//! | `sent` | ok | `id` |
//! | `sent` | fail, info | `id`, `code`: a definite refusal (never resent), or one after which the same id goes again |
//! | `act` | invoke; `done` ok | `conversation`, `id`, `deed`; `id` |
//! | `recv` | note | `conversation`, `seq`, `id`, `hash` (neither for what is no message, no hash for a `placed`), `at`: `raw` as it came, `app` handed over |
//! | `ack` | note | `conversation`, `recv`, `read` |
//! | `reset`, `rewind`, `gap` | note | `conversation`, `had` / `last`, `last_seq` / `seq` |
//! | `page` | note | `conversation`, `rows`: `[{"seq":…,"id":…,"hash":…},…]` |
//!
//! A hash is the first 16 hex digits of SHA-256 over the body's bytes. Every line also names its `user` once it is known.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wire::frames::Since;

/// The first 16 hex digits of SHA-256 over a body.
pub fn hash_of(body: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(body.as_ref());
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// One thing a client did or saw.
#[derive(Debug, Clone)]
pub enum Observation {
    Connect {
        since: Option<Since>,
    },
    Connected {
        user: String,
        node: String,
    },
    Close {
        code: Option<u16>,
        reason: String,
    },
    Send {
        conversation: Option<String>,
        id: String,
        hash: String,
    },
    Act {
        conversation: Option<String>,
        id: String,
        deed: String,
    },
    Sent {
        id: String,
    },
    Done {
        id: String,
    },
    Refused {
        id: String,
        code: &'static str,
        /// The same id goes again.
        again: bool,
    },
    Recv {
        raw: bool,
        conversation: String,
        seq: u64,
        id: Option<String>,
        hash: Option<String>,
    },
    Ack {
        conversation: String,
        recv: u64,
        read: u64,
    },
    Reset {
        conversation: String,
        had: u64,
        last_seq: u64,
    },
    Rewind {
        conversation: String,
        last_seq: u64,
    },
    Gap {
        conversation: String,
        last: u64,
        seq: u64,
    },
    Page {
        conversation: String,
        /// (seq, id, hash)
        rows: Vec<(u64, Option<String>, Option<String>)>,
    },
}

impl Observation {
    pub fn send(conversation: Option<&str>, id: &str, body: &str) -> Self {
        Observation::Send {
            conversation: conversation.map(Into::into),
            id: id.into(),
            hash: hash_of(body),
        }
    }

    pub fn act(conversation: Option<&str>, id: &str, deed: &str) -> Self {
        Observation::Act {
            conversation: conversation.map(Into::into),
            id: id.into(),
            deed: deed.into(),
        }
    }

    pub fn recv(raw: bool, conversation: &str, seq: u64, id: Option<&str>, hash: Option<String>) -> Self {
        Observation::Recv {
            raw,
            conversation: conversation.into(),
            seq,
            id: id.map(Into::into),
            hash,
        }
    }

    pub fn reset(conversation: &str, had: u64, last_seq: u64) -> Self {
        Observation::Reset {
            conversation: conversation.into(),
            had,
            last_seq,
        }
    }

    pub fn rewind(conversation: &str, last_seq: u64) -> Self {
        Observation::Rewind {
            conversation: conversation.into(),
            last_seq,
        }
    }

    pub fn gap(conversation: &str, last: u64, seq: u64) -> Self {
        Observation::Gap {
            conversation: conversation.into(),
            last,
            seq,
        }
    }

    /// (op, kind, the other members)
    fn parts(&self) -> (&'static str, &'static str, Value) {
        match self {
            Observation::Connect { since: Some(since) } => ("connect", "invoke", json!({ "since": since })),
            Observation::Connect { since: None } => ("connect", "invoke", json!({})),
            Observation::Connected { user, node } => ("connect", "ok", json!({ "user": user, "node": node })),
            Observation::Close { code, reason } => ("close", "note", json!({ "code": code, "reason": reason })),
            Observation::Send { conversation, id, hash } => (
                "send",
                "invoke",
                json!({ "conversation": conversation, "id": id, "hash": hash }),
            ),
            Observation::Act { conversation, id, deed } => (
                "act",
                "invoke",
                json!({ "conversation": conversation, "id": id, "deed": deed }),
            ),
            Observation::Sent { id } => ("sent", "ok", json!({ "id": id })),
            Observation::Done { id } => ("done", "ok", json!({ "id": id })),
            Observation::Refused { id, code, again } => (
                "sent",
                if *again { "info" } else { "fail" },
                json!({ "id": id, "code": code }),
            ),
            Observation::Recv {
                raw,
                conversation,
                seq,
                id,
                hash,
            } => (
                "recv",
                "note",
                json!({ "conversation": conversation, "seq": seq, "id": id, "hash": hash,
                        "at": if *raw { "raw" } else { "app" } }),
            ),
            Observation::Ack {
                conversation,
                recv,
                read,
            } => (
                "ack",
                "note",
                json!({ "conversation": conversation, "recv": recv, "read": read }),
            ),
            Observation::Reset {
                conversation,
                had,
                last_seq,
            } => (
                "reset",
                "note",
                json!({ "conversation": conversation, "had": had, "last_seq": last_seq }),
            ),
            Observation::Rewind { conversation, last_seq } => (
                "rewind",
                "note",
                json!({ "conversation": conversation, "last_seq": last_seq }),
            ),
            Observation::Gap {
                conversation,
                last,
                seq,
            } => (
                "gap",
                "note",
                json!({ "conversation": conversation, "last": last, "seq": seq }),
            ),
            Observation::Page { conversation, rows } => {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|(seq, id, hash)| without_nulls(json!({ "seq": seq, "id": id, "hash": hash })))
                    .collect();
                ("page", "note", json!({ "conversation": conversation, "rows": rows }))
            }
        }
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).collect()),
        other => other,
    }
}

/// Writes observations of any number of clients of this process, with one monotone clock.
pub struct Recorder {
    started: Instant,
    proc: String,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Recorder {
    pub fn new(proc: impl Into<String>, out: impl Write + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            proc: proc.into(),
            out: Mutex::new(Box::new(out)),
        })
    }

    /// Appends to a file; each line is written whole and at once, so a killed process leaves whole lines.
    pub fn append(proc: impl Into<String>, path: &std::path::Path) -> std::io::Result<Arc<Self>> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self::new(proc, file))
    }

    /// What one client did or saw. `user` and `device` tell the clients of a process apart.
    pub fn record(&self, user: &str, device: Option<&str>, what: &Observation) {
        if let Observation::Connect { since: Some(since) } = what {
            self.line("resume", "note", user, device, json!({ "since": since }));
        }
        let (op, kind, members) = what.parts();
        self.line(op, kind, user, device, members);
    }

    /// Any other line, e.g. `fault` by a nemesis; `members` is an object.
    pub fn note(&self, op: &str, kind: &str, members: Value) {
        self.line(op, kind, "", None, members);
    }

    fn line(&self, op: &str, kind: &str, user: &str, device: Option<&str>, members: Value) {
        let mut line = Map::new();
        line.insert("t_mono".into(), json!(0));
        line.insert("proc".into(), json!(self.proc));
        line.insert("op".into(), json!(op));
        line.insert("kind".into(), json!(kind));
        if !user.is_empty() {
            line.insert("user".into(), json!(user));
        }
        if let Some(device) = device {
            line.insert("device".into(), json!(device));
        }
        if let Value::Object(members) = without_nulls(members) {
            line.extend(members);
        }
        let mut out = self.out.lock();
        // Under the lock, so that the lines' times never fall.
        let t_mono = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        line.insert("t_mono".into(), json!(t_mono));
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        // A history that cannot be written must not stop the client it watches; the checker misses the lines and calls the run void.
        let _ = out.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_observation_is_one_line_with_time_process_op_and_kind() {
        let shared = Shared::default();
        let recorder = Recorder::new("client-1", shared.clone());
        recorder.record("alice", Some("phone"), &Observation::send(None, "1", r#"{"text":"hi"}"#));
        recorder.record("alice", None, &Observation::Connect { since: Some(Since::Own(4)) });
        let text = String::from_utf8(shared.0.lock().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["op"], "send");
        assert_eq!(lines[0]["kind"], "invoke");
        assert_eq!(lines[0]["hash"], hash_of(r#"{"text":"hi"}"#));
        assert_eq!(lines[0]["device"], "phone");
        assert!(lines[0].get("conversation").is_none());
        assert_eq!((&lines[1]["op"], &lines[1]["since"]), (&json!("resume"), &json!(4)));
        assert_eq!(lines[2]["op"], "connect");
        assert!(lines.windows(2).all(|w| w[0]["t_mono"].as_u64() <= w[1]["t_mono"].as_u64()));
    }
}
