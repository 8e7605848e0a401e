//! A whole small network in one struct: a log of one partition, persistence and its store, workers of which one owns the
//! partition at a time, and devices that keep a node's place and a client's memory. Everything waits until it is told to move.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use conversation::{Folded, State};
use delivery_core::{Action, Entry, LinkId, Loaded, Marks, Options, PageRow, PageToken, ProduceTo, Worker};
use wire::codec;
use wire::event::entry_of;
use wire::frames::ServerFrame;
use wire::link::from_node::Item as In;
use wire::link::from_worker::Item;
use wire::link::{Acked, FromNode, FromWorker, NodeHello, Place, Register, Since, Unregister};
use wire::record::{
    Audience, Decision, DeskRecord, Effect, Kind, Notice, Origin, Record, Role, Sender, Session, SessionState,
};
use wire::{
    ConversationKey, Epoch, Generation, Lane, LaneTopics, Offset, Partition, Position, Seq, Tenant, User, WorkerId,
};

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

/// What one device knows of one conversation: the node's place and the client's memory.
#[derive(Default, Debug, Clone)]
pub struct Seen {
    pub begun: bool,
    /// The client has heard of it, on this connection or an earlier one.
    pub ever: bool,
    pub attached: bool,
    /// The node's place.
    pub written: u64,
    pub recv: u64,
    pub read: u64,
    /// What the app was handed, in order; a reset is a jump.
    pub events: Vec<(u64, String)>,
    /// The seq below which history was to be read instead.
    pub jumps: Vec<(u64, u64)>,
    pub pushed_raw: u64,
}

