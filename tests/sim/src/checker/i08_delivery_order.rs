//! I8: what a device sees is consecutive.

use std::collections::BTreeMap;

use super::facts::{Conversation, DeviceKey};
use super::history::{Layer, Op, Via};
use super::{Facts, Invariant, Tally, Verdict};

pub const I8: Invariant = Invariant {
    id: "I8",
    name: "delivery order",
    statement: "per device, what the app sees is consecutive: no skip, inversion or repeat; raw repeats only above the last ack the server had recorded when it sent",
    decide,
};

/// The last seq of a connection's raw frames, and the entry that set it.
type Raw<'a> = BTreeMap<(&'a str, Conversation<'a>), (u64, usize)>;

/// Where an app stands in a conversation.
#[derive(Clone, Copy)]
struct Place {
    last: u64,
    /// The entry that set it.
    by: usize,
    /// After a `reset`: what is read as history, from its next seq to its last. Pushes go on behind it meanwhile.
    hole: Option<(u64, u64)>,
}

impl Place {
    fn at(last: u64, by: usize) -> Self {
        Self { last, by, hole: None }
    }

    /// Everything up to here was seen without a gap.
    fn whole(&self) -> u64 {
        self.hole.map_or(self.last, |(next, _)| next - 1)
    }

    /// A `reset` to what the app has seen already leaves nothing out: what is pushed again behind it is a repeat.
    fn reset(&mut self, last_seq: u64, by: usize) {
        if last_seq > self.last {
            *self = Self {
                last: last_seq,
                by,
                hole: Some((self.whole().saturating_add(1), last_seq)),
            };
        }
    }

    /// What must come next by this way.
    fn next(&self, via: Via) -> u64 {
        match (via, self.hole) {
            (Via::Page, Some((next, _))) => next,
            _ => self.last.saturating_add(1),
        }
    }

    fn seen(&mut self, seq: u64, via: Via, by: usize) {
        match self.hole {
            Some((_, end)) if via == Via::Page => {
                self.hole = (seq < end).then_some((seq.saturating_add(1), end));
            }
            _ => (self.last, self.by) = (seq, by),
        }
    }
}

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut app: BTreeMap<(DeviceKey, Conversation), Place> = BTreeMap::new();
    // One connection is never written a seq twice (the node drops what is not its next): a repeat can only come on the next
    // connection, above the `since` it named, and that is where its count begins.
    let mut raw: Raw = BTreeMap::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        let Some((name, conn, conversation)) = facts.about(&entry.op) else {
            continue;
        };
        let device = (conn.device, conversation);
        match &entry.op {
            Op::Begin { from, resume, .. } => {
                raw.insert((name, conversation), (*from, at));
                let place = app.entry(device).or_insert(Place::at(*from, at));
                if *resume {
                    tally.case(*from <= place.last, &[place.by, at], || {
                        format!(
                            "{:?} resumes {conversation:?} at {from} and its app stands at {}",
                            conn.device, place.last
                        )
                    });
                    // Resumed below what a `reset` left out, it is pushed now instead of read.
                    if *from <= place.whole() {
                        *place = Place::at(place.whole(), place.by);
                    }
                } else {
                    *place = Place::at(*from, at);
                }
            }
            Op::Reset { last_seq, .. } => {
                raw.insert((name, conversation), (*last_seq, at));
                app.entry(device).or_insert(Place::at(0, at)).reset(*last_seq, at);
            }
            Op::Rewind { last_seq, .. } => {
                raw.insert((name, conversation), (*last_seq, at));
                app.insert(device, Place::at(*last_seq, at));
            }
            Op::Recv { layer, via, seen, .. } => {
                let (next, by) = match layer {
                    Layer::App => {
                        let place = app.entry(device).or_insert(Place::at(0, at));
                        let next = place.next(*via);
                        let by = place.by;
                        place.seen(seen.seq, *via, at);
                        (next, by)
                    }
                    Layer::Raw => {
                        let last = raw.entry((name, conversation)).or_insert((0, at));
                        // The `placed` of a dropped repeat names an old place and moves nothing.
                        if *via == Via::Placed && seen.seq <= last.0 {
                            continue;
                        }
                        let was = *last;
                        *last = (seen.seq, at);
                        (was.0.saturating_add(1), was.1)
                    }
                };
                tally.case(seen.seq == next, &[by, at], || {
                    format!(
                        "{:?} ({name}) {layer:?} {conversation:?}: {} after {}",
                        conn.device,
                        seen.seq,
                        next.saturating_sub(1)
                    )
                });
            }
            _ => {}
        }
    }
    tally.verdict()
}
