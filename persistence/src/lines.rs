//! The history of this process (`process::Recorder`): what a record was folded to, before anything of it is written; its row,
//! once it can be read; and each commit. So the checker sees whether a commit ran ahead of its rows (I12).

use std::collections::BTreeMap;

use process::Recorder;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::PartitionWrite;
use wire::{Offset, Partition};

/// Members of an event before its last one.
const ENVELOPE: [&str; 5] = ["conversation", "seq", "at", "id", "from"];

/// What a `record` line says beside where it stands in the log.
const PLACE: [&str; 6] = ["tenant", "conversation", "id", "from_user", "hash", "seq"];

/// Rows on their way to the store.
pub(crate) struct Rows {
    recorder: Recorder,
    rows: Vec<Map<String, Value>>,
}

impl Rows {
    /// A batch was folded, and nothing of it is written yet.
    pub fn folded(recorder: &Recorder, partition: Partition, write: &PartitionWrite) -> Self {
        let mut rows = Vec::new();
        for conversation in write.conversations.iter().filter(|_| recorder.is_on()) {
            let Some(key) = &conversation.key else { continue };
            for event in &conversation.events {
                let mut row = seen(&event.entry);
                row.insert("tenant".into(), json!(key.tenant.as_str()));
                row.insert("conversation".into(), json!(key.customer.as_str()));
                recorder.ok("record", || {
                    let mut record: Map<String, Value> = row
                        .iter()
                        .filter(|(name, _)| PLACE.contains(&name.as_str()))
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect();
                    record.insert("partition".into(), json!(partition.0));
                    record.insert("offset".into(), json!(event.position.offset.0));
                    Value::Object(record)
                });
                rows.push(row);
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
