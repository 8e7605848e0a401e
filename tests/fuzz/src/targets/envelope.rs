//! A client's frame: what is read is written and read again alike; and what a session takes into the log is read there by the
//! one `decode`, becomes an event that is JSON, and still holds the body's own bytes.

use std::sync::Arc;

use conversation::{Folded, State};
use ingress_core::session::parse;
use ingress_core::{Connected, Step};
use wire::codec::{self, RECORD_VERSION};
use wire::frames::{ClientFrame, ServerFrame};
use wire::link::Access;
use wire::record::{Kind, Record, Role, Sender};
use wire::{ConversationKey, Epoch, Offset, Partition, Position};

use super::{Plenty, claims_of};

pub const WORDS: &[&[u8]] = &[
    b"{\"send\":{\"id\":\"1\",\"body\":{\"text\":\"x\"}}}",
    b"{\"act\":{\"id\":\"1\",",
    b"{\"ack\":{\"recv\":",
    b"\"conversation\":\"alice\",",
    b"{\"connect\":{\"token\":\"t\",\"since\":",
    b"18446744073709551615",
    b"1e999",
    b"-0",
    b"null",
    b"\\ud800",
    b"\\u0000",
    b"\xf0\x9f\x98\x80",
    b"\xe2\x80\xae",
    b"{\"event\":{\"conversation\":\"a\",\"seq\":1,\"at\":1,",
    b"[[[[[[[[",
    b"\"note\":{},",
    b"\"recall\":{\"seq\":1}",
];

/// True: somebody's session took it into the log, and it became an event.
pub fn run(input: &[u8]) -> bool {
    if let Ok(frame) = parse(input) {
        let written = serde_json::to_string(&frame).expect("what was read can be written");
        let again: ClientFrame<'_> = parse(written.as_bytes()).expect("what was written can be read");
        assert_eq!(serde_json::to_string(&again).expect("twice"), written);
    }
    if let Ok(frame) = serde_json::from_slice::<ServerFrame<'_>>(input) {
        let written = frame.encode();
        let again: ServerFrame<'_> = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(again.encode(), written);
    }
    [Role::Customer, Role::Agent]
        .map(|role| judge(input, role))
        .contains(&true)
}

/// True: it became an event.
fn judge(input: &[u8], role: Role) -> bool {
    let user = if role == Role::Customer { "alice" } else { "bo" };
    let claims = claims_of(user, role);
    let mut session = Connected::new(0, &claims, None, Arc::default());
    session.learn("alice", Access::Full);
    match session.handle_frame(0, parse(input), &Plenty) {
        Step::Produce(new) => {
            let record = Record {
                version: RECORD_VERSION,
                kind: Kind::Message.into(),
                numbered: true,
                from: Some(Sender {
                    role: role.into(),
                    user: user.into(),
                }),
                id: new.id.as_str().to_owned(),
                member: new.member_bytes(),
                ..Record::default()
            };
            let key = ConversationKey::new(claims.tenant.clone(), new.conversation.clone());
            let decoded = codec::decode(Some(&key.to_key()), Some(&codec::encode(&record)), Partition(0), 1);
            let decoded = decoded.expect("what a session takes is read from the log");
            let place = Position::new(Epoch(1), Offset(0));
            let Folded::Event(event) = State::default().fold(&key, place, 0, &decoded.record) else {
                panic!("a numbered record that is no event");
            };
            let text = std::str::from_utf8(&event.frame).expect("an event is UTF-8");
            serde_json::from_str::<&serde_json::value::RawValue>(text).expect("an event is JSON");
            assert!(
                text.ends_with(&format!("{}}}}}", new.value.get())),
                "the body's bytes have changed"
            );
            true
        }
        Step::Desk(act) => {
            serde_json::from_slice::<Box<serde_json::value::RawValue>>(&act.deed).expect("a deed is JSON");
            false
        }
        Step::Answer(answer) => {
            serde_json::from_slice::<ServerFrame<'_>>(&answer).expect("an answer is a frame");
            false
        }
        _ => false,
    }
}
