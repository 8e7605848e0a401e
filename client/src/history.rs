//! What a client did and saw, as JSON lines for the checker. The format is defined in `tests/sim/src/checker/history.rs`
//! (RELIABILITY.md, "History format"); here it is only written: `{"t_mono_us":…,"proc":…,"kind":…,"op":…, …}`, one object a line.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::incoming::Event;
use crate::pages::Page;

/// Sends whose body is remembered, so that a `placed` can be recorded with it.
const REMEMBERED: usize = 1_024;

/// The first 8 bytes, in hex, of SHA-256 over a body or an event's last member as it stood on the wire.
pub fn hash_of(json: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(json.as_ref());
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Whose history it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    pub tenant: String,
    pub user: String,
    /// As in tokens: `customer`, `agent` …
    pub role: String,
}

/// One line without its time, process and connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub kind: &'static str,
    pub op: &'static str,
    pub fields: Map<String, Value>,
}

impl Observation {
    /// Fields that are null, empty or false are left out.
    pub fn new(kind: &'static str, op: &'static str, fields: Value) -> Self {
        let fields = match fields {
            Value::Object(fields) => fields.into_iter().filter(|(_, v)| told(v)).collect(),
            _ => Map::new(),
        };
        Self { kind, op, fields }
    }

    pub(crate) fn recv(layer: &str, event: &Event) -> Self {
        let mut fields = seen(event);
        fields.insert("conversation".into(), json!(event.conversation));
        fields.insert("layer".into(), json!(layer));
        Self::new("info", "recv", Value::Object(fields))
    }
}

fn told(value: &Value) -> bool {
    !(value.is_null() || *value == json!("") || *value == json!(false))
}

/// One event as somebody saw it.
fn seen(event: &Event) -> Map<String, Value> {
    #[derive(serde::Deserialize)]
    struct Named {
        agent: Option<String>,
    }
    let member = event.deed.value.as_deref().map(|v| v.get());
    let hidden = event.deed.name == "hidden";
    let agent = member
        .and_then(|m| serde_json::from_str::<Named>(m).ok())
        .and_then(|n| n.agent);
    let fields = json!({
        "seq": event.seq,
        "id": event.id,
        "hash": member.filter(|_| !hidden).map(hash_of),
        "what": event.deed.name,
        "from_role": event.role,
        "from_user": event.user,
        "agent": agent,
    });
    match fields {
        Value::Object(fields) => fields.into_iter().filter(|(_, v)| told(v)).collect(),
        _ => Map::new(),
    }
}

/// The bodies of the last sends, by id: (conversation, hash).
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    by_id: HashMap<String, (String, String)>,
    order: VecDeque<String>,
}

impl Remembered {
    pub fn put(&mut self, id: &str, conversation: &str, body: &str) {
        let value = (conversation.to_owned(), hash_of(body));
        if self.by_id.insert(id.to_owned(), value).is_none() {
            self.order.push_back(id.to_owned());
        }
        while self.order.len() > REMEMBERED {
            if let Some(old) = self.order.pop_front() {
                self.by_id.remove(&old);
            }
        }
    }

    pub fn get(&self, id: &str) -> Option<(String, String)> {
        self.by_id.get(id).cloned()
    }
}

