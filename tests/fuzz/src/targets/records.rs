//! Records of our own topics: `[key's length][key …][value …]`. What `decode` lets through folds into an event that is JSON,
//! hides what it must, and comes out of its own encoding alike; a state is read back whole.

use bytes::Bytes;
use conversation::{Folded, State};
use prost::Message;
use wire::codec::{self, decode_desk};
use wire::event::{entry_of, frame_of};
use wire::record::{Audience, Control, Owner};
use wire::{Epoch, Offset, Partition, Position, Seq};

pub const WORDS: &[&[u8]] = &[
    b"demo/alice",
    b"\x08\x01",
    b"\x10\x01",
    b"\x10\x02",
    b"\x10\x03",
    b"\x10\x04",
    b"\x18\x01",
    b"\x28\x07",
    b"\x32\x09\x08\x01\x12\x05alice",
    b"\x4a\x0c\"message\":{}",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x52\x04\x0a\x00\x12\x00",
];

/// True: the record became an event.
pub fn run(input: &[u8]) -> bool {
    let (key, value) = match input.split_first() {
        Some((len, rest)) => rest.split_at(usize::from(*len).min(rest.len())),
        None => (&[][..], &[][..]),
    };
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    let _ = decode_desk(Some(&value));
    let _ = Owner::decode(value.clone());
    let _ = Control::decode(value.clone());
    if let Ok(state) = State::decode(value.clone()) {
        let again = State::decode(state.encode()).expect("a state that was written is read");
        assert_eq!(again.encode(), state.encode());
    }
    let _ = codec::decode(None, Some(&value), Partition(0), 12);
    let Ok(decoded) = codec::decode(Some(&key), Some(&value), Partition(0), 1) else {
        return false;
    };
    let encoded = codec::encode(&decoded.record);
    let again = codec::decode(Some(&key), Some(&encoded), Partition(0), 1);
    assert_eq!(again.as_ref(), Ok(&decoded), "decoded again it is another");
    let Some(conversation) = &decoded.key else {
        return false;
    };
    let (mut state, mut is_event) = (State::default(), false);
    for offset in 0..2 {
        let place = Position::new(Epoch(1), Offset(offset));
        if let Folded::Event(event) = state.fold(conversation, place, i64::MAX, &decoded.record) {
            is_event = true;
            is_json(&event.frame);
            assert_eq!(frame_of(&entry_of(&event.frame)), event.frame);
            let shown = event.frame_for_customer(conversation.customer.as_str());
            is_json(&shown);
            let everyone = decoded.record.audience == i32::from(Audience::Everyone);
            assert_eq!(shown == event.frame, everyone, "shown to whom it is not meant for");
            assert_eq!(event.seq, state.last_seq());
        }
        let cell = state.encode();
        assert_eq!(State::decode(cell.clone()).expect("our own state").encode(), cell);
        let before = state.clone();
        assert_eq!(
            state.fold(conversation, place, 0, &decoded.record) == Folded::Skipped,
            before.applied() == Some(place)
        );
        assert!(state.last_seq() <= Seq(offset + 1));
    }
    is_event
}

fn is_json(frame: &[u8]) {
    let text = std::str::from_utf8(frame).expect("a frame is UTF-8");
    serde_json::from_str::<&serde_json::value::RawValue>(text).expect("a frame is JSON");
}
