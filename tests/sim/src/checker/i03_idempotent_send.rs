//! I3: an id stands once, however often it was sent.

use wire::limits::REPEAT_WINDOW_EVENTS;

use super::facts::Conversation;
use super::history::Seen;
use super::{Facts, Invariant, Tally, Verdict};

pub const I3: Invariant = Invariant {
    id: "I3",
    name: "idempotent send",
    statement: "history holds a (sender, id) once, on however many connections, nodes and transports it was sent, within the repeat window; of two bodies under one id the first in the log stands; a dropped repeat is answered `placed` with its seq",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    if facts.finals.is_empty() {
        return Verdict::Undecided("no final read of the history");
    }
    let rows = facts.rows_by_key();
    let mut tally = Tally::default();
    for (key, found) in &rows {
        tally.cases += 1;
        for pair in found.windows(2) {
            let between = ids_between(facts, key.conversation, pair[0].1, pair[1].1);
            tally.case(between >= REPEAT_WINDOW_EVENTS, &[pair[0].0, pair[1].0], || {
                format!("{key:?} stands at seq {} and again at {}", pair[0].1.seq, pair[1].1.seq)
            });
        }
    }
    for (key, send) in &facts.sends {
        let places = rows.get(key).map_or(&[][..], Vec::as_slice);
        for (at, seq) in &send.placed {
            let stands = places.iter().any(|(_, row)| row.seq == *seq);
            tally.case(stands, &[*at], || {
                format!("{key:?} was placed at {seq}, where it does not stand")
            });
        }
    }
    tally.verdict()
}

/// Events with an id above `first` and below `second`: what the fold's window counts.
fn ids_between<'a>(facts: &Facts<'a>, conversation: Conversation<'a>, first: &Seen, second: &Seen) -> usize {
    let read = facts.rows(conversation);
    let rows = read.map_or(&[][..], |r| r.rows.as_slice());
    rows.iter()
        .filter(|(_, row)| !row.id.is_empty() && row.seq > first.seq && row.seq < second.seq)
        .count()
}
