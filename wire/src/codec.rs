//! Bytes of a Kafka value ↔ `Record`. Delivery and persistence both use `decode`, so they drop the same records.

use bytes::Bytes;
use prost::Message;

use crate::ids::ConversationKey;
use crate::limits;
use crate::position::Partition;
use crate::record::{Audience, DeskRecord, Kind, Mark, Record};
use crate::topics::partition_of;

/// The version this build writes. It reads any version up to it; a higher one is read as far as it is known.
pub const RECORD_VERSION: u32 = 1;

/// A record of the `messages` topic, and the conversation it belongs to (none for marks and seals).
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub key: Option<ConversationKey>,
    pub record: Record,
}

/// Why a record of ours was dropped; also the label of the dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the record has no value")]
    NoValue,
    #[error("the value has more than {} bytes", limits::RECORD_BYTES_MAX)]
    TooLarge,
    #[error("the value is not a record")]
    NotARecord,
    #[error("the record has no version")]
    NoVersion,
    #[error("the key is not tenant/customer")]
    BadKey,
    #[error("the key belongs to another partition")]
    WrongPartition,
    #[error("the record lacks the part its kind needs")]
    Incomplete,
    #[error("what would be shown to clients is not JSON")]
    NotJson,
    #[error("a watermark is beyond every seq")]
    MarkTooHigh,
}

impl DecodeError {
    /// Metric label.
    pub fn label(self) -> &'static str {
        match self {
            DecodeError::NoValue => "no_value",
            DecodeError::TooLarge => "too_large",
            DecodeError::NotARecord => "not_a_record",
            DecodeError::NoVersion => "no_version",
            DecodeError::BadKey => "bad_key",
            DecodeError::WrongPartition => "wrong_partition",
            DecodeError::Incomplete => "incomplete",
            DecodeError::NotJson => "not_json",
            DecodeError::MarkTooHigh => "mark_too_high",
        }
    }
}

/// Reads one record of `messages`. What this refuses is dropped by delivery and dead-lettered by persistence.
pub fn decode(
    key: Option<&Bytes>,
    value: Option<&Bytes>,
    partition: Partition,
    partitions: u32,
) -> Result<Decoded, DecodeError> {
    let value = value.ok_or(DecodeError::NoValue)?;
    if value.len() > limits::RECORD_BYTES_MAX {
        return Err(DecodeError::TooLarge);
    }
    let mut record = Record::decode(value.clone()).map_err(|_| DecodeError::NotARecord)?;
    if record.version == 0 {
        return Err(DecodeError::NoVersion);
    }
    let kind = record.kind();
    if kind == Kind::Marks || kind == Kind::Seal {
        check_keyless(&record, kind, partition)?;
        return Ok(Decoded { key: None, record });
    }
    let raw_key = key.ok_or(DecodeError::BadKey)?;
    let conversation = ConversationKey::from_key(raw_key).ok_or(DecodeError::BadKey)?;
    if partition_of(raw_key, partitions) != partition {
        return Err(DecodeError::WrongPartition);
    }
    let complete = match kind {
        Kind::Effect => record
            .effect
            .as_ref()
            .is_some_and(|e| e.decision.is_some() && e.session.is_some()),
        Kind::Notice => record.notice.is_some() && !record.numbered,
        _ => true,
    };
    let placed = !record.numbered || (record.from.is_some() && !record.member.is_empty());
    if !complete || !placed {
        return Err(DecodeError::Incomplete);
    }
    let shown = !record.numbered || is_member(&record.member);
    let told = record.notice.as_ref().is_none_or(|n| is_json(&n.frame));
    if !shown || !told {
        return Err(DecodeError::NotJson);
    }
    // An audience of a later build is narrower than everyone: whoever does not know it shows nothing.
    if Audience::try_from(record.audience).is_err() {
        record.audience = Audience::Staff.into();
    }
    Ok(Decoded {
        key: Some(conversation),
        record,
    })
}

fn check_keyless(record: &Record, kind: Kind, partition: Partition) -> Result<(), DecodeError> {
    let marks = record.marks.as_ref().filter(|m| m.partition == partition.0);
    if record.numbered || (kind == Kind::Marks && marks.is_none()) {
        return Err(DecodeError::Incomplete);
    }
    let highest = |m: &Mark| m.customer_recv.max(m.customer_read).max(m.agent_recv).max(m.agent_read);
    let too_high = |m: &crate::record::Marks| m.marks.iter().any(|m| highest(m) > limits::SEQ_MAX);
    if marks.is_some_and(too_high) {
        return Err(DecodeError::MarkTooHigh);
    }
    Ok(())
}

