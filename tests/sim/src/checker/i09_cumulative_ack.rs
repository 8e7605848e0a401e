//! I9: watermarks only rise, and never above what was written.

use std::collections::BTreeMap;

use super::facts::Conversation;
use super::history::{Layer, Op, Role, Side};
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
        match &entry.op {
            Op::Begin {
                conn: name,
                conversation,
                from,
                resume,
            } => {
                let Some((conn, conversation)) = facts.whose(name, conversation) else {
                    continue;
                };
                let written = sight.written.entry((conversation, side(conn.role))).or_default();
                *written = (*written).max(*from);
                if *resume {
                    sight.resumed.insert((name, conversation), (*from, at));
                }
            }
            Op::Reset {
                conn,
                conversation,
                last_seq,
            }
            | Op::Rewind {
                conn,
                conversation,
                last_seq,
            } => {
                if let Some((c, conversation)) = facts.whose(conn, conversation) {
                    let written = sight.written.entry((conversation, side(c.role))).or_default();
                    *written = (*written).max(*last_seq);
                    sight.resumed.remove(&(conn.as_str(), conversation));
                }
            }
            Op::Recv {
                conn: name,
                conversation,
                layer: Layer::Raw,
                seen,
                ..
            } => {
                let Some((conn, conversation)) = facts.whose(name, conversation) else {
                    continue;
                };
                let written = sight.written.entry((conversation, side(conn.role))).or_default();
                *written = (*written).max(seen.seq);
                if let Some((from, begun)) = sight.resumed.remove(&(name.as_str(), conversation)) {
                    // An old `placed` may be the first thing heard.
                    tally.case(seen.seq <= from + 1, &[begun, at], || {
                        format!(
                            "{name} resumed {conversation:?} at {from} and was sent {} first",
                            seen.seq
                        )
                    });
                }
            }
            Op::Receipt {
                conn,
                conversation,
                side,
                recv,
                read,
            } => told(
                facts,
                &mut sight,
                &mut tally,
                at,
                conn,
                conversation,
                *side,
                (*recv, *read),
            ),
            Op::Conversation {
                conn,
                conversation,
                recv,
                read,
                ..
            } => {
                if let Some((c, _)) = facts.whose(conn, conversation) {
                    let own = side(c.role);
                    told(
                        facts,
                        &mut sight,
                        &mut tally,
                        at,
                        conn,
                        conversation,
                        own,
                        (*recv, *read),
                    );
                }
            }
            _ => {}
        }
    }
    tally.verdict()
}

fn side(role: Role) -> Side {
    if role == Role::Customer {
        Side::Customer
    } else {
        Side::Agent
    }
}

#[allow(clippy::too_many_arguments)]
fn told<'a>(
    facts: &Facts<'a>,
    sight: &mut Sight<'a>,
    tally: &mut Tally,
    at: usize,
    conn: &'a str,
    conversation: &'a str,
    side: Side,
    (recv, read): (u64, u64),
) {
    let Some((_, conversation)) = facts.whose(conn, conversation) else {
        return;
    };
    tally.case(read <= recv, &[at], || format!("read {read} is above recv {recv}"));
    let written = sight.written.get(&(conversation, side)).copied().unwrap_or(0);
    tally.case(recv <= written, &[at], || {
        format!("{side:?} is said to have {recv} of {conversation:?} and was written {written}")
    });
    let last = sight.told.entry((conn, conversation, side)).or_insert((recv, read, at));
    tally.case(recv >= last.0 && read >= last.1, &[last.2, at], || {
        format!(
            "{conn} is told {recv}/{read} for the {side:?} side after {}/{}",
            last.0, last.1
        )
    });
    *last = (recv, read, at);
}
