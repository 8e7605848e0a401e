//! Many seeds on a few threads; a seed that breaks something made small; and whether every seeded bug is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use crate::checker::{Deadlines, Report, Verdict, VoidLimits, check_in_time};
use crate::coverage::Coverage;
use crate::world::bugs::Bug;
use crate::world::{CLIENTS, Options, Outcome, run};

/// Fewer sends than this while faults are on prove nothing.
const LIMITS: VoidLimits = VoidLimits {
    sends_during_faults_min: 10,
};

/// L1's times, plus what a send may have lost before the heal: its report comes 10 s after it was handed over, and then it is
/// sent again.
const DEADLINES: Deadlines = Deadlines {
    sends_us: 2 * Deadlines::SPECIFIED.sends_us,
    ..Deadlines::SPECIFIED
};

/// Shown while it runs.
const PROGRESS: Duration = Duration::from_secs(5);

/// One run and what the checker says of it.
pub fn decide(seed: u64, options: &Options) -> (Outcome, Report) {
    let outcome = run(seed, options);
    let report = check_in_time(&outcome.history, LIMITS, DEADLINES);
    (outcome, report)
}

/// What is kept of a run when its history is gone.
pub struct Summary {
    pub seed: u64,
    pub void: bool,
    /// Ids of what broke; `alarm` for a process that cried out.
    pub broken: Vec<&'static str>,
    events: u64,
    virtual_us: u64,
    faults: Vec<&'static str>,
    decided: Vec<&'static str>,
}

fn summary(seed: u64, outcome: &Outcome, report: &Report) -> Summary {
    let decided = report.verdicts.iter().filter_map(|(i, v)| match v {
        Verdict::Held(0) | Verdict::Undecided(_) => None,
        _ => Some(i.id),
    });
    let effective: BTreeSet<&'static str> = outcome.faults.iter().filter(|f| f.2 > 0).map(|f| f.1).collect();
    Summary {
        seed,
        void: report.void.is_some(),
        broken: broken(outcome, report),
        events: outcome.events,
        virtual_us: outcome.virtual_us,
        faults: effective.into_iter().collect(),
        decided: decided.collect(),
    }
}

/// What broke, by id.
pub fn broken(outcome: &Outcome, report: &Report) -> Vec<&'static str> {
    let alarm = (!outcome.alarms.is_empty()).then_some("alarm");
    report.broken().map(|(i, _)| i.id).chain(alarm).collect()
}

/// What came of many seeds.
#[derive(Default)]
pub struct Totals {
    pub done: u64,
    pub void: u64,
    pub broken: BTreeMap<u64, Vec<&'static str>>,
    pub events: u64,
    virtual_us: u64,
    pub coverage: Coverage,
}

impl Totals {
    fn add(&mut self, s: Summary) {
        self.done += 1;
        self.void += u64::from(s.void);
        self.events += s.events;
        self.virtual_us += s.virtual_us;
        self.coverage.add(&s.faults, &s.decided);
        if !s.broken.is_empty() {
            self.broken.insert(s.seed, s.broken);
        }
    }

    /// One line.
    pub fn told(&self, took: Duration) -> String {
        let hours = self.virtual_us as f64 / 3.6e9;
        let per_s = |n: f64| n / took.as_secs_f64().max(0.001);
        format!(
            "{} seeds, {} broken, {} void, {:.1} M events, {hours:.1} simulated hours in {:.1?}: {:.1} seeds and {:.2} simulated hours a second",
            self.done,
            self.broken.len(),
            self.void,
            self.events as f64 / 1e6,
            took,
            per_s(self.done as f64),
            per_s(hours),
        )
    }
}

/// Runs `from..=to`; stops at the first that breaks something unless told to go on. Progress goes to stderr.
pub fn run_seeds((from, to): (u64, u64), threads: usize, options: &Options, keep_going: bool) -> Totals {
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let (send, summaries) = sync_channel::<Summary>(64);
    let mut totals = Totals::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (next, stop, send) = (&next, &stop, send.clone());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > to {
                        return;
                    }
                    let (outcome, report) = decide(seed, options);
                    if send.send(summary(seed, &outcome, &report)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let began = Instant::now();
        let mut told = began;
        for s in summaries {
            if !s.broken.is_empty() {
                eprintln!("seed {} breaks {:?}", s.seed, s.broken);
                stop.fetch_or(!keep_going, Ordering::Relaxed);
            }
            totals.add(s);
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                eprintln!("{}", totals.told(began.elapsed()));
            }
        }
    });
    totals
}

/// The same break with as few faults, then as few clients, as it takes.
pub fn minimise(seed: u64, options: &Options, what: &str) -> Options {
    let breaks = |options: &Options| {
        let (outcome, report) = decide(seed, options);
        broken(&outcome, &report).contains(&what).then_some(outcome)
    };
    let mut least = options.clone();
    let Some(first) = breaks(&least) else { return least };
    let mut faults: Vec<usize> = first.faults.iter().map(|f| f.0).collect();
    let mut at = 0;
    while at < faults.len() {
        let mut fewer = faults.clone();
        fewer.remove(at);
        let tried = Options {
            faults: Some(fewer.clone()),
            ..least.clone()
        };
        if breaks(&tried).is_some() {
            (faults, least) = (fewer, tried);
        } else {
            at += 1;
        }
    }
    let mut clients: Vec<usize> = least.clients.clone().unwrap_or_else(|| (0..CLIENTS).collect());
    let mut at = 0;
    while at < clients.len() {
        let mut fewer = clients.clone();
        fewer.remove(at);
        let tried = Options {
            clients: Some(fewer.clone()),
            ..least.clone()
        };
        if breaks(&tried).is_some() {
            (clients, least) = (fewer, tried);
        } else {
            at += 1;
        }
    }
    least
}

/// The command that runs exactly this again.
pub fn replay_command(seed: u64, options: &Options) -> String {
    let list = |of: &[usize]| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut command = format!("cargo run -p sim -- run --seed {seed}");
    if let Some(faults) = &options.faults {
        command += &format!(
            " --faults {}",
            if faults.is_empty() { "none".into() } else { list(faults) }
        );
    }
    if let Some(clients) = &options.clients {
        command += &format!(" --clients {}", list(clients));
    }
    if let Some(bug) = options.bug {
        command += &format!(" --bug {}", bug.name());
    }
    command
}

/// The first seed that finds a bug, what went red there; `None`: no seed does.
pub type Found = Option<(u64, Vec<&'static str>)>;

/// Looks for each bug in seeds 1 to `seeds`.
pub fn find_bugs(bugs: &[Bug], seeds: u64, threads: usize) -> Vec<(Bug, Found)> {
    let next = AtomicU64::new(0);
    let found: Mutex<BTreeMap<Bug, Found>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let options = Options {
                        bug: Some(*bug),
                        ..Options::default()
                    };
                    let first = (1..=seeds).find_map(|seed| {
                        let (outcome, report) = decide(seed, &options);
                        let red = broken(&outcome, &report);
                        (!red.is_empty()).then_some((seed, red))
                    });
                    if let Ok(mut all) = found.lock() {
                        all.insert(*bug, first);
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_default();
    bugs.iter().map(|bug| (*bug, found.remove(bug).flatten())).collect()
}
