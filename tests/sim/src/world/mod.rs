//! The modelled world: real cores as processes over a modelled log, store, network and clock, and clients who use them.
//!
//! Order of reading: `env` (time, chance, processes), `knobs` → `log`, `store`, `net` (what may go wrong) → `node`, `worker`, `persist`,
//! `desk` (the processes) → `client`, `operator` → `faults` → this file (one run from its beginning to the checker).

pub mod bugs;
mod client;
mod desk;
mod desk_view;
mod env;
mod faults;
mod input;
mod knobs;
mod log;
mod net;
mod node;
mod operator;
mod persist;
mod reference;
mod seen;
mod store;
mod trace;
mod worker;

use std::collections::BTreeMap;

use wire::{ConversationKey, Epoch, Lane, LaneTopics};

use crate::checker::history::{Entry, FaultState, Kind, Op, Phase, Role};
use bugs::Bug;
use client::{Client, Person};
use desk::DeskProc;
use env::{Env, Event, Life, ProcId, S};
use faults::{Fault, Plan};
use input::Input;
use log::{LogOp, Topic};
use node::Node;
use operator::Operator;
use persist::Persist;
use trace::Trace;
pub use trace::Tracing;
use worker::WorkerProc;

const EPOCH: u32 = 1;
const LANE: &str = "sim";

/// When the parts of a run begin.
const FAULTS_FROM_US: u64 = 3 * S;
const HEALED_US: u64 = 28 * S;
const SETTLED_US: u64 = 58 * S;
const RECONNECTED_US: u64 = 80 * S;

fn partition_of(key: &ConversationKey, partitions: u32) -> u32 {
    wire::topics::partition_of(&key.to_key(), partitions).0
}

fn topics(partitions: u32) -> LaneTopics {
    LaneTopics {
        lane: Lane::new(LANE).expect("a good name"),
        epoch: Epoch(EPOCH),
        partitions,
    }
}

/// Workers announce themselves by their process's name.
fn proc_of_address(address: &str) -> Option<ProcId> {
    let number = address.strip_prefix("worker-")?.parse().ok()?;
    Some(ProcId::Worker(number))
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub bug: Option<Bug>,
    pub trace: Tracing,
    /// Of the faults drawn only these, by number; `None`: all.
    pub faults: Option<Vec<usize>>,
    /// Of the clients only these; `None`: all.
    pub clients: Option<Vec<usize>>,
}

/// How many clients a run has.
pub const CLIENTS: usize = PEOPLE.len();

/// What a run leaves behind.
pub struct Outcome {
    pub history: Vec<Entry>,
    /// Of a run whose trace was off: `None`.
    pub trace_hash: Option<u64>,
    /// What a process cried out about: never expected.
    pub alarms: Vec<String>,
    pub events: u64,
    /// The faults of the plan that were kept: number, name, and how often it did something.
    pub faults: Vec<(usize, &'static str, u64)>,
    pub virtual_us: u64,
}

pub struct World {
    env: Env,
    nodes: BTreeMap<ProcId, Node>,
    workers: BTreeMap<ProcId, WorkerProc>,
    persists: BTreeMap<ProcId, Persist>,
    desks: BTreeMap<ProcId, DeskProc>,
    clients: Vec<Client>,
    operator: Operator,
    events: u64,
}

const PEOPLE: [Person; 9] = [
    person("demo", "alice", Role::Customer, "phone"),
    person("demo", "alice", Role::Customer, "laptop"),
    person("demo", "bob", Role::Customer, "phone"),
    person("demo", "carol", Role::Customer, "phone"),
    person("acme", "alice", Role::Customer, "phone"),
    person("demo", "bo", Role::Agent, "desk"),
    person("demo", "bo", Role::Agent, "tablet"),
    person("demo", "cy", Role::Agent, "desk"),
    person("acme", "bo", Role::Agent, "desk"),
];

const fn person(tenant: &'static str, user: &'static str, role: Role, device: &'static str) -> Person {
    Person {
        tenant,
        user,
        role,
        device,
    }
}

impl World {
    fn new(seed: u64, options: &Options) -> Self {
        let mut env = Env::new(seed, options.bug, Trace::new(options.trace));
        let knobs = env.knobs;
        env.store.marks_overwritten = env.has(Bug::WatermarksOverwritten);
        env.plan = Plan::draw(&mut env.rng, &knobs, PEOPLE.len(), (FAULTS_FROM_US, HEALED_US));
        if let Some(kept) = &options.faults {
            env.plan.0.retain(|p| kept.contains(&p.number));
        }
        let mut world = World {
            env,
            nodes: BTreeMap::new(),
            workers: BTreeMap::new(),
            persists: BTreeMap::new(),
            desks: BTreeMap::new(),
            clients: Vec::new(),
            operator: Operator::default(),
            events: 0,
        };
        for i in 0..knobs.nodes {
            world.start(ProcId::Node(i));
        }
        for i in 0..knobs.workers {
            world.start(ProcId::Worker(i));
        }
        for i in 0..knobs.persists {
            world.start(ProcId::Persist(i));
        }
        for i in 0..knobs.desks {
            world.start(ProcId::Desk(i));
        }
        world.env.after(0, Event::Log(LogOp::Check));
        world.env.after(4 * S, Event::Operator);
        for (index, person) in PEOPLE.iter().enumerate() {
            let here = options.clients.as_ref().is_none_or(|kept| kept.contains(&index));
            let client = Client::new(&mut world.env, index, person.clone(), here);
            world.clients.push(client);
        }
        for i in 0..world.env.plan.0.len() {
            let planned = world.env.plan.0[i].clone();
            world.env.at(planned.from_us, Event::Fault(i));
            world.env.at(planned.to_us, Event::FaultEnd(i));
        }
        world
    }

