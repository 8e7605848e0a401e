//! The modelled store: cells with write times, of which the higher stands. It may be away; then a write may or may not have
//! been done, and may be done later.

use std::collections::{BTreeMap, VecDeque};

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
pub struct StoreOp {
    from: Member,
    token: u64,
    ask: Box<Ask>,
    answered: bool,
}

#[derive(Default)]
pub struct Store {
    pub all: BTreeMap<ConversationKey, Conversation>,
    /// The latest rows, with when they were written: some replica may not have them yet.
    recent: VecDeque<(u64, ConversationKey, u64)>,
    /// A seeded bug: marks are overwritten.
    pub marks_overwritten: bool,
}

/// Loads are read at QUORUM. Pages are not, so a replica may lack what was written within this time.
const LAG_US: u64 = 6 * S;
/// A request is given up on after this.
const TIMEOUT_US: u64 = 2 * S;

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
                *old = if self.marks_overwritten { *new } else { (*old).max(*new) };
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
        let ask = Box::new(ask);
        if self.plan.until(self.now_us, |f| *f == Fault::StoreSlow).is_some() {
            self.hit(|f| *f == Fault::StoreSlow);
            let takes = takes + self.pick(0..3 * S);
            let answered = takes < TIMEOUT_US;
            if !answered {
                let answer = Answer::TimedOut;
                self.tell_life(from.0, from.1, TIMEOUT_US, Input::Stored { token, answer });
            }
            let op = StoreOp {
                from,
                token,
                ask,
                answered,
            };
            return self.after(takes, Event::Store(op));
        }
        let Some(until) = self.plan.until(self.now_us, |f| *f == Fault::StoreDown) else {
            let answered = true;
            let op = StoreOp {
                from,
                token,
                ask,
                answered,
            };
            return self.after(takes, Event::Store(op));
        };
        self.hit(|f| *f == Fault::StoreDown);
        let answer = Answer::TimedOut;
        self.tell_life(from.0, from.1, TIMEOUT_US, Input::Stored { token, answer });
        // Lost on the way, done at once with the answer lost, or done much later.
        let late = match self.pick(0..3) {
            0 => return,
            1 => takes,
            _ => until.saturating_sub(self.now_us) + takes + self.pick(0..3 * S),
        };
        let answered = false;
        let op = StoreOp {
            from,
            token,
            ask,
            answered,
        };
        self.after(late, Event::Store(op));
    }

    /// A page as a replica has it that may lag. One with a hole is read again at QUORUM; one that only ends early is not seen to.
    fn page(&mut self, key: &ConversationKey, after: u64, limit: u32) -> Vec<Row> {
        let rows = self.store.all.get(key).map(|c| &c.rows);
        let page = rows.into_iter().flat_map(|r| r.range(after + 1..)).take(limit as usize);
        let page: Vec<Row> = page.map(|(_, row)| row.clone()).collect();
        if self.plan.until(self.now_us, |f| *f == Fault::StoreStale).is_none() {
            return page;
        }
        let since_us = self.now_us.saturating_sub(self.pick(0..LAG_US));
        let recent = self
            .store
            .recent
            .iter()
            .rev()
            .take_while(|(at_us, _, _)| *at_us > since_us);
        let missing: Vec<u64> = recent.filter(|(_, k, _)| k == key).map(|(_, _, seq)| *seq).collect();
        let stale: Vec<Row> = page.iter().filter(|r| !missing.contains(&r.seq)).cloned().collect();
        let hole = stale.iter().zip(after + 1..).any(|(row, seq)| row.seq != seq);
        if hole || stale.len() == page.len() {
            return page;
        }
        self.hit(|f| *f == Fault::StoreStale);
        stale
    }

    pub fn store_op(&mut self, op: StoreOp) {
        let StoreOp {
            from,
            token,
            ask,
            answered,
        } = op;
        let answer = match *ask {
            Ask::Load(key) => {
                let of = self.store.all.get(&key);
                Answer::Loaded {
                    state: of.and_then(|c| c.state.as_ref()).map(|(cell, _)| cell.clone()),
                    marks: of.map_or(Marks::default(), |c| c.marks),
                }
            }
            Ask::Page { key, after, limit } => Answer::Page(self.page(&key, after, limit)),
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
                    self.store.recent.push_back((self.now_us, key.clone(), row.seq));
                    let op = Op::Row {
                        tenant: key.tenant.as_str().into(),
                        conversation: key.customer.as_str().into(),
                        seen: seen::of_entry(&row.entry),
                    };
                    self.record("store", Kind::Ok, op);
                }
                let old_us = self.now_us.saturating_sub(LAG_US);
                while self.store.recent.front().is_some_and(|(at_us, _, _)| *at_us < old_us) {
                    self.store.recent.pop_front();
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
