//! I16: the desk's log gives each conversation one place, each agent no more than they take, and leaves nobody waiting in vain.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Entry, Op, Phase};
use super::{Facts, Invariant, Tally, Verdict};

pub const I16: Invariant = Invariant {
    id: "I16",
    name: "desk",
    statement: "on the desk's log: at any point a conversation is in exactly one of idle / wanted / queue / one agent / left; no agent above capacity; nobody waits > 2 s while an eligible agent has room; every transition names its cause; no session stays `wanted` > 10 s after heal",
    decide,
};

/// Nobody waits longer than this, in the log's time, while somebody could have them.
const WAITS_MS: i64 = 2_000;
/// How long after the heal a session may still be `wanted`.
const WANTED_US: u64 = 10_000_000;

/// One place of a conversation, as an `assign` says it.
#[derive(Clone, Copy, PartialEq, Debug)]
struct At<'a> {
    state: &'a str,
    agent: &'a str,
    group: &'a str,
    only: &'a str,
    cause: &'a str,
}

#[derive(Clone, PartialEq, Debug)]
struct Agent<'a> {
    n: u64,
    has: &'a [String],
    able: bool,
    groups: &'a [String],
}

/// What changed with one record of a tenant's desk log.
#[derive(Default)]
struct Step<'a> {
    at_ms: i64,
    places: BTreeMap<&'a str, (At<'a>, usize)>,
    agents: BTreeMap<&'a str, (Agent<'a>, usize)>,
}

/// A tenant's desk after some record.
#[derive(Default)]
struct Now<'a> {
    places: BTreeMap<&'a str, (At<'a>, usize)>,
    agents: BTreeMap<&'a str, (Agent<'a>, usize)>,
    /// Waiting though somebody could have them, since when.
    neglected: BTreeMap<&'a str, i64>,
}

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let steps = steps(facts, &mut tally);
    let settled = facts.phase(Phase::Settled).is_some();
    let mut last: BTreeMap<(&str, &str), (At, usize)> = BTreeMap::new();
    for (tenant, of) in &steps {
        let mut now = Now::default();
        for step in of.values() {
            apply(&mut now, step, &mut tally);
        }
        // Ticks go on after the last change: whoever is still neglected was for long.
        for (customer, _) in now.neglected.iter().filter(|_| settled) {
            let entry = now.places[customer].1;
            tally.case(false, &[entry], || {
                format!("{customer} of {tenant} waits for ever while an eligible agent has room")
            });
        }
        last.extend(now.places.into_iter().map(|(c, p)| ((*tenant, c), p)));
    }
    wanted(facts, &mut tally);
    shown(facts, &last, &mut tally);
    if tally.cases == 0 {
        return Verdict::Undecided("no decisions of the desk in the history");
    }
    tally.verdict()
}

type Steps<'a> = BTreeMap<&'a str, BTreeMap<u64, Step<'a>>>;

/// Everything by tenant and offset; who says it a second time must say the same.
fn steps<'a>(facts: &Facts<'a>, tally: &mut Tally) -> Steps<'a> {
    let mut steps = Steps::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::Assign {
                tenant,
                conversation,
                offset,
                at_ms,
                state,
                agent,
                group,
                only,
                cause,
            } => {
                let place = At {
                    state,
                    agent,
                    group,
                    only,
                    cause,
                };
                let step = steps.entry(tenant.as_str()).or_default().entry(*offset).or_default();
                step.at_ms = *at_ms;
                let (first, was) = *step.places.entry(conversation).or_insert((place, at));
                tally.case(first == place, &[was, at], || {
                    format!("the desk decided {first:?} and, replayed, {place:?}")
                });
            }
            Op::Capacity {
                tenant,
                agent,
                offset,
                at_ms,
                n,
                has,
                able,
                groups,
            } => {
                let (n, able) = (*n, *able);
                let step = steps.entry(tenant.as_str()).or_default().entry(*offset).or_default();
                step.at_ms = *at_ms;
                let is = Agent { n, has, able, groups };
                step.agents.entry(agent).or_insert((is, at));
            }
            _ => {}
        }
    }
    steps
}

fn apply<'a>(now: &mut Now<'a>, step: &Step<'a>, tally: &mut Tally) {
    for (customer, (place, at)) in &step.places {
        let known = ["idle", "wanted", "queue", "agent", "left"].contains(&place.state);
        let one = known && (place.state == "agent") != place.agent.is_empty();
        tally.case(one, &[*at], || format!("{customer} is in no one place: {place:?}"));
        tally.case(!place.cause.is_empty(), &[*at], || {
            format!("{customer} is moved to {:?} without a cause", place.state)
        });
        now.places.insert(customer, (*place, *at));
    }
    for (agent, (is, at)) in &step.agents {
        let before = now.agents.get(agent).map_or(0, |(was, _)| was.has.len());
        // A capacity lowered below what the agent has takes effect as sessions end.
        let within = is.has.len() as u64 <= is.n || is.has.len() <= before;
        tally.case(within, &[*at], || {
            format!("{agent} has {} and takes {}", is.has.len(), is.n)
        });
        now.agents.insert(agent, (is.clone(), *at));
    }
    one_place(now, tally, step);
    neglected(now, step.at_ms, tally);
}

