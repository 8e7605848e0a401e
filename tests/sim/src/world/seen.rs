//! An event's bytes as the history shows it.

use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::checker::history::{Role, Seen, body_hash};

/// Of a history entry: the object inside `event`.
pub fn of_entry(entry: &[u8]) -> Seen {
    let Ok(members) = serde_json::from_slice::<BTreeMap<&str, &RawValue>>(entry) else {
        return Seen {
            what: "unreadable".into(),
            ..Seen::default()
        };
    };
    let text = |name: &str| -> String {
        let raw = members.get(name).map_or("\"\"", |raw| raw.get());
        serde_json::from_str(raw).unwrap_or_default()
    };
    let from: serde_json::Value = members
        .get("from")
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    let known = ["conversation", "seq", "at", "id", "from"];
    let last = members.iter().find(|(name, _)| !known.contains(name));
    let value = last.map_or("", |(_, raw)| raw.get());
    let what = last.map_or("", |(name, _)| *name);
    let inner: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
    Seen {
        seq: members.get("seq").and_then(|raw| raw.get().parse().ok()).unwrap_or(0),
        id: text("id"),
        hash: if what == "hidden" {
            String::new()
        } else {
            body_hash(value.as_bytes())
        },
        what: what.into(),
        from_role: role(from["role"].as_str().unwrap_or_default()),
        from_user: from["user"].as_str().unwrap_or_default().into(),
        agent: inner["agent"].as_str().unwrap_or_default().into(),
    }
}

fn role(name: &str) -> Option<Role> {
    serde_json::from_value(serde_json::Value::String(name.into())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_seen_with_its_sender_and_its_last_member() {
        let entry = br#"{"conversation":"alice","seq":3,"at":1,"id":"x","from":{"role":"agent","user":"bo"},"message":{"text":"hi"}}"#;
        let seen = of_entry(entry);
        assert_eq!((seen.seq, seen.id.as_str(), seen.what.as_str()), (3, "x", "message"));
        assert_eq!((seen.from_role, seen.from_user.as_str()), (Some(Role::Agent), "bo"));
        assert_eq!(seen.hash, body_hash(br#"{"text":"hi"}"#));
    }
}
