//! The worker's side of its links: what is queued for each node, within bounds. A full link is never waited for: cursors stand
//! still until the driver has taken some of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use wire::limits;
use wire::link::from_worker::Item;
use wire::link::{FromWorker, Push};

use crate::partition::At;

/// One stream between a node and this worker; given by the driver, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Bytes of frames queued for one link beyond which cursors wait.
const QUEUE_BYTES: usize = 8 * 1_048_576;
/// Items that must not be dropped (registrations, closes, conversation frames) may exceed the bound; beyond this the link goes.
const QUEUE_ITEMS_HARD: usize = 64 * limits::LINK_QUEUE_ITEMS;

/// A cursor that waits for room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stalled {
    pub at: At,
    pub slot: u32,
    pub connection: u64,
}

/// The push queued last, so that the same event for another connection of this node joins it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shared {
    pub instance: u64,
    pub slot: u32,
    pub seq: u64,
    pub hidden: bool,
}

#[derive(Default)]
pub(crate) struct Link {
    /// The node's incarnation; `None` until its hello.
    pub node: Option<u64>,
    queue: Vec<FromWorker>,
    bytes: usize,
    shared: Option<Shared>,
    stalled: Vec<Stalled>,
    listed: bool,
}

impl Link {
    fn has_room(&self) -> bool {
        self.queue.len() < limits::LINK_QUEUE_ITEMS && self.bytes < QUEUE_BYTES
    }
}

#[derive(Default)]
pub(crate) struct Links {
    all: BTreeMap<LinkId, Link>,
    /// Links with something queued, each once.
    ready: Vec<LinkId>,
    /// Links to be dropped for good.
    pub overfull: Vec<LinkId>,
}

impl Links {
    pub fn open(&mut self, link: LinkId) {
        self.all.insert(link, Link::default());
    }

    pub fn close(&mut self, link: LinkId) -> bool {
        self.ready.retain(|l| *l != link);
        self.all.remove(&link).is_some()
    }

    pub fn node_of(&self, link: LinkId) -> Option<u64> {
        self.all.get(&link)?.node
    }

    pub fn greet(&mut self, link: LinkId, node: u64) {
        if let Some(l) = self.all.get_mut(&link) {
            l.node = Some(node);
        }
    }

    pub fn of_node(&self, node: u64) -> Option<LinkId> {
        self.all.iter().find(|(_, l)| l.node == Some(node)).map(|(id, _)| *id)
    }

    pub fn ids(&self) -> Vec<LinkId> {
        self.all.keys().copied().collect()
    }

    pub fn queued_items(&self) -> usize {
        self.all.values().map(|l| l.queue.len()).sum()
    }

    pub fn has_room(&self, link: LinkId) -> bool {
        self.all.get(&link).is_some_and(Link::has_room)
    }

    pub fn stall(&mut self, link: LinkId, stalled: Stalled) {
        if let Some(l) = self.all.get_mut(&link) {
            l.stalled.push(stalled);
        }
    }

    /// Queues an item that must arrive.
    pub fn send(&mut self, link: LinkId, item: Item) {
        let Some(l) = self.all.get_mut(&link) else { return };
        l.shared = None;
        l.queue.push(FromWorker { item: Some(item) });
        if !l.listed {
            l.listed = true;
            self.ready.push(link);
        }
        if l.queue.len() > QUEUE_ITEMS_HARD && !self.overfull.contains(&link) {
            self.overfull.push(link);
        }
    }

    /// Queues one event for one connection, or adds the connection to the same event queued just before.
    pub fn push(
        &mut self,
        link: LinkId,
        shared: Option<Shared>,
        connection: u64,
        make: impl FnOnce() -> (Push, usize),
    ) {
        let Some(l) = self.all.get_mut(&link) else { return };
        if shared.is_some()
            && l.shared == shared
            && let Some(FromWorker {
                item: Some(Item::Push(push)),
            }) = l.queue.last_mut()
        {
            push.connections.push(connection);
            return;
        }
        let (push, bytes) = make();
        self.send(link, Item::Push(push));
        if let Some(l) = self.all.get_mut(&link) {
            l.bytes += bytes;
            l.shared = shared;
        }
    }

    /// A link with something queued.
    pub fn ready(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.ready)
            .into_iter()
            .inspect(|id| {
                if let Some(l) = self.all.get_mut(id) {
                    l.listed = false;
                }
            })
            .collect()
    }

    /// At most `items_max` of what is queued, oldest first, and the cursors that may go on. `ready` names the link again
    /// if something is left.
    pub fn take(&mut self, link: LinkId, items_max: usize) -> (Vec<FromWorker>, Vec<Stalled>) {
        let Some(l) = self.all.get_mut(&link) else {
            return (Vec::new(), Vec::new());
        };
        l.shared = None;
        let taken: Vec<FromWorker> = if l.queue.len() <= items_max {
            l.bytes = 0;
            std::mem::take(&mut l.queue)
        } else {
            let taken: Vec<FromWorker> = l.queue.drain(..items_max).collect();
            l.bytes = l
                .bytes
                .saturating_sub(taken.iter().map(|i| frame_of(i).map_or(0, Bytes::len)).sum());
            if !l.listed {
                l.listed = true;
                self.ready.push(link);
            }
            taken
        };
        // Half empty before anybody goes on: a cursor then gets a run of events, not one at a time.
        let go_on = l.queue.len() * 2 <= limits::LINK_QUEUE_ITEMS && l.bytes * 2 <= QUEUE_BYTES;
        let stalled = if go_on {
            std::mem::take(&mut l.stalled)
        } else {
            Vec::new()
        };
        (taken, stalled)
    }
}

fn frame_of(item: &FromWorker) -> Option<&Bytes> {
    match &item.item {
        Some(Item::Push(p)) => Some(&p.frame),
        _ => None,
    }
}
