//! Which faults a run has, when, and whether they did anything. Drawn from the seed before the run begins.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::env::{MS, ProcId, S};
use super::knobs::Knobs;
use super::log::Group;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again when the fault ends. Our processes keep nothing on disk: each start is one without.
    Kill(ProcId),
    /// SIGTERM: it hands over what it has, and leaves; started again when the fault ends.
    Stop(ProcId),
    /// SIGSTOP, then SIGCONT. Longer than the session timeout: a zombie wakes.
    Pause(ProcId),
    /// Nothing passes between two processes; what is under way waits.
    CutLink(ProcId, ProcId),
    /// The same in one direction only.
    CutLinkTo(ProcId, ProcId),
    /// What is written to a link goes nowhere, and neither end is told: half-open.
    Blackhole(ProcId, ProcId),
    /// Their links are reset several times a second.
    Flap(ProcId, ProcId),
    /// A process does not reach the log.
    CutLog(ProcId),
    /// It reaches the log and hears no answers: what it produced stands, and it never learns.
    CutLogAnswers(ProcId),
    /// A client's network hangs.
    CutClient(usize),
    /// In one direction only: towards the node, or from it.
    CutClientTo(usize, bool),
    /// A client's cable is pulled: what is under way is lost, and the node is not told.
    CableOut(usize),
    /// Every hop takes up to 350 ms: order between streams is anything.
    Jitter,
    /// Appends take up to 14 s, some reports are late, some records land twice, or after their producer has given up.
    LogSlow,
    /// A partition of every topic has no leader.
    PartitionAway(u32),
    /// A group is rebalanced every second or two.
    Rebalance(Group),
    /// The store answers nothing; what was asked may have been done, now or later.
    StoreDown,
    /// It takes its time, and is given up on although it does what it was asked.
    StoreSlow,
    /// What was written lately is not on the replica that is asked below QUORUM.
    StoreStale,
    /// A process dies and starts with its wall clock off by so many milliseconds.
    Skew(ProcId, i64),
    /// The brokers' clock, so the append times, jumps and jumps back.
    LogClock(i64),
    /// Records nobody can read land in a partition of every topic.
    Poison(u32),
}

