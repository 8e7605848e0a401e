//! All of a worker: links on one side, owned partitions on the other. Thin: it finds the partition and hands over.

use std::collections::BTreeMap;

use wire::link::from_node::Item as In;
use wire::link::from_worker::Item;
use wire::link::{FromNode, FromWorker, NodeHello, Register, WorkerHello};
use wire::{ConversationKey, Generation, LaneTopics, Offset, Partition, WorkerId};

use crate::action::{Action, Actions, Loaded, PageRow, PageToken};
use crate::claimed::{Claimed, not_owner};
use crate::heard::unknown;
use crate::link::{LinkId, Links};
use crate::partition::{At, Cx, PartitionCore, Wait};
use crate::records::Entry;

use crate::stats::Stats;

/// The link's version this build speaks.
const LINK_VERSION: u32 = 1;
/// Share of the budget that recent, already stored events may take.
const KEEP_SHARE: usize = 16;
/// The budget spent, bodies are let go down to three quarters of it, in steps of so many bytes.
const SPILL_TO: usize = 3;
const SPILL_TO_DIVISOR: usize = 4;
const SPILL_STEP_BYTES: usize = 1 << 20;
/// Bytes a conversation with its connection is counted with.
const RESIDENT_BYTES: usize = 768;

#[derive(Clone, Debug)]
pub struct Options {
    /// Drawn afresh at each start.
    pub worker: WorkerId,
    pub name: String,
    pub topics: LaneTopics,
    /// Memory for conversations, `limits::WORKER_BYTES_BUDGET` by default.
    pub bytes_budget: usize,
}

/// The core of one delivery worker. Calls may come in any order; `now_ms` is Unix milliseconds and never falls.
pub struct Worker {
    options: Options,
    links: Links,
    partitions: BTreeMap<Partition, PartitionCore>,
    claimed: Claimed,
    actions: Actions,
    stats: Stats,
    instances: u64,
}

/// The context of one call, and the partitions beside it.
macro_rules! cx {
    ($self:ident, $now_ms:expr) => {
        Cx {
            now_ms: $now_ms,
            links: &mut $self.links,
            actions: &mut $self.actions,
            stats: &mut $self.stats,
        }
    };
}

