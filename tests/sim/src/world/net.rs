//! The modelled network: links between nodes and workers, and clients' connections. What is under way keeps its order; a cut
//! holds it up; a closed or dead end swallows it.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::link::{FromNode, FromWorker};

use super::client::ClientInput;
use super::env::{Env, Event, MS, ProcId};
use super::faults::Fault;
use super::input::Input;
use super::log::Member;

#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub node: Member,
    pub worker: Member,
    to_node_us: u64,
    to_worker_us: u64,
    /// Something was lost on it: nothing passes any more, and nobody is told.
    lost: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Wire {
    pub client: usize,
    pub node: Member,
    to_node_us: u64,
    to_client_us: u64,
    lost: bool,
}

#[derive(Default)]
pub struct Net {
    next: u64,
    links: BTreeMap<u64, Link>,
    wires: BTreeMap<u64, Wire>,
}

impl Env {
    fn hop(&mut self) -> u64 {
        if self.plan.until(self.now_us, |f| *f == Fault::Jitter).is_some() {
            self.hit(|f| *f == Fault::Jitter);
            return self.pick(100..350 * MS);
        }
        match self.pick(0..20) {
            0 => self.pick(5 * MS..80 * MS),
            _ => self.pick(100..self.knobs.hop_us),
        }
    }

    // ---- links ----

    /// A node dials a worker; `LinkAccepted` or `LinkClosed` follows, or nothing while it hangs.
    pub fn dial(&mut self, node: ProcId, worker: ProcId) -> Option<u64> {
        let node = (node, self.life(node)?);
        let worker = (worker, self.life(worker)?);
        self.net.next += 1;
        let id = self.net.next;
        let link = Link {
            node,
            worker,
            to_node_us: 0,
            to_worker_us: 0,
            lost: false,
        };
        self.net.links.insert(id, link);
        self.send_link(id, true, Input::LinkDialed { link: id });
        Some(id)
    }

    /// To the worker, or to the node.
    fn send_link(&mut self, id: u64, to_worker: bool, input: Input) {
        let hop = self.hop();
        let Some(link) = self.net.links.get(&id).copied() else {
            return;
        };
        let (node, worker) = (link.node.0, link.worker.0);
        let (from, to) = if to_worker { (node, worker) } else { (worker, node) };
        let is_cut = |f: &Fault| *f == Fault::CutLink(node, worker) || *f == Fault::CutLinkTo(from, to);
        let is_hole = |f: &Fault| *f == Fault::Blackhole(node, worker);
        let mut at = self.now_us + hop;
        if self.plan.until(self.now_us, is_hole).is_some() {
            self.hit(is_hole);
            if let Some(link) = self.net.links.get_mut(&id) {
                link.lost = true;
            }
        }
        if let Some(until) = self.plan.until(self.now_us, is_cut) {
            self.hit(is_cut);
            at = until + hop;
        }
        let Some(link) = self.net.links.get_mut(&id).filter(|l| !l.lost) else {
            return;
        };
        let (last, (to, life)) = if to_worker {
            (&mut link.to_worker_us, link.worker)
        } else {
            (&mut link.to_node_us, link.node)
        };
        at = at.max(*last);
        *last = at;
        self.at(at, Event::Proc { to, life, input });
    }

    pub fn accept_link(&mut self, link: u64) {
        self.send_link(link, false, Input::LinkAccepted { link });
    }

    pub fn send_to_worker(&mut self, link: u64, items: Vec<FromNode>) {
        self.send_link(link, true, Input::FromNode { link, items });
    }

    pub fn send_to_node(&mut self, link: u64, items: Vec<FromWorker>) {
        self.send_link(link, false, Input::FromWorker { link, items });
    }

    /// One end closes; the other hears of it behind what is under way.
    pub fn close_link(&mut self, link: u64, by_node: bool) {
        self.send_link(link, by_node, Input::LinkClosed { link });
        self.net.links.remove(&link);
    }

