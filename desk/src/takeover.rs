//! Taking a partition over: the last snapshot of each tenant, and the offset from which its log is read on.

use std::collections::HashMap;
use std::time::Duration;

use desk_core::Desk;
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
    /// End of the snapshots' partition: what others write from here on is overwritten.
    pub snapshots_end: Offset,
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
    let mut desks = HashMap::new();
    let mut at = saved.start;
    while at < saved.end {
        let records = log.read(snapshots, at, LOAD_RECORDS_MAX, LOAD_BYTES_MAX).await?;
        let Some(last) = records.last() else { break };
        at = last.offset.next();
        for record in records {
            let Some(tenant) = record.key.as_deref().and_then(tenant_of) else {
                continue;
            };
            match record.value.as_deref().map(Desk::restore) {
                Some(Ok(desk)) => {
                    keep_newer(&mut desks, tenant, desk);
                }
                Some(Err(why)) => {
                    return Ok(Err(Alarm::BadSnapshot {
                        tenant: tenant.to_string(),
                        why,
                    }));
                }
                None => {
                    desks.remove(&tenant);
                }
            }
        }
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
        snapshots_end: saved.end,
    }))
}

/// A zombie's older snapshot behind a newer one counts for nothing.
fn keep_newer(desks: &mut HashMap<Tenant, Desk>, tenant: Tenant, desk: Desk) {
    match desks.get(&tenant) {
        Some(before) if before.position() > desk.position() => {}
        _ => {
            desks.insert(tenant, desk);
        }
    }
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
