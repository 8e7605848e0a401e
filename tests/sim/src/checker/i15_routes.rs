//! I15: a route lives exactly as long as its connection.

use std::collections::BTreeMap;

use super::facts::Conversation;
use super::history::{Op, Phase};
use super::i07_delivery_complete::{due, handed_until, told};
use super::spans::{Spans, spans};
use super::{Facts, Invariant, Tally, Verdict};

pub const I15: Invariant = Invariant {
    id: "I15",
    name: "routes",
    statement: "a disconnect removes its own connection and no other; after a close no push for it reaches any socket",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::Recv { conn, .. } => {
                let closed = facts.conns.get(conn.as_str()).and_then(|c| c.closed);
                tally.case(closed.is_none_or(|c| at < c), &[closed.unwrap_or(at), at], || {
                    format!("{conn} was closed and received")
                });
            }
            Op::Unroute { conn, cause, worker } => {
                tally.case(conn == cause, &[at], || {
                    format!("{worker} dropped {conn} because {cause} left")
                });
            }
            _ => {}
        }
    }
    still_routed(facts, &mut tally);
    tally.verdict()
}

/// A connection that outlived the faults and was not served by `settled` has lost its route, though it never closed.
fn still_routed(facts: &Facts, tally: &mut Tally) {
    let (Some(healed), Some(settled)) = (facts.phase(Phase::Healed), facts.phase(Phase::Settled)) else {
        return;
    };
    let mut known: BTreeMap<Conversation, u64> = BTreeMap::new();
    for entry in &facts.entries[..healed] {
        let (conversation, seq) = match &entry.op {
            Op::Recv {
                conn,
                conversation,
                seen,
                ..
            } => (facts.whose(conn, conversation).map(|(_, c)| c), seen.seq),
            Op::Row {
                tenant,
                conversation,
                seen,
            } => (Some((tenant.as_str(), conversation.as_str())), seen.seq),
            _ => continue,
        };
        if let Some(conversation) = conversation {
            let last = known.entry(conversation).or_default();
            *last = (*last).max(seq);
        }
    }
    let all_spans = spans(facts);
    let handed = handed_until(facts, settled);
    let told = told(facts, settled);
    let outlived = facts
        .conns
        .iter()
        .filter(|(_, c)| c.open_at(healed) && c.open_at(settled));
    for (name, conn) in outlived {
        for (conversation, last) in known.iter().filter(|(c, _)| c.0 == conn.tenant) {
            // Who was attached after the heal is not late yet.
            let of_user = all_spans.get(&(*conversation, conn.user)).into_iter().flatten();
            let begun = of_user.filter(|s| s.had_begun(healed, *last)).copied().collect();
            let spans = Spans::from([((*conversation, conn.user), begun)]);
            // Only what stood on the device: where it should have begun is I7's question.
            let Some(of) = handed.get(&(conn.device, *conversation)) else {
                continue;
            };
            let Some(due) = due(
                &spans,
                *conversation,
                conn,
                told.get(&(*name, *conversation)).copied(),
                *last,
            ) else {
                continue;
            };
            let due = due.min(*last);
            tally.case(of.place() >= due, &[conn.invoked, settled], || {
                format!(
                    "{:?} stayed connected and has {conversation:?} up to {} of {due}",
                    conn.device,
                    of.place()
                )
            });
        }
    }
}
