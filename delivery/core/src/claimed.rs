//! Partitions the group gave us that are not read yet. Nodes hear of us as soon as the announcement is in the log, and register
//! before we have begun: what they send waits here, so that nobody is sent away who would only come back.

use std::collections::BTreeMap;

use wire::Partition;
use wire::link::from_worker::Item;
use wire::link::{Acked, NotOwner, Register};

use crate::link::{LinkId, Links};

/// Registrations that wait, of all partitions together; those beyond are sent away and come again at the next heartbeat.
const REGISTRATIONS_MAX: usize = 16_384;

#[derive(Default)]
pub(crate) struct Claimed {
    partitions: BTreeMap<Partition, BTreeMap<(LinkId, u64), Waiting>>,
    waiting: usize,
    order: u64,
}

struct Waiting {
    /// They register in the order in which they came: it decides between connections of one device.
    order: u64,
    register: Register,
}

impl Claimed {
    pub fn claim(&mut self, partition: Partition) {
        self.partitions.entry(partition).or_default();
    }

    /// Keeps a registration; gives it back if the partition is not claimed or too many wait.
    pub fn keep(&mut self, link: LinkId, register: Register) -> Option<Register> {
        let Some(waiting) = self.partitions.get_mut(&Partition(register.partition)) else {
            return Some(register);
        };
        let at = (link, register.connection);
        if self.waiting >= REGISTRATIONS_MAX && !waiting.contains_key(&at) {
            return Some(register);
        }
        self.order += 1;
        let order = self.order;
        if waiting.insert(at, Waiting { order, register }).is_none() {
            self.waiting += 1;
        }
        None
    }

    /// What was acked meanwhile belongs to the registration's place: the node says it only once.
    pub fn acked(&mut self, link: LinkId, acked: &Acked) {
        let waiting = self.partitions.get_mut(&Partition(acked.partition));
        if let Some(waiting) = waiting.and_then(|w| w.get_mut(&(link, acked.connection)))
            && let Some(place) = waiting
                .register
                .places
                .iter_mut()
                .find(|p| p.conversation == acked.conversation)
        {
            place.recv = place.recv.max(acked.recv);
            place.read = place.read.max(acked.read);
        }
    }

    pub fn unregister(&mut self, link: LinkId, connection: u64) {
        for waiting in self.partitions.values_mut() {
            if waiting.remove(&(link, connection)).is_some() {
                self.waiting -= 1;
            }
        }
    }

    pub fn link_down(&mut self, link: LinkId) {
        for waiting in self.partitions.values_mut() {
            let before = waiting.len();
            waiting.retain(|(on, _), _| *on != link);
            self.waiting -= before - waiting.len();
        }
    }

    /// It begins: who waited, in the order in which they came.
    pub fn begin(&mut self, partition: Partition) -> Vec<(LinkId, Register)> {
        let waiting = self.partitions.remove(&partition).unwrap_or_default();
        self.waiting -= waiting.len();
        let mut waiting: Vec<_> = waiting
            .into_iter()
            .map(|((link, _), w)| (w.order, link, w.register))
            .collect();
        waiting.sort_by_key(|(order, _, _)| *order);
        waiting
            .into_iter()
            .map(|(_, link, register)| (link, register))
            .collect()
    }

    /// It never began here: whoever waited is sent away.
    pub fn let_go(&mut self, links: &mut Links, partition: Partition) {
        for (link, register) in self.begin(partition) {
            links.send(link, not_owner(&register));
        }
    }
}

/// We do not own what this connection asked for, and know no generation of it.
pub(crate) fn not_owner(register: &Register) -> Item {
    Item::NotOwner(NotOwner {
        partition: register.partition,
        generation: None,
        connections: vec![register.connection],
    })
}
