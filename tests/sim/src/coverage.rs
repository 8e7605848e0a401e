//! What many runs have shown: in how many of them a fault took effect, and how often each invariant was decided meanwhile.

use std::collections::BTreeMap;
use std::fmt;

use crate::checker::INVARIANTS;

#[derive(Default)]
pub struct Coverage {
    /// By fault: runs in which it took effect, and of those the runs that decided each invariant.
    faults: BTreeMap<&'static str, (u64, BTreeMap<&'static str, u64>)>,
}

impl Coverage {
    /// One run: the faults that took effect, and the invariants that had a case.
    pub fn add(&mut self, faults: &[&'static str], decided: &[&'static str]) {
        for fault in faults {
            let (runs, by) = self.faults.entry(fault).or_default();
            *runs += 1;
            for id in decided {
                *by.entry(id).or_default() += 1;
            }
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<19}{:>7}", "fault", "runs")?;
        for invariant in INVARIANTS {
            write!(f, "{:>7}", invariant.id)?;
        }
        writeln!(f)?;
        for (fault, (runs, by)) in &self.faults {
            write!(f, "{fault:<19}{runs:>7}")?;
            for invariant in INVARIANTS {
                write!(f, "{:>7}", by.get(invariant.id).copied().unwrap_or(0))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
