//! I19: what waits for somebody slow is bounded.

use super::history::Op;
use super::{Facts, Invariant, Tally, Verdict};

pub const I19: Invariant = Invariant {
    id: "I19",
    name: "bounds",
    statement: "queued bytes per connection ≤ cap at each sample; memory ≤ base + n × budget; a reader slower than the cap is closed with its code; the others' p99 ≤ 2 × the p99 without it",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    for (at, entry) in facts.entries.iter().enumerate() {
        if let Op::Sample { what, of, value, cap } = &entry.op {
            tally.case(value <= cap, &[at], || {
                format!("{of} holds {value} {what} of at most {cap}")
            });
        }
    }
    if tally.cases == 0 {
        return Verdict::Undecided("no samples in the history; latencies are the load tests' to judge");
    }
    tally.verdict()
}
