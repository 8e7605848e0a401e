//! What a run has counted: latencies, deliveries, and everything that went wrong, with the first few cases in words.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// Cases told in words.
const CASES_MAX: usize = 20;

pub struct Stats {
    /// From the intended send to the bytes at the other side's socket, µs; only messages meant to be sent while measuring.
    pub delivery_us: Histogram<u64>,
    /// From the intended send to its `sent` (or `placed`), µs.
    pub sent_us: Histogram<u64>,
    /// How late the generator itself was, µs.
    pub lateness_us: Histogram<u64>,
    /// Messages intended at or after this are measured, ns; `u64::MAX` before and after measuring.
    pub from_ns: u64,
    pub until_ns: u64,
    /// Deliveries and acknowledgements while measuring.
    pub delivered: u64,
    pub acked: u64,
    /// In the whole run.
    pub delivered_all: u64,
    pub resent: u64,
    pub reconnects: u64,
    pub errors: BTreeMap<String, u64>,
    pub faults: Faults,
}

/// What must not happen.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub struct Faults {
    pub lost: u64,
    pub unanswered: u64,
    pub repeated: u64,
    pub out_of_order: u64,
    pub holes: u64,
    pub changed: u64,
    pub cases: Vec<String>,
}

impl Faults {
    /// A run with any of these failed. A send that got no answer is told, but broke no promise.
    pub fn any(&self) -> bool {
        self.lost + self.repeated + self.out_of_order + self.holes + self.changed > 0
    }

    pub fn case(&mut self, case: impl FnOnce() -> String) {
        if self.cases.len() < CASES_MAX {
            self.cases.push(case());
        }
    }
}

/// 1 µs to 10 minutes, three digits: 1 ‰.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds are in order")
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            delivery_us: histogram(),
            sent_us: histogram(),
            lateness_us: histogram(),
            from_ns: u64::MAX,
            until_ns: u64::MAX,
            delivered: 0,
            acked: 0,
            delivered_all: 0,
            resent: 0,
            reconnects: 0,
            errors: BTreeMap::new(),
            faults: Faults::default(),
        }
    }
}

impl Stats {
    pub fn on_delivered(&mut self, intended_ns: u64, now_ns: u64) {
        self.delivered_all += 1;
        if now_ns >= self.from_ns && now_ns < self.until_ns {
            self.delivered += 1;
        }
        if intended_ns >= self.from_ns && intended_ns < self.until_ns {
            self.delivery_us.saturating_record(us(now_ns, intended_ns));
        }
    }

    pub fn on_acked(&mut self, intended_ns: u64, now_ns: u64) {
        if now_ns >= self.from_ns && now_ns < self.until_ns {
            self.acked += 1;
        }
        if intended_ns >= self.from_ns && intended_ns < self.until_ns {
            self.sent_us.saturating_record(us(now_ns, intended_ns));
        }
    }
}

fn us(now_ns: u64, then_ns: u64) -> u64 {
    (now_ns.saturating_sub(then_ns) / 1_000).max(1)
}
