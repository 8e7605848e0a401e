//! What processes use, from /proc: CPU time apart by label, and memory.

use std::collections::BTreeMap;
use std::fs;

use crate::args::Pids;

/// Clock ticks per second of /proc/PID/stat: 100 on every Linux this runs on (`getconf CLK_TCK`).
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds used so far (all threads, user and system), by label. A process that is gone counts what it had used when last seen: 0.
pub fn cpu_s(pids: &[Pids]) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for group in pids {
        let used: f64 = group.pids.iter().filter_map(|pid| cpu_of(*pid)).sum();
        *all.entry(group.label.clone()).or_insert(0.0) += used;
    }
    all
}

/// This process's own.
pub fn own_cpu_s() -> f64 {
    cpu_of(std::process::id()).unwrap_or(0.0)
}

fn cpu_of(pid: u32) -> Option<f64> {
    ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?).map(|t| t / TICKS_PER_S)
}

fn ticks(stat: &str) -> Option<f64> {
    // The name, in parentheses, may hold anything; fields are counted after its last parenthesis: state is field 3.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let utime: f64 = fields.get(11)?.parse().ok()?;
    let stime: f64 = fields.get(12)?.parse().ok()?;
    Some(utime + stime)
}

/// Memory of some processes together.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Memory {
    pub rss_kib: u64,
    /// Shared pages counted once among all who share them.
    pub pss_kib: u64,
}

pub fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        sum.rss_kib += field(&format!("/proc/{pid}/status"), "VmRSS:").unwrap_or(0);
        sum.pss_kib += field(&format!("/proc/{pid}/smaps_rollup"), "Pss:").unwrap_or(0);
    }
    sum
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_process_name() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(ticks(stat), Some(300.0));
        assert!(memory(&[std::process::id()]).rss_kib > 0);
    }
}
