//! A run that tested nothing is neither green nor red.

use std::collections::BTreeMap;

use super::history::{Entry, FaultState, Kind, Op};

/// When a run proves something.
#[derive(Clone, Copy, Debug)]
pub struct VoidLimits {
    /// Sends begun while at least one fault was on. 0 for runs without faults.
    pub sends_during_faults_min: usize,
}

/// Why the run is void; `None` if it isn't.
pub fn why(entries: &[Entry], limits: VoidLimits) -> Option<String> {
    let mut hits: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut on = 0_usize;
    let mut sends = 0;
    for entry in entries {
        match &entry.op {
            Op::Fault {
                name,
                target,
                state,
                hits: n,
            } => {
                *hits.entry((name, target)).or_default() += n;
                on = match state {
                    FaultState::Start => on + 1,
                    FaultState::Stop => on.saturating_sub(1),
                };
            }
            Op::Send { .. } if entry.kind == Kind::Invoke && on > 0 => sends += 1,
            _ => {}
        }
    }
    if limits.sends_during_faults_min == 0 {
        return None;
    }
    if hits.is_empty() {
        return Some("no fault was started".into());
    }
    if hits.values().all(|n| *n == 0) {
        let names: Vec<_> = hits
            .keys()
            .map(|(name, target)| format!("{name} of {target}"))
            .collect();
        return Some(format!("no fault ever took effect: {}", names.join(", ")));
    }
    let min = limits.sends_during_faults_min;
    (sends < min).then(|| format!("only {sends} sends began during the faults, at least {min} are needed"))
}
