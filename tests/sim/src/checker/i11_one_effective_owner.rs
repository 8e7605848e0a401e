//! I11: after the first deed of a newer owner nothing of an older one counts.

use std::collections::BTreeMap;

use super::history::{Generation, Kind, Op};
use super::{Facts, Invariant, Tally, Verdict};

pub const I11: Invariant = Invariant {
    id: "I11",
    name: "one effective owner",
    statement: "at the same receiver (node, row, topic partition): no `out` of generation g has an effect after the first effect of g' > g; late ones are refused and counted",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut highest: BTreeMap<(&str, u32), (Generation, usize)> = BTreeMap::new();
    let mut any = false;
    for (at, entry) in facts.entries.iter().enumerate() {
        let Op::Out {
            generation,
            partition,
            receiver,
            worker,
            ..
        } = &entry.op
        else {
            continue;
        };
        any = true;
        if entry.kind != Kind::Ok {
            continue;
        }
        let top = highest.entry((receiver, *partition)).or_insert((*generation, at));
        tally.case(*generation >= top.0, &[top.1, at], || {
            format!(
                "{worker} of generation {generation:?} had an effect at {receiver} after generation {:?}",
                top.0
            )
        });
        if *generation > top.0 {
            *top = (*generation, at);
        }
    }
    if any {
        tally.verdict()
    } else {
        Verdict::Undecided("no deeds of owners in the history")
    }
}
