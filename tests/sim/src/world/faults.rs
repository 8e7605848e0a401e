//! Which faults a run has, when, and whether they did anything. Drawn from the seed before the run begins.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::env::{MS, ProcId, S};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again when the fault ends.
    Kill(ProcId),
    /// SIGSTOP, then SIGCONT. Longer than the session timeout: a zombie wakes.
    Pause(ProcId),
    /// Nothing passes between two processes; what is under way waits.
    CutLink(ProcId, ProcId),
    /// A process does not reach the log.
    CutLog(ProcId),
    /// A client's network hangs.
    CutClient(usize),
    /// Appends take up to 14 s, some reports are late, some records land twice.
    LogSlow,
    /// The store answers nothing; what was asked may have been done.
    StoreDown,
    /// A wall clock jumps.
    Skew(ProcId, i64),
}

impl Fault {
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::Pause(_) => "pause",
            Fault::CutLink(..) => "cut_link",
            Fault::CutLog(_) => "cut_log",
            Fault::CutClient(_) => "cut_client",
            Fault::LogSlow => "log_slow",
            Fault::StoreDown => "store_down",
            Fault::Skew(..) => "skew",
        }
    }

    pub fn target(&self) -> String {
        match self {
            Fault::Kill(p) | Fault::Pause(p) | Fault::CutLog(p) => p.name(),
            Fault::CutLink(a, b) => format!("{}~{}", a.name(), b.name()),
            Fault::CutClient(i) => format!("client-{i}"),
            Fault::LogSlow => "log".into(),
            Fault::StoreDown => "store".into(),
            Fault::Skew(p, by) => format!("{} {by:+} ms", p.name()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Planned {
    pub fault: Fault,
    pub from_us: u64,
    pub to_us: u64,
    pub hits: u64,
}

#[derive(Default)]
pub struct Plan(pub Vec<Planned>);

/// Who is there to be hurt.
pub struct Cast {
    pub nodes: u8,
    pub workers: u8,
    pub persists: u8,
    pub desks: u8,
    pub clients: usize,
}

impl Plan {
    /// Two to seven faults between `from_us` and `to_us`.
    pub fn draw(rng: &mut ChaCha8Rng, cast: &Cast, from_us: u64, to_us: u64) -> Self {
        let count = rng.random_range(2..8);
        let mut plan: Vec<Planned> = Vec::new();
        for _ in 0..count {
            let fault = draw_one(rng, cast);
            let length_us = match fault {
                Fault::Pause(_) | Fault::CutLog(_) if rng.random_range(0..3) > 0 => rng.random_range(7 * S..12 * S),
                Fault::CutClient(_) => rng.random_range(200 * MS..5 * S),
                _ => rng.random_range(300 * MS..9 * S),
            };
            let begin = rng.random_range(from_us..to_us - S);
            let end = (begin + length_us).min(to_us);
            // One process is not killed and paused at once: the model's processes have one state.
            let overlaps = plan.iter().any(|p| {
                process_of(&p.fault).is_some()
                    && process_of(&p.fault) == process_of(&fault)
                    && p.from_us <= end
                    && begin <= p.to_us
            });
            if !overlaps {
                plan.push(Planned {
                    fault,
                    from_us: begin,
                    to_us: end,
                    hits: 0,
                });
            }
        }
        Plan(plan)
    }

    /// Until when a fault that `which` accepts is on.
    pub fn until(&self, now_us: u64, which: impl Fn(&Fault) -> bool) -> Option<u64> {
        let on = self
            .0
            .iter()
            .filter(|p| p.from_us <= now_us && now_us < p.to_us && which(&p.fault));
        on.map(|p| p.to_us).max()
    }

    pub fn hit(&mut self, now_us: u64, which: impl Fn(&Fault) -> bool) {
        for p in &mut self.0 {
            if p.from_us <= now_us && now_us < p.to_us && which(&p.fault) {
                p.hits += 1;
            }
        }
    }
}

fn process_of(fault: &Fault) -> Option<ProcId> {
    match fault {
        Fault::Kill(p) | Fault::Pause(p) => Some(*p),
        _ => None,
    }
}

fn draw_one(rng: &mut ChaCha8Rng, cast: &Cast) -> Fault {
    let node = ProcId::Node(rng.random_range(0..cast.nodes));
    let worker = ProcId::Worker(rng.random_range(0..cast.workers));
    let persist = ProcId::Persist(rng.random_range(0..cast.persists));
    let desk = ProcId::Desk(rng.random_range(0..cast.desks));
    let client = rng.random_range(0..cast.clients);
    let skew = rng.random_range(-7_200_000..300_000);
    let any = [node, worker, worker, persist, desk][rng.random_range(0..5)];
    match rng.random_range(0..20) {
        0..=4 => Fault::Kill(any),
        5..=8 => Fault::Pause(if rng.random_range(0..2) == 0 { worker } else { any }),
        9..=11 => Fault::CutLink(node, worker),
        12..=13 => Fault::CutLog(any),
        14..=15 => Fault::CutClient(client),
        16..=17 => Fault::LogSlow,
        18 => Fault::StoreDown,
        _ => Fault::Skew(any, skew),
    }
}
