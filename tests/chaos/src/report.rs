//! What a person reads after a run: the faults one after the other, how people fared, and what the checker says of each invariant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use sim::checker::history::{Entry, Kind, Op};
use sim::checker::{Shown, Verdict};
use system::run::Finished;

use crate::lab::Surprise;
use crate::storm::{Happened, Story};
use crate::timing;

/// Beyond this a wait is not told as a number.
const WAIT_MOST: Duration = Duration::from_secs(60);

pub struct Chapter<'a> {
    pub seed: u64,
    pub idempotence: bool,
    pub story: &'a Story,
    pub finished: &'a Finished,
    pub surprises: &'a [Surprise],
    /// Lines of the processes' logs that say a thread panicked.
    pub panics: &'a [String],
    pub lasted: Duration,
}

impl Chapter<'_> {
    pub fn is_green(&self) -> bool {
        self.finished.report.is_green() && self.panics.is_empty() && self.story.failures.is_empty()
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let entries = &self.finished.entries;
        let idempotence = if self.idempotence { "on" } else { "off" };
        writeln!(
            out,
            "\nchaos · seed {} · {} · idempotent producers {idempotence}",
            self.seed,
            clock(self.lasted)
        )?;
        writeln!(
            out,
            "\n   at     held   hits  sends  fault                target                  rows"
        )?;
        for one in &self.story.happened {
            line(out, one)?;
        }
        let without: Vec<&str> = self
            .story
            .happened
            .iter()
            .filter(|h| h.hits == 0)
            .map(|h| h.fault.name)
            .collect();
        if !without.is_empty() {
            writeln!(out, "  took no effect: {}", without.join(", "))?;
        }
        for (name, what) in &self.story.not_offered {
            writeln!(out, "  not offered here: {name} (needs {what})")?;
        }

        let people = People::of(entries);
        let during: usize = self.story.happened.iter().map(|h| h.sends).sum();
        writeln!(out)?;
        writeln!(
            out,
            "people     {} messages said, {} heard, {during} said while a fault was on; {} connections, {} sends refused, {} of unknown fate",
            self.finished.sent, self.finished.heard, people.connections, people.refused, people.unknown
        )?;
        let rounds = self.story.rounds;
        let kinds: BTreeSet<&str> = self.story.happened.iter().map(|h| h.fault.name).collect();
        let rows: BTreeSet<&str> = self
            .story
            .happened
            .iter()
            .flat_map(|h| h.fault.rows.iter().copied())
            .collect();
        writeln!(
            out,
            "faults     {} in {rounds} rounds, of {} kinds, {} rows of the table; all ready again after at most {:.1?}",
            self.story.happened.len(),
            kinds.len(),
            rows.len(),
            self.story.mended_worst
        )?;
        self.write_waits(out)?;
        for surprise in self.surprises {
            writeln!(
                out,
                "by itself  {} ended ({}), and was started again as a supervisor would",
                surprise.process, surprise.how
            )?;
        }
        for failure in &self.story.failures {
            writeln!(out, "FAILED     {failure}")?;
        }
        for panic in self.panics {
            writeln!(out, "PANIC      {panic}")?;
        }
        writeln!(out)?;
        write!(out, "{}", Shown(&self.finished.report, entries))?;
        writeln!(out)?;
        let undecided = self
            .finished
            .report
            .verdicts
            .iter()
            .filter(|(_, v)| matches!(v, Verdict::Undecided(_)))
            .count();
        let held = self.finished.report.verdicts.len() - undecided;
        if self.is_green() {
            writeln!(
                out,
                "GREEN: {held} invariants held, {undecided} cannot be decided from outside."
            )
        } else {
            writeln!(out, "RED.")
        }
    }

    /// What a killed or sleeping process cost those who waited for it.
    fn write_waits(&self, out: &mut String) -> std::fmt::Result {
        let entries = &self.finished.entries;
        for (name, target, what) in [
            ("kill", "worker", "a worker killed → everybody hears from its heir"),
            ("zombie", "worker", "a worker asleep  → everybody hears from its heir"),
            ("term", "worker", "a worker leaving → everybody hears from its heir"),
            ("kill", "node", "a node killed    → everybody is back and hears"),
            ("term", "node", "a node leaving   → everybody is back and hears"),
        ] {
            let begun = timing::begun(entries, name, target);
            if begun.is_empty() {
                continue;
            }
            let waits: Vec<Option<Duration>> = begun.iter().map(|at| timing::worst(entries, *at, WAIT_MOST)).collect();
            let known: Vec<Duration> = waits.iter().flatten().copied().collect();
            let rest = waits.len() - known.len();
            let worst = known.iter().max().map_or("-".into(), |d| format!("{d:.1?}"));
            let more = if rest > 0 {
                format!(", {rest} times longer than {WAIT_MOST:.0?}")
            } else {
                String::new()
            };
            writeln!(
                out,
                "waiting    {what}: worst {worst} of {}{more} (other faults of the round included)",
                waits.len()
            )?;
        }
        Ok(())
    }
}

fn line(out: &mut String, one: &Happened) -> std::fmt::Result {
    writeln!(
        out,
        "  {:>5}  {:>5.1}s {:>6} {:>6}  {:<20} {:<23} {}{}{}",
        clock(one.at),
        one.held.as_secs_f64(),
        one.hits,
        one.sends,
        one.fault.name,
        one.target,
        one.fault.rows.join(" "),
        if one.notes.is_empty() { "" } else { " · " },
        one.notes.join(", "),
    )
}

fn clock(d: Duration) -> String {
    format!("{}:{:02}", d.as_secs() / 60, d.as_secs() % 60)
}

#[derive(Default)]
struct People {
    connections: usize,
    refused: usize,
    unknown: usize,
}

impl People {
    fn of(entries: &[Entry]) -> Self {
        let mut people = People::default();
        for entry in entries {
            match (&entry.op, entry.kind) {
                (Op::Connect { .. }, Kind::Ok) => people.connections += 1,
                (Op::Send { .. }, Kind::Fail) => people.refused += 1,
                (Op::Send { .. }, Kind::Info) => people.unknown += 1,
                _ => {}
            }
        }
        people
    }
}

/// Lines of the processes' logs in which something panicked, each once.
pub fn panics(finished: &Finished) -> Vec<String> {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for proc in &finished.house.procs {
        for line in proc.logged().lines().filter(|l| l.contains("panicked at")) {
            *found.entry(format!("{}: {line}", proc.name)).or_default() += 1;
        }
    }
    found.into_keys().collect()
}
