//! The entry that stands in place of one the store refuses: same seq, time and sender, member `"withheld":{}`.
//! Made here and nowhere else, so a replay writes the same bytes.

use bytes::Bytes;
use store::EventRow;
use wire::ConversationKey;
use wire::event::{entry_of, event_frame, role_of_name};
use wire::frames::EventFrame;
use wire::record::{Role, Sender};

pub(crate) fn withheld(key: &ConversationKey, row: &EventRow) -> EventRow {
    let frame = event_frame(
        key.customer.as_str(),
        row.seq,
        row.at_ms,
        "",
        &sender_of(&row.entry),
        br#""withheld":{}"#,
    );
    EventRow {
        entry: entry_of(&frame),
        ..row.clone()
    }
}

/// Whom the entry names; nobody if even that cannot be read.
fn sender_of(entry: &Bytes) -> Sender {
    let Some(person) = serde_json::from_slice::<EventFrame>(entry).ok().and_then(|e| e.from) else {
        return Sender::default();
    };
    let role = match person.role.as_ref() {
        "system" => Role::System,
        name => role_of_name(name).unwrap_or(Role::Unknown),
    };
    Sender {
        role: role.into(),
        user: person.user.unwrap_or_default().into_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wire::{Epoch, Offset, Position, Seq, Tenant, User};

    use super::*;

    #[test]
    fn a_placeholder_keeps_place_time_and_sender_and_nothing_of_the_body() {
        let key = ConversationKey::new(Tenant::new("demo").unwrap(), User::new("alice").unwrap());
        let from = Sender {
            role: Role::Agent.into(),
            user: "bo".into(),
        };
        let frame = event_frame("alice", Seq(7), 99, "id", &from, br#""message":{"text":"secret"}"#);
        let row = EventRow {
            seq: Seq(7),
            staff_only: false,
            at_ms: 99,
            entry: entry_of(&frame),
            position: Position::new(Epoch(1), Offset(3)),
        };
        let placeholder = withheld(&key, &row);
        assert_eq!(
            placeholder.entry,
            r#"{"conversation":"alice","seq":7,"at":99,"from":{"role":"agent","user":"bo"},"withheld":{}}"#
        );
        assert_eq!((placeholder.seq, placeholder.position), (row.seq, row.position));
    }
}
