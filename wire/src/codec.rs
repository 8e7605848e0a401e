//! Bytes of a Kafka value ↔ `Record`. Delivery and persistence both use `decode`, so they drop the same records.

use bytes::Bytes;
use prost::Message;

use crate::ids::ConversationKey;
use crate::limits;
use crate::position::Partition;
use crate::record::{DeskRecord, Kind, Record};
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
    let record = Record::decode(value.clone()).map_err(|_| DecodeError::NotARecord)?;
    if record.version == 0 {
        return Err(DecodeError::NoVersion);
    }
    let kind = record.kind();
    if kind == Kind::Marks || kind == Kind::Seal {
        let complete = kind == Kind::Seal || record.marks.as_ref().is_some_and(|m| m.partition == partition.0);
        return if complete && !record.numbered {
            Ok(Decoded { key: None, record })
        } else {
            Err(DecodeError::Incomplete)
        };
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
    if complete && placed {
        Ok(Decoded {
            key: Some(conversation),
            record,
        })
    } else {
        Err(DecodeError::Incomplete)
    }
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