impl Worker {
    pub fn new(options: Options) -> Self {
        Worker {
            options,
            links: Links::default(),
            partitions: BTreeMap::new(),
            claimed: Claimed::default(),
            actions: Actions::new(),
            stats: Stats::default(),
            instances: 0,
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Links with something queued; each call names a link once, until it has more.
    pub fn ready_links(&mut self) -> Vec<LinkId> {
        self.links.ready()
    }

    /// At most `items_max` items for a link, in order. Cursors that waited for room go on, so there may be more afterwards.
    pub fn take_sends(&mut self, now_ms: u64, link: LinkId, items_max: usize) -> Vec<FromWorker> {
        let (taken, stalled) = self.links.take(link, items_max);
        for s in stalled {
            if !self.links.has_room(link) {
                // Still marked as standing still.
                self.links.stall(link, s);
                continue;
            }
            let mut cx = cx!(self, now_ms);
            let Some(p) = self
                .partitions
                .get_mut(&s.at.partition)
                .filter(|p| p.instance == s.at.instance)
            else {
                continue;
            };
            let Some(mut conv) = p.slots.take(s.slot) else { continue };
            if let Some(i) = conv.cursor_of(link, s.connection) {
                conv.cursors[i].stalled = false;
                p.pump(&mut cx, s.slot, &mut conv, i);
            }
            p.slots.put_back(s.slot, conv);
        }
        taken
    }

    pub fn take_stats(&mut self) -> Stats {
        std::mem::take(&mut self.stats)
    }

    /// Conversations in memory and the bytes they are counted with.
    pub fn residents(&self) -> (usize, usize) {
        let count = self.partitions.values().map(|p| p.by_key.len()).sum::<usize>();
        let bytes = self.partitions.values().map(PartitionCore::held_bytes).sum::<usize>();
        (count, bytes + count * RESIDENT_BYTES)
    }

    /// Records that wait for their conversation to be loaded.
    pub fn parked(&self) -> usize {
        self.partitions.values().map(|p| p.parked).sum()
    }

    /// Items queued for links.
    pub fn queued_items(&self) -> usize {
        self.links.queued_items()
    }

    /// Registered connections; a member of staff counts once per partition.
    pub fn routes(&self) -> usize {
        self.partitions.values().map(|p| p.routes.len()).sum()
    }

    /// The next offset to fold of an owned partition.
    pub fn position(&self, partition: Partition) -> Option<Offset> {
        self.partitions.get(&partition).map(|p| Offset(p.next))
    }

    pub fn owned(&self) -> Vec<Partition> {
        self.partitions.keys().copied().collect()
    }

    /// The group gave us the partition, and it is not read yet: registrations wait for `handle_assigned`, or for the loss.
    pub fn handle_claimed(&mut self, partition: Partition) {
        self.claimed.claim(partition);
    }

    /// The partition is ours, announced with this generation, and will be read from `start`, persistence's committed offset.
    pub fn handle_assigned(&mut self, now_ms: u64, partition: Partition, generation: Generation, start: Offset) {
        self.instances += 1;
        let at = At {
            partition,
            instance: self.instances,
        };
        let mut core = PartitionCore::new(&self.options.topics, at, generation, start.0);
        let mut cx = cx!(self, now_ms);
        core.ask_end(&mut cx, Wait::TakeOver);
        for (link, register) in self.claimed.begin(partition) {
            core.register(&mut cx, link, register);
        }
        self.partitions.insert(partition, core);
    }

    /// We announced ourselves again: a higher generation, the same ownership. Nodes that hear of it refuse what was pushed
    /// under the one before, so nobody stands where their cursor does: all register again, and begin where they say.
    pub fn handle_announced_again(&mut self, now_ms: u64, partition: Partition, generation: Generation) {
        let mut cx = cx!(self, now_ms);
        if let Some(p) = self
            .partitions
            .get_mut(&partition)
            .filter(|p| p.generation < generation)
        {
            p.generation = generation;
            p.unregister_where(&mut cx, |_| true);
        }
    }

    /// What `open_sessions` lists: these conversations stay in memory.
    pub fn handle_open_sessions(&mut self, now_ms: u64, partition: Partition, keys: Vec<ConversationKey>) {
        let mut cx = cx!(self, now_ms);
        let Some(p) = self.partitions.get_mut(&partition) else {
            return;
        };
        for key in keys {
            if p.topics.partition_of(&key) == partition {
                p.resident(&mut cx, key);
            }
        }
    }

    /// The partition goes to somebody else: last marks, and every node hears it.
    pub fn handle_revoked(&mut self, now_ms: u64, partition: Partition) {
        self.claimed.let_go(&mut self.links, partition);
        let mut cx = cx!(self, now_ms);
        if let Some(mut p) = self.partitions.remove(&partition) {
            p.write_marks(&mut cx, true);
            p.say_not_owner(&mut cx);
        }
    }

    /// The partition is somebody else's already: nothing more is written.
    pub fn handle_lost(&mut self, now_ms: u64, partition: Partition) {
        self.claimed.let_go(&mut self.links, partition);
        let mut cx = cx!(self, now_ms);
        if let Some(p) = self.partitions.remove(&partition) {
            p.say_not_owner(&mut cx);
        }
    }

    /// Records of one partition, in the order of the log.
    pub fn handle_records(&mut self, now_ms: u64, partition: Partition, entries: impl IntoIterator<Item = Entry>) {
        let mut cx = cx!(self, now_ms);
        let Some(p) = self.partitions.get_mut(&partition) else {
            return;
        };
        for entry in entries {
            p.record(&mut cx, entry);
        }
        p.ends_reached(&mut cx);
        p.ask_wanted(&mut cx);
    }

    pub fn handle_loaded(
        &mut self,
        now_ms: u64,
        (partition, instance): (Partition, u64),
        key: &ConversationKey,
        loaded: Loaded,
    ) {
        let mut cx = cx!(self, now_ms);
        if let Some(p) = self.partitions.get_mut(&partition).filter(|p| p.instance == instance) {
            p.loaded(&mut cx, key, loaded);
        }
    }

    pub fn handle_page(&mut self, now_ms: u64, token: PageToken, rows: &[PageRow]) {
        let mut cx = cx!(self, now_ms);
        if let Some(p) = self
            .partitions
            .get_mut(&token.partition)
            .filter(|p| p.instance == token.instance)
        {
            p.page(&mut cx, token, rows);
        }
    }

    /// Records asked for with `ReadBack`, in the order asked for.
    pub fn handle_read_back(&mut self, now_ms: u64, token: PageToken, entries: Vec<Entry>) {
        let mut cx = cx!(self, now_ms);
        if let Some(p) = self
            .partitions
            .get_mut(&token.partition)
            .filter(|p| p.instance == token.instance)
        {
            p.read_back(&mut cx, token, entries);
        }
    }

    pub fn handle_end(&mut self, now_ms: u64, (partition, instance): (Partition, u64), end: Offset) {
        let mut cx = cx!(self, now_ms);
        if let Some(p) = self.partitions.get_mut(&partition).filter(|p| p.instance == instance) {
            p.end_known(&mut cx, end.0);
        }
    }

    /// Persistence has stored everything below this offset.
    pub fn handle_committed(&mut self, now_ms: u64, partition: Partition, offset: Offset) {
        let mut cx = cx!(self, now_ms);
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.stored_below(&mut cx, offset.0);
        }
    }

    /// Several times a second: what is due by time, and memory.
    pub fn handle_tick(&mut self, now_ms: u64) {
        let mut cx = cx!(self, now_ms);
        for p in self.partitions.values_mut() {
            p.write_marks(&mut cx, false);
            p.ask_wanted(&mut cx);
            p.give_up_asks(&mut cx);
            p.close_slow(&mut cx);
        }
        self.mind_memory(now_ms);
        for link in std::mem::take(&mut self.links.overfull) {
            self.handle_link_down(now_ms, link);
            self.actions.push_back(Action::CloseLink {
                link,
                why: "it takes nothing",
            });
        }
    }

    /// The store takes nothing and the budget is spent: bodies go, those of the fullest partition first; offsets stay.
    fn spill(&mut self, budget: usize) {
        let (_, bytes) = self.residents();
        let mut excess = if bytes > budget {
            bytes - budget / SPILL_TO_DIVISOR * SPILL_TO
        } else {
            0
        };
        while excess > 0 {
            let with_bodies = self.partitions.values_mut().filter(|p| p.has_bodies());
            let Some(fullest) = with_bodies.max_by_key(|p| p.bytes) else {
                return;
            };
            let freed = fullest.spill(excess.min(SPILL_STEP_BYTES));
            excess = excess.saturating_sub(freed);
        }
    }

    fn mind_memory(&mut self, now_ms: u64) {
        let budget = self.options.bytes_budget;
        let keep = budget / KEEP_SHARE / self.partitions.len().max(1);
        let (_, before) = self.residents();
        let short = before > budget / 2;
        let mut cx = cx!(self, now_ms);
        for p in self.partitions.values_mut() {
            p.trim(if short { 0 } else { keep });
            p.evict(&mut cx, short);
        }
        self.spill(budget);
        let (_, bytes) = self.residents();
        for (at, p) in &mut self.partitions {
            let spent = if p.paused {
                bytes > budget / 10 * 9
            } else {
                bytes > budget
            };
            if spent != p.paused {
                p.paused = spent;
                self.actions.push_back(if spent {
                    Action::Pause { partition: *at }
                } else {
                    Action::Resume { partition: *at }
                });
            }
        }
    }

    pub fn handle_link_up(&mut self, link: LinkId) {
        self.links.open(link);
        let hello = WorkerHello {
            version: LINK_VERSION,
            worker: self.options.worker.0,
            name: self.options.name.clone(),
        };
        self.links.send(link, Item::Hello(hello));
    }

    pub fn handle_link_down(&mut self, now_ms: u64, link: LinkId) {
        if !self.links.close(link) {
            return;
        }
        self.claimed.link_down(link);
        let mut cx = cx!(self, now_ms);
        for p in self.partitions.values_mut() {
            p.link_down(&mut cx, link);
        }
    }

    pub fn handle_from_node(&mut self, now_ms: u64, link: LinkId, from: FromNode) {
        let Some(item) = from.item else { return };
        if let In::Hello(hello) = &item {
            return self.hello(now_ms, link, hello);
        }
        if self.links.node_of(link).is_none() {
            return;
        }
        let mut cx = cx!(self, now_ms);
        match item {
            In::Hello(_) | In::Heartbeat(_) => {}
            In::Register(r) => match self.partitions.get_mut(&Partition(r.partition)) {
                Some(p) => p.register(&mut cx, link, r),
                None => self.register_at_claimed(link, r),
            },
            In::Unregister(u) => {
                self.claimed.unregister(link, u.connection);
                for p in self.partitions.values_mut() {
                    p.unregister(&mut cx, link, u.connection);
                }
            }
            In::Acked(a) => match self.partitions.get_mut(&Partition(a.partition)) {
                Some(p) => p.acked(&mut cx, link, a),
                None => self.claimed.acked(link, &a),
            },
            In::Typing(t) => {
                if let Some(p) = self.partitions.get_mut(&Partition(t.partition)) {
                    p.typing(&mut cx, link, t);
                }
            }
            In::Ask(a) => match self.partitions.get_mut(&Partition(a.partition)) {
                Some(p) => p.ask(&mut cx, link, &a),
                None => unknown(&mut cx, link, a.ask),
            },
        }
    }

    fn register_at_claimed(&mut self, link: LinkId, register: Register) {
        if let Some(register) = self.claimed.keep(link, register) {
            self.stats.not_owner += 1;
            self.links.send(link, not_owner(&register));
        }
    }

    fn hello(&mut self, now_ms: u64, link: LinkId, hello: &NodeHello) {
        let why = if hello.version == 0 {
            Some("its hello has no version")
        } else if hello.lane != self.options.topics.lane.as_str() {
            Some("it serves another lane")
        } else {
            None
        };
        if let Some(why) = why {
            self.handle_link_down(now_ms, link);
            self.actions.push_back(Action::CloseLink { link, why });
            return;
        }
        // A node has one link: an older one is dead, whether we have heard of it or not.
        if let Some(older) = self.links.of_node(hello.node).filter(|older| *older != link) {
            self.handle_link_down(now_ms, older);
            self.actions.push_back(Action::CloseLink {
                link: older,
                why: "the node dialled again",
            });
        }
        self.links.greet(link, hello.node);
    }
}
