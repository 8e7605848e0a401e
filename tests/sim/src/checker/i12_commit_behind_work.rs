//! I12: an offset is committed only when everything before it is done.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Conversation;
use super::history::{Kind, Op};
use super::{Facts, Invariant, Tally, Verdict};

pub const I12: Invariant = Invariant {
    id: "I12",
    name: "commit behind work",
    statement: "whenever commit(group, p, o) is visible, each record < o has its effect: row readable, or push handed over / addressee offline, or dead-lettered",
    decide,
};

/// Group whose work is rows. Delivery commits only to prove its membership, so its commits promise nothing.
pub const PERSISTENCE: &str = "persistence";

/// A conversation and a seq.
type Place<'a> = (Conversation<'a>, u64);

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    // Numbered records per partition: offset → (its row's place, entry).
    let mut records: BTreeMap<u32, BTreeMap<u64, (Place, usize)>> = BTreeMap::new();
    let mut rows: BTreeSet<Place> = BTreeSet::new();
    let mut checked: BTreeMap<u32, u64> = BTreeMap::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::Record {
                partition,
                offset,
                tenant,
                conversation,
                seq: Some(seq),
                ..
            } => {
                let place = ((tenant.as_str(), conversation.as_str()), *seq);
                records.entry(*partition).or_default().insert(*offset, (place, at));
            }
            Op::Row {
                tenant,
                conversation,
                seen,
            } => {
                rows.insert(((tenant, conversation), seen.seq));
            }
            Op::Commit {
                group,
                partition,
                offset,
                ..
            } if entry.kind == Kind::Ok && group == PERSISTENCE => {
                let from = checked.entry(*partition).or_default();
                if *offset <= *from {
                    continue;
                }
                let of = records.entry(*partition).or_default();
                for (record, (place, logged)) in of.range(*from..*offset) {
                    tally.case(rows.contains(place), &[*logged, at], || {
                        format!("offset {offset} is committed and record {record} has no row {place:?}")
                    });
                }
                *from = *offset;
            }
            _ => {}
        }
    }
    if checked.is_empty() {
        Verdict::Undecided("no commits of persistence in the history")
    } else {
        tally.verdict()
    }
}
