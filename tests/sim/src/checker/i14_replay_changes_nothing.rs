//! I14: folding the log again writes the same tables.

use super::history::Op;
use super::{Facts, Invariant, Tally, Verdict};

pub const I14: Invariant = Invariant {
    id: "I14",
    name: "replay changes nothing",
    statement: "reset the persistence group to 0 and run again: the digest of all tables, write times included, is equal",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut first: Option<(&str, usize)> = None;
    for (at, entry) in facts.entries.iter().enumerate() {
        if let Op::Digest { replayed, hash } = &entry.op {
            match (replayed, first) {
                (false, _) => first = Some((hash, at)),
                (true, Some((before, was))) => tally.case(before == hash, &[was, at], || {
                    format!("the tables were {before} and are {hash} after the replay")
                }),
                (true, None) => {}
            }
        }
    }
    if tally.cases == 0 {
        Verdict::Undecided("no digests of the tables before and after a replay")
    } else {
        tally.verdict()
    }
}
