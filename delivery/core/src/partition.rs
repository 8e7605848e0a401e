//! One owned partition: its conversations, its routes, and the little that is common to them.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use wire::link::from_worker::Item;
use wire::link::{Frame, NotOwner};
use wire::{ConversationKey, Generation, LaneTopics, Partition, Tenant, User};

use crate::action::{Action, Actions, Loaded};
use crate::link::{LinkId, Links};
use crate::marks::Marks;
use crate::register::{Home, Staff, end_places};
use crate::resident::{Conv, Slots};
use crate::stats::Stats;

/// What every step may use: the time, the links, and where effects go.
pub(crate) struct Cx<'a> {
    pub now_ms: u64,
    pub links: &'a mut Links,
    pub actions: &'a mut Actions,
    pub stats: &'a mut Stats,
}

/// A partition during one ownership: what was asked before is not answered to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub partition: Partition,
    pub instance: u64,
}

/// Who waits to hear the log's end, asked after they began to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// A cursor above the head.
    Cursor { slot: u32, link: LinkId, connection: u64 },
    /// A loaded state whose last record must be in the log.
    Applied { offset: u64 },
    /// The take-over itself: from there on this owner is at the head.
    TakeOver,
}

#[derive(Default)]
pub(crate) struct Ends {
    asking: bool,
    next: Vec<Wait>,
    asked: Vec<Wait>,
    /// Cursors, and the end they wait for.
    pub known: Vec<(u64, Wait)>,
}

pub(crate) struct PartitionCore {
    pub at: Partition,
    pub instance: u64,
    pub generation: Generation,
    pub topics: LaneTopics,
    /// The next offset to fold.
    pub next: u64,
    /// Below it everything is in the store.
    pub committed: u64,
    /// The end of the log at the take-over, once known and folded.
    pub caught_up: bool,
    pub ends: Ends,
    pub slots: Slots,
    pub by_key: HashMap<ConversationKey, u32>,
    pub routes: HashMap<(LinkId, u64), Home>,
    pub staff: Vec<Option<Box<Staff>>>,
    pub staff_of: HashMap<(Tenant, User), Vec<u32>>,
    /// Conversations whose session names this member of staff.
    pub serving: HashMap<(Tenant, User), Vec<u32>>,
    tenants: BTreeSet<Tenant>,
    pub unlogged: Vec<u32>,
    pub marks_next_ms: u64,
    /// Marks read of conversations that are not in memory, and where.
    pub stray_marks: HashMap<ConversationKey, (Marks, u64)>,
    pub wanted: BTreeSet<(u64, u32)>,
    /// Windows that became full, in the order of time.
    pub full: VecDeque<(u64, u32, LinkId, u64)>,
    /// Every event in a tail, in the order of the log.
    pub events: VecDeque<(u64, u32)>,
    pub idle: VecDeque<(u64, u32)>,
    pub asks_due: VecDeque<(u64, u32)>,
    pub page_serial: u32,
    /// So many of `events`, from the front, are not in memory with their bodies.
    pub spilled: usize,
    /// Approximate memory of tails and parked records.
    pub bytes: usize,
    pub parked: usize,
    pub paused: bool,
    /// Set when it must not go on.
    pub stopped: bool,
}

impl PartitionCore {
    pub fn new(topics: &LaneTopics, at: At, generation: Generation, start: u64) -> Self {
        PartitionCore {
            at: at.partition,
            instance: at.instance,
            generation,
            topics: topics.clone(),
            next: start,
            committed: start,
            caught_up: false,
            ends: Ends::default(),
            slots: Slots::default(),
            by_key: HashMap::new(),
            routes: HashMap::new(),
            staff: Vec::new(),
            staff_of: HashMap::new(),
            serving: HashMap::new(),
            tenants: BTreeSet::new(),
            unlogged: Vec::new(),
            marks_next_ms: 0,
            stray_marks: HashMap::new(),
            wanted: BTreeSet::new(),
            full: VecDeque::new(),
            events: VecDeque::new(),
            idle: VecDeque::new(),
            asks_due: VecDeque::new(),
            page_serial: 0,
            spilled: 0,
            bytes: 0,
            parked: 0,
            paused: false,
            stopped: false,
        }
    }