impl Fault {
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::Stop(_) => "stop",
            Fault::Pause(_) => "pause",
            Fault::CutLink(..) => "cut_link",
            Fault::CutLinkTo(..) => "cut_link_one_way",
            Fault::Blackhole(..) => "half_open_link",
            Fault::Flap(..) => "flapping_link",
            Fault::CutLog(_) => "cut_log",
            Fault::CutLogAnswers(_) => "cut_log_answers",
            Fault::CutClient(_) => "cut_client",
            Fault::CutClientTo(..) => "cut_client_one_way",
            Fault::CableOut(_) => "cable_out",
            Fault::Jitter => "jitter",
            Fault::LogSlow => "log_slow",
            Fault::PartitionAway(_) => "leader_away",
            Fault::Rebalance(_) => "rebalances",
            Fault::StoreDown => "store_down",
            Fault::StoreSlow => "store_slow",
            Fault::StoreStale => "store_stale",
            Fault::Skew(..) => "skew",
            Fault::LogClock(_) => "log_clock",
            Fault::Poison(_) => "poison",
        }
    }

    pub fn target(&self) -> String {
        match self {
            Fault::Kill(p) | Fault::Stop(p) | Fault::Pause(p) | Fault::CutLog(p) | Fault::CutLogAnswers(p) => p.name(),
            Fault::CutLink(a, b) | Fault::Blackhole(a, b) | Fault::Flap(a, b) => format!("{}~{}", a.name(), b.name()),
            Fault::CutLinkTo(a, b) => format!("{}>{}", a.name(), b.name()),
            Fault::CutClient(i) | Fault::CableOut(i) => format!("client-{i}"),
            Fault::CutClientTo(i, true) => format!("client-{i}>node"),
            Fault::CutClientTo(i, false) => format!("node>client-{i}"),
            Fault::LogSlow => "log".into(),
            Fault::PartitionAway(p) | Fault::Poison(p) => format!("partition {p}"),
            Fault::Rebalance(group) => group.name().into(),
            Fault::Jitter => "network".into(),
            Fault::StoreDown | Fault::StoreSlow | Fault::StoreStale => "store".into(),
            Fault::Skew(p, by) => format!("{} {by:+} ms", p.name()),
            Fault::LogClock(by) => format!("log {by:+} ms"),
        }
    }

    /// The process that is down, asleep or leaving.
    fn process(&self) -> Option<ProcId> {
        match self {
            Fault::Kill(p) | Fault::Stop(p) | Fault::Pause(p) | Fault::Skew(p, _) => Some(*p),
            _ => None,
        }
    }

    /// Of faults that act again and again: how often.
    pub fn every_us(&self) -> Option<u64> {
        match self {
            Fault::Flap(..) => Some(300 * MS),
            Fault::Rebalance(_) => Some(1_500 * MS),
            Fault::Poison(_) => Some(400 * MS),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Planned {
    pub fault: Fault,
    pub from_us: u64,
    pub to_us: u64,
    pub hits: u64,
    /// Where it stood in the plan as drawn: the number by which it is kept or left out.
    pub number: usize,
}

#[derive(Default)]
pub struct Plan(pub Vec<Planned>);

impl Plan {
    /// Two to seven faults between `from_us` and `to_us`.
    pub fn draw(rng: &mut ChaCha8Rng, knobs: &Knobs, clients: usize, (from_us, to_us): (u64, u64)) -> Self {
        let count = rng.random_range(2..8);
        let mut plan: Vec<Planned> = Vec::new();
        for number in 0..count {
            let fault = draw_one(rng, knobs, clients);
            let length_us = match fault {
                Fault::Pause(_) | Fault::CutLog(_) if rng.random_range(0..3) > 0 => rng.random_range(7 * S..12 * S),
                Fault::CutClient(_) | Fault::CutClientTo(..) => rng.random_range(200 * MS..5 * S),
                Fault::Skew(..) | Fault::Stop(_) => rng.random_range(100 * MS..3 * S),
                _ => rng.random_range(300 * MS..9 * S),
            };
            let begin = rng.random_range(from_us..to_us - S);
            let end = (begin + length_us).min(to_us);
            // One process is not killed and paused at once: the model's processes have one state.
            let overlaps = plan.iter().any(|p| {
                p.fault.process().is_some()
                    && p.fault.process() == fault.process()
                    && p.from_us <= end
                    && begin <= p.to_us
            });
            if !overlaps {
                plan.push(Planned {
                    fault,
                    from_us: begin,
                    to_us: end,
                    hits: 0,
                    number,
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

fn draw_one(rng: &mut ChaCha8Rng, knobs: &Knobs, clients: usize) -> Fault {
    let node = ProcId::Node(rng.random_range(0..knobs.nodes));
    let worker = ProcId::Worker(rng.random_range(0..knobs.workers));
    let persist = ProcId::Persist(rng.random_range(0..knobs.persists));
    let desk = ProcId::Desk(rng.random_range(0..knobs.desks));
    let client = rng.random_range(0..clients);
    let partition = rng.random_range(0..knobs.partitions);
    let skew = rng.random_range(-7_200_000..300_000);
    let any = [node, worker, worker, persist, desk][rng.random_range(0..5)];
    let way = rng.random_range(0..2) == 0;
    let (from, to) = if way { (node, worker) } else { (worker, node) };
    let group = [Group::Delivery, Group::Delivery, Group::Persistence, Group::Desk][rng.random_range(0..4)];
    match rng.random_range(0..40) {
        0..=5 => Fault::Kill(any),
        6..=7 => Fault::Stop(any),
        8..=12 => Fault::Pause(if way { worker } else { any }),
        13..=15 => Fault::CutLink(node, worker),
        16..=17 => Fault::CutLinkTo(from, to),
        18 => Fault::Blackhole(node, worker),
        19 => Fault::Flap(node, worker),
        20..=21 => Fault::CutLog(any),
        22..=23 => Fault::CutLogAnswers(any),
        24 => Fault::CutClient(client),
        25 => Fault::CutClientTo(client, way),
        26 => Fault::CableOut(client),
        27 => Fault::Jitter,
        28..=30 => Fault::LogSlow,
        31 => Fault::PartitionAway(partition),
        32 => Fault::Rebalance(group),
        33 => Fault::StoreDown,
        34..=35 => Fault::StoreSlow,
        36 => Fault::StoreStale,
        37 => Fault::Skew(any, skew),
        38 => Fault::LogClock(skew),
        _ => Fault::Poison(partition),
    }
}
