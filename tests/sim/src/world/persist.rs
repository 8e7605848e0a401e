//! A modelled persistence process: the real fold, rows before states before the commit, the same write again until it is
//! answered. (The real one's pure part lives in a crate with IO; what is checked here is the rule.)

use std::collections::{BTreeMap, VecDeque};

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

/// Records in one write.
const BATCH: usize = 32;

enum Stage {
    Idle,
    /// These states are not known yet.
    Loading {
        batch: Vec<LogRecord>,
        missing: BTreeMap<u64, ConversationKey>,
    },
    Rows {
        rows: Write,
        states: Write,
        next: u64,
        token: u64,
    },
    States {
        states: Write,
        next: u64,
        token: u64,
    },
}

struct Part {
    generation: u64,
    queue: VecDeque<LogRecord>,
    states: BTreeMap<ConversationKey, State>,
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
        Persist {
            id,
            parts: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_token: 0,
        }
    }

    pub fn handle(&mut self, env: &mut Env, input: Input) {
        match input {
            Input::Assigned {
                generation, partitions, ..
            } => {
                for (partition, committed) in partitions {
                    let part = Part {
                        generation,
                        queue: VecDeque::new(),
                        states: BTreeMap::new(),
                        stage: Stage::Idle,
                    };
                    self.parts.insert(partition, part);
                    let mut from = committed.unwrap_or(0);
                    if env.has(Bug::StartsAtLatest) {
                        from = env.log.end(Topic::Messages, partition);
                    }
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
            Input::Committed {
                partition,
                fenced: true,
                ..
            } => {
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

    /// Takes the next batch, and loads the states it needs.
    fn step(&mut self, env: &mut Env, partition: u32) {
        let partitions = env.log.partitions;
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        if !matches!(part.stage, Stage::Idle) || part.queue.is_empty() {
            return;
        }
        let batch: Vec<LogRecord> = part.queue.drain(..part.queue.len().min(BATCH)).collect();
        let mut unknown: Vec<ConversationKey> = Vec::new();
        for record in &batch {
            let Ok(decoded) = decode(
                record.key.as_ref(),
                record.value.as_ref(),
                Partition(partition),
                partitions,
            ) else {
                continue;
            };
            if let Some(key) = decoded.key
                && !part.states.contains_key(&key)
                && !unknown.contains(&key)
            {
                unknown.push(key);
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
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        if !matches!(&part.stage, Stage::Loading { missing, .. } if missing.is_empty()) {
            return;
        }
        let Stage::Loading { batch, .. } = std::mem::replace(&mut part.stage, Stage::Idle) else {
            return;
        };
        let next = batch.last().map_or(0, |r| r.offset + 1);
        let (rows, states) = fold(part, partition, env.log.partitions, &batch);
        let generation = part.generation;
        if env.has(Bug::CommitBeforeWork) {
            env.commit(self.id, Group::Persistence, generation, (partition, next), 0);
        }
        let token = self.token(partition);
        env.ask_store(self.id, Ask::Write(Box::new(rows.clone())), token);
        if let Some(part) = self.parts.get_mut(&partition) {
            part.stage = Stage::Rows {
                rows,
                states,
                next,
                token,
            };
        }
    }

    fn stored(&mut self, env: &mut Env, token: u64, answer: Answer) {
        let Some(partition) = self.tokens.remove(&token) else {
            return;
        };
        let again = self.token(partition);
        let id = self.id;
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        let stage = std::mem::replace(&mut part.stage, Stage::Idle);
        part.stage = match (stage, answer) {
            (Stage::Loading { batch, mut missing }, answer) => {
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
            (
                Stage::Rows {
                    rows,
                    states,
                    next,
                    token: of,
                },
                answer,
            ) if of == token => match answer {
                Answer::Written => {
                    env.ask_store(id, Ask::Write(Box::new(states.clone())), again);
                    Stage::States {
                        states,
                        next,
                        token: again,
                    }
                }
                _ => {
                    env.ask_store(id, Ask::Write(Box::new(rows.clone())), again);
                    Stage::Rows {
                        rows,
                        states,
                        next,
                        token: again,
                    }
                }
            },
            (
                Stage::States {
                    states,
                    next,
                    token: of,
                },
                answer,
            ) if of == token => match answer {
                Answer::Written => {
                    env.commit(id, Group::Persistence, part.generation, (partition, next), 0);
                    Stage::Idle
                }
                _ => {
                    env.ask_store(id, Ask::Write(Box::new(states.clone())), again);
                    Stage::States {
                        states,
                        next,
                        token: again,
                    }
                }
            },
            (other, _) => other,
        };
        self.step(env, partition);
    }
}

/// One batch as two writes: rows and marks, then states.
fn fold(part: &mut Part, partition: u32, partitions: u32, batch: &[LogRecord]) -> (Write, Write) {
    let mut rows = Write::default();
    let mut changed: BTreeMap<ConversationKey, ()> = BTreeMap::new();
    for record in batch {
        let Ok(decoded) = decode(
            record.key.as_ref(),
            record.value.as_ref(),
            Partition(partition),
            partitions,
        ) else {
            continue;
        };
        let Some(key) = decoded.key else {
            rows.marks.extend(marks(&decoded.record));
            continue;
        };
        let position = Position::new(Epoch(EPOCH), Offset(record.offset));
        let Some(state) = part.states.get_mut(&key) else {
            continue;
        };
        match state.fold(&key, position, record.at_ms, &decoded.record) {
            Folded::Event(event) => {
                rows.rows.push((key.clone(), row_of(&event)));
                changed.insert(key, ());
            }
            Folded::Session(_) => {
                changed.insert(key, ());
            }
            _ => {}
        }
    }
    let mut states = Write::default();
    for key in changed.into_keys() {
        if let Some(state) = part.states.get(&key)
            && let Some(applied) = state.applied()
        {
            states
                .states
                .push((key, state.encode(), applied, state.session_state()));
        }
    }
    (rows, states)
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
pub fn replay(store: &mut Store, partition: u32, partitions: u32, records: &[LogRecord], piece: usize) {
    for batch in records.chunks(piece) {
        let mut part = Part {
            generation: 0,
            queue: VecDeque::new(),
            states: BTreeMap::new(),
            stage: Stage::Idle,
        };
        for record in batch {
            if let Ok(decoded) = decode(
                record.key.as_ref(),
                record.value.as_ref(),
                Partition(partition),
                partitions,
            ) && let Some(key) = decoded.key
            {
                let cell = store
                    .all
                    .get(&key)
                    .and_then(|c| c.state.as_ref())
                    .map(|(cell, _)| cell.clone());
                let state = cell.map_or_else(State::default, |cell| State::decode(cell).unwrap_or_default());
                part.states.entry(key).or_insert(state);
            }
        }
        let (rows, states) = fold(&mut part, partition, partitions, batch);
        store.write(&rows);
        store.write(&states);
    }
}
