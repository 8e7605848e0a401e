//! Makes the frames a client sends. Bodies are spliced in as they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use wire::event::push_json_str;
use wire::frames::{Ack, AgentState, ClientFrame, Connect, Empty, Refresh, Since, Status, TypingFrom};

fn encode(frame: &ClientFrame<'_>) -> Bytes {
    // Serialising into memory cannot fail: no maps with odd keys, no failing writer.
    serde_json::to_vec(frame).unwrap_or_default().into()
}

pub fn connect(token: &str, device: Option<&str>, since: Option<Since>, term: Option<u64>) -> Bytes {
    encode(&ClientFrame::Connect(Connect {
        token: token.into(),
        device: device.map(Into::into),
        since,
        term,
    }))
}

pub fn since_of(places: BTreeMap<String, u64>) -> Option<Since> {
    (!places.is_empty()).then_some(Since::Conversations(places))
}

/// `{"send":{…}}`
pub fn send(id: &str, conversation: Option<&str>, body: &RawValue) -> Bytes {
    named("send", id, conversation, "body", body)
}

/// `{"act":{…,"DEED":VALUE}}`
pub fn act(id: &str, conversation: Option<&str>, deed: &str, value: &RawValue) -> Bytes {
    named("act", id, conversation, deed, value)
}

fn named(frame: &str, id: &str, conversation: Option<&str>, member: &str, value: &RawValue) -> Bytes {
    let mut out = Vec::with_capacity(64 + id.len() + value.get().len());
    out.push(b'{');
    push_json_str(&mut out, frame);
    out.extend_from_slice(br#":{"id":"#);
    push_json_str(&mut out, id);
    if let Some(conversation) = conversation {
        out.extend_from_slice(br#","conversation":"#);
        push_json_str(&mut out, conversation);
    }
    out.push(b',');
    push_json_str(&mut out, member);
    out.push(b':');
    out.extend_from_slice(value.get().as_bytes());
    out.extend_from_slice(b"}}");
    out.into()
}

pub fn ack(conversation: Option<&str>, recv: u64, read: u64) -> Bytes {
    encode(&ClientFrame::Ack(Ack {
        conversation: conversation.map(Into::into),
        recv,
        read,
    }))
}

pub fn typing(conversation: Option<&str>) -> Bytes {
    encode(&ClientFrame::Typing(TypingFrom {
        conversation: conversation.map(Into::into),
    }))
}

pub fn status(state: AgentState, capacity: Option<u32>) -> Bytes {
    encode(&ClientFrame::Status(Status {
        id: None,
        state,
        capacity,
    }))
}

pub fn refresh(token: &str) -> Bytes {
    encode(&ClientFrame::Refresh(Refresh { token: token.into() }))
}

pub fn ping() -> Bytes {
    encode(&ClientFrame::Ping(Empty {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_is_what_the_vocabulary_reads_and_its_body_is_untouched() {
        let body = RawValue::from_string(r#"{"text":"a\u0041","n":1e400}"#.into()).unwrap();
        let frame = send("i\"d", Some("爱"), &body);
        let ClientFrame::Send(read) = serde_json::from_slice(&frame).unwrap() else {
            panic!()
        };
        assert_eq!(read.id, "i\"d");
        assert_eq!(read.conversation.as_deref(), Some("爱"));
        assert_eq!(read.body.get(), body.get());
    }

    #[test]
    fn an_act_has_exactly_its_deed() {
        let value = RawValue::from_string(r#"{"agent":"bo","only":true}"#.into()).unwrap();
        let frame = act("1", None, "request", &value);
        let ClientFrame::Act(read) = serde_json::from_slice(&frame).unwrap() else {
            panic!()
        };
        assert_eq!(read.deed().map(|(n, v)| (n, v.get())), Some(("request", value.get())));
    }
}
