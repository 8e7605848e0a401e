//! I9: watermarks only rise, and never above what was written.

use std::collections::BTreeMap;

use super::facts::{About, Conversation};
use super::history::{Layer, Op, Side};
use super::{Facts, Invariant, Tally, Verdict};

pub const I9: Invariant = Invariant {
    id: "I9",
    name: "cumulative ack",
    statement: "recv and read per side never fall, read ≤ recv, neither exceeds the highest seq written to that side; after resume(since = k) the first raw recv is k + 1",
    decide,
};

#[derive(Default)]
struct Sight<'a> {
    /// (recv, read, entry) per connection, conversation and side, as last told.
    told: BTreeMap<(&'a str, Conversation<'a>, Side), (u64, u64, usize)>,
    /// The highest seq written to a side.
    written: BTreeMap<(Conversation<'a>, Side), u64>,
    /// Resumed at, and nothing came yet.
    resumed: BTreeMap<(&'a str, Conversation<'a>), (u64, usize)>,
}

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut sight = Sight::default();
    for (at, entry) in facts.entries.iter().enumerate() {
        let Some(about) = facts.about(&entry.op) else {
            continue;
        };
        let (name, conn, conversation) = about;
        match &entry.op {
            Op::Begin { from, resume, .. } => {
                sight.wrote(about, *from);
                if *resume {
                    sight.resumed.insert((name, conversation), (*from, at));
                }
            }
            Op::Reset { last_seq, .. } | Op::Rewind { last_seq, .. } => {
                sight.wrote(about, *last_seq);
                sight.resumed.remove(&(name, conversation));
            }
            Op::Recv {
                layer: Layer::Raw,
                seen,
                ..
            } => {
                sight.wrote(about, seen.seq);
                if let Some((from, begun)) = sight.resumed.remove(&(name, conversation)) {
                    // An old `placed` may be the first thing heard.
                    tally.case(seen.seq <= from.saturating_add(1), &[begun, at], || {
                        format!(
                            "{name} resumed {conversation:?} at {from} and was sent {} first",
                            seen.seq
                        )
                    });
                }
            }
            Op::Receipt { side, recv, read, .. } => sight.told(&mut tally, at, about, *side, (*recv, *read)),
            Op::Conversation { recv, read, .. } => sight.told(&mut tally, at, about, conn.side(), (*recv, *read)),
            _ => {}
        }
    }
    tally.verdict()
}

impl<'a> Sight<'a> {
    /// So much was written to the connection's side.
    fn wrote(&mut self, (_, conn, conversation): About<'a, '_>, seq: u64) {
        let written = self.written.entry((conversation, conn.side())).or_default();
        *written = seq.max(*written);
    }

    /// The connection is told a side's marks.
    fn told(
        &mut self,
        tally: &mut Tally,
        at: usize,
        (name, _, conversation): About<'a, '_>,
        side: Side,
        (recv, read): (u64, u64),
    ) {
        tally.case(read <= recv, &[at], || format!("read {read} is above recv {recv}"));
        let written = self.written.get(&(conversation, side)).copied().unwrap_or(0);
        tally.case(recv <= written, &[at], || {
            format!("{side:?} is said to have {recv} of {conversation:?} and was written {written}")
        });
        let last = self.told.entry((name, conversation, side)).or_insert((recv, read, at));
        tally.case(recv >= last.0 && read >= last.1, &[last.2, at], || {
            format!(
                "{name} is told {recv}/{read} for the {side:?} side after {}/{}",
                last.0, last.1
            )
        });
        *last = (recv, read, at);
    }
}
