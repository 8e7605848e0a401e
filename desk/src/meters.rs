//! The service's metric handles, taken once, and the wall clock.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use desk_core::{Cause, Counts};
use process::metrics::{
    COMMITS_TOTAL, CONSUMED_TOTAL, Counter, DESK_AGENTS, DESK_ASSIGNED, DESK_DECISIONS_TOTAL, DESK_EFFECTS_TOTAL,
    DESK_WAIT_SECONDS, DESK_WAITING, Gauge, Histogram, PARTITION_OWNED, PARTITION_STOPPED, REBALANCES_TOTAL,
    RECORDS_SKIPPED_TOTAL,
};
use wire::Partition;

const GROUP: &str = "desk";

pub(crate) struct Meters {
    pub consumed: Counter,
    pub skipped: Counter,
    pub logged: Counter,
    pub repeated: Counter,
    pub failed: Counter,
    pub waited: Histogram,
    decisions: BTreeMap<Cause, Counter>,
    waiting: Gauge,
    assigned: Gauge,
    agents: [Gauge; 4],
}

impl Meters {
    pub fn new() -> Self {
        let effects = |outcome| DESK_EFFECTS_TOTAL.with(&[("outcome", outcome)]);
        let decisions = |cause: Cause| (cause, DESK_DECISIONS_TOTAL.with(&[("cause", cause.label())]));
        Self {
            consumed: CONSUMED_TOTAL.with(&[("group", GROUP)]),
            skipped: RECORDS_SKIPPED_TOTAL.with(&[("group", GROUP), ("reason", "decode")]),
            logged: effects("logged"),
            repeated: effects("repeated"),
            failed: effects("failed"),
            waited: DESK_WAIT_SECONDS.get(),
            decisions: Cause::ALL.into_iter().map(decisions).collect(),
            waiting: DESK_WAITING.get(),
            assigned: DESK_ASSIGNED.get(),
            agents: ["available", "busy", "away", "gone"].map(|state| DESK_AGENTS.with(&[("state", state)])),
        }
    }

    pub fn decided(&self, cause: Cause, waited_ms: Option<i64>) {
        if let Some(counter) = self.decisions.get(&cause) {
            counter.increment(1);
        }
        if let Some(ms) = waited_ms {
            self.waited.record(ms as f64 / 1000.0);
        }
    }

    /// All desks of this process together.
    pub fn show(&self, all: Counts) {
        self.waiting.set(all.waiting as f64);
        self.assigned.set(all.assigned as f64);
        for (gauge, n) in self.agents.iter().zip([all.available, all.busy, all.away, all.gone]) {
            gauge.set(n as f64);
        }
    }
}

pub(crate) fn committed(outcome: &'static str) {
    COMMITS_TOTAL
        .with(&[("group", GROUP), ("outcome", outcome)])
        .increment(1);
}

pub(crate) fn rebalanced(kind: &'static str) {
    REBALANCES_TOTAL.with(&[("group", GROUP), ("kind", kind)]).increment(1);
}

pub(crate) fn owned(partition: Partition, owned: bool) {
    let partition = partition.to_string();
    PARTITION_OWNED
        .with(&[("group", GROUP), ("partition", &partition)])
        .set(f64::from(u8::from(owned)));
}

pub(crate) fn stopped(partition: Partition, stopped: bool) {
    let partition = partition.to_string();
    PARTITION_STOPPED
        .with(&[("group", GROUP), ("partition", &partition)])
        .set(f64::from(u8::from(stopped)));
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}
