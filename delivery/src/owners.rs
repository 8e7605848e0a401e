//! Who says it owns what: our announcements in the compacted `owners` topic, and others' that we hear.

use bytes::Bytes;
use ordered_log::{Appended, LogRecord, ProduceError, Producer, append};
use prost::Message;
use wire::record::Owner;
use wire::{Generation, Offset, Partition, WorkerId};

/// What our announcements say of us.
#[derive(Clone)]
pub(crate) struct Announcer {
    pub topic: ordered_log::Topic,
    pub worker: WorkerId,
    pub name: String,
    pub link_address: String,
}

impl Announcer {
    /// One announcement; its offset is the second part of the generation.
    pub async fn announce(
        &self,
        producer: &dyn Producer,
        partition: Partition,
        group_generation: u64,
    ) -> Result<Appended, ProduceError> {
        let owner = Owner {
            partition: partition.0,
            worker: self.name.clone(),
            link_address: self.link_address.clone(),
            worker_incarnation: self.worker.0,
            group_generation,
        };
        let key = Bytes::from(partition.to_string());
        append(
            producer,
            self.topic.clone(),
            Partition(0),
            Some(key),
            Some(owner.encode_to_vec().into()),
        )
        .await
    }
}

/// One announcement as heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub partition: Partition,
    pub worker: WorkerId,
    /// The consumer group's generation it was made in.
    pub group: u64,
    pub offset: Offset,
}

impl Heard {
    /// As nodes rank it.
    pub fn generation(&self) -> Generation {
        Generation {
            group: self.group,
            announced: self.offset.0,
        }
    }
}

/// What cannot be read, or names another partition than its key, is nobody's announcement.
pub(crate) fn heard(record: &LogRecord) -> Option<Heard> {
    let owner = Owner::decode(record.value.clone()?).ok()?;
    let named: u32 = std::str::from_utf8(record.key.as_ref()?).ok()?.parse().ok()?;
    (named == owner.partition).then_some(Heard {
        partition: Partition(owner.partition),
        worker: WorkerId(owner.worker_incarnation),
        group: owner.group_generation,
        offset: record.offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_and_wrong_keys_are_nobodys_announcement() {
        let owner = Owner {
            partition: 3,
            worker_incarnation: 9,
            ..Owner::default()
        };
        let record = |key: &'static str, value: Vec<u8>| LogRecord {
            offset: Offset(5),
            at_ms: 0,
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Vec::new(),
        };
        let good = heard(&record("3", owner.encode_to_vec()));
        assert_eq!(
            good.map(|h| (h.partition, h.worker.0, h.offset)),
            Some((Partition(3), 9, Offset(5)))
        );
        assert_eq!(heard(&record("4", owner.encode_to_vec())), None);
        assert_eq!(heard(&record("3", vec![0xff; 9])), None);
        assert_eq!(heard(&record("x", owner.encode_to_vec())), None);
    }
}
