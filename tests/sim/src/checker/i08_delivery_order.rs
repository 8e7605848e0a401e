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

/// The last seq, and the entry that set it.
type Last<K> = BTreeMap<K, (u64, usize)>;

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut app: Last<(DeviceKey, Conversation)> = BTreeMap::new();
    // One connection is never written a seq twice (the node drops what is not its next): a repeat can only come on the next
    // connection, above the `since` it named, and that is where its count begins.
    let mut raw: Last<(&str, Conversation)> = BTreeMap::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        let Some((name, conn, conversation)) = facts.about(&entry.op) else {
            continue;
        };
        let device = (conn.device, conversation);
        match &entry.op {
            Op::Begin { from, resume, .. } => {
                raw.insert((name, conversation), (*from, at));
                let place = app.entry(device).or_insert((*from, at));
                if *resume {
                    tally.case(*from <= place.0, &[place.1, at], || {
                        format!(
                            "{:?} resumes {conversation:?} at {from} and its app stands at {}",
                            conn.device, place.0
                        )
                    });
                } else {
                    *place = (*from, at);
                }
            }
            Op::Reset { last_seq, .. } => {
                raw.insert((name, conversation), (*last_seq, at));
            }
            Op::Rewind { last_seq, .. } => {
                raw.insert((name, conversation), (*last_seq, at));
                app.insert(device, (*last_seq, at));
            }
            Op::Recv { layer, via, seen, .. } => {
                let last = match layer {
                    Layer::App => app.entry(device).or_insert((0, at)),
                    Layer::Raw => raw.entry((name, conversation)).or_insert((0, at)),
                };
                // The `placed` of a dropped repeat names an old place and moves nothing.
                if *layer == Layer::Raw && *via == Via::Placed && seen.seq <= last.0 {
                    continue;
                }
                tally.case(seen.seq == last.0.saturating_add(1), &[last.1, at], || {
                    format!(
                        "{:?} ({name}) {layer:?} {conversation:?}: {} after {}",
                        conn.device, seen.seq, last.0
                    )
                });
                *last = (seen.seq, at);
            }
            _ => {}
        }
    }
    tally.verdict()
}
