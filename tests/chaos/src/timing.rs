//! How long people waited after something happened, read from a run's history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sim::checker::history::{Entry, Kind, Layer, Op, Role};

/// Who was handed something that was first said after `at_us`, and how long after.
///
/// A device is due when it, or somebody in its conversation, said something; what it is handed first of that ends its wait. So a
/// device whose owner, node and log were never disturbed waits for a fraction of a second, and one whose partition was taken over
/// waits until the heir delivers.
pub fn waits(entries: &[Entry], at_us: u64, most: Duration) -> BTreeMap<String, Option<Duration>> {
    let until_us = at_us + u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    let mut devices: BTreeMap<&str, String> = BTreeMap::new();
    let mut said_before: BTreeSet<&str> = BTreeSet::new();
    let mut said_after: BTreeSet<&str> = BTreeSet::new();
    let mut waits: BTreeMap<String, Option<Duration>> = BTreeMap::new();
    for entry in entries {
        if entry.t_mono_us > until_us {
            break;
        }
        match &entry.op {
            Op::Connect {
                conn,
                user,
                role: Role::Customer,
                device,
                ..
            } => {
                let device = device.as_deref().unwrap_or(conn);
                devices.insert(conn, format!("{user} {device}"));
            }
            Op::Send { conn, id, .. } if entry.kind == Kind::Invoke => {
                if entry.t_mono_us < at_us {
                    said_before.insert(id);
                } else if !said_before.contains(id.as_str()) {
                    said_after.insert(id);
                    if let Some(device) = devices.get(conn.as_str()) {
                        waits.entry(device.clone()).or_insert(None);
                    }
                }
            }
            Op::Recv {
                conn,
                layer: Layer::Raw,
                seen,
                ..
            } if entry.t_mono_us >= at_us && said_after.contains(seen.id.as_str()) => {
                let Some(device) = devices.get(conn.as_str()) else {
                    continue;
                };
                let waited = Duration::from_micros(entry.t_mono_us - at_us);
                waits.entry(device.clone()).or_insert(None).get_or_insert(waited);
            }
            _ => {}
        }
    }
    waits
}

/// The longest wait of anybody; `None` if somebody still waited at the end of `most`.
pub fn worst(entries: &[Entry], at_us: u64, most: Duration) -> Option<Duration> {
    let waits = waits(entries, at_us, most);
    if waits.is_empty() {
        return None;
    }
    waits.into_values().collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// When faults of this name began at targets that begin so.
pub fn begun(entries: &[Entry], name: &str, target: &str) -> Vec<u64> {
    let began = entries.iter().filter_map(|entry| match &entry.op {
        Op::Fault {
            name: n,
            target: t,
            state: sim::checker::history::FaultState::Start,
            ..
        } if n == name && t.starts_with(target) => Some(entry.t_mono_us),
        _ => None,
    });
    began.collect()
}

/// p50 and the longest.
pub fn p50_and_max(mut all: Vec<Duration>) -> Option<(Duration, Duration)> {
    all.sort();
    Some((*all.get(all.len() / 2)?, *all.last()?))
}

#[cfg(test)]
mod tests {
    use sim::checker::history::read_lines;

    use super::*;

    const HISTORY: &str = r#"
{"t_mono_us":10,"proc":"p","kind":"invoke","op":"connect","conn":"c1","tenant":"demo","user":"alice","role":"customer","device":"phone"}
{"t_mono_us":10,"proc":"p","kind":"invoke","op":"connect","conn":"c2","tenant":"demo","user":"bo","role":"customer","device":"phone"}
{"t_mono_us":20,"proc":"p","kind":"invoke","op":"send","conn":"c1","conversation":"alice","id":"before","hash":"00"}
{"t_mono_us":100,"proc":"n","kind":"note","op":"fault","name":"kill","target":"worker-0","state":"start"}
{"t_mono_us":150,"proc":"p","kind":"info","op":"recv","conn":"c1","conversation":"alice","layer":"raw","seq":1,"id":"before","what":"message"}
{"t_mono_us":200,"proc":"p","kind":"invoke","op":"send","conn":"c1","conversation":"alice","id":"after","hash":"00"}
{"t_mono_us":200,"proc":"p","kind":"invoke","op":"send","conn":"c2","conversation":"bo","id":"other","hash":"00"}
{"t_mono_us":300,"proc":"p","kind":"info","op":"recv","conn":"c2","conversation":"bo","layer":"raw","seq":1,"id":"other","what":"message"}
{"t_mono_us":900,"proc":"p","kind":"info","op":"recv","conn":"c1","conversation":"alice","layer":"raw","seq":2,"id":"after","what":"message"}
"#;

    #[test]
    fn a_wait_ends_with_what_was_said_after_and_not_with_what_was_said_before() {
        let entries = read_lines(HISTORY).unwrap();
        assert_eq!(begun(&entries, "kill", "worker"), [100]);
        let worst = worst(&entries, 100, Duration::from_secs(1));
        assert_eq!(worst, Some(Duration::from_micros(800)));
        let all = waits(&entries, 100, Duration::from_secs(1));
        assert_eq!(all["bo phone"], Some(Duration::from_micros(200)));
    }

    #[test]
    fn somebody_still_waiting_is_no_number() {
        let entries = read_lines(HISTORY).unwrap();
        assert_eq!(worst(&entries, 100, Duration::from_micros(500)), None);
    }

    #[test]
    fn the_middle_and_the_longest() {
        let ms = |all: &[u64]| all.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let found = p50_and_max(ms(&[5, 1, 9]));
        assert_eq!(found, Some((Duration::from_millis(5), Duration::from_millis(9))));
        assert_eq!(p50_and_max(Vec::new()), None);
    }
}
