//! The service's metric handles, taken once.

use std::collections::HashMap;

use delivery_core::Stats;
use process::metrics::{self, Counter, Gauge};
use wire::Partition;

use crate::GROUP;

pub(crate) struct Meters {
    stages: metrics::Stages,
    consumed: Counter,
    folded: Counter,
    repeats: Counter,
    skipped_applied: Counter,
    skipped_decode: Counter,
    skipped_decision: Counter,
    pushed: Counter,
    resets: Counter,
    rewinds: Counter,
    replaced: Counter,
    stale_acks: Counter,
    pages: Counter,
    read_back: Counter,
    registered_fresh: Counter,
    registered_again: Counter,
    registered_not_owner: Counter,
    marks: Counter,
    pub loads_ok: Counter,
    pub loads_missing: Counter,
    pub routes: Gauge,
    pub residents: Gauge,
    pub resident_bytes: Gauge,
    pub parked: Gauge,
    pub paused: Gauge,
    pub link_up: Gauge,
    pub link_queue_items: Gauge,
    pub link_closed: Counter,
    pub link_timeout: Counter,
    pub link_error: Counter,
    pub commits_ok: Counter,
    pub commits_fenced: Counter,
    pub commits_failed: Counter,
    partitions: HashMap<Partition, OfPartition>,
}

/// The gauges of one partition.
#[derive(Clone)]
pub(crate) struct OfPartition {
    pub owned: Gauge,
    pub stopped: Gauge,
    pub lag_records: Gauge,
    pub lag_seconds: Gauge,
}

impl Meters {
    pub fn new(bytes_budget: usize) -> Self {
        let skipped = |reason| metrics::RECORDS_SKIPPED_TOTAL.with(&[("group", GROUP), ("reason", reason)]);
        let registered = |outcome| metrics::REGISTRATIONS_TOTAL.with(&[("outcome", outcome)]);
        let loads = |outcome| metrics::LOADS_TOTAL.with(&[("outcome", outcome)]);
        let lost = |reason| metrics::LINK_LOST_TOTAL.with(&[("reason", reason)]);
        let commits = |outcome| metrics::COMMITS_TOTAL.with(&[("group", GROUP), ("outcome", outcome)]);
        metrics::WORKER_BYTES_BUDGET.get().set(bytes_budget as f64);
        Self {
            stages: metrics::Stages::new(),
            consumed: metrics::CONSUMED_TOTAL.with(&[("group", GROUP)]),
            folded: metrics::FOLDED_TOTAL.with(&[("group", GROUP)]),
            repeats: metrics::REPEATS_DROPPED_TOTAL.with(&[("group", GROUP)]),
            skipped_applied: skipped("applied"),
            skipped_decode: skipped("decode"),
            skipped_decision: skipped("old_decision"),
            pushed: metrics::PUSHED_TOTAL.get(),
            resets: metrics::RESETS_TOTAL.get(),
            rewinds: metrics::REWINDS_TOTAL.get(),
            replaced: registered("replaced"),
            stale_acks: metrics::STALE_GENERATION_REFUSED_TOTAL.with(&[("kind", "ack")]),
            pages: metrics::CATCH_UP_READS_TOTAL.with(&[("source", "store")]),
            read_back: metrics::CATCH_UP_READS_TOTAL.with(&[("source", "log")]),
            registered_fresh: registered("fresh"),
            registered_again: registered("again"),
            registered_not_owner: registered("not_owner"),
            marks: metrics::MARKS_WRITTEN_TOTAL.get(),
            loads_ok: loads("ok"),
            loads_missing: loads("missing"),
            routes: metrics::ROUTES.get(),
            residents: metrics::RESIDENT_CONVERSATIONS.get(),
            resident_bytes: metrics::RESIDENT_BYTES.get(),
            parked: metrics::RECORDS_PARKED.get(),
            paused: metrics::WORKER_PAUSED.get(),
            link_up: metrics::LINK_UP.with(&[("side", "worker")]),
            link_queue_items: metrics::LINK_QUEUE_ITEMS.with(&[("side", "worker")]),
            link_closed: lost("closed"),
            link_timeout: lost("timeout"),
            link_error: lost("error"),
            commits_ok: commits("ok"),
            commits_fenced: commits("fenced"),
            commits_failed: commits("failed"),
            partitions: HashMap::new(),
        }
    }

    /// The core's counts and times since the last wake-up.
    pub fn count(&self, stats: &Stats) {
        let counts = [
            (&self.consumed, stats.records),
            (&self.folded, stats.folded),
            (&self.repeats, stats.repeats),
            (&self.skipped_applied, stats.skipped),
            (&self.skipped_decode, stats.dropped),
            (&self.skipped_decision, stats.superseded),
            (&self.pushed, stats.pushed + stats.placed),
            (&self.resets, stats.resets),
            (&self.rewinds, stats.rewinds),
            (&self.replaced, stats.replaced),
            (&self.stale_acks, stats.refused_generation),
            (&self.pages, stats.pages),
            (&self.read_back, stats.read_back),
            (&self.registered_fresh, stats.registered_fresh),
            (&self.registered_again, stats.registered_again),
            (&self.registered_not_owner, stats.not_owner),
            (&self.marks, stats.marks),
        ];
        for (counter, n) in counts {
            if n > 0 {
                counter.increment(n);
            }
        }
        let times = [
            (&self.stages.folded, &stats.folded_ms),
            (&self.stages.pushed, &stats.pushed_ms),
            (&self.stages.acked, &stats.acked_ms),
        ];
        for (histogram, millis) in times {
            for ms in millis {
                histogram.record(f64::from(*ms) / 1000.0);
            }
        }
    }

    pub fn of(&mut self, partition: Partition) -> &OfPartition {
        self.partitions.entry(partition).or_insert_with(|| {
            let number = partition.to_string();
            let labels = [("group", GROUP), ("partition", number.as_str())];
            OfPartition {
                owned: metrics::PARTITION_OWNED.with(&labels),
                stopped: metrics::PARTITION_STOPPED.with(&labels),
                lag_records: metrics::PARTITION_LAG_RECORDS.with(&labels),
                lag_seconds: metrics::PARTITION_LAG_SECONDS.with(&labels),
            }
        })
    }
}