    fn start(&mut self, id: ProcId) {
        match id {
            ProcId::Node(_) => {
                let node = Node::start(&mut self.env, id);
                self.nodes.insert(id, node);
            }
            ProcId::Worker(_) => {
                let worker = WorkerProc::start(&mut self.env, id);
                self.workers.insert(id, worker);
            }
            ProcId::Persist(_) => {
                let persist = Persist::start(&mut self.env, id);
                self.persists.insert(id, persist);
            }
            ProcId::Desk(_) => {
                let desk = DeskProc::start(&mut self.env, id);
                self.desks.insert(id, desk);
            }
        }
    }

    fn run_until(&mut self, until_us: u64) {
        while let Some(event) = self.env.next(until_us) {
            self.events += 1;
            self.dispatch(event);
        }
    }

    fn dispatch(&mut self, event: Event) {
        let now_us = self.env.now_us;
        match event {
            Event::Proc { to, life, input } => {
                if self.env.trace.is_on() {
                    self.env.trace.event(now_us, format_args!("{to:?} {}", input.label()));
                    self.env.trace.note(now_us, format_args!("    {input:?}"));
                }
                if let Some(input) = self.env.receive(to, life, input) {
                    self.hand_to(to, input);
                }
            }
            Event::Client { to, input } => {
                if !matches!(input, client::ClientInput::Tick) {
                    self.env.trace.event(now_us, format_args!("client {to} {input:?}"));
                }
                self.clients[to].handle(&mut self.env, input);
            }
            Event::Log(op) => self.env.log_op(op),
            Event::Store(op) => self.env.store_op(op),
            Event::Fault(i) => self.fault(i),
            Event::FaultAgain(i) => self.fault_again(i),
            Event::FaultEnd(i) => self.fault_end(i),
            Event::Operator => self.operator.decide(&mut self.env),
        }
    }

    fn hand_to(&mut self, to: ProcId, input: Input) {
        let env = &mut self.env;
        match to {
            ProcId::Node(_) => {
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.handle(env, input);
                }
            }
            ProcId::Worker(_) => {
                if let Some(worker) = self.workers.get_mut(&to) {
                    worker.handle(env, input);
                }
            }
            ProcId::Persist(_) => {
                if let Some(persist) = self.persists.get_mut(&to) {
                    persist.handle(env, input);
                }
            }
            ProcId::Desk(_) => {
                if let Some(desk) = self.desks.get_mut(&to) {
                    desk.handle(env, input);
                }
            }
        }
    }

    // ---- faults ----

    fn fault(&mut self, index: usize) {
        let planned = self.env.plan.0[index].clone();
        self.note_fault(index, FaultState::Start);
        let mut hit = true;
        match planned.fault {
            Fault::Kill(id) => self.die(id),
            Fault::Stop(id) => {
                self.stop(id);
                self.die(id);
            }
            Fault::Skew(id, by_ms) => {
                if let Some(p) = self.env.procs.get_mut(&id) {
                    p.skew_ms = by_ms;
                }
                self.die(id);
            }
            Fault::Pause(id) => self.env.set_life(id, Life::Paused),
            _ => hit = false,
        }
        self.env.plan.0[index].hits += u64::from(hit);
        self.fault_again(index);
    }

    fn die(&mut self, id: ProcId) {
        self.env.set_life(id, Life::Dead);
        self.env.drop_sockets_of(id);
    }

