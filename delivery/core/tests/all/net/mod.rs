//! A whole small network in one struct: a log of one partition, persistence and its store (`log`), workers of which one owns
//! the partition at a time, and devices that keep a node's place and a client's memory (`devices`). Everything waits until it
//! is told to move.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

mod devices;
mod log;

use std::collections::{BTreeMap, HashMap, VecDeque};

use conversation::State;
use delivery_core::{Action, Entry, LinkId, Loaded, Marks, Options, PageRow, PageToken, ProduceTo, Worker};
use wire::codec;
use wire::record::{DeskRecord, SessionState};
use wire::{ConversationKey, Epoch, Generation, Lane, LaneTopics, Offset, Partition, Seq, Tenant, User, WorkerId};

pub use devices::{Device, Seen};
use wire::record::Role;

pub const P: Partition = Partition(0);

pub fn topics() -> LaneTopics {
    LaneTopics {
        lane: Lane::new("core").unwrap(),
        epoch: Epoch(1),
        partitions: 1,
    }
}

pub fn key(customer: &str) -> ConversationKey {
    ConversationKey::new(Tenant::new("demo").unwrap(), User::new(customer).unwrap())
}

pub struct Net {
    pub now_ms: u64,
    pub log: Vec<Entry>,
    /// Persistence's committed offset, and what is stored.
    pub committed: u64,
    states: HashMap<ConversationKey, State>,
    rows: HashMap<ConversationKey, Vec<PageRow>>,
    marks: HashMap<ConversationKey, Marks>,
    /// The truth: the whole log folded once.
    pub workers: Vec<Worker>,
    pub owner: Option<usize>,
    announced: u64,
    claimed: bool,
    /// Connections sent away, and by which worker's word: `NotOwner`.
    pub sent_away: Vec<u64>,
    /// The owner has been handed the log up to here.
    pub read: u64,
    pub devices: Vec<Device>,
    /// (worker, node) → link.
    pub links: BTreeMap<(usize, u64), LinkId>,
    next_link: u64,
    pub pending: VecDeque<(usize, Action)>,
    pub desk: Vec<DeskRecord>,
    pub stopped: Vec<String>,
    pub paused: bool,
    /// Records read again from the log.
    pub read_back: usize,
    /// Limits of the pages that were read.
    pub pages: Vec<u32>,
    pub answers: Vec<wire::link::Answer>,
    /// Texts are filled up to so many bytes.
    pub text_bytes: usize,
    next_id: u64,
    decision: u64,
    pub sends_batch: usize,
}

impl Net {
    pub fn new() -> Self {
        Self::with_budget(1 << 30)
    }

    pub fn with_budget(bytes_budget: usize) -> Self {
        let worker = |n| {
            Worker::new(Options {
                worker: WorkerId(n),
                name: format!("w{n}"),
                topics: topics(),
                bytes_budget,
            })
        };
        Net {
            now_ms: 1_000_000,
            log: Vec::new(),
            committed: 0,
            states: HashMap::new(),
            rows: HashMap::new(),
            marks: HashMap::new(),
            workers: vec![worker(1), worker(2)],
            owner: None,
            announced: 0,
            claimed: false,
            sent_away: Vec::new(),
            read: 0,
            devices: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            pending: VecDeque::new(),
            desk: Vec::new(),
            stopped: Vec::new(),
            paused: false,
            read_back: 0,
            pages: Vec::new(),
            answers: Vec::new(),
            text_bytes: 0,
            next_id: 0,
            decision: 0,
            sends_batch: 512,
        }
    }

    // ---- ownership

    /// The group gives the partition to a worker, which has announced itself and not begun: nodes register with it already.
    pub fn claim(&mut self, worker: usize) {
        if let Some(before) = self.owner.take() {
            self.workers[before].handle_lost(self.now_ms, P);
        }
        self.announced += 1;
        self.owner = Some(worker);
        self.claimed = true;
        self.workers[worker].handle_claimed(P);
        for d in &mut self.devices {
            d.registered = false;
        }
    }

    /// A worker takes the partition over from whoever has it, at persistence's committed offset.
    pub fn take_over(&mut self, worker: usize) {
        let open: Vec<ConversationKey> = self
            .states
            .iter()
            .filter(|(_, s)| s.session_state() != SessionState::SessionIdle)
            .map(|(k, _)| k.clone())
            .collect();
        if self.claimed {
            self.claimed = false;
            self.read = self.committed;
            let generation = self.generation();
            return self.workers[worker].handle_assigned(self.now_ms, P, generation, Offset(self.committed));
        }
        if let Some(before) = self.owner.take() {
            // Killed or revoked, alike: the new owner does not wait for its word.
            self.workers[before].handle_lost(self.now_ms, P);
        }
        self.announced += 1;
        self.owner = Some(worker);
        self.read = self.committed;
        let generation = self.generation();
        self.workers[worker].handle_assigned(self.now_ms, P, generation, Offset(self.committed));
        self.workers[worker].handle_open_sessions(self.now_ms, P, open);
        for d in &mut self.devices {
            d.registered = false;
        }
    }

