//! An event's bytes. Made here and nowhere else, so pushes, history and replays are the same bytes.

use bytes::Bytes;

use crate::position::Seq;
use crate::record::{Role, Sender};

/// `{"event":` … `}`: what stands around the history entry in a pushed frame.
const FRAME_HEAD: &[u8] = br#"{"event":"#;

/// The frame of one event: `{"event":{"conversation":…,"seq":…,"at":…,"id":…,"from":{…},MEMBER}}`.
/// `member` is the last member as it stands in JSON, e.g. `"message":{"text":"hello"}`. `id` is left out when empty.
pub fn event_frame(conversation: &str, seq: Seq, at_ms: i64, id: &str, from: &Sender, member: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(160 + conversation.len() + id.len() + from.user.len() + member.len());
    out.extend_from_slice(FRAME_HEAD);
    out.extend_from_slice(br#"{"conversation":"#);
    push_json_str(&mut out, conversation);
    out.extend_from_slice(br#","seq":"#);
    push_number(&mut out, seq.0 as i64);
    out.extend_from_slice(br#","at":"#);
    push_number(&mut out, at_ms);
    if !id.is_empty() {
        out.extend_from_slice(br#","id":"#);
        push_json_str(&mut out, id);
    }
    out.extend_from_slice(br#","from":{"role":"#);
    push_json_str(&mut out, role_name(from.role()));
    if !from.user.is_empty() {
        out.extend_from_slice(br#","user":"#);
        push_json_str(&mut out, &from.user);
    }
    out.extend_from_slice(b"},");
    out.extend_from_slice(member);
    out.extend_from_slice(b"}}");
    out.into()
}

/// The history entry inside an event's frame; no copy.
pub fn entry_of(frame: &Bytes) -> Bytes {
    frame.slice(FRAME_HEAD.len()..frame.len() - 1)
}

/// The frame around a history entry.
pub fn frame_of(entry: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_HEAD.len() + entry.len() + 1);
    out.extend_from_slice(FRAME_HEAD);
    out.extend_from_slice(entry);
    out.push(b'}');
    out.into()
}

/// What the other side sees of a staff-only event: the same place, nothing else.
pub fn hidden_frame(conversation: &str, seq: Seq, at_ms: i64) -> Bytes {
    let mut out = Vec::with_capacity(80 + conversation.len());
    out.extend_from_slice(FRAME_HEAD);
    out.extend_from_slice(br#"{"conversation":"#);
    push_json_str(&mut out, conversation);
    out.extend_from_slice(br#","seq":"#);
    push_number(&mut out, seq.0 as i64);
    out.extend_from_slice(br#","at":"#);
    push_number(&mut out, at_ms);
    out.extend_from_slice(br#","hidden":{}}}"#);
    out.into()
}

/// `{"placed":{…}}`, the short form for the connection that sent it.
pub fn placed_frame(conversation: &str, seq: Seq, at_ms: i64, id: &str) -> Bytes {
    let mut out = Vec::with_capacity(80 + conversation.len() + id.len());
    out.extend_from_slice(br#"{"placed":{"id":"#);
    push_json_str(&mut out, id);
    out.extend_from_slice(br#","conversation":"#);
    push_json_str(&mut out, conversation);
    out.extend_from_slice(br#","seq":"#);
    push_number(&mut out, seq.0 as i64);
    out.extend_from_slice(br#","at":"#);
    push_number(&mut out, at_ms);
    out.extend_from_slice(b"}}");
    out.into()
}

/// `{"sent":{"id":…}}`.
pub fn sent_frame(id: &str) -> Bytes {
    let mut out = Vec::with_capacity(18 + id.len());
    out.extend_from_slice(br#"{"sent":{"id":"#);
    push_json_str(&mut out, id);
    out.extend_from_slice(b"}}");
    out.into()
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Customer => "customer",
        Role::Agent => "agent",
        Role::Supervisor => "supervisor",
        Role::TenantAdmin => "tenant_admin",
        Role::Operator => "operator",
        Role::Bot => "bot",
        Role::System => "system",
        Role::Unknown => "unknown",
    }
}

/// The role of that name in a token; `system` and unknown names are nobody's.
pub fn role_of_name(name: &str) -> Option<Role> {
    [
        Role::Customer,
        Role::Agent,
        Role::Supervisor,
        Role::TenantAdmin,
        Role::Operator,
        Role::Bot,
    ]
    .into_iter()
    .find(|r| role_name(*r) == name)
}

/// A JSON string, quoted; only what must be escaped is.
pub fn push_json_str(out: &mut Vec<u8>, s: &str) {
    out.push(b'"');
    if s.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.extend_from_slice(s.as_bytes());
        out.push(b'"');
    } else {
        out.pop();
        // Writing a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, s);
    }
}

fn push_number(out: &mut Vec<u8>, n: i64) {
    use std::io::Write;
    // Writing into memory cannot fail.
    let _ = write!(out, "{n}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frames::ServerFrame;

    #[test]
    fn the_example_of_the_protocol_is_made_exactly() {
        let from = Sender {
            role: Role::Customer.into(),
            user: "alice".into(),
        };
        let frame = event_frame(
            "alice",
            Seq(42),
            1766361600000,
            "018f",
            &from,
            br#""message":{"text":"hello"}"#,
        );
        assert_eq!(
            std::str::from_utf8(&frame).unwrap(),
            r#"{"event":{"conversation":"alice","seq":42,"at":1766361600000,"id":"018f","from":{"role":"customer","user":"alice"},"message":{"text":"hello"}}}"#
        );
    }

    proptest! {
        #[test]
        fn an_event_is_read_back_whole(conv in "\\PC{1,20}", id in "\\PC{0,20}", user in "\\PC{1,20}", seq in 1u64..1 << 50, text in ".*") {
            let body = serde_json::json!({ "text": text }).to_string();
            let from = Sender { role: Role::Agent.into(), user: user.clone() };
            let frame = event_frame(&conv, Seq(seq), 7, &id, &from, format!("\"message\":{body}").as_bytes());
            let entry = entry_of(&frame);
            prop_assert_eq!(&frame_of(&entry), &frame);
            let ServerFrame::Event(event) = serde_json::from_slice(&frame).unwrap() else { panic!() };
            prop_assert_eq!(event.conversation.as_ref(), conv.as_str());
            prop_assert_eq!(event.seq, seq);
            prop_assert_eq!(event.id.as_deref().unwrap_or(""), id.as_str());
            let person = event.from.as_ref().unwrap();
            prop_assert_eq!(person.user.as_deref(), Some(user.as_str()));
            prop_assert_eq!(event.message.unwrap().get(), body.as_str());
        }
    }
}