/// Whom an agent has is with that agent and nobody else; looked at for what this step touched.
fn one_place(now: &Now, tally: &mut Tally, step: &Step) {
    let mut touched: BTreeSet<&str> = step.places.keys().copied().collect();
    for (is, _) in step.agents.values() {
        touched.extend(is.has.iter().map(String::as_str));
    }
    for customer in touched {
        let holders: Vec<(&str, usize)> = now
            .agents
            .iter()
            .filter(|(_, (is, _))| is.has.iter().any(|c| c == customer))
            .map(|(name, (_, at))| (*name, *at))
            .collect();
        let Some((place, at)) = now.places.get(customer) else {
            let entries: Vec<usize> = holders.iter().map(|h| h.1).collect();
            tally.case(holders.is_empty(), &entries, || {
                format!("{customer} is with {:?} and was never assigned", holders[0].0)
            });
            continue;
        };
        let names: Vec<&str> = holders.iter().map(|h| h.0).collect();
        let right = match place.state {
            "agent" => names == [place.agent],
            _ => names.is_empty(),
        };
        let mut entries = vec![*at];
        entries.extend(holders.iter().map(|h| h.1));
        tally.case(right, &entries, || {
            format!(
                "{customer} is in {:?} {:?} and with {names:?}",
                place.state, place.agent
            )
        });
    }
}

fn neglected<'a>(now: &mut Now<'a>, at_ms: i64, tally: &mut Tally) {
    let mut still = BTreeMap::new();
    for (customer, (place, at)) in now.places.iter().filter(|(_, (p, _))| p.state == "queue") {
        let could = |name: &str, agent: &Agent| {
            let serves = place.group.is_empty()
                || place.group == "default"
                || agent.groups.is_empty()
                || agent.groups.iter().any(|g| g == place.group);
            let asked = place.only.is_empty() || place.only == name;
            agent.able && (agent.has.len() as u64) < agent.n && serves && asked
        };
        let Some((agent, (_, since))) = now.agents.iter().find(|(name, (agent, _))| could(name, agent)) else {
            continue;
        };
        let from_ms = now.neglected.get(customer).copied().unwrap_or(at_ms);
        tally.case(at_ms - from_ms <= WAITS_MS, &[*at, *since], || {
            format!("{customer} waits for {} ms while {agent} has room", at_ms - from_ms)
        });
        still.insert(*customer, from_ms);
    }
    now.neglected = still;
}

/// A conversation's session as the log shows it: the state, its agent, and where that was said.
type Shown<'a> = (&'a str, &'a str, usize);

/// Follows how each conversation's session stands in the log of messages: by records if they say it, else by what clients heard.
fn sessions<'a>(facts: &Facts<'a>, until: usize) -> BTreeMap<(&'a str, &'a str), Shown<'a>> {
    let by_record = |e: &Entry| matches!(&e.op, Op::Record { state, .. } if !state.is_empty());
    let recorded = facts.entries.iter().any(by_record);
    let mut now = BTreeMap::new();
    let mut heard: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (at, entry) in facts.entries[..until].iter().enumerate() {
        match &entry.op {
            Op::Record {
                tenant,
                conversation,
                state,
                agent,
                ..
            } if !state.is_empty() => {
                now.insert(
                    (tenant.as_str(), conversation.as_str()),
                    (state.as_str(), agent.as_str(), at),
                );
            }
            Op::Conversation {
                conn,
                conversation,
                last_seq,
                state,
                agent,
                ..
            } if !recorded && !state.is_empty() => {
                let Some((_, key)) = facts.whose(conn, conversation) else {
                    continue;
                };
                // Several connections hear it at several times: the one that has seen most is right.
                let most = heard.entry(key).or_default();
                if last_seq >= most {
                    *most = *last_seq;
                    now.insert(key, (state.as_str(), agent.as_str(), at));
                }
            }
            _ => {}
        }
    }
    now
}

fn wanted(facts: &Facts, tally: &mut Tally) {
    let (Some(healed), Some(settled)) = (facts.phase(Phase::Healed), facts.phase(Phase::Settled)) else {
        return;
    };
    let limit = facts.entries[healed].t_mono_us.saturating_add(WANTED_US);
    let until = facts.entries.partition_point(|e| e.t_mono_us <= limit).min(settled);
    for (conversation, (state, _, at)) in sessions(facts, until) {
        // What became wanted after the heal has its own ten seconds.
        let late = state == "wanted" && at <= healed;
        tally.case(!late, &[at, healed], || {
            format!("{conversation:?} is still wanted 10 s after the heal")
        });
    }
}

/// At rest a conversation shows what the desk has.
fn shown(facts: &Facts, last: &BTreeMap<(&str, &str), (At, usize)>, tally: &mut Tally) {
    let Some(settled) = facts.phase(Phase::Settled) else {
        return;
    };
    let says = |e: &Entry| matches!(&e.op, Op::Record { state, .. } if !state.is_empty());
    if last.is_empty() || !facts.entries.iter().any(says) {
        return;
    }
    for (conversation, (state, agent, at)) in sessions(facts, settled) {
        let Some((place, decided)) = last.get(&conversation).filter(|(_, decided)| *decided < settled) else {
            continue;
        };
        let same = match state {
            "queued" => place.state == "queue",
            "active" => place.state == "agent" && place.agent == agent,
            other => place.state == other,
        };
        tally.case(same, &[at, *decided], || {
            format!(
                "{conversation:?} shows {state} {agent:?} and the desk has {} {:?}",
                place.state, place.agent
            )
        });
    }
}
