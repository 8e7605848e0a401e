//! A modelled persistence process: the real fold, rows before states before the commit, the same write again until it is
//! answered. (The real one's pure part lives in a crate with IO; what is checked here is the rule.)

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conversation::{Event, Folded, State};
use wire::codec::decode;
use wire::record::Kind;
use wire::{ConversationKey, Epoch, Offset, Partition, Position, event};

use super::EPOCH;
use super::bugs::Bug;
use super::env::{Env, ProcId};
use super::input::{Input, LogRecord};
use super::log::{Group, Topic};
use super::store::{Answer, Ask, Marks, Row, Store, Write};
use crate::checker::history::{Kind as Outcome, Op};

/// A batch folded: its rows, and what became of its records.
struct Batch {
    rows: Write,
    next: u64,
    lines: Vec<Op>,
}

/// What a partition waits for. Rows are written batch by batch; now and then a cut writes the states, and then commits.
enum Stage {
    Idle,
    /// These states are not known yet.
    Loading {
        batch: Vec<LogRecord>,
        missing: BTreeMap<u64, ConversationKey>,
    },
    Rows {
        batch: Batch,
        token: u64,
    },
    States {
        states: Write,
        next: u64,
        token: u64,
    },
    /// A seeded bug: states before rows.
    Early {
        states: Write,
        batch: Batch,
        token: u64,
    },
}

struct Part {
    generation: u64,
    queue: VecDeque<LogRecord>,
    states: BTreeMap<ConversationKey, State>,
    /// Whose state is not written yet.
    dirty: BTreeSet<ConversationKey>,
    /// Rows are written up to here; a commit may say so once the states are, too.
    next: u64,
    committed: u64,
    cut_at_us: u64,
    stage: Stage,
}

pub struct Persist {
    id: ProcId,
    parts: BTreeMap<u32, Part>,
    /// Which partition an answer is for.
    tokens: BTreeMap<u64, u32>,
    next_token: u64,
}

impl Persist {
    pub fn start(env: &mut Env, id: ProcId) -> Self {
        env.start(id);
        env.join(id, Group::Persistence);
        env.tell(id, env.knobs.tick_us, Input::Tick);
        Persist {
            id,
            parts: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
        }
    }

    /// Told to leave.
    pub fn stop(&mut self, env: &mut Env) {
        self.parts.clear();
        env.leave_group(self.id, Group::Persistence);
    }

    pub fn handle(&mut self, env: &mut Env, input: Input) {
        match input {
            Input::Tick => {
                env.tell(self.id, env.knobs.tick_us, Input::Tick);
                let partitions: Vec<u32> = self.parts.keys().copied().collect();
                for partition in partitions {
                    self.step(env, partition);
                }
            }
            Input::Assigned {
                generation, partitions, ..
            } => {
                for (partition, committed) in partitions {
                    let mut from = committed.unwrap_or(0);
                    if env.has(Bug::StartsAtLatest) {
                        from = env.log.end(Topic::Messages, partition);
                    }
                    let part = Part {
                        generation,
                        queue: VecDeque::new(),
                        states: BTreeMap::new(),
                        dirty: BTreeSet::new(),
                        next: from,
                        committed: from,
                        cut_at_us: env.now_us + env.knobs.cut_us,
                        stage: Stage::Idle,
                    };
                    self.parts.insert(partition, part);
                    env.start_partition(self.id, Group::Persistence, partition, from);
                }
            }
            Input::Revoked { group, round } => {
                self.parts.clear();
                env.revoke_done(self.id, group, round);
            }
            Input::Lost { group } => {
                self.parts.clear();
                env.join(self.id, group);
            }
            Input::Records { partition, records, .. } => {
                if let Some(part) = self.parts.get_mut(&partition) {
                    part.queue.extend(records);
                    self.step(env, partition);
                }
            }
            Input::Stored { token, answer } => self.stored(env, token, answer),
            // Of this ownership: a late answer to a commit of an earlier one says nothing.
            Input::Committed {
                partition,
                token: generation,
                fenced: true,
                ..
            } if self.parts.get(&partition).is_some_and(|p| p.generation == generation) => {
                self.parts.remove(&partition);
            }
            _ => {}
        }
    }

    fn token(&mut self, partition: u32) -> u64 {
        self.next_token += 1;
        self.tokens.insert(self.next_token, partition);
        self.next_token
    }