/// Writes the lines of any number of clients of this process.
pub struct Recorder {
    proc: String,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Recorder {
    /// `proc` is a name for people, unique per process of the run.
    pub fn new(proc: impl Into<String>, out: impl Write + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            proc: proc.into(),
            out: Mutex::new(Box::new(out)),
        })
    }

    /// Appends to a file; each line is written whole and at once, so a killed process leaves whole lines.
    pub fn append(proc: impl Into<String>, path: &std::path::Path) -> std::io::Result<Arc<Self>> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self::new(proc, file))
    }

    /// A history page read by HTTP; `last`: part of the final read of everything after quiesce.
    pub fn page(&self, who: &Who, conversation: &str, page: &Page, last: bool) {
        let rows: Vec<Value> = page.events.iter().map(|e| Value::Object(seen(e))).collect();
        let fields = json!({
            "tenant": who.tenant, "user": who.user, "role": who.role, "conversation": conversation,
            "rows": rows, "last_seq": page.last_seq, "last": last,
        });
        self.line(&Observation::new("ok", "page", fields), None);
    }

    /// Any other line, e.g. of a fault or a phase; `fields` is an object.
    pub fn note(&self, kind: &'static str, op: &'static str, fields: Value) {
        self.line(&Observation::new(kind, op, fields), None);
    }

    fn line(&self, what: &Observation, conn: Option<&str>) {
        let mut line = Map::new();
        let mut out = self.out.lock();
        // Under the lock, so that the lines' times never fall.
        line.insert("t_mono_us".into(), json!(mono_us()));
        line.insert("proc".into(), json!(self.proc));
        line.insert("kind".into(), json!(what.kind));
        line.insert("op".into(), json!(what.op));
        if let Some(conn) = conn {
            line.insert("conn".into(), json!(conn));
        }
        line.extend(what.fields.clone());
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        // A history that cannot be written must not stop the client it watches; the checker misses the lines and calls the run void.
        let _ = out.write_all(text.as_bytes());
    }
}

/// The machine's monotonic clock, the same for all processes.
fn mono_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// Records one client: names its connections one after the other.
pub(crate) struct Observer {
    recorder: Arc<Recorder>,
    who: Who,
    device: Option<String>,
    conn: String,
}

/// Connections of this process's clients; with the process's name they are unique in a run.
static CONNS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl Observer {
    pub fn new(recorder: Arc<Recorder>, who: Who, device: Option<String>) -> Self {
        Self {
            recorder,
            who,
            device,
            conn: String::new(),
        }
    }

    pub fn record(&mut self, mut what: Observation) {
        if what.op == "connect" {
            if what.kind == "invoke" {
                let n = CONNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.conn = format!("{}:{}:{n}", self.recorder.proc, self.who.user);
            }
            what.fields.insert("tenant".into(), json!(self.who.tenant));
            what.fields.insert("user".into(), json!(self.who.user));
            what.fields.insert("role".into(), json!(self.who.role));
            if let Some(device) = &self.device {
                what.fields.insert("device".into(), json!(device));
            }
        }
        self.recorder.line(&what, Some(&self.conn));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
    fn lines_are_as_the_checker_reads_them() {
        let shared = Shared::default();
        let who = Who {
            tenant: "demo".into(),
            user: "alice".into(),
            role: "customer".into(),
        };
        let mut observer = Observer::new(Recorder::new("clients", shared.clone()), who, None);
        observer.record(Observation::new("invoke", "connect", json!({})));
        let entry = r#"{"conversation":"alice","seq":4,"at":1,"from":{"role":"system"},"assigned":{"agent":"bo"}}"#;
        let event = Event::from_entry(Bytes::from_static(entry.as_bytes())).unwrap();
        observer.record(Observation::recv("raw", &event));
        observer.record(Observation::new("invoke", "connect", json!({})));
        let text = String::from_utf8(shared.0.lock().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            (&lines[0]["op"], &lines[0]["role"]),
            (&json!("connect"), &json!("customer"))
        );
        assert_eq!(lines[0]["conn"], lines[1]["conn"]);
        assert_ne!(lines[0]["conn"], lines[2]["conn"]);
        let mut recv = lines[1].clone();
        let recv = recv.as_object_mut().unwrap();
        assert!(recv.remove("t_mono_us").is_some() && recv.remove("conn").is_some());
        let expected = json!({
            "proc": "clients", "kind": "info", "op": "recv", "layer": "raw", "conversation": "alice", "seq": 4,
            "hash": hash_of(r#"{"agent":"bo"}"#), "what": "assigned", "from_role": "system", "agent": "bo",
        });
        assert_eq!(Value::Object(recv.clone()), expected);
        assert!(
            lines
                .windows(2)
                .all(|w| w[0]["t_mono_us"].as_u64() <= w[1]["t_mono_us"].as_u64())
        );
    }
}
