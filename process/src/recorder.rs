//! What this process did, as JSON lines that the checker merges with everybody else's and decides the invariants from
//! (`tests/sim/src/checker/history.rs` defines the format). For tests and for looking into an incident; off unless
//! `history.file` names a file, and then one branch per call and nothing more.
//!
//! A line is one `write` into the page cache by whoever did the deed, before anybody else can see it: what stands in the file
//! survives kill -9, and no queue can lose its end. Nothing waits for a disk. The file stops growing at `history.bytes_max`; the process's log says when.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

/// The process's history; cheap to clone. The default one is off.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

struct Inner {
    proc: String,
    out: Mutex<Out>,
}

struct Out {
    file: File,
    bytes_left: u64,
}

impl Recorder {
    /// Appends to `path`. `proc`: a name for people, unique per process of a run.
    pub fn append(proc: &str, path: &Path, bytes_max: u64) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self(Some(Arc::new(Inner {
            proc: proc.to_owned(),
            out: Mutex::new(Out {
                file,
                bytes_left: bytes_max.saturating_sub(written),
            }),
        }))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// It happened. `fields`: an object, made only if somebody listens; what is null, empty or false in it may be left out.
    pub fn ok(&self, op: &str, fields: impl FnOnce() -> Value) {
        self.line("ok", op, fields);
    }

    /// It was refused: it did not happen and will not.
    pub fn fail(&self, op: &str, fields: impl FnOnce() -> Value) {
        self.line("fail", op, fields);
    }

    /// It was observed.
    pub fn info(&self, op: &str, fields: impl FnOnce() -> Value) {
        self.line("info", op, fields);
    }

    /// A border, or what is decided elsewhere.
    pub fn note(&self, op: &str, fields: impl FnOnce() -> Value) {
        self.line("note", op, fields);
    }

    fn line(&self, kind: &str, op: &str, fields: impl FnOnce() -> Value) {
        let Some(inner) = &self.0 else { return };
        let fields = fields();
        let mut out = inner.out.lock();
        if out.bytes_left == 0 {
            return;
        }
        // The time is taken under the lock: the lines' times never fall.
        let mut line = Map::new();
        line.insert("t_mono_us".into(), json!(mono_us()));
        line.insert("proc".into(), json!(inner.proc));
        line.insert("kind".into(), json!(kind));
        line.insert("op".into(), json!(op));
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        out.bytes_left = out.bytes_left.saturating_sub(text.len() as u64);
        if let Err(error) = out.file.write_all(text.as_bytes()) {
            tracing::warn!(%error, "the history cannot be written and ends here");
            out.bytes_left = 0;
        } else if out.bytes_left == 0 {
            tracing::warn!("history.bytes_max is reached: the history ends here");
        }
    }
}

/// The machine's monotonic clock, the same for all processes of it.
fn mono_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn a_line_stands_in_the_file_as_soon_as_it_is_said_and_a_second_start_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        for offset in [7, 8] {
            let recorder = Recorder::append("p", &path, 1 << 20).unwrap();
            recorder.ok(
                "commit",
                || json!({ "group": "persistence", "partition": 1, "offset": offset }),
            );
            assert_eq!(lines(&path).last().unwrap()["offset"], offset);
        }
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["proc"], &lines[0]["kind"]), (&json!("p"), &json!("ok")));
        assert!(lines[0]["t_mono_us"].as_u64() <= lines[1]["t_mono_us"].as_u64());
    }

    #[test]
    fn the_file_stops_growing_at_its_bound_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        let recorder = Recorder::append("p", &path, 300).unwrap();
        for n in 0..1_000 {
            recorder.note("control", || json!({ "version": n }));
        }
        let length = std::fs::metadata(&path).unwrap().len();
        assert!((300..400).contains(&length), "{length}");
        assert!(lines(&path).len() > 2);
        let again = Recorder::append("p", &path, 300).unwrap();
        again.note("control", || json!({}));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    }

    #[test]
    fn off_it_makes_nothing() {
        let recorder = Recorder::default();
        recorder.ok("own", || unreachable!());
        assert!(!recorder.is_on());
    }
}