/// `"name":value`, the one thing of a record that is spliced into JSON unparsed: one bad byte would spoil every push and every
/// page it stands on.
fn is_member(member: &[u8]) -> bool {
    let in_name = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_';
    let name_end = |m: &[u8]| m.iter().position(|b| !in_name(b));
    let Some(rest) = member.strip_prefix(b"\"") else {
        return false;
    };
    let Some(value) = name_end(rest)
        .filter(|end| *end > 0)
        .and_then(|end| rest[end..].strip_prefix(b"\":"))
    else {
        return false;
    };
    is_json(value)
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// The value of a record.
pub fn encode(record: &Record) -> Bytes {
    record.encode_to_vec().into()
}

/// Reads one record of `desk`; `None` if it cannot be read (counted and skipped by the desk).
pub fn decode_desk(value: Option<&Bytes>) -> Option<DeskRecord> {
    let record = DeskRecord::decode(value?.clone()).ok()?;
    (record.version > 0 && record.input.is_some()).then_some(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Tenant, User};
    use crate::record::{Origin, Role, Sender};

    fn message(id: &str, body: &str) -> Record {
        Record {
            version: RECORD_VERSION,
            kind: Kind::Message.into(),
            numbered: true,
            wants_agent: true,
            from: Some(Sender {
                role: Role::Customer.into(),
                user: "alice".into(),
            }),
            id: id.into(),
            origin: Some(Origin { node: 1, connection: 2 }),
            member: format!("\"message\":{body}").into(),
            ..Record::default()
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_back(id in "\\PC{0,64}", text in ".*", user in "\\PC{1,30}") {
            let key = ConversationKey::new(Tenant::new("demo").unwrap(), User::new(user).unwrap());
            let raw = key.to_key();
            let record = message(&id, &serde_json::json!({ "text": text }).to_string());
            let got = decode(Some(&raw), Some(&encode(&record)), partition_of(&raw, 12), 12).unwrap();
            prop_assert_eq!(got, Decoded { key: Some(key), record });
        }

        #[test]
        fn garbage_never_panics(key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(key.map(Bytes::from).as_ref(), Some(&Bytes::from(value)), Partition(0), 1);
        }
    }

    #[test]
    fn a_key_of_another_partition_is_refused() {
        let raw = Bytes::from_static(b"demo/alice");
        let own = partition_of(&raw, 12);
        let other = Partition((own.0 + 1) % 12);
        let value = encode(&message("1", "{}"));
        assert_eq!(
            decode(Some(&raw), Some(&value), other, 12),
            Err(DecodeError::WrongPartition)
        );
    }

    /// What a record of demo/alice with this change is decoded to.
    fn decoded(change: impl FnOnce(&mut Record)) -> Result<Record, DecodeError> {
        let raw = Bytes::from_static(b"demo/alice");
        let mut record = message("1", r#"{"text":"x"}"#);
        change(&mut record);
        decode(Some(&raw), Some(&encode(&record)), partition_of(&raw, 12), 12).map(|d| d.record)
    }

    #[test]
    fn what_would_spoil_a_page_or_a_push_is_refused() {
        for member in [
            &b"\"message\":{\"text\":\"\xff\"}"[..],
            b"\"message\":{\"text\":\"x\"",
            b"\"message\":{} ,\"seq\":1",
            b"\"message\":{}}",
            b"\"message\"",
            b"\"\":{}",
            b"\"mes\\\"sage\":{}",
            b"message:{}",
            b"\"message\":nan",
            b"x",
        ] {
            let got = decoded(|r| r.member = member.to_vec().into());
            assert_eq!(got, Err(DecodeError::NotJson), "{}", member.escape_ascii());
        }
        for frame in [&b"{\"done\":"[..], b"\xff", b""] {
            let got = decoded(|r| {
                *r = Record {
                    version: 1,
                    kind: Kind::Notice.into(),
                    notice: Some(crate::record::Notice {
                        frame: frame.to_vec().into(),
                        to_customer: true,
                    }),
                    ..Record::default()
                }
            });
            assert_eq!(got, Err(DecodeError::NotJson), "{}", frame.escape_ascii());
        }
        let deep = format!("\"message\":{}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(decoded(|r| r.member = deep.into()).is_ok());
    }

    #[test]
    fn an_audience_of_a_later_build_is_shown_to_staff_only() {
        assert_eq!(decoded(|r| r.audience = 7).unwrap().audience(), Audience::Staff);
        assert_eq!(decoded(|_| {}).unwrap().audience(), Audience::Everyone);
    }

    #[test]
    fn a_kind_and_a_version_of_a_later_build_are_read_as_far_as_they_are_known() {
        let later = decoded(|r| (r.version, r.kind) = (9, 77)).unwrap();
        assert!(later.numbered && later.kind() == Kind::Unknown);
    }

    #[test]
    fn a_watermark_beyond_every_seq_is_refused() {
        let with = |recv: u64| {
            let mark = Mark {
                tenant: "demo".into(),
                customer: "alice".into(),
                agent_recv: recv,
                ..Mark::default()
            };
            let record = Record {
                version: 1,
                kind: Kind::Marks.into(),
                marks: Some(crate::record::Marks {
                    partition: 3,
                    marks: vec![mark],
                }),
                ..Record::default()
            };
            decode(None, Some(&encode(&record)), Partition(3), 12).map(|_| ())
        };
        assert_eq!(with(limits::SEQ_MAX), Ok(()));
        assert_eq!(with(limits::SEQ_MAX + 1), Err(DecodeError::MarkTooHigh));
        assert_eq!(with(u64::MAX), Err(DecodeError::MarkTooHigh));
    }

    #[test]
    fn marks_name_their_partition() {
        let mut record = Record {
            version: 1,
            kind: Kind::Marks.into(),
            marks: Some(crate::record::Marks {
                partition: 3,
                marks: vec![],
            }),
            ..Record::default()
        };
        assert!(decode(None, Some(&encode(&record)), Partition(3), 12).is_ok());
        assert_eq!(
            decode(None, Some(&encode(&record)), Partition(4), 12),
            Err(DecodeError::Incomplete)
        );
        record.marks = None;
        assert!(decode(None, Some(&encode(&record)), Partition(3), 12).is_err());
    }
}