    /// A cut, if it is time for one; else the next batch, after the states it needs.
    fn step(&mut self, env: &mut Env, partition: u32) {
        let token = self.token(partition);
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        if !matches!(part.stage, Stage::Idle) {
            return;
        }
        if part.next > part.committed && env.now_us >= part.cut_at_us {
            let (states, next) = (states_of(part), part.next);
            env.ask_store(self.id, Ask::Write(Box::new(states.clone())), token);
            part.stage = Stage::States { states, next, token };
            return;
        }
        if part.queue.is_empty() {
            return;
        }
        let most = part.queue.len().min(env.knobs.batch_records);
        let batch: Vec<LogRecord> = part.queue.drain(..most).collect();
        let mut unknown: BTreeSet<ConversationKey> = BTreeSet::new();
        for record in &batch {
            if let Some(key) = key_of(record, partition, env.log.partitions)
                && !part.states.contains_key(&key)
            {
                unknown.insert(key);
            }
        }
        let mut missing = BTreeMap::new();
        for key in unknown {
            let token = self.token(partition);
            missing.insert(token, key.clone());
            env.ask_store(self.id, Ask::Load(key), token);
        }
        if let Some(part) = self.parts.get_mut(&partition) {
            part.stage = Stage::Loading { batch, missing };
        }
        self.loaded(env, partition);
    }

    /// Folds, once everything is loaded, and writes the rows.
    fn loaded(&mut self, env: &mut Env, partition: u32) {
        let token = self.token(partition);
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        if !matches!(&part.stage, Stage::Loading { missing, .. } if missing.is_empty()) {
            return;
        }
        let Stage::Loading { batch, .. } = std::mem::replace(&mut part.stage, Stage::Idle) else {
            return;
        };
        let late = if env.has(Bug::WriteTimesAreNow) { env.now_us } else { 0 };
        let mut batch = fold(part, partition, env.log.partitions, &batch, late);
        if env.has(Bug::PoisonPassedOver) {
            pass_over(&mut batch.lines);
        }
        if env.has(Bug::CommitBeforeWork) {
            env.commit(
                self.id,
                Group::Persistence,
                part.generation,
                (partition, batch.next),
                part.generation,
            );
        }
        if env.has(Bug::StateBeforeEvents) {
            let states = states_of(part);
            env.ask_store(self.id, Ask::Write(Box::new(states.clone())), token);
            part.stage = Stage::Early { states, batch, token };
            return;
        }
        env.ask_store(self.id, Ask::Write(Box::new(batch.rows.clone())), token);
        part.stage = Stage::Rows { batch, token };
    }

    fn stored(&mut self, env: &mut Env, token: u64, answer: Answer) {
        let Some(partition) = self.tokens.remove(&token) else {
            return;
        };
        let again = self.token(partition);
        let id = self.id;
        let done = matches!(answer, Answer::Written) || env.has(Bug::LostWriteIsDone);
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        // The same write again until it is answered.
        let write = |env: &mut Env, what: &Write| env.ask_store(id, Ask::Write(Box::new(what.clone())), again);
        part.stage = match std::mem::replace(&mut part.stage, Stage::Idle) {
            Stage::Loading { batch, mut missing } => {
                if let Some(key) = missing.remove(&token) {
                    match answer {
                        Answer::Loaded { state, .. } => {
                            let state = state.map_or_else(State::default, |cell| {
                                State::decode(cell).expect("the model's store gives back what was written")
                            });
                            part.states.insert(key, state);
                        }
                        _ => {
                            missing.insert(again, key.clone());
                            env.ask_store(id, Ask::Load(key), again);
                        }
                    }
                }
                part.stage = Stage::Loading { batch, missing };
                return self.loaded(env, partition);
            }
            Stage::Early {
                states,
                batch,
                token: of,
            } if of == token => {
                let next = if done { &batch.rows } else { &states };
                write(env, next);
                let token = again;
                if done {
                    Stage::Rows { batch, token }
                } else {
                    Stage::Early { states, batch, token }
                }
            }
            Stage::Rows { batch, token: of } if of == token => {
                if done {
                    part.next = batch.next;
                    for line in batch.lines {
                        env.record(&id.name(), Outcome::Ok, line);
                    }
                    Stage::Idle
                } else {
                    write(env, &batch.rows);
                    let token = again;
                    Stage::Rows { batch, token }
                }
            }
            Stage::States {
                states,
                next,
                token: of,
            } if of == token => {
                if done {
                    let more = u64::from(env.has(Bug::CommitOffByOne));
                    env.commit(
                        id,
                        Group::Persistence,
                        part.generation,
                        (partition, next + more),
                        part.generation,
                    );
                    part.committed = next;
                    part.cut_at_us = env.now_us + env.knobs.cut_us;
                    part.dirty.clear();
                    Stage::Idle
                } else {
                    write(env, &states);
                    let token = again;
                    Stage::States { states, next, token }
                }
            }
            other => other,
        };
        self.step(env, partition);
    }
}

