//! I7: everybody who should get an event gets it.

use std::collections::BTreeMap;

use super::facts::{Conn, Conversation, DeviceKey};
use super::history::{Layer, Op, Phase, Role};
use super::spans::{Spans, spans};
use super::{Facts, Invariant, Tally, Verdict};

pub const I7: Invariant = Invariant {
    id: "I7",
    name: "delivery complete",
    statement: "for each addressee, the seqs handed to its app by quiesce, pushed or read as history after a `reset`, equal all rows in the interval in which the conversation stood on its connections (DESIGN.md §6), the sender's other devices included",
    decide,
};

/// What a device's app was handed of a conversation since it last began there.
#[derive(Default)]
pub(super) struct Handed {
    pub begun: Option<(u64, usize)>,
    pub last: Option<(u64, usize)>,
}

impl Handed {
    /// The app stands here.
    pub fn place(&self) -> u64 {
        let begun = self.begun.map_or(0, |(from, _)| from);
        self.last.map_or(begun, |(seq, _)| seq.max(begun))
    }
}

pub(super) type AllHanded<'a> = BTreeMap<(DeviceKey<'a>, Conversation<'a>), Handed>;

/// Follows what every device was handed, up to an entry. Gaps in between are I8's to find.
pub(super) fn handed_until<'a>(facts: &Facts<'a>, until: usize) -> AllHanded<'a> {
    let mut handed = AllHanded::new();
    for (at, entry) in facts.entries.iter().enumerate().take(until) {
        match &entry.op {
            Op::Begin {
                conn,
                conversation,
                from,
                resume,
            } => {
                let Some((conn, conversation)) = facts.whose(conn, conversation) else {
                    continue;
                };
                let of = handed.entry((conn.device, conversation)).or_default();
                if !resume || of.begun.is_none() {
                    of.begun = Some((*from, at));
                    of.last = None;
                }
            }
            Op::Recv {
                conn,
                conversation,
                layer: Layer::App,
                seen,
                ..
            } => {
                let Some((conn, conversation)) = facts.whose(conn, conversation) else {
                    continue;
                };
                let of = handed.entry((conn.device, conversation)).or_default();
                of.last = Some((seen.seq, at));
            }
            _ => {}
        }
    }
    handed
}

/// The highest event of a conversation each connection was sent.
pub(super) fn told<'a>(facts: &Facts<'a>, until: usize) -> BTreeMap<(&'a str, Conversation<'a>), u64> {
    let mut told = BTreeMap::new();
    for entry in &facts.entries[..until] {
        let (conn, conversation, seq) = match &entry.op {
            Op::Recv {
                conn,
                conversation,
                seen,
                ..
            } => (conn, conversation, seen.seq),
            _ => continue,
        };
        if let Some((_, conversation)) = facts.whose(conn, conversation) {
            let highest = told.entry((conn.as_str(), conversation)).or_insert(seq);
            *highest = seq.max(*highest);
        }
    }
    told
}

/// Up to which seq a connection should have a conversation whose last row is `last_row`; `None`: nothing is due. A span that is
/// over counts only if it stood on this connection, so if it was told of it: members who were let go while they were away, or
/// while nobody owned the partition, read it as history.
pub(super) fn due(
    spans: &Spans,
    conversation: Conversation,
    conn: &Conn,
    told: Option<u64>,
    last_row: u64,
) -> Option<u64> {
    if conn.role == Role::Customer {
        return (conversation.1 == conn.user).then_some(last_row);
    }
    let of = spans.get(&(conversation, conn.user))?;
    let mut owed = None;
    let mut ended = 0;
    for span in of {
        // Events beyond the end of the span before: this one stood here.
        let stood = told.is_some_and(|t| t >= span.from && t > ended);
        if span.to.is_none() || stood {
            owed = owed.max(Some(span.to.unwrap_or(last_row)));
        }
        ended = ended.max(span.to.unwrap_or(0));
    }
    owed
}

fn decide(facts: &Facts) -> Verdict {
    let Some(end) = facts.phase(Phase::Reconnected) else {
        return Verdict::Undecided("the clients' return after quiesce is not in the history");
    };
    if facts.finals.is_empty() {
        return Verdict::Undecided("no final read of the history");
    }
    let spans = spans(facts);
    let handed = handed_until(facts, end);
    let mut tally = Tally::default();
    let told = told(facts, end);
    for (name, conn) in facts.conns.iter().filter(|(_, c)| c.open_at(end)) {
        for conversation in facts.finals.keys().filter(|c| c.0 == conn.tenant) {
            let last_row = facts.rows(*conversation).map_or(0, |read| read.last_seq);
            let told = told.get(&(*name, *conversation)).copied();
            let Some(due) = due(&spans, *conversation, conn, told, last_row) else {
                continue;
            };
            let of = handed.get(&(conn.device, *conversation));
            let place = of.map_or(0, Handed::place);
            let mut entries = vec![conn.invoked];
            entries.extend(of.and_then(|h| h.last).map(|(_, at)| at));
            tally.case(place >= due, &entries, || {
                format!("{:?} was handed {conversation:?} up to {place} of {due}", conn.device)
            });
        }
    }
    tally.verdict()
}
