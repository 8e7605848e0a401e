//! What every modelled process stands in: virtual time, one queue of events, one random number generator, the history and the
//! trace. Nothing here reads a clock or iterates over a hash map: one seed decides everything.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bugs::Bug;
use super::client::ClientInput;
use super::desk_view::AllDesks;
use super::faults::{Fault, Plan};
use super::input::Input;
use super::knobs::Knobs;
use super::log::{Log, LogOp};
use super::net::Net;
use super::reference::Reference;
use super::store::{Row, Store, StoreOp};
use super::trace::Trace;
use crate::checker::history::{Entry, Kind, Op};

pub const MS: u64 = 1_000;
pub const S: u64 = 1_000_000;
/// The wall clock at virtual time 0, Unix milliseconds.
pub const EPOCH_MS: u64 = 1_766_361_600_000;

/// A modelled process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcId {
    Node(u8),
    Worker(u8),
    Persist(u8),
    Desk(u8),
}

impl ProcId {
    pub fn name(self) -> String {
        match self {
            ProcId::Node(i) => format!("node-{i}"),
            ProcId::Worker(i) => format!("worker-{i}"),
            ProcId::Persist(i) => format!("persist-{i}"),
            ProcId::Desk(i) => format!("desk-{i}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// Stopped by a signal: what comes waits for it.
    Paused,
    Dead,
}

pub struct ProcState {
    /// Rises with each start: what was meant for an earlier life is dropped.
    pub life_number: u32,
    pub life: Life,
    /// How far its wall clock is off, milliseconds, from its next start on: within a life time is monotonic.
    pub skew_ms: i64,
    began_skew_ms: i64,
    backlog: Vec<Input>,
}

#[derive(Debug)]
pub enum Event {
    Proc {
        to: ProcId,
        life: u32,
        input: Input,
    },
    Client {
        to: usize,
        input: ClientInput,
    },
    Log(LogOp),
    Store(StoreOp),
    Fault(usize),
    /// A fault that does something again and again.
    FaultAgain(usize),
    FaultEnd(usize),
    Operator,
}

pub struct Env {
    pub now_us: u64,
    serial: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub rng: ChaCha8Rng,
    pub procs: BTreeMap<ProcId, ProcState>,
    pub log: Log,
    pub store: Store,
    pub net: Net,
    pub plan: Plan,
    pub knobs: Knobs,
    pub bug: Option<Bug>,
    pub history: Vec<Entry>,
    pub trace: Trace,
    pub reference: Reference,
    pub desks: AllDesks,
    pub alarms: Vec<String>,
}

impl Env {
    pub fn new(seed: u64, bug: Option<Bug>, trace: Trace) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let knobs = Knobs::draw(&mut rng);
        Env {
            now_us: 0,
            serial: 0,
            queue: BTreeMap::new(),
            rng,
            procs: BTreeMap::new(),
            log: Log::new(knobs.partitions),
            store: Store::default(),
            net: Net::default(),
            plan: Plan::default(),
            knobs,
            bug,
            history: Vec::new(),
            trace,
            reference: Reference::default(),
            desks: AllDesks::default(),
            alarms: Vec::new(),
        }
    }

    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    // ---- time ----

    pub fn at(&mut self, at_us: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((at_us.max(self.now_us), self.serial), event);
    }

    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    /// The next event, if it is due before `until_us`; time moves to it.
    pub fn next(&mut self, until_us: u64) -> Option<Event> {
        let (&key, _) = self.queue.first_key_value()?;
        if key.0 > until_us {
            self.now_us = until_us;
            return None;
        }
        self.now_us = key.0;
        self.queue.remove(&key)
    }

    pub fn true_ms(&self) -> u64 {
        EPOCH_MS + self.now_us / MS
    }

    /// What a process takes for the time, Unix milliseconds: its wall clock at its start, and what has passed since.
    pub fn now_ms(&self, of: ProcId) -> u64 {
        let skew_ms = self.procs.get(&of).map_or(0, |p| p.began_skew_ms);
        self.true_ms().saturating_add_signed(skew_ms)
    }

    // ---- chance ----

    pub fn pick(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.pick(0..100) < percent
    }

    // ---- processes ----

    pub fn life(&self, of: ProcId) -> Option<u32> {
        let p = self.procs.get(&of)?;
        (p.life != Life::Dead).then_some(p.life_number)
    }

    /// A new life; its number.
    pub fn start(&mut self, id: ProcId) -> u32 {
        let skew_ms = self.procs.get(&id).map_or(0, |p| p.skew_ms);
        let life_number = self.procs.get(&id).map_or(0, |p| p.life_number) + 1;
        let state = ProcState {
            life_number,
            life: Life::Running,
            skew_ms,
            began_skew_ms: skew_ms,
            backlog: Vec::new(),
        };
        self.procs.insert(id, state);
        life_number
    }

    pub fn set_life(&mut self, id: ProcId, life: Life) {
        let Some(p) = self.procs.get_mut(&id) else { return };
        p.life = life;
        let backlog = std::mem::take(&mut p.backlog);
        if life == Life::Running {
            for input in backlog {
                self.tell(id, 0, input);
            }
        }
    }

    /// To this process in its present life.
    pub fn tell(&mut self, to: ProcId, delay_us: u64, input: Input) {
        if let Some(life) = self.life(to) {
            self.tell_life(to, life, delay_us, input);
        }
    }

    pub fn tell_life(&mut self, to: ProcId, life: u32, delay_us: u64, input: Input) {
        self.after(delay_us, Event::Proc { to, life, input });
    }

    /// What is due goes to the process, or waits until it is woken; `None` also if that life is over.
    pub fn receive(&mut self, to: ProcId, life: u32, input: Input) -> Option<Input> {
        let p = self.procs.get_mut(&to)?;
        match p.life {
            _ if p.life_number != life => None,
            Life::Running => Some(input),
            Life::Paused => {
                // One tick is enough after a sleep.
                let ticks = matches!(input, Input::Tick) && p.backlog.iter().any(|i| matches!(i, Input::Tick));
                if !ticks {
                    p.backlog.push(input);
                }
                None
            }
            Life::Dead => None,
        }
    }

    // ---- what is written down ----

    pub fn record(&mut self, proc: &str, kind: Kind, op: Op) {
        if self.trace.is_shown() {
            let line = serde_json::to_string(&op).unwrap_or_default();
            self.trace.note(self.now_us, format_args!("{proc} {kind:?} {line}"));
        }
        self.history.push(Entry {
            t_mono_us: self.now_us,
            proc: proc.to_owned(),
            kind,
            op,
        });
    }

    /// Something that must never happen, by whoever noticed.
    pub fn alarm(&mut self, of: ProcId, what: String) {
        self.trace
            .event(self.now_us, format_args!("ALARM {} {what}", of.name()));
        self.alarms
            .push(format!("at {} us, {}: {what}", self.now_us, of.name()));
    }

    /// Rows above `after`, up to `until`, as history shows them; `None` while the store is away or has not all of them.
    pub fn read_rows(&self, tenant: &str, customer: &str, after: u64, until: u64) -> Option<Vec<Row>> {
        if self.plan.until(self.now_us, |f| *f == Fault::StoreDown).is_some() {
            return None;
        }
        if until <= after {
            // Pushed meanwhile: nothing is left to read.
            return Some(Vec::new());
        }
        let named = |key: &&wire::ConversationKey| key.tenant.as_str() == tenant && key.customer.as_str() == customer;
        let key = self.store.all.keys().find(named)?;
        let rows = self.store.all.get(key)?.rows.range(after + 1..until + 1);
        let rows: Vec<Row> = rows.map(|(_, row)| row.clone()).collect();
        (rows.len() as u64 == until.saturating_sub(after)).then_some(rows)
    }

    /// A fault did something.
    pub fn hit(&mut self, which: impl Fn(&Fault) -> bool) {
        let now_us = self.now_us;
        self.plan.hit(now_us, which);
    }
}
