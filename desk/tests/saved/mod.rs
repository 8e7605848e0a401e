//! Desks in the snapshots' topic: written as an owner would, and found as the next one will.

use ordered_log::embedded::Embedded;
use ordered_log::{Log, TopicPartition, append};
use wire::Offset;

use super::{desk_place, topics};

/// Writes a desk as its owner would.
pub async fn save(log: &Embedded, desk: &desk_core::Desk) {
    let producer = log.producer().await.unwrap();
    let partition = desk_place("demo").partition;
    for piece in desk.pieces() {
        let topic = topics().desk_snapshots().into();
        append(&*producer, topic, partition, Some(piece.key), Some(piece.value))
            .await
            .unwrap();
    }
}

/// The tenant's desk as the next owner would find it, and how many records it stands in.
pub async fn standing(log: &Embedded, tenant: &str) -> (desk_core::Desk, usize) {
    let at = TopicPartition {
        topic: topics().desk_snapshots().into(),
        partition: desk_place(tenant).partition,
    };
    let mut restoring = desk_core::Restoring::default();
    let mut from = Offset(0);
    loop {
        let records = log.read(&at, from, 1_000, 64 << 20).await.unwrap();
        let Some(last) = records.last() else { break };
        from = last.offset.next();
        for record in records {
            restoring.record(record.key.as_deref().unwrap_or_default(), record.value);
        }
    }
    let restored = restoring.finish().unwrap().remove(0);
    (restored.desk, restored.keys.len())
}
