//! The history of this process (`process::Recorder`): what a record was folded to, before anything of it is written; its row,
//! once it can be read; and each commit. So the checker sees whether a commit ran ahead of its rows (I12).

use std::collections::BTreeMap;

use conversation::State;
use ordered_log::TopicPartition;
use process::Recorder;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::ConversationWrite;
use wire::record::SessionState;
use wire::{Offset, Partition};

use crate::core::{Core, FoldedBatch};

/// Members of an event before its last one.
const ENVELOPE: [&str; 5] = ["conversation", "seq", "at", "id", "from"];

/// What a `record` line says beside where it stands in the log.
const PLACE: [&str; 4] = ["id", "from_user", "hash", "seq"];

/// Rows on their way to the store.
pub(crate) struct Rows {
    recorder: Recorder,
    rows: Vec<Map<String, Value>>,
}

impl Rows {
    /// A batch was folded, and nothing of it is written yet.
    pub fn folded(recorder: &Recorder, core: &Core, batch: &FoldedBatch) -> Self {
        let mut rows = Vec::new();
        if recorder.is_on() {
            let partition = core.place().partition;
            account(recorder, partition, batch);
            for conversation in &batch.write.conversations {
                rows.extend(records(recorder, core, partition, conversation));
            }
        }
        Self {
            recorder: recorder.clone(),
            rows,
        }
    }

    pub fn can_be_read(self) {
        for row in self.rows {
            self.recorder.ok("row", || Value::Object(row));
        }
    }
}

fn account(recorder: &Recorder, partition: Partition, batch: &FoldedBatch) {
    let counts = &batch.counts;
    recorder.info("account", || {
        json!({
            "partition": partition.0,
            "from": batch.from.0,
            "to": batch.to.0,
            "rows": counts.rows,
            "states": counts.state_only + counts.unnumbered,
            "repeats": counts.repeats + counts.superseded + counts.skipped,
            "dead_letters": counts.dead_letters,
        })
    });
}

/// A line per event; with the last record that changed the conversation, how its session stands after it. Returns the rows.
fn records(
    recorder: &Recorder,
    core: &Core,
    partition: Partition,
    written: &ConversationWrite,
) -> Vec<Map<String, Value>> {
    let Some(key) = &written.key else { return Vec::new() };
    let state = core.state(key);
    let applied = state.and_then(State::applied).map(|p| p.offset);
    let stands = |record: &mut Map<String, Value>| {
        if let Some(state) = state {
            record.insert("state".into(), json!(state_name(state.session_state())));
            record.insert("agent".into(), json!(state.agent()));
        }
    };
    let place = |offset: Offset| {
        let mut record = Map::new();
        record.insert("tenant".into(), json!(key.tenant.as_str()));
        record.insert("conversation".into(), json!(key.customer.as_str()));
        record.insert("partition".into(), json!(partition.0));
        record.insert("offset".into(), json!(offset.0));
        record
    };
    let mut rows = Vec::new();
    for event in &written.events {
        let seen = seen(&event.entry);
        let mut record = place(event.position.offset);
        let said = seen.iter().filter(|(name, _)| PLACE.contains(&name.as_str()));
        record.extend(said.map(|(name, value)| (name.clone(), value.clone())));
        if applied == Some(event.position.offset) {
            stands(&mut record);
        }
        recorder.ok("record", || Value::Object(record));
        let mut row = seen;
        row.insert("tenant".into(), json!(key.tenant.as_str()));
        row.insert("conversation".into(), json!(key.customer.as_str()));
        rows.push(row);
    }
    let last = written.events.last().map(|e| e.position.offset);
    if let Some(applied) = applied.filter(|applied| last.is_none_or(|last| *applied > last)) {
        // A decision without an event.
        let mut record = place(applied);
        stands(&mut record);
        recorder.ok("record", || Value::Object(record));
    }
    rows
}

fn state_name(state: SessionState) -> &'static str {
    match state {
        SessionState::SessionIdle => "idle",
        SessionState::SessionWanted => "wanted",
        SessionState::SessionQueued => "queued",
        SessionState::SessionActive => "active",
        SessionState::SessionLeft => "left",
    }
}

/// A record that cannot be folded is in the dead-letter topic.
pub(crate) fn dead_letter(recorder: &Recorder, at: &TopicPartition, offset: Offset) {
    recorder.ok(
        "dead_letter",
        || json!({ "topic": &*at.topic, "partition": at.partition.0, "offset": offset.0 }),
    );
}

/// The group's offset is there from now on, or was refused.
pub(crate) fn committed(recorder: &Recorder, partition: Partition, through: Offset, accepted: bool) {
    let fields = || json!({ "group": "persistence", "partition": partition.0, "offset": through.0 });
    if accepted {
        recorder.ok("commit", fields);
    } else {
        recorder.fail("commit", fields);
    }
}

/// An event as the checker names it.
fn seen(entry: &[u8]) -> Map<String, Value> {
    let members: BTreeMap<&str, &RawValue> = serde_json::from_slice(entry).unwrap_or_default();
    let value = |name: &str| -> Value {
        let raw = members.get(name).map(|raw| raw.get());
        raw.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
    };
    let from = value("from");
    let last = members.iter().find(|(name, _)| !ENVELOPE.contains(name));
    let said: Value = last
        .and_then(|(_, raw)| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    let fields = json!({
        "seq": value("seq"),
        "id": value("id"),
        "hash": last.map(|(_, raw)| hash_of(raw.get())),
        "what": last.map(|(name, _)| *name),
        "from_role": from["role"],
        "from_user": from["user"],
        "agent": said["agent"],
    });
    let fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields
        .into_iter()
        .filter(|(_, v)| v.is_number() || v.is_string())
        .collect()
}

/// The first 8 bytes, in hex, of SHA-256 over the last member's bytes.
fn hash_of(json: &str) -> String {
    Sha256::digest(json)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_by_its_id_its_sender_and_the_hash_of_its_last_member() {
        let entry = br#"{"conversation":"alice","seq":3,"at":1,"id":"x","from":{"role":"agent","user":"bo"},"message":{"text":"hi"}}"#;
        let expected = json!({
            "seq": 3, "id": "x", "hash": hash_of(r#"{"text":"hi"}"#), "what": "message", "from_role": "agent", "from_user": "bo",
        });
        assert_eq!(Value::Object(seen(entry)), expected);
        let entry = br#"{"conversation":"alice","seq":4,"at":1,"from":{"role":"system"},"assigned":{"agent":"bo"}}"#;
        let said = seen(entry);
        assert_eq!((&said["agent"], &said["what"]), (&json!("bo"), &json!("assigned")));
        assert!(!said.contains_key("id") && !said.contains_key("from_user"));
    }
}
