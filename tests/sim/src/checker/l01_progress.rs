//! L1: after the faults everything comes to an end by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::SendKey;
use super::history::{Kind, Layer, Op, Phase};
use super::{Deadlines, Facts, Invariant, PERSISTENCE, Tally, Verdict};

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
    sends_end(facts, facts.entries.len(), end, &mut tally);
    all_are_back(facts, end, "is not back", &mut tally);
    lag_is_gone(facts, end, &mut tally);
    if let (Some(deadlines), Some(healed)) = (facts.deadlines, facts.phase(Phase::Healed)) {
        let healed_us = facts.entries[healed].t_mono_us;
        let by = |us: u64| {
            facts
                .entries
                .partition_point(|e| e.t_mono_us <= healed_us + us)
                .clamp(healed, end)
        };
        let Deadlines {
            sends_us,
            lag_us,
            back_us,
        } = deadlines;
        sends_end(facts, healed, by(sends_us), &mut tally);
        lag_is_gone(facts, by(lag_us), &mut tally);
        // In a simulation the clients are sent away once more after settling: it ends sooner than this.
        if by(back_us) < end {
            all_are_back(facts, by(back_us), "is not back in time", &mut tally);
        }
    }
    tally.verdict()
}

/// Every send that began before `begun` has an answer before `end`.
fn sends_end(facts: &Facts, begun: usize, end: usize, tally: &mut Tally) {
    // Whoever sees its own message come back needs no `sent`.
    let mut came_back: BTreeSet<SendKey> = BTreeSet::new();
    for entry in &facts.entries[..end] {
        if let Op::Recv {
            layer: Layer::Raw,
            seen,
            ..
        } = &entry.op
            && let Some((_, conn, conversation)) = facts.about(&entry.op)
            && let Some(key) = Facts::key_of(conversation, seen)
            && key.user == conn.user
        {
            came_back.insert(key);
        }
    }
    for (key, send) in &facts.sends {
        if send.invoked.first().is_none_or(|(first, _)| *first > begun) {
            continue;
        }
        let Some((last, _)) = send.invoked.iter().rev().find(|(at, _)| *at < end) else {
            continue;
        };
        let answered = send.promised().is_some_and(|at| at < end)
            || send.failed.last().is_some_and(|at| at > last)
            || came_back.contains(key);
        tally.case(answered, &[*last, end.min(facts.entries.len() - 1)], || {
            format!("{key:?} never ended")
        });
    }
}

fn all_are_back(facts: &Facts, end: usize, late: &str, tally: &mut Tally) {
    let mut users: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut back: BTreeSet<(&str, &str)> = BTreeSet::new();
    for conn in facts.conns.values().filter(|c| c.connected.is_some()) {
        users.insert((conn.tenant, conn.user));
        if conn.open_at(end) {
            back.insert((conn.tenant, conn.user));
        }
    }
    for user in users {
        tally.case(back.contains(&user), &[end], || format!("{user:?} {late}"));
    }
}

/// What was in the log when the faults ended is committed by persistence, if both are in the history.
fn lag_is_gone(facts: &Facts, end: usize, tally: &mut Tally) {
    let healed = facts.phase(Phase::Healed).unwrap_or(end);
    let mut logged: BTreeMap<u32, (u64, usize)> = BTreeMap::new();
    let mut committed: BTreeMap<u32, u64> = BTreeMap::new();
    for (at, entry) in facts.entries[..end].iter().enumerate() {
        match &entry.op {
            Op::Record { partition, offset, .. } if at < healed => {
                logged.insert(*partition, (*offset, at));
            }
            Op::Commit {
                group,
                partition,
                offset,
                ..
            } if entry.kind == Kind::Ok && group == PERSISTENCE => {
                let last = committed.entry(*partition).or_default();
                *last = (*last).max(*offset);
            }
            _ => {}
        }
    }
    if committed.is_empty() {
        return;
    }
    for (partition, (offset, at)) in logged {
        let done = committed.get(&partition).copied().unwrap_or(0);
        tally.case(done > offset, &[at], || {
            format!("partition {partition}: record {offset} is not committed, persistence is at {done}")
        });
    }
}