fn key_of(record: &LogRecord, partition: u32, partitions: u32) -> Option<ConversationKey> {
    let (key, value) = (record.key.as_ref(), record.value.as_ref());
    decode(key, value, Partition(partition), partitions).ok()?.key
}

fn states_of(part: &Part) -> Write {
    let mut states = Write::default();
    for key in &part.dirty {
        if let Some(state) = part.states.get(key)
            && let Some(applied) = state.applied()
        {
            let cell = (key.clone(), state.encode(), applied, state.session_state());
            states.states.push(cell);
        }
    }
    states
}

/// One batch: rows and marks to be written, and an account of it.
fn fold(part: &mut Part, partition: u32, partitions: u32, batch: &[LogRecord], late: u64) -> Batch {
    let mut rows = Write::default();
    let mut lines = Vec::new();
    let (mut events, mut states, mut repeats, mut dead_letters) = (0, 0, 0, 0);
    for record in batch {
        let (key, value) = (record.key.as_ref(), record.value.as_ref());
        let Ok(decoded) = decode(key, value, Partition(partition), partitions) else {
            dead_letters += 1;
            lines.push(Op::DeadLetter {
                topic: "messages".into(),
                partition,
                offset: record.offset,
            });
            continue;
        };
        let Some(key) = decoded.key else {
            rows.marks.extend(marks(&decoded.record));
            states += 1;
            continue;
        };
        let position = Position::new(Epoch(EPOCH), Offset(record.offset));
        let Some(state) = part.states.get_mut(&key) else {
            continue;
        };
        match state.fold(&key, position, record.at_ms, &decoded.record) {
            Folded::Event(event) => {
                events += 1;
                let mut row = row_of(&event);
                row.position = Position::new(Epoch(EPOCH), Offset(record.offset + late));
                rows.rows.push((key.clone(), row));
                part.dirty.insert(key);
            }
            Folded::Session(_) => {
                states += 1;
                part.dirty.insert(key);
            }
            Folded::Unnumbered => states += 1,
            Folded::Skipped | Folded::Repeat { .. } | Folded::Superseded => repeats += 1,
        }
    }
    let next = batch.last().map_or(part.next, |r| r.offset + 1);
    lines.push(Op::Account {
        partition,
        from: batch.first().map_or(next, |r| r.offset),
        to: next,
        rows: events,
        states,
        repeats,
        dead_letters,
    });
    Batch { rows, next, lines }
}

/// The seeded bug: nobody is told of dead letters.
fn pass_over(lines: &mut Vec<Op>) {
    lines.retain(|line| !matches!(line, Op::DeadLetter { .. }));
    for line in lines {
        if let Op::Account { dead_letters, .. } = line {
            *dead_letters = 0;
        }
    }
}

pub fn row_of(event: &Event) -> Row {
    Row {
        seq: event.seq.0,
        staff_only: event.staff_only(),
        at_ms: event.at_ms,
        entry: event::entry_of(&event.frame),
        position: event.position,
    }
}

fn marks(record: &wire::record::Record) -> Vec<(ConversationKey, Marks)> {
    let all = record
        .marks
        .iter()
        .filter(|_| record.kind() == Kind::Marks)
        .flat_map(|m| &m.marks);
    all.filter_map(|m| {
        let tenant = wire::Tenant::new(&m.tenant).ok()?;
        let customer = wire::User::new(&m.customer).ok()?;
        let marks = [m.customer_recv, m.customer_read, m.agent_recv, m.agent_read];
        Some((ConversationKey::new(tenant, customer), marks))
    })
    .collect()
}

/// Folds a partition's whole log into the store again, in pieces of `piece` records, each loading what the one before wrote.
/// `late`: see [`Bug::WriteTimesAreNow`].
pub fn replay(
    store: &mut Store,
    (partition, partitions): (u32, u32),
    records: &[LogRecord],
    (piece, late): (usize, u64),
) {
    for batch in records.chunks(piece) {
        let mut part = Part {
            generation: 0,
            queue: VecDeque::new(),
            states: BTreeMap::new(),
            dirty: BTreeSet::new(),
            next: 0,
            committed: 0,
            cut_at_us: 0,
            stage: Stage::Idle,
        };
        for key in batch.iter().filter_map(|record| key_of(record, partition, partitions)) {
            let cell = store
                .all
                .get(&key)
                .and_then(|c| c.state.as_ref())
                .map(|(cell, _)| cell.clone());
            let state = cell.map_or_else(State::default, |cell| State::decode(cell).unwrap_or_default());
            part.states.entry(key).or_insert(state);
        }
        let folded = fold(&mut part, partition, partitions, batch, late);
        store.write(&folded.rows);
        store.write(&states_of(&part));
    }
}
