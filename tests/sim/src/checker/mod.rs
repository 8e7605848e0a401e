//! The checker: decides from one run's history which of RELIABILITY's invariants held, and names the events that broke one.
//! One file per invariant, with its exact statement; `facts` is the history made searchable; `mutants` proves that each
//! invariant can go red.

mod begins;
mod facts;
pub mod history;
mod i01_no_acked_loss;
mod i02_no_phantom;
mod i03_idempotent_send;
mod i04_one_value_per_place;
mod i05_no_holes;
mod i06_real_time_order;
mod i07_delivery_complete;
mod i08_delivery_order;
mod i09_cumulative_ack;
mod i10_no_stranger;
mod i11_one_effective_owner;
mod i12_commit_behind_work;
mod i13_sent_behind_the_log;
mod i14_replay_changes_nothing;
mod i15_routes;
mod i16_desk;
mod i17_switches;
mod i18_auth;
mod i19_bounds;
mod i20_accounting;
mod l01_progress;
#[cfg(test)]
mod mutants;
mod op;
mod spans;
mod void;

use std::fmt;

pub use facts::Facts;
use history::Entry;
pub use i12_commit_behind_work::PERSISTENCE;
pub use void::VoidLimits;

/// One statement of RELIABILITY.md, and the function that decides it.
pub struct Invariant {
    pub id: &'static str,
    pub name: &'static str,
    pub statement: &'static str,
    pub decide: fn(&Facts) -> Verdict,
}

/// All that are decided here, in the order of their numbers.
pub const INVARIANTS: [&Invariant; 21] = [
    &i01_no_acked_loss::I1,
    &i02_no_phantom::I2,
    &i03_idempotent_send::I3,
    &i04_one_value_per_place::I4,
    &i05_no_holes::I5,
    &i06_real_time_order::I6,
    &i07_delivery_complete::I7,
    &i08_delivery_order::I8,
    &i09_cumulative_ack::I9,
    &i10_no_stranger::I10,
    &i11_one_effective_owner::I11,
    &i12_commit_behind_work::I12,
    &i13_sent_behind_the_log::I13,
    &i14_replay_changes_nothing::I14,
    &i15_routes::I15,
    &i16_desk::I16,
    &i17_switches::I17,
    &i18_auth::I18,
    &i19_bounds::I19,
    &i20_accounting::I20,
    &l01_progress::L1,
];

/// What was found for one invariant.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It held in so many cases.
    Held(usize),
    Broken(Vec<Break>),
    /// The history lacks what it takes; the text says what.
    Undecided(&'static str),
}

/// One way in which an invariant is broken, and the entries (by number) that show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Break {
    pub what: String,
    pub entries: Vec<usize>,
}

/// Collects cases and breaks of one invariant.
#[derive(Default)]
pub(crate) struct Tally {
    cases: usize,
    breaks: Vec<Break>,
}

impl Tally {
    /// One case more; broken if `ok` is false.
    fn case(&mut self, ok: bool, entries: &[usize], what: impl FnOnce() -> String) {
        self.cases += 1;
        if !ok {
            self.breaks.push(Break {
                what: what(),
                entries: entries.to_vec(),
            });
        }
    }

    fn verdict(self) -> Verdict {
        if self.breaks.is_empty() {
            Verdict::Held(self.cases)
        } else {
            Verdict::Broken(self.breaks)
        }
    }
}

/// The outcome of a run.
pub struct Report {
    /// Why the run proves nothing, whatever the verdicts say.
    pub void: Option<String>,
    pub verdicts: Vec<(&'static Invariant, Verdict)>,
}

impl Report {
    pub fn broken(&self) -> impl Iterator<Item = (&'static Invariant, &[Break])> {
        self.verdicts.iter().filter_map(|(i, v)| match v {
            Verdict::Broken(breaks) => Some((*i, breaks.as_slice())),
            _ => None,
        })
    }

    pub fn is_green(&self) -> bool {
        self.void.is_none() && self.broken().next().is_none()
    }

    /// The verdict of the invariant with that id.
    pub fn verdict(&self, id: &str) -> Option<&Verdict> {
        self.verdicts.iter().find(|(i, _)| i.id == id).map(|(_, v)| v)
    }
}

/// How long what L1 names may take after the heal.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    pub sends_us: u64,
    pub lag_us: u64,
    pub back_us: u64,
}

impl Deadlines {
    /// As RELIABILITY.md states them.
    pub const SPECIFIED: Deadlines = Deadlines {
        sends_us: 10_000_000,
        lag_us: 30_000_000,
        back_us: 60_000_000,
    };
}

/// Decides a history, which must be in time order ([`history::read_lines`] sorts it). How long the end took is whoever ran it to
/// say, by its phases.
pub fn check(entries: &[Entry], limits: VoidLimits) -> Report {
    decide(entries, limits, None)
}

/// The same, and what L1 demands must come within its times: for machines that are not short of anything else.
pub fn check_in_time(entries: &[Entry], limits: VoidLimits, deadlines: Deadlines) -> Report {
    decide(entries, limits, Some(deadlines))
}

fn decide(entries: &[Entry], limits: VoidLimits, deadlines: Option<Deadlines>) -> Report {
    let entries = &*begins::settled(entries);
    let facts = Facts::new(entries, deadlines);
    Report {
        void: void::why(entries, limits),
        verdicts: INVARIANTS.iter().map(|i| (*i, (i.decide)(&facts))).collect(),
    }
}

/// Shown per invariant, so that one bug does not fill the screen.
const BREAKS_SHOWN: usize = 5;

/// A report with the entries that its breaks name.
pub struct Shown<'a>(pub &'a Report, pub &'a [Entry]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(report, entries) = self;
        if let Some(why) = &report.void {
            writeln!(f, "VOID: {why}")?;
        }
        for (invariant, verdict) in &report.verdicts {
            write!(f, "{:>3} {:<22} ", invariant.id, invariant.name)?;
            match verdict {
                Verdict::Held(n) => writeln!(f, "held ({n} cases)")?,
                Verdict::Undecided(why) => writeln!(f, "undecided: {why}")?,
                Verdict::Broken(breaks) => {
                    writeln!(f, "BROKEN {} times: {}", breaks.len(), invariant.statement)?;
                    for b in breaks.iter().take(BREAKS_SHOWN) {
                        writeln!(f, "      {}", b.what)?;
                        for at in &b.entries {
                            let line = serde_json::to_string(&entries[*at]).unwrap_or_default();
                            writeln!(f, "        #{at} {line}")?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