    pub fn here(&self) -> At {
        At {
            partition: self.at,
            instance: self.instance,
        }
    }

    /// Approximate memory of all tails and parked records.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.events.len() * size_of::<(u64, u32)>()
    }

    pub fn wire_generation(&self) -> Option<wire::link::Generation> {
        Some(self.generation.into())
    }

    /// The key of a conversation named by strings from outside; a tenant's name is kept once.
    pub fn key_of(&mut self, tenant: &str, customer: &str) -> Option<ConversationKey> {
        let tenant = self.tenant(tenant)?;
        Some(ConversationKey::new(tenant, User::new(customer).ok()?))
    }

    pub fn tenant(&mut self, name: &str) -> Option<Tenant> {
        if let Some(known) = self.tenants.get(name) {
            return Some(known.clone());
        }
        let tenant = Tenant::new(name).ok()?;
        self.tenants.insert(tenant.clone());
        Some(tenant)
    }

    /// The conversation's slot; one that is not in memory is asked for.
    pub fn resident(&mut self, cx: &mut Cx, key: ConversationKey) -> u32 {
        if let Some(&slot) = self.by_key.get(&key) {
            return slot;
        }
        let tenant = self.tenant(key.tenant.as_str()).unwrap_or(key.tenant);
        let key = ConversationKey::new(tenant, key.customer);
        cx.stats.loads += 1;
        cx.actions.push_back(Action::Load {
            partition: self.at,
            instance: self.instance,
            key: key.clone(),
        });
        let mut conv = Conv::new(key.clone());
        if let Some((marks, offset)) = self.stray_marks.remove(&key) {
            conv.logged = marks;
            conv.acked = marks;
            conv.past = offset + 1;
        }
        let slot = self.slots.insert(conv);
        self.by_key.insert(key, slot);
        slot
    }

    /// The conversation's row has come: fold what waited, begin what registered.
    pub fn loaded(&mut self, cx: &mut Cx, key: &ConversationKey, loaded: Loaded) {
        let Some(&slot) = self.by_key.get(key) else { return };
        let Some(mut conv) = self.slots.take(slot) else { return };
        if conv.state.is_some() {
            self.slots.put_back(slot, conv);
            return;
        }
        let again = loaded.clone();
        let state = match loaded
            .state
            .map_or_else(|| Ok(conversation::State::default()), conversation::State::decode)
        {
            Ok(state) => state,
            Err(bad) => {
                self.slots.put_back(slot, conv);
                return self.stop(cx, format!("conversation {key}: {bad}"));
            }
        };
        conv.logged = conv.logged.merged(loaded.marks);
        conv.acked = conv.acked.merged(conv.logged);
        if let Some(applied) = state.applied() {
            if applied.epoch > self.topics.epoch {
                self.slots.put_back(slot, conv);
                return self.stop(cx, format!("conversation {key} was applied in epoch {}", applied.epoch));
            }
            if applied.epoch == self.topics.epoch && applied.offset.0 >= self.next {
                self.ask_end(
                    cx,
                    Wait::Applied {
                        offset: applied.offset.0,
                    },
                );
            }
            if applied.epoch == self.topics.epoch {
                conv.past = conv.past.max(applied.offset.0 + 1);
            }
        }
        let spilled = conv.spilled_parked();
        if !spilled.is_empty() {
            // They are folded in their order, so all of them must be there.
            conv.waiting().loaded = Some(Box::new(again));
            self.ask_parked(cx, slot, &mut conv, spilled);
            self.slots.put_back(slot, conv);
            return;
        }
        conv.state = Some(state);
        let waiting = conv.waiting.take();
        end_places(&mut conv);
        self.session_loaded(cx, slot, &mut conv);
        if let Some(waiting) = waiting {
            for parked in waiting.parked {
                self.bytes = self.bytes.saturating_sub(parked.bytes);
                self.parked = self.parked.saturating_sub(1);
                if let Some(record) = parked.record {
                    self.fold(cx, slot, &mut conv, parked.offset, parked.at_ms, *record);
                }
            }
            for asked in waiting.asks {
                self.answer(cx, asked.link, asked.ask, &conv);
            }
        }
        self.attach_named(cx, slot, &mut conv);
        for i in 0..conv.cursors.len() {
            self.begin(cx, slot, &mut conv, i);
        }
        self.marks_rose(slot, &mut conv);
        self.maybe_idle(cx, slot, &mut conv);
        self.slots.put_back(slot, conv);
        self.ends_reached(cx);
    }

    /// Asks for the log's end on behalf of one who waits.
    pub fn ask_end(&mut self, cx: &mut Cx, wait: Wait) {
        self.ends.next.push(wait);
        self.ask_end_again(cx);
    }

    fn ask_end_again(&mut self, cx: &mut Cx) {
        if !self.ends.asking && !self.ends.next.is_empty() {
            self.ends.asking = true;
            self.ends.asked = std::mem::take(&mut self.ends.next);
            cx.actions.push_back(Action::AskEnd {
                partition: self.at,
                instance: self.instance,
            });
        }
    }

    pub fn end_known(&mut self, cx: &mut Cx, end: u64) {
        self.ends.asking = false;
        for wait in std::mem::take(&mut self.ends.asked) {
            match wait {
                Wait::Applied { offset } if offset >= end => {
                    return self.stop(
                        cx,
                        format!("a state applied at offset {offset} is beyond the log's end {end}"),
                    );
                }
                Wait::Applied { .. } => {}
                other => self.ends.known.push((end, other)),
            }
        }
        self.ask_end_again(cx);
        self.ends_reached(cx);
    }

    /// Those who waited for an end that is folded now.
    pub fn ends_reached(&mut self, cx: &mut Cx) {
        if self.ends.known.is_empty() {
            return;
        }
        let next = self.next;
        let (reached, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ends.known)
            .into_iter()
            .partition(|(end, _)| next >= *end);
        self.ends.known = rest;
        for (end, wait) in reached {
            match wait {
                Wait::Cursor { slot, link, connection } => {
                    let Some(mut conv) = self.slots.take(slot) else {
                        continue;
                    };
                    match conv.cursor_of(link, connection) {
                        Some(_) if conv.state.is_none() => self.ends.known.push((end, wait)),
                        Some(i) => self.rewind(cx, slot, &mut conv, i),
                        None => {}
                    }
                    self.slots.put_back(slot, conv);
                }
                Wait::TakeOver => self.caught_up(cx),
                Wait::Applied { .. } => {}
            }
        }
    }

    pub fn stop(&mut self, cx: &mut Cx, why: String) {
        if !self.stopped {
            self.stopped = true;
            cx.actions.push_back(Action::Stop {
                partition: self.at,
                why,
            });
        }
    }

    /// The partition is somebody else's now: tells every node.
    pub fn say_not_owner(&self, cx: &mut Cx) {
        for link in cx.links.ids() {
            let not_owner = NotOwner {
                partition: self.at.0,
                generation: self.wire_generation(),
                connections: Vec::new(),
            };
            cx.links.send(link, Item::NotOwner(not_owner));
        }
    }

    /// A frame without a place in the order.
    pub fn send_frame(&self, cx: &mut Cx, link: LinkId, connection: u64, frame: Bytes) {
        let frame = Frame {
            partition: self.at.0,
            generation: self.wire_generation(),
            connections: vec![connection],
            frame,
        };
        cx.links.send(link, Item::Frame(frame));
    }
}
