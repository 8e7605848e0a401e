//! Take-over in numbers: workers killed, workers told to leave, nodes killed, one at a time, and how long everybody waited.

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sim::checker::history::Entry;
use system::Failed;

use crate::acts::Active;
use crate::faults::Fault;
use crate::lab::Lab;
use crate::timing;

/// Longer than any take-over.
const OVER: Duration = Duration::from_secs(12);
const WAIT_MOST: Duration = Duration::from_secs(30);

struct Series {
    fault: &'static str,
    kind: &'static str,
    what: &'static str,
    target: &'static str,
}

const SERIES: [Series; 3] = [
    Series {
        fault: "kill",
        kind: "worker",
        what: "worker killed → everybody hears from its heir",
        target: "p99 < 10 s",
    },
    Series {
        fault: "term",
        kind: "worker",
        what: "worker told to leave → everybody hears from its heir",
        target: "< 2 s",
    },
    Series {
        fault: "kill",
        kind: "node",
        what: "node killed → everybody is back and hears",
        target: "< 3 s",
    },
];

/// Does each `times`, at one process after the other.
pub async fn all(lab: &mut Lab, times: u64) -> Result<(), Failed> {
    tokio::time::sleep(Duration::from_secs(5)).await;
    for series in &SERIES {
        for i in 0..times {
            let target = format!("{}-{}", series.kind, i % 2);
            println!("{} {target}, {} of {times}", series.fault, i + 1);
            let fault = Fault::named(series.fault).ok_or_else(|| Failed(format!("no fault {}", series.fault)))?;
            let mut active = Active::new(fault, vec![target], ChaCha8Rng::seed_from_u64(i));
            active.begin(lab).await?;
            tokio::time::sleep(OVER).await;
            active.end(lab).await?;
            lab.mended().await?;
            // Its partitions are shared out again: that is another take-over, and not the one that is measured.
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
    }
    Ok(())
}

pub fn text(entries: &[Entry]) -> String {
    let mut out = String::new();
    for series in &SERIES {
        let begun = timing::begun(entries, series.fault, series.kind);
        let waits: Vec<Option<Duration>> = begun.iter().map(|at| timing::worst(entries, *at, WAIT_MOST)).collect();
        let known: Vec<Duration> = waits.iter().flatten().copied().collect();
        let never = waits.len() - known.len();
        let numbers = timing::p50_and_max(known).map_or("nothing measured".into(), |(p50, max)| {
            format!("p50 {:.2} s, max {:.2} s", p50.as_secs_f64(), max.as_secs_f64())
        });
        let what = format!("{} ({} times, target {})", series.what, waits.len(), series.target);
        out.push_str(&format!("{what}: {numbers}"));
        if never > 0 {
            out.push_str(&format!(", {never} times longer than {WAIT_MOST:?}"));
        }
        out.push('\n');
    }
    out
}
