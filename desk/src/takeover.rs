//! Taking a partition over: the last snapshot of each tenant, and the offset from which its log is read on.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use desk_core::{Desk, Restored, Restoring};
use ordered_log::{Assigned, Log, LogError, TopicPartition};
use wire::{Epoch, Offset, Partition, Tenant};

use crate::error::Alarm;
use crate::{LOAD_BYTES_MAX, LOAD_RECORDS_MAX};

/// What the owner begins with.
pub(crate) struct Taken {
    pub desks: HashMap<Tenant, Desk>,
    /// The first record to read.
    pub from: Offset,
    /// Records below were there before: their decisions were counted by somebody else.
    pub known_until: Offset,
    /// Keys of each tenant's snapshot, and of those nobody reads any more.
    pub keys: HashMap<Tenant, Vec<Bytes>>,
    pub obsolete: Vec<Bytes>,
}

/// Tries until the log answers. Called by a future that is dropped when the partition is lost.
pub(crate) async fn take_over(
    log: &dyn Log,
    assigned: &Assigned,
    snapshots: &TopicPartition,
    epoch: Epoch,
) -> Result<Taken, Alarm> {
    let mut wait = Duration::from_millis(50);
    loop {
        match attempt(log, assigned, snapshots, epoch).await {
            Ok(result) => return result,
            Err(why) => {
                tracing::warn!(%why, partition = assigned.at.partition.0, "a desk's take-over waits for the log");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
    }
}

async fn attempt(
    log: &dyn Log,
    assigned: &Assigned,
    snapshots: &TopicPartition,
    epoch: Epoch,
) -> Result<Result<Taken, Alarm>, LogError> {
    let saved = log.bounds(snapshots).await?;
    let mut restoring = Restoring::default();
    let mut at = saved.start;
    while at < saved.end {
        let records = log.read(snapshots, at, LOAD_RECORDS_MAX, LOAD_BYTES_MAX).await?;
        let Some(last) = records.last() else { break };
        at = last.offset.next();
        for record in records {
            restoring.record(record.key.as_deref().unwrap_or_default(), record.value);
        }
    }
    let restored = match restoring.finish() {
        Ok(restored) => restored,
        Err((tenant, why)) => {
            let tenant = tenant.to_string();
            return Ok(Err(Alarm::BadSnapshot { tenant, why }));
        }
    };
    let (mut desks, mut keys, mut obsolete) = (HashMap::new(), HashMap::new(), Vec::new());
    for Restored {
        desk,
        keys: stands,
        obsolete: gone,
    } in restored
    {
        obsolete.extend(gone);
        keys.insert(desk.tenant().clone(), stands);
        desks.insert(desk.tenant().clone(), desk);
    }
    // Asked after the snapshots were read: they may be younger than an end asked before.
    let bounds = log.bounds(&assigned.at).await?;
    let from = assigned.committed.unwrap_or(bounds.start);
    if from < bounds.start || from > bounds.end {
        return Ok(Err(Alarm::CommittedOutOfLog {
            committed: from,
            start: bounds.start,
            end: bounds.end,
        }));
    }
    for desk in desks.values() {
        if let Some(position) = desk.position()
            && (position.epoch != epoch || position.offset >= bounds.end)
        {
            let tenant = desk.tenant().to_string();
            return Ok(Err(Alarm::SnapshotAheadOfLog {
                tenant,
                position,
                end: bounds.end,
            }));
        }
    }
    Ok(Ok(Taken {
        desks,
        from,
        known_until: bounds.end,
        keys,
        obsolete,
    }))
}

pub(crate) fn tenant_of(key: &[u8]) -> Option<Tenant> {
    Tenant::new(std::str::from_utf8(key).ok()?).ok()
}

/// The partition of the snapshots' topic that goes with a partition of `desk`.
pub(crate) fn snapshots_of(topic: &ordered_log::Topic, partition: Partition) -> TopicPartition {
    TopicPartition {
        topic: topic.clone(),
        partition,
    }
}
