//! The modelled store: cells with write times, of which the higher stands. It may be away; then a write may or may not have
//! been done, and may be done later.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::record::SessionState;
use wire::{ConversationKey, Position};

use super::env::{Env, Event, MS, ProcId, S};
use super::faults::Fault;
use super::input::Input;
use super::log::Member;
use super::seen;
use crate::checker::history::{Kind, Op};

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub seq: u64,
    pub staff_only: bool,
    pub at_ms: i64,
    pub entry: Bytes,
    pub position: Position,
}

/// (customer recv, read, agent recv, read).
pub type Marks = [u64; 4];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    pub rows: BTreeMap<u64, Row>,
    pub state: Option<(Bytes, Position)>,
    pub marks: Marks,
    /// Open or not, and when that was written.
    pub open: Option<(bool, Position)>,
}

#[derive(Clone, Debug, Default)]
pub struct Write {
    pub rows: Vec<(ConversationKey, Row)>,
    pub states: Vec<(ConversationKey, Bytes, Position, SessionState)>,
    pub marks: Vec<(ConversationKey, Marks)>,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Load(ConversationKey),
    Page {
        key: ConversationKey,
        after: u64,
        limit: u32,
    },
    OpenSessions {
        partition: u32,
    },
    Write(Box<Write>),
}

#[derive(Debug)]
pub enum Answer {
    Loaded {
        state: Option<Bytes>,
        marks: Marks,
    },
    Page(Vec<Row>),
    OpenSessions(Vec<ConversationKey>),
    Written,
    /// Nobody knows what was done.
    TimedOut,
}

#[derive(Debug)]
pub enum StoreOp {
    Do {
        from: Member,
        token: u64,
        ask: Ask,
        answered: bool,
    },
}

#[derive(Default)]
pub struct Store {
    pub all: BTreeMap<ConversationKey, Conversation>,
}

impl Store {
    /// Everything, write times included.
    pub fn digest(&self) -> String {
        let text = format!("{:?}", self.all);
        crate::checker::history::body_hash(text.as_bytes())
    }

    pub fn write(&mut self, write: &Write) -> Vec<(ConversationKey, Row)> {
        let mut new = Vec::new();
        for (key, row) in &write.rows {
            let rows = &mut self.all.entry(key.clone()).or_default().rows;
            let stands = rows.get(&row.seq);
            if stands.is_none_or(|old| row.position > old.position) {
                new.push((key.clone(), row.clone()));
                rows.insert(row.seq, row.clone());
            }
        }
        for (key, state, position, session) in &write.states {
            let of = self.all.entry(key.clone()).or_default();
            if of.state.as_ref().is_none_or(|(_, old)| position > old) {
                of.state = Some((state.clone(), *position));
                of.open = Some((*session != SessionState::SessionIdle, *position));
            }
        }
        for (key, marks) in &write.marks {
            let of = self.all.entry(key.clone()).or_default();
            for (old, new) in of.marks.iter_mut().zip(marks) {
                *old = (*old).max(*new);
            }
        }
        new
    }
}

impl Env {
    /// Asks the store; `Input::Stored` comes exactly once.
    pub fn ask_store(&mut self, from: ProcId, ask: Ask, token: u64) {
        let Some(life) = self.life(from) else { return };
        let takes = match self.pick(0..10) {
            0 => self.pick(5 * MS..200 * MS),
            _ => self.pick(300..6 * MS),
        };
        let from = (from, life);
        let down = self.plan.until(self.now_us, |f| *f == Fault::StoreDown);
        let Some(until) = down else {
            let answered = true;
            return self.after(
                takes,
                Event::Store(StoreOp::Do {
                    from,
                    token,
                    ask,
                    answered,
                }),
            );
        };
        self.hit(|f| *f == Fault::StoreDown);
        let answer = Answer::TimedOut;
        self.tell_life(from.0, from.1, 2 * S, Input::Stored { token, answer });
        // Lost on the way, done at once with the answer lost, or done much later.
        let late = match self.pick(0..3) {
            0 => return,
            1 => takes,
            _ => until.saturating_sub(self.now_us) + takes + self.pick(0..3 * S),
        };
        let answered = false;
        self.after(
            late,
            Event::Store(StoreOp::Do {
                from,
                token,
                ask,
                answered,
            }),
        );
    }

    pub fn store_op(&mut self, op: StoreOp) {
        let StoreOp::Do {
            from,
            token,
            ask,
            answered,
        } = op;
        let answer = match ask {
            Ask::Load(key) => {
                let of = self.store.all.get(&key);
                Answer::Loaded {
                    state: of.and_then(|c| c.state.as_ref()).map(|(cell, _)| cell.clone()),
                    marks: of.map_or(Marks::default(), |c| c.marks),
                }
            }
            Ask::Page { key, after, limit } => {
                let rows = self.store.all.get(&key).map(|c| &c.rows);
                let page = rows.into_iter().flat_map(|r| r.range(after + 1..)).take(limit as usize);
                Answer::Page(page.map(|(_, row)| row.clone()).collect())
            }
            Ask::OpenSessions { partition } => {
                let partitions = self.log.partitions;
                let open = self.store.all.iter().filter(|(key, c)| {
                    c.open.is_some_and(|(open, _)| open)
                        && wire::topics::partition_of(&key.to_key(), partitions).0 == partition
                });
                Answer::OpenSessions(open.map(|(key, _)| key.clone()).collect())
            }
            Ask::Write(write) => {
                for (key, row) in self.store.write(&write) {
                    let op = Op::Row {
                        tenant: key.tenant.as_str().into(),
                        conversation: key.customer.as_str().into(),
                        seen: seen::of_entry(&row.entry),
                    };
                    self.record("store", Kind::Ok, op);
                }
                Answer::Written
            }
        };
        if answered {
            let back = self.pick(100..3 * MS);
            self.tell_life(from.0, from.1, back, Input::Stored { token, answer });
        }
    }
}