    /// Every link between the two is reset: both ends hear of it.
    pub fn reset_links(&mut self, node: ProcId, worker: ProcId) -> u64 {
        let between = |l: &Link| l.node.0 == node && l.worker.0 == worker;
        let ids: Vec<u64> = self
            .net
            .links
            .iter()
            .filter(|(_, l)| between(l))
            .map(|(id, _)| *id)
            .collect();
        for id in &ids {
            self.send_link(*id, false, Input::LinkClosed { link: *id });
            self.close_link(*id, true);
        }
        ids.len() as u64
    }

    // ---- clients' connections ----

    pub fn open_wire(&mut self, client: usize, node: ProcId) -> Option<u64> {
        let node = (node, self.life(node)?);
        self.net.next += 1;
        let id = self.net.next;
        let wire = Wire {
            client,
            node,
            to_node_us: 0,
            to_client_us: 0,
            lost: false,
        };
        self.net.wires.insert(id, wire);
        Some(id)
    }

    fn send_wire(&mut self, id: u64, to_node: Option<Input>, to_client: Option<ClientInput>) {
        let hop = self.hop();
        let Some(wire) = self.net.wires.get(&id).copied() else {
            return;
        };
        let (client, up) = (wire.client, to_node.is_some());
        let is_cut = |f: &Fault| *f == Fault::CutClient(client) || *f == Fault::CutClientTo(client, up);
        let is_out = |f: &Fault| *f == Fault::CableOut(client);
        let mut at = self.now_us + hop;
        if self.plan.until(self.now_us, is_out).is_some() {
            self.hit(is_out);
            if let Some(wire) = self.net.wires.get_mut(&id) {
                wire.lost = true;
            }
        }
        if let Some(until) = self.plan.until(self.now_us, is_cut) {
            self.hit(is_cut);
            at = until + hop;
        }
        let Some(wire) = self.net.wires.get_mut(&id).filter(|w| !w.lost) else {
            return;
        };
        if let Some(input) = to_node {
            at = at.max(wire.to_node_us);
            wire.to_node_us = at;
            let (to, life) = wire.node;
            self.at(at, Event::Proc { to, life, input });
        } else if let Some(input) = to_client {
            at = at.max(wire.to_client_us);
            wire.to_client_us = at;
            let to = wire.client;
            self.at(at, Event::Client { to, input });
        }
    }

    pub fn client_sends(&mut self, wire: u64, frame: Bytes) {
        self.send_wire(wire, Some(Input::ClientFrame { wire, frame }), None);
    }

    pub fn node_writes(&mut self, wire: u64, frame: Bytes) {
        self.send_wire(wire, None, Some(ClientInput::Frame { wire, frame }));
    }

    /// The node ends it, with a code behind what is under way.
    pub fn node_closes(&mut self, wire: u64, code: Option<u16>) {
        self.send_wire(wire, None, Some(ClientInput::Closed { wire, code }));
    }

    /// The client is gone. Half of the time the node only finds out by its silence.
    pub fn client_closes(&mut self, wire: u64, told: bool) {
        if told {
            self.send_wire(wire, Some(Input::ClientGone { wire }), None);
        }
        self.net.wires.remove(&wire);
    }

    /// A killed process: its sockets are reset by the kernel.
    pub fn drop_sockets_of(&mut self, dead: ProcId) {
        let links: Vec<(u64, Link)> = self.net.links.iter().map(|(id, l)| (*id, *l)).collect();
        for (id, link) in links {
            if link.node.0 == dead || link.worker.0 == dead {
                self.close_link(id, link.node.0 == dead);
            }
        }
        let wires: Vec<(u64, Wire)> = self.net.wires.iter().map(|(id, w)| (*id, *w)).collect();
        for (wire, of) in wires {
            if of.node.0 == dead {
                self.node_closes(wire, None);
            }
        }
    }
}
