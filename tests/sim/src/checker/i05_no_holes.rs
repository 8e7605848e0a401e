//! I5: the rows of a conversation are 1, 2, 3 …

use super::history::Op;
use super::{Facts, Invariant, Tally, Verdict};

pub const I5: Invariant = Invariant {
    id: "I5",
    name: "no holes",
    statement: "the rows of a conversation are `first`, …, `last_seq` without hole or repeat; `first` is 1 unless retention or erasure moved it; a since below it is answered `reset`",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    if facts.finals.is_empty() {
        return Verdict::Undecided("no final read of the history");
    }
    let mut tally = Tally::default();
    for (conversation, reads) in &facts.finals {
        for (user, read) in reads {
            let mut next = 1;
            for (at, row) in &read.rows {
                tally.case(row.seq == next, &[*at], || {
                    format!(
                        "{user} reads {conversation:?}: seq {} stands where {next} should",
                        row.seq
                    )
                });
                next = row.seq.saturating_add(1);
            }
            tally.case(read.last_seq.saturating_add(1) == next, &[read.entry], || {
                format!(
                    "{user} reads {conversation:?}: last_seq is {}, the last row is {}",
                    read.last_seq,
                    next - 1
                )
            });
        }
    }
    for (at, entry) in facts.entries.iter().enumerate() {
        if let Op::Page { rows, last: false, .. } = &entry.op {
            let whole = rows.windows(2).all(|w| w[0].seq.saturating_add(1) == w[1].seq);
            tally.case(whole, &[at], || "a page has a hole, a repeat or falls".into());
        }
    }
    tally.verdict()
}
