//! I1: what was answered `sent` is in the history, once.

use super::{Facts, Invariant, Tally, Verdict};

pub const I1: Invariant = Invariant {
    id: "I1",
    name: "no acked loss",
    statement: "every `send` that was answered `sent` has, after quiesce, exactly one history row with the same (tenant, conversation, sender, id) and the hash of the first record with that id",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    if facts.finals.is_empty() {
        return Verdict::Undecided("no final read of the history");
    }
    let rows = facts.rows_by_key();
    let mut tally = Tally::default();
    for (key, send) in &facts.sends {
        let Some(promised) = send.promised() else { continue };
        let found = rows.get(key).map_or(&[][..], Vec::as_slice);
        let mut entries = vec![promised];
        entries.extend(found.iter().map(|(at, _)| *at));
        // More than one is I3's to judge: the repeat window bounds what is promised.
        tally.case(!found.is_empty(), &entries, || {
            format!("{key:?} was promised and stands nowhere in the history")
        });
        for (at, row) in found {
            // Of two bodies under one id either may be the first in the log; I3 and I4 see to it that it is always the same.
            let known = send.invoked.iter().any(|(_, hash)| *hash == row.hash);
            tally.case(known, &[promised, *at], || {
                format!("{key:?} stands with hash {} which was never sent", row.hash)
            });
        }
    }
    tally.verdict()
}
