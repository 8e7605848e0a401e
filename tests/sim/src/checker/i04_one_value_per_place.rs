//! I4: a place holds one thing, whoever looks.

use std::collections::BTreeMap;

use super::facts::Conversation;
use super::history::{Op, Seen};
use super::{Facts, Invariant, Tally, Verdict};

pub const I4: Invariant = Invariant {
    id: "I4",
    name: "one value per place",
    statement: "(conversation, term, seq) names one event and one hash in every recv, page, device and replica",
    decide,
};

/// The first sighting of each place: the entry, and (id, hash).
type Places<'a> = BTreeMap<(Conversation<'a>, u64), (usize, (&'a str, &'a str))>;

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut places = Places::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::Recv {
                conn,
                conversation,
                seen,
                ..
            } => {
                if let Some((_, conversation)) = facts.whose(conn, conversation) {
                    look(&mut places, &mut tally, at, conversation, seen);
                }
            }
            Op::Row {
                tenant,
                conversation,
                seen,
            } => look(&mut places, &mut tally, at, (tenant, conversation), seen),
            Op::Page {
                tenant,
                conversation,
                rows,
                ..
            } => {
                for row in rows {
                    look(&mut places, &mut tally, at, (tenant, conversation), row);
                }
            }
            _ => {}
        }
    }
    tally.verdict()
}

fn look<'a>(places: &mut Places<'a>, tally: &mut Tally, at: usize, conversation: Conversation<'a>, seen: &'a Seen) {
    // A stub names the place and hides the thing.
    if seen.what == "hidden" {
        return;
    }
    let value = (seen.id.as_str(), seen.hash.as_str());
    let (first_at, first) = *places.entry((conversation, seen.seq)).or_insert((at, value));
    tally.case(first == value, &[first_at, at], || {
        format!("{conversation:?} seq {} is {first:?} and {value:?}", seen.seq)
    });
}