    /// SIGTERM.
    fn stop(&mut self, id: ProcId) {
        let env = &mut self.env;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.stop(env);
        } else if let Some(worker) = self.workers.get_mut(&id) {
            worker.stop(env);
        } else if let Some(persist) = self.persists.get_mut(&id) {
            persist.stop(env);
        } else if let Some(desk) = self.desks.get_mut(&id) {
            desk.stop(env);
        }
    }

    /// What a fault does at its beginning and, as long as it is on, again and again.
    fn fault_again(&mut self, index: usize) {
        let planned = self.env.plan.0[index].clone();
        let Some(every_us) = planned.fault.every_us().filter(|_| self.env.now_us < planned.to_us) else {
            return;
        };
        self.env.after(every_us, Event::FaultAgain(index));
        let hits = match planned.fault {
            Fault::Flap(node, worker) => self.env.reset_links(node, worker),
            Fault::Rebalance(group) => {
                self.env.rebalance(group);
                1
            }
            Fault::Poison(partition) => operator::poison(&mut self.env, partition),
            _ => 0,
        };
        self.env.plan.0[index].hits += hits;
    }

    fn fault_end(&mut self, index: usize) {
        let planned = self.env.plan.0[index].clone();
        match planned.fault {
            Fault::Kill(id) | Fault::Stop(id) | Fault::Skew(id, _) => self.start(id),
            Fault::Pause(id) => self.env.set_life(id, Life::Running),
            // It finds out by itself that nothing comes; the node does not.
            Fault::CableOut(i) => self.clients[i].leave(&mut self.env, 200 * env::MS, false),
            _ => {}
        }
        self.note_fault(index, FaultState::Stop);
    }

    fn note_fault(&mut self, index: usize, state: FaultState) {
        let planned = self.env.plan.0[index].clone();
        let op = Op::Fault {
            name: planned.fault.name().into(),
            target: planned.fault.target(),
            state,
            hits: if state == FaultState::Stop { planned.hits } else { 0 },
        };
        self.env.record("faults", Kind::Note, op);
    }

    // ---- the end ----

    fn phase(&mut self, phase: Phase) {
        self.env.record("run", Kind::Note, Op::Phase { phase });
    }

    /// Everything is read once more, by staff and by each customer.
    fn final_read(&mut self) {
        let keys: Vec<ConversationKey> = self.env.store.all.keys().cloned().collect();
        for key in keys {
            let rows = self
                .env
                .store
                .all
                .get(&key)
                .map(|c| c.rows.values().cloned().collect::<Vec<_>>())
                .unwrap_or_default();
            let shown = |row: &store::Row, staff: bool| {
                if row.staff_only && !staff {
                    let seq = wire::Seq(row.seq);
                    let stub = wire::event::hidden_frame(key.customer.as_str(), seq, row.at_ms);
                    return seen::of_entry(&wire::event::entry_of(&stub));
                }
                seen::of_entry(&row.entry)
            };
            let customer = key.customer.as_str();
            for (user, role) in [("auditor", Role::Supervisor), (customer, Role::Customer)] {
                let op = Op::Page {
                    tenant: key.tenant.as_str().into(),
                    user: user.into(),
                    role,
                    conversation: customer.into(),
                    rows: rows.iter().map(|row| shown(row, role != Role::Customer)).collect(),
                    last_seq: rows.last().map_or(0, |r| r.seq),
                    last: true,
                };
                self.env.record("store", Kind::Ok, op);
            }
        }
    }

    /// The digest of the tables, and again after the whole log was folded into them once more, in other pieces: as the consumer
    /// does it that starts at offset 0, and as one that has lost the states and writes every row again.
    fn replay(&mut self) {
        let digest = |env: &mut Env, replayed| {
            let hash = env.store.digest();
            env.record("store", Kind::Ok, Op::Digest { replayed, hash });
        };
        digest(&mut self.env, false);
        self.fold_again();
        digest(&mut self.env, true);
        for conversation in self.env.store.all.values_mut() {
            (conversation.state, conversation.open) = (None, None);
        }
        self.fold_again();
        digest(&mut self.env, true);
    }

    fn fold_again(&mut self) {
        let piece = self.env.pick(1..50) as usize;
        let late = if self.env.has(Bug::WriteTimesAreNow) {
            self.env.now_us
        } else {
            0
        };
        for partition in 0..self.env.log.partitions {
            let records = self.env.log.records(Topic::Messages, partition).to_vec();
            let of = (partition, self.env.log.partitions);
            persist::replay(&mut self.env.store, of, &records, (piece, late));
        }
    }

    fn run(mut self) -> Outcome {
        self.run_until(HEALED_US);
        self.phase(Phase::Healed);
        for client in &mut self.clients {
            client.talking = false;
            client.settled = true;
        }
        self.run_until(SETTLED_US);
        self.phase(Phase::Settled);
        for i in 0..self.clients.len() {
            let away = self.env.pick(0..S);
            self.clients[i].leave(&mut self.env, away, true);
        }
        self.run_until(RECONNECTED_US);
        self.phase(Phase::Reconnected);
        // Nothing new: persistence finishes what is there.
        self.env.log.closed = true;
        self.run_until(RECONNECTED_US + 4 * S);
        self.final_read();
        self.replay();
        let trace = &self.env.trace;
        let trace_hash = trace.is_on().then(|| trace.hash() ^ fnv(&self.env.history));
        Outcome {
            history: self.env.history,
            trace_hash,
            alarms: self.env.alarms,
            events: self.events,
            faults: self
                .env
                .plan
                .0
                .iter()
                .map(|p| (p.number, p.fault.name(), p.hits))
                .collect(),
            virtual_us: RECONNECTED_US,
        }
    }
}

/// One run, from its seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    World::new(seed, options).run()
}

fn fnv(history: &[Entry]) -> u64 {
    let mut trace = Trace::new(Tracing::Hashed);
    for entry in history {
        trace.event(entry.t_mono_us, format_args!("{entry:?}"));
    }
    trace.hash()
}
