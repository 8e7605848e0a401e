//! I20: every record that was read became something.

use std::collections::{BTreeMap, BTreeSet};

use super::history::Op;
use super::{Facts, Invariant, Tally, Verdict};

pub const I20: Invariant = Invariant {
    id: "I20",
    name: "accounting",
    statement: "per partition: records consumed = rows + state changes + dropped repeats + dead letters, each dead letter naming topic, partition, offset; one poison record delays its neighbours < 5 s",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut letters: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    let mut accounts = Vec::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::DeadLetter {
                topic,
                partition,
                offset,
            } => {
                tally.case(!topic.is_empty(), &[at], || "a dead letter names no topic".into());
                letters.entry(*partition).or_default().insert(*offset);
            }
            Op::Account {
                partition,
                from,
                to,
                rows,
                states,
                repeats,
                dead_letters,
            } => accounts.push((at, *partition, *from..*to, [*rows, *states, *repeats, *dead_letters])),
            _ => {}
        }
    }
    if accounts.is_empty() {
        return Verdict::Undecided("no accounts of persistence in the history");
    }
    // What is folded a second time, after a crash, must come to the same.
    for (at, partition, range, became) in accounts {
        let consumed = range.end.saturating_sub(range.start);
        let sum: u64 = became.iter().sum();
        tally.case(sum == consumed, &[at], || {
            format!("partition {partition}: {consumed} records were read and {sum} are accounted for")
        });
        let named = letters
            .get(&partition)
            .map_or(0, |of| of.range(range.clone()).count() as u64);
        tally.case(named == became[3], &[at], || {
            format!(
                "partition {partition}: {} dead letters of {range:?}, {named} of them named",
                became[3]
            )
        });
    }
    tally.verdict()
}
