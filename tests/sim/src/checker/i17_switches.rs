//! I17: what operators decide is known everywhere soon, and in order.

use std::collections::BTreeMap;

use super::history::{Kind, Op, Phase};
use super::{Facts, Invariant, Tally, Verdict};

pub const I17: Invariant = Invariant {
    id: "I17",
    name: "switches",
    statement: "each process applies control versions in rising order and within 2 s after heal; I1–I12 hold under every switch setting; only what a switch names answers \"degraded\"",
    decide,
};

const WITHIN_US: u64 = 2_000_000;

/// What one process has applied since it started: version and entry by key.
type Applied<'a> = BTreeMap<&'a str, (u64, usize)>;

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut said: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    let mut off: BTreeMap<&str, u64> = BTreeMap::new();
    let mut off_until_us = 0;
    let mut processes: BTreeMap<&str, Applied> = BTreeMap::new();
    let healed_us = facts.phase(Phase::Healed).map(|at| facts.entries[at].t_mono_us);
    for (at, entry) in facts.entries.iter().enumerate() {
        let now_us = entry.t_mono_us;
        match (&entry.op, entry.kind) {
            (Op::Control { key, version, on }, Kind::Ok) => {
                said.insert(key, (*version, at));
                if *on {
                    if off.remove(key.as_str()).is_some() {
                        off_until_us = now_us + WITHIN_US;
                    }
                } else {
                    off.insert(key, *version);
                }
            }
            // A new life knows nothing.
            (Op::Control { .. }, Kind::Note) => {
                processes.insert(&entry.proc, Applied::new());
            }
            (Op::Control { key, version, .. }, _) => {
                let of = processes.entry(&entry.proc).or_default();
                let before = of.insert(key, (*version, at));
                tally.case(
                    before.is_none_or(|(last, _)| *version > last),
                    &[before.map_or(at, |b| b.1), at],
                    || format!("{} applies version {version} of {key} after a later one", entry.proc),
                );
                let there = said.get(key.as_str()).is_some_and(|(newest, _)| version <= newest);
                tally.case(there, &[at], || {
                    format!("{} applies version {version} of {key}, which nobody wrote", entry.proc)
                });
                // Written after the heal: within 2 s.
                if let (Some(healed), Some((newest, written))) = (healed_us, said.get(key.as_str()))
                    && newest == version
                    && facts.entries[*written].t_mono_us >= healed
                {
                    let took = now_us - facts.entries[*written].t_mono_us;
                    tally.case(took <= WITHIN_US, &[*written, at], || {
                        format!("{} applies {key} after {} ms", entry.proc, took / 1_000)
                    });
                }
            }
            (Op::Send { code, .. }, Kind::Fail) if code == "degraded" => {
                let named = !off.is_empty() || now_us <= off_until_us;
                tally.case(named, &[at], || "a send is degraded and no switch is off".into());
            }
            _ => {}
        }
    }
    if said.is_empty() {
        return Verdict::Undecided("no control records in the history");
    }
    let Some(healed) = healed_us else {
        return tally.verdict();
    };
    let end_us = facts.entries.last().map_or(0, |e| e.t_mono_us);
    for (process, applied) in &processes {
        for (key, (newest, written)) in &said {
            let due = facts.entries[*written].t_mono_us.max(healed) + WITHIN_US;
            let has = applied
                .get(key)
                .is_some_and(|(version, at)| version >= newest && facts.entries[*at].t_mono_us <= due);
            tally.case(has || end_us < due, &[*written], || {
                format!("{process} has not applied version {newest} of {key} within 2 s of the heal")
            });
        }
    }
    tally.verdict()
}