#[derive(Debug, Clone)]
pub struct Device {
    pub connection: u64,
    pub node: u64,
    pub user: String,
    pub role: Role,
    pub name: String,
    pub since: Vec<(String, u64)>,
    pub fresh: bool,
    pub rank: u64,
    pub registered: bool,
    pub gone: bool,
    pub closed: Option<u32>,
    pub generation: Generation,
    pub seen: BTreeMap<String, Seen>,
    /// Frames without a place, and `conversation` frames, as text.
    pub frames: Vec<String>,
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
    pub answers: Vec<wire::link::Answer>,
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
            read: 0,
            devices: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            pending: VecDeque::new(),
            desk: Vec::new(),
            stopped: Vec::new(),
            paused: false,
            answers: Vec::new(),
            next_id: 0,
            decision: 0,
            sends_batch: 512,
        }
    }

    // ---- the log and persistence

    pub fn append(&mut self, customer: &str, record: Record) -> u64 {
        let key = (record.kind() != Kind::Marks).then(|| key(customer).to_key());
        self.log.push(Entry {
            offset: Offset(self.log.len() as u64),
            at_ms: self.now_ms as i64,
            key,
            value: Some(codec::encode(&record)),
        });
        self.log.len() as u64 - 1
    }

    /// A message of a person; from a device if there is one.
    pub fn say(&mut self, conversation: &str, role: Role, user: &str, device: Option<usize>) -> String {
        self.next_id += 1;
        let id = format!("m{}", self.next_id);
        self.say_with(conversation, role, user, device, &id, Audience::Everyone);
        id
    }

    pub fn say_with(
        &mut self,
        conversation: &str,
        role: Role,
        user: &str,
        device: Option<usize>,
        id: &str,
        audience: Audience,
    ) {
        let record = Record {
            version: 1,
            kind: Kind::Message.into(),
            numbered: true,
            wants_agent: role == Role::Customer,
            audience: audience.into(),
            from: Some(Sender {
                role: role.into(),
                user: user.into(),
            }),
            id: id.into(),
            origin: device.map(|d| Origin {
                node: self.devices[d].node,
                connection: self.devices[d].connection,
            }),
            member: format!("\"message\":{{\"text\":\"{id}\"}}").into(),
            ..Record::default()
        };
        self.append(conversation, record);
    }

    /// A desk decision; `None`: closes.
    pub fn decide(&mut self, conversation: &str, agent: Option<&str>) {
        self.decision += 1;
        let record = Record {
            version: 1,
            kind: Kind::Effect.into(),
            numbered: true,
            from: Some(Sender {
                role: Role::System.into(),
                user: String::new(),
            }),
            member: agent
                .map_or("\"closed\":{}".into(), |a| {
                    format!("\"assigned\":{{\"agent\":\"{a}\"}}")
                })
                .into(),
            effect: Some(Effect {
                decision: Some(Decision {
                    epoch: 1,
                    offset: self.decision,
                    number: 0,
                }),
                session: Some(Session {
                    state: match agent {
                        Some(_) => SessionState::SessionActive,
                        None => SessionState::SessionIdle,
                    }
                    .into(),
                    agent: agent.unwrap_or_default().into(),
                    ..Session::default()
                }),
                closed_at_seq: u64::MAX,
                closes: agent.is_none(),
            }),
            ..Record::default()
        };
        self.append(conversation, record);
    }

    pub fn notice(&mut self, conversation: &str, device: Option<usize>, frame: &str) {
        let record = Record {
            version: 1,
            kind: Kind::Notice.into(),
            origin: device.map(|d| Origin {
                node: self.devices[d].node,
                connection: self.devices[d].connection,
            }),
            notice: Some(Notice {
                frame: Bytes::copy_from_slice(frame.as_bytes()),
                to_customer: device.is_none(),
            }),
            ..Record::default()
        };
        self.append(conversation, record);
    }

    /// Persistence takes `n` more records.
    pub fn persist(&mut self, n: usize) {
        let until = (self.committed as usize + n).min(self.log.len());
        for entry in &self.log[self.committed as usize..until] {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).unwrap();
            let Some(key) = decoded.key else {
                for mark in &decoded.record.marks.unwrap().marks {
                    let stored = self.marks.entry(self::key(&mark.customer)).or_default();
                    *stored = stored.merged(Marks {
                        customer_recv: mark.customer_recv,
                        customer_read: mark.customer_read,
                        agent_recv: mark.agent_recv,
                        agent_read: mark.agent_read,
                    });
                }
                continue;
            };
            let state = self.states.entry(key.clone()).or_default();
            let position = Position::new(Epoch(1), entry.offset);
            if let Folded::Event(event) = state.fold(&key, position, entry.at_ms, &decoded.record) {
                self.rows.entry(key).or_default().push(PageRow {
                    seq: event.seq,
                    staff_only: event.staff_only(),
                    at_ms: event.at_ms,
                    entry: entry_of(&event.frame),
                });
            }
        }
        self.committed = until as u64;
    }

    /// What everybody should see of a conversation: the log folded from its start.
    pub fn truth(&self, customer: &str) -> Vec<String> {
        let key = key(customer);
        let mut state = State::default();
        let mut events = Vec::new();
        for entry in &self.log {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).unwrap();
            if decoded.key.as_ref() == Some(&key)
                && let Folded::Event(e) = state.fold(
                    &key,
                    Position::new(Epoch(1), entry.offset),
                    entry.at_ms,
                    &decoded.record,
                )
            {
                events.push(content(&e.frame));
            }
        }
        events
    }

    // ---- ownership

    /// A worker takes the partition over from whoever has it, at persistence's committed offset.
    pub fn take_over(&mut self, worker: usize) {
        let open: Vec<ConversationKey> = self
            .states
            .iter()
            .filter(|(_, s)| s.session_state() != SessionState::SessionIdle)
            .map(|(k, _)| k.clone())
            .collect();
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
                let rows = self.page(&key, after, limit);
                let token: PageToken = token;
                self.workers[w].handle_page(now, token, &rows);
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

    // ---- nodes, devices

    pub fn device(&mut self, node: u64, user: &str, role: Role, name: &str) -> usize {
        let connection = (self.now_ms << 22) + self.devices.len() as u64 + 1;
        self.devices.push(Device {
            connection,
            node,
            user: user.into(),
            role,
            name: name.into(),
            since: Vec::new(),
            fresh: true,
            rank: connection,
            registered: false,
            gone: false,
            closed: None,
            generation: Generation::default(),
            seen: BTreeMap::new(),
            frames: Vec::new(),
        });
        self.devices.len() - 1
    }

    fn link(&mut self, worker: usize, node: u64) -> LinkId {
        if let Some(link) = self.links.get(&(worker, node)) {
            return *link;
        }
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.links.insert((worker, node), link);
        self.workers[worker].handle_link_up(link);
        let hello = NodeHello {
            version: 1,
            node,
            name: String::new(),
            lane: "core".into(),
        };
        self.workers[worker].handle_from_node(
            self.now_ms,
            link,
            FromNode {
                item: Some(In::Hello(hello)),
            },
        );
        link
    }

    fn send_from(&mut self, d: usize, item: In) {
        let Some(owner) = self.owner else { return };
        let link = self.link(owner, self.devices[d].node);
        self.workers[owner].handle_from_node(self.now_ms, link, FromNode { item: Some(item) });
    }

    pub fn register(&mut self, d: usize) {
        if self.devices[d].gone {
            // A connection that was given up never comes back: its client does, on a new one.
            let node = self.devices[d].node;
            return self.reconnect(d, node);
        }
        if self.owner.is_none() || self.devices[d].closed.is_some() {
            return;
        }
        let generation = self.generation();
        let device = &mut self.devices[d];
        device.registered = true;
        device.generation = generation;
        let places = device
            .seen
            .iter()
            .filter(|(_, s)| s.begun)
            .map(|(conversation, s)| Place {
                conversation: conversation.clone(),
                written: s.written,
                recv: s.recv,
                read: s.read,
                attached: s.attached,
            });
        let register = Register {
            connection: device.connection,
            rank: device.rank,
            fresh: device.fresh,
            partition: 0,
            generation: Some(generation.into()),
            tenant: "demo".into(),
            user: device.user.clone(),
            role: device.role.into(),
            device: device.name.clone(),
            places: places.collect(),
            since: device
                .since
                .iter()
                .map(|(c, seq)| Since {
                    conversation: c.clone(),
                    seq: *seq,
                })
                .collect(),
            node_session: String::new(),
        };
        device.fresh = false;
        self.send_from(d, In::Register(register));
    }

    /// The client goes and comes back with what it has: a new connection, on any node.
    pub fn reconnect(&mut self, d: usize, node: u64) {
        let connection = self.devices[d].connection;
        self.send_from(d, In::Unregister(Unregister { connection }));
        self.now_ms += 1;
        let fresh = (self.now_ms << 22) + d as u64 + 1;
        let device = &mut self.devices[d];
        device.connection = fresh;
        device.rank = fresh;
        device.node = node;
        device.fresh = true;
        device.closed = None;
        device.gone = false;
        device.since = device
            .seen
            .iter()
            .filter(|(_, s)| s.ever)
            .map(|(c, s)| (c.clone(), s.written))
            .collect();
        for seen in device.seen.values_mut() {
            seen.begun = false;
            seen.attached = false;
            seen.recv = 0;
            seen.read = 0;
        }
        self.register(d);
    }

    pub fn unregister(&mut self, d: usize) {
        let connection = self.devices[d].connection;
        self.send_from(d, In::Unregister(Unregister { connection }));
        self.devices[d].registered = false;
        self.devices[d].gone = true;
    }

    /// The link between the owner and a node breaks: what is queued on it is lost.
    pub fn drop_link(&mut self, node: u64) {
        let Some(owner) = self.owner else { return };
        if let Some(link) = self.links.remove(&(owner, node)) {
            self.workers[owner].handle_link_down(self.now_ms, link);
        }
        for d in self.devices.iter_mut().filter(|d| d.node == node) {
            d.registered = false;
        }
    }

    /// The device acks everything it has, `short` events less.
    pub fn ack(&mut self, d: usize, short: u64) {
        let device = &mut self.devices[d];
        if !device.registered {
            return;
        }
        let generation = device.generation;
        let acks: Vec<Acked> = device
            .seen
            .iter_mut()
            .filter(|(_, s)| s.begun)
            .map(|(conversation, s)| {
                s.recv = s.recv.max(s.written.saturating_sub(short));
                s.read = s.read.max(s.recv.saturating_sub(short));
                Acked {
                    partition: 0,
                    generation: Some(generation.into()),
                    connection: device.connection,
                    conversation: conversation.clone(),
                    recv: s.recv,
                    read: s.read,
                    ..Acked::default()
                }
            })
            .collect();
        for acked in acks {
            self.send_from(d, In::Acked(acked));
        }
    }

    pub fn item(&mut self, d: usize, item: In) {
        self.send_from(d, item);
    }

    /// Moves what the workers have for their nodes.
    pub fn take_sends(&mut self) -> bool {
        self.take_actions();
        let mut moved = false;
        for w in 0..self.workers.len() {
            for link in self.workers[w].ready_links() {
                let items = self.workers[w].take_sends(self.now_ms, link, self.sends_batch);
                let node = self.links.iter().find(|(_, l)| **l == link).map(|((_, n), _)| *n);
                moved |= !items.is_empty();
                for item in items {
                    if let Some(node) = node {
                        self.at_node(node, item);
                    }
                }
            }
        }
        moved
    }

    /// What a node does with one item: only a connection's next event is written.
    fn at_node(&mut self, node: u64, item: FromWorker) {
        let generation = self.generation();
        let devices = &mut self.devices;
        let on = |devices: &mut Vec<Device>, connection: u64| {
            devices
                .iter()
                .position(|d| d.node == node && d.connection == connection)
        };
        match item.item.unwrap() {
            Item::Push(p) => {
                if Generation::from(p.generation.unwrap()) < generation {
                    return;
                }
                for c in &p.connections {
                    let Some(n) = on(devices, *c) else { continue };
                    let device = &mut devices[n];
                    let seen = device.seen.entry(p.conversation.clone()).or_default();
                    seen.pushed_raw += 1;
                    assert!(seen.begun, "an event before the first conversation frame on {c:x}");
                    if p.seq == seen.written + 1 {
                        seen.written = p.seq;
                        seen.events.push((p.seq, content(&p.frame)));
                    } else {
                        assert!(
                            p.seq <= seen.written,
                            "a hole: {} after {} on {c:x}",
                            p.seq,
                            seen.written
                        );
                    }
                }
            }
            Item::Conversation(m) => {
                if Generation::from(m.generation.unwrap()) < generation {
                    return;
                }
                for c in &m.connections {
                    let Some(n) = on(devices, *c) else { continue };
                    let device = &mut devices[n];
                    device.frames.push(text(&m.frame));
                    let seen = device.seen.entry(m.conversation.clone()).or_default();
                    if m.begin && !seen.begun {
                        if m.from != seen.written {
                            seen.jumps.push((seen.written, m.from));
                        }
                        seen.written = m.from;
                    }
                    seen.begun = true;
                    seen.ever = true;
                    seen.attached = m.access != 0;
                }
            }
            Item::Frame(f) => {
                for c in &f.connections {
                    if let Some(n) = on(devices, *c) {
                        let device = &mut devices[n];
                        device.frames.push(text(&f.frame));
                    }
                }
            }
            Item::Reset(r) if Generation::from(r.generation.unwrap()) < generation => {}
            Item::Rewind(r) if Generation::from(r.generation.unwrap()) < generation => {}
            Item::Reset(r) => {
                if let Some(n) = on(devices, r.connection) {
                    let device = &mut devices[n];
                    let seen = device.seen.entry(r.conversation).or_default();
                    if r.last_seq > seen.written {
                        seen.jumps.push((seen.written, r.last_seq));
                        seen.written = r.last_seq;
                    }
                    device.frames.push(format!("reset {}", r.last_seq));
                }
            }
            Item::Rewind(r) => {
                if let Some(n) = on(devices, r.connection) {
                    let device = &mut devices[n];
                    let seen = device.seen.entry(r.conversation).or_default();
                    seen.written = r.last_seq;
                    device.frames.push(format!("rewind {}", r.last_seq));
                }
            }
            Item::Close(c) => {
                if let Some(n) = on(devices, c.connection) {
                    let device = &mut devices[n];
                    device.closed = Some(c.code);
                    device.registered = false;
                }
            }
            Item::Registered(r) => {
                if let Some(n) = on(devices, r.connection) {
                    let device = &mut devices[n];
                    device.rank = device.rank.max(r.rank);
                }
            }
            Item::Answer(a) => self.answers.push(a),
            Item::NotOwner(_) | Item::Hello(_) | Item::Heartbeat(_) => {}
        }
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
}

fn text(frame: &Bytes) -> String {
    String::from_utf8(frame.to_vec()).unwrap()
}

/// What an event says: the id of a message, the name of anything else.
pub fn content(frame: &[u8]) -> String {
    match serde_json::from_slice(frame).unwrap() {
        ServerFrame::Placed(p) => p.id.into_owned(),
        ServerFrame::Event(e) if e.message.is_some() => e.id.unwrap().into_owned(),
        ServerFrame::Event(e) if e.hidden.is_some() => "hidden".into(),
        ServerFrame::Event(e) if e.assigned.is_some() => e.assigned.unwrap().get().to_owned(),
        ServerFrame::Event(e) if e.closed.is_some() => "closed".into(),
        other => panic!("{other:?}"),
    }
}

impl Net {
    /// The conversation's state by the whole log.
    pub fn state_of(&self, customer: &str) -> State {
        let key = key(customer);
        let mut state = State::default();
        for entry in &self.log {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).unwrap();
            if decoded.key.as_ref() == Some(&key) {
                state.fold(
                    &key,
                    Position::new(Epoch(1), entry.offset),
                    entry.at_ms,
                    &decoded.record,
                );
            }
        }
        state
    }
}

impl Net {
    pub fn answer_all(&mut self) {
        while self.answer_one(0) {}
    }

    /// Retention takes the first `n` events of a conversation.
    pub fn forget_rows(&mut self, customer: &str, n: usize) {
        if let Some(rows) = self.rows.get_mut(&key(customer)) {
            rows.drain(..n);
        }
    }

    /// The marks of the last record of watermarks.
    pub fn last_marks(&self) -> Option<wire::record::Mark> {
        self.log.iter().rev().find_map(|entry| {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).ok()?;
            decoded.record.marks?.marks.first().cloned()
        })
    }
}
