//! Nodes and the devices on them: what a device knows, what its node sends for it, and what a node does with what comes.

use std::collections::BTreeMap;

use bytes::Bytes;
use delivery_core::LinkId;
use wire::Generation;
use wire::frames::ServerFrame;
use wire::link::from_node::Item as In;
use wire::link::from_worker::Item;
use wire::link::{Acked, FromNode, FromWorker, NodeHello, Place, Register, Since, Unregister};
use wire::record::{Role, Sender};

use super::Net;

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

impl Device {
    pub fn sender(&self) -> Sender {
        Sender {
            role: self.role.into(),
            user: self.user.clone(),
        }
    }
}

impl Net {
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
            Item::NotOwner(n) => self.sent_away.extend(n.connections),
            Item::Hello(_) | Item::Heartbeat(_) => {}
        }
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