    /// The owner announces itself again; nodes hear of it before anything that it has sent.
    pub fn announce_again(&mut self) {
        self.announced += 1;
        let generation = self.generation();
        if let Some(owner) = self.owner {
            self.workers[owner].handle_announced_again(self.now_ms, P, generation);
        }
    }

    pub fn generation(&self) -> Generation {
        Generation {
            group: 1,
            announced: self.announced,
        }
    }

    /// The owner reads `n` more records.
    pub fn read(&mut self, n: usize) {
        let Some(owner) = self.owner.filter(|_| !self.paused) else {
            return;
        };
        let until = (self.read as usize + n).min(self.log.len());
        let batch: Vec<Entry> = self.log[self.read as usize..until].to_vec();
        self.read = until as u64;
        self.workers[owner].handle_records(self.now_ms, P, batch);
    }

    pub fn hear_committed(&mut self) {
        if let Some(owner) = self.owner {
            self.workers[owner].handle_committed(self.now_ms, P, Offset(self.committed));
        }
    }

    pub fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        for w in &mut self.workers {
            w.handle_tick(self.now_ms);
        }
    }

    // ---- effects

    /// Takes the workers' actions; loads, pages and ends wait in `pending`.
    pub fn take_actions(&mut self) {
        for w in 0..self.workers.len() {
            while let Some(action) = self.workers[w].poll_action() {
                match action {
                    Action::Produce {
                        to: ProduceTo::Messages,
                        value,
                        ..
                    } => self.log.push(Entry {
                        offset: Offset(self.log.len() as u64),
                        at_ms: self.now_ms as i64,
                        key: None,
                        value: Some(value),
                    }),
                    Action::Produce {
                        to: ProduceTo::Desk,
                        value,
                        ..
                    } => {
                        self.desk.push(codec::decode_desk(Some(&value)).unwrap());
                    }
                    Action::Pause { .. } => self.paused = true,
                    Action::Resume { .. } => self.paused = false,
                    Action::CloseLink { link, .. } => self.links.retain(|_, l| *l != link),
                    Action::Stop { why, .. } => self.stopped.push(why),
                    waits => self.pending.push_back((w, waits)),
                }
            }
        }
    }

    /// Answers one pending load, page or end; false if there is none.
    pub fn answer_one(&mut self, which: usize) -> bool {
        self.take_actions();
        if self.pending.is_empty() {
            return false;
        }
        let (w, action) = self.pending.remove(which % self.pending.len()).unwrap();
        let now = self.now_ms;
        match action {
            Action::Load {
                partition,
                instance,
                key,
            } => {
                let loaded = Loaded {
                    state: self.states.get(&key).map(State::encode),
                    marks: self.marks.get(&key).copied().unwrap_or_default(),
                };
                self.workers[w].handle_loaded(now, (partition, instance), &key, loaded);
            }
            Action::ReadPage {
                token,
                key,
                after,
                limit,
            } => {
                self.pages.push(limit);
                let rows = self.page(&key, after, limit);
                let token: PageToken = token;
                self.workers[w].handle_page(now, token, &rows);
            }
            Action::ReadBack { token, offsets } => {
                let entries = offsets.iter().map(|o| self.log[o.0 as usize].clone()).collect();
                self.read_back += offsets.len();
                self.workers[w].handle_read_back(now, token, entries);
            }
            Action::AskEnd { partition, instance } => {
                self.workers[w].handle_end(now, (partition, instance), Offset(self.log.len() as u64));
            }
            other => panic!("{other:?}"),
        }
        true
    }

    fn page(&self, key: &ConversationKey, after: Seq, limit: u32) -> Vec<PageRow> {
        let rows = self.rows.get(key).map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .filter(|r| r.seq > after)
            .take(limit as usize)
            .cloned()
            .collect()
    }

    /// Lets everything move until nothing does, acks included.
    pub fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 2_000, "it never settles");
            self.read(usize::MAX / 2);
            let mut moved = false;
            while self.answer_one(0) {
                moved = true;
            }
            moved |= self.take_sends();
            for d in 0..self.devices.len() {
                self.ack(d, 0);
            }
            self.take_actions();
            moved |= self.take_sends() || !self.pending.is_empty();
            if !moved && (self.read as usize == self.log.len() || self.paused || self.owner.is_none()) {
                return;
            }
        }
    }

    pub fn seen(&self, d: usize, conversation: &str) -> Seen {
        self.devices[d].seen.get(conversation).cloned().unwrap_or_default()
    }

    pub fn answer_all(&mut self) {
        while self.answer_one(0) {}
    }
}

/// Alice's phone, and a worker that owns the partition.
pub fn one_customer() -> (Net, usize) {
    let mut net = Net::new();
    let phone = net.device(1, "alice", Role::Customer, "phone");
    net.take_over(0);
    net.register(phone);
    net.settle();
    (net, phone)
}

pub fn seqs(net: &Net, d: usize, conversation: &str) -> Vec<u64> {
    net.seen(d, conversation).events.iter().map(|e| e.0).collect()
}

pub fn frames(net: &Net, d: usize, kind: &str) -> Vec<String> {
    let begins = format!("{{\"{kind}\"");
    net.devices[d]
        .frames
        .iter()
        .filter(|f| f.starts_with(&begins))
        .cloned()
        .collect()
}
