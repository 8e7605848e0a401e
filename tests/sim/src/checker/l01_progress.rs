//! L1: after the faults everything comes to an end by itself.

use std::collections::BTreeSet;

use super::facts::SendKey;
use super::history::{Layer, Op, Phase};
use super::{Facts, Invariant, Tally, Verdict};

pub const L1: Invariant = Invariant {
    id: "L1",
    name: "progress",
    statement: "after heal every pending send ends within 10 s, lag is 0 within 30 s, all clients are back within 60 s, with no restart by hand",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let Some(end) = facts.phase(Phase::Reconnected) else {
        return Verdict::Undecided("the clients' return after quiesce is not in the history");
    };
    let mut tally = Tally::default();
    // Whoever sees its own message come back needs no `sent`.
    let mut came_back: BTreeSet<SendKey> = BTreeSet::new();
    for entry in &facts.entries[..end] {
        if let Op::Recv {
            conn,
            conversation,
            layer: Layer::Raw,
            seen,
            ..
        } = &entry.op
            && let Some((conn, conversation)) = facts.whose(conn, conversation)
            && let Some(key) = Facts::key_of(conversation, seen)
            && key.user == conn.user
        {
            came_back.insert(key);
        }
    }
    for (key, send) in &facts.sends {
        let Some((last, _)) = send.invoked.last() else { continue };
        let answered = send.promised().is_some_and(|at| at < end)
            || send.failed.last().is_some_and(|at| at > last)
            || came_back.contains(key);
        tally.case(answered, &[*last], || format!("{key:?} never ended"));
    }
    let mut users: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut back: BTreeSet<(&str, &str)> = BTreeSet::new();
    for conn in facts.conns.values().filter(|c| c.connected.is_some()) {
        users.insert((conn.tenant, conn.user));
        if conn.open_at(end) {
            back.insert((conn.tenant, conn.user));
        }
    }
    for user in users {
        tally.case(back.contains(&user), &[end], || format!("{user:?} is not back"));
    }
    tally.verdict()
}
