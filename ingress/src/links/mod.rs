//! The node's side of the links: who owns which partition, one link per worker, and every connection registered where it
//! belongs. Customers are registered with their partition's owner, staff with every owner of the lane.
//!
//! The table is one mutex: registering (a connection comes) and learning (an owner comes) exclude each other, so none of them
//! can miss the other.

mod dial;
mod incoming;
mod queue;
mod run;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ingress_core::Heard;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use wire::link::from_node::Item;
use wire::link::{Access, Acked, Answer, Ask, Typing, Unregister, Whose};
use wire::record::{Owner, Role, Session, SessionState};
use wire::{ConnectionId, Generation, NodeId, Partition, Seq, Tenant, User};

use crate::conn::Conn;
use crate::node::Node;
use crate::tenants::Account;
use queue::{LinkQueue, ToRegister};

pub use dial::{LinkTls, LocalDialer};
pub use run::{LinkContext, run_owners};

/// How long an owner may take to say who may speak.
const ASK_TIMEOUT_MS: u64 = 1_000;

/// A partition's owner as the node believes.
#[derive(Clone)]
struct OwnerEntry {
    owner: Owner,
    generation: Generation,
    queue: Arc<LinkQueue>,
}

#[derive(Default)]
struct Table {
    owners: Vec<Option<OwnerEntry>>,
    /// By the worker's incarnation.
    links: BTreeMap<u64, Arc<LinkQueue>>,
    staff: HashMap<u64, Arc<Conn>>,
}

pub struct Links {
    table: Mutex<Table>,
    heard: Mutex<Heard>,
    asks: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    last_ask: AtomicU64,
}

/// Where acks and typing come from: a connection here, or one of another node that was named in a POST.
#[derive(Clone, Copy)]
pub struct From<'a> {
    pub connection: ConnectionId,
    /// Of another node: which, and whose token the POST showed.
    pub elsewhere: Option<(NodeId, &'a Account, Role)>,
}

impl Links {
    pub fn new(partitions: u32) -> Self {
        Self {
            table: Mutex::new(Table {
                owners: vec![None; partitions as usize],
                ..Table::default()
            }),
            heard: Mutex::new(Heard::new(partitions)),
            asks: Mutex::default(),
            last_ask: AtomicU64::new(0),
        }
    }

    // ---- connections ----

    /// A connection has come.
    pub fn register(&self, conn: &Arc<Conn>) {
        let mut table = self.table.lock();
        match conn.partition {
            Some(partition) => {
                if let Some(entry) = table.owner(partition) {
                    entry.queue.register([(partition, conn.id)]);
                }
            }
            None => {
                table.staff.insert(conn.id.0, Arc::clone(conn));
                for (partition, entry) in table.known() {
                    entry.queue.register([(partition, conn.id)]);
                }
            }
        }
    }

    /// A connection has gone.
    pub fn unregister(&self, conn: &Conn) {
        let item = || Item::Unregister(Unregister { connection: conn.id.0 });
        let mut table = self.table.lock();
        match conn.partition {
            Some(partition) => {
                if let Some(entry) = table.owner(partition) {
                    entry.queue.push(item());
                }
            }
            None => {
                table.staff.remove(&conn.id.0);
                table.links.values().for_each(|queue| queue.push(item()));
            }
        }
    }

    pub fn for_each_staff(&self, mut visit: impl FnMut(&Arc<Conn>)) {
        let staff: Vec<Arc<Conn>> = self.table.lock().staff.values().map(Arc::clone).collect();
        staff.iter().for_each(&mut visit);
    }

    // ---- to the owners ----

    pub fn acked(&self, partition: Partition, from: From<'_>, conversation: &User, recv: Seq, read: Seq) {
        if let Some(entry) = self.table.lock().owner(partition) {
            entry.queue.push(Item::Acked(Acked {
                partition: partition.0,
                generation: Some(entry.generation.into()),
                connection: from.connection.0,
                conversation: conversation.as_str().to_owned(),
                recv: recv.0,
                read: read.0,
                node: from.node(),
                whose: from.whose(),
            }));
        }
    }

    pub fn typing(&self, partition: Partition, from: From<'_>, conversation: &User) {
        if let Some(entry) = self.table.lock().owner(partition) {
            entry.queue.push(Item::Typing(Typing {
                partition: partition.0,
                connection: from.connection.0,
                conversation: conversation.as_str().to_owned(),
                node: from.node(),
                whose: from.whose(),
            }));
        }
    }

    /// The conversation's session now. `None`: the owner did not say within a second.
    pub async fn ask(&self, partition: Partition, tenant: &Tenant, conversation: &User) -> Option<Session> {
        let number = self.last_ask.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = oneshot::channel();
        let queue = {
            let table = self.table.lock();
            let entry = table.owner(partition)?;
            entry.queue.is_up().then(|| Arc::clone(&entry.queue))?
        };
        self.asks.lock().insert(number, sender);
        queue.push(Item::Ask(Ask {
            ask: number,
            partition: partition.0,
            tenant: tenant.as_str().to_owned(),
            conversation: conversation.as_str().to_owned(),
        }));
        let answer = tokio::time::timeout(std::time::Duration::from_millis(ASK_TIMEOUT_MS), receiver).await;
        self.asks.lock().remove(&number);
        let answer = answer.ok()?.ok()?;
        answer.known.then(|| answer.session.unwrap_or_default())
    }

    fn answered(&self, answer: Answer) {
        if let Some(sender) = self.asks.lock().remove(&answer.ask) {
            // The asker may have gone meanwhile.
            let _ = sender.send(answer);
        }
    }

    // ---- owners ----

    /// Takes note of an owner. Returns the queue of a worker that has no link yet: somebody must run it.
    fn learn(&self, node: &Node, owner: Owner, generation: Generation) -> Option<Arc<LinkQueue>> {
        let partition = Partition(owner.partition);
        let mut table = self.table.lock();
        let known = table.owners.get(partition.0 as usize)?;
        if known.as_ref().is_some_and(|k| k.generation >= generation) {
            return None;
        }
        self.heard.lock().accept(partition, generation);
        node.meters.owner_changes.increment(1);
        let worker = owner.worker_incarnation;
        let new = !table.links.contains_key(&worker);
        let queue = Arc::clone(table.links.entry(worker).or_default());
        table.owners[partition.0 as usize] = Some(OwnerEntry {
            owner,
            generation,
            queue: Arc::clone(&queue),
        });
        if !new {
            let wanted: BTreeSet<Partition> = [partition].into();
            queue.register(table.registrations(node, &wanted));
        }
        new.then_some(queue)
    }

    /// The link to a worker is up: everybody who belongs there is registered.
    fn came_up(&self, node: &Node, worker: u64) {
        let table = self.table.lock();
        let Some(queue) = table.links.get(&worker) else { return };
        queue.set_up(true);
        let owned = table
            .known()
            .filter(|(_, e)| e.owner.worker_incarnation == worker)
            .map(|(p, _)| p);
        let owned: BTreeSet<Partition> = owned.collect();
        queue.register(table.registrations(node, &owned));
    }

    /// The worker's address, while it owns something; otherwise the link is forgotten.
    fn still_wanted(&self, worker: u64) -> Option<Owner> {
        let mut table = self.table.lock();
        let owner = table
            .known()
            .find(|(_, e)| e.owner.worker_incarnation == worker)
            .map(|(_, e)| e.owner.clone());
        if owner.is_none() {
            table.links.remove(&worker);
        }
        owner
    }

    /// The generation in which the worker owns the partition; `None`: it is another's.
    fn generation(&self, partition: Partition, worker: u64) -> Option<Generation> {
        let table = self.table.lock();
        let entry = table.owner(partition)?;
        (entry.owner.worker_incarnation == worker).then_some(entry.generation)
    }

    /// The node leaves: its links end.
    pub fn close(&self) {
        let mut table = self.table.lock();
        table.links.values().for_each(|queue| queue.close());
        table.links.clear();
        table.owners.iter_mut().for_each(|owner| *owner = None);
    }

    fn queue_items(&self) -> usize {
        self.table.lock().links.values().map(|q| q.len()).sum()
    }

    /// Are all partitions owned by workers we have a link to?
    pub fn complete(&self) -> bool {
        let table = self.table.lock();
        table.owners.iter().all(|o| o.as_ref().is_some_and(|e| e.queue.is_up()))
    }
}

impl Table {
    fn owner(&self, partition: Partition) -> Option<&OwnerEntry> {
        self.owners.get(partition.0 as usize)?.as_ref()
    }

    fn known(&self) -> impl Iterator<Item = (Partition, &OwnerEntry)> {
        self.owners
            .iter()
            .enumerate()
            .filter_map(|(p, o)| Some((Partition(p as u32), o.as_ref()?)))
    }

    /// Who belongs to these partitions: their customers, and all staff.
    fn registrations(&self, node: &Node, partitions: &BTreeSet<Partition>) -> Vec<ToRegister> {
        let mut found = Vec::new();
        if partitions.is_empty() {
            return found;
        }
        for id in self.staff.keys() {
            found.extend(partitions.iter().map(|p| (*p, ConnectionId(*id))));
        }
        node.for_each(|conn| {
            if let Some(partition) = conn.partition.filter(|p| partitions.contains(p)) {
                found.push((partition, conn.id));
            }
        });
        found
    }
}

/// What a session lets a member of staff do.
pub fn access_of(session: &Session, user: &User) -> Access {
    if session.agent == user.as_str() || session.joined.iter().any(|j| j == user.as_str()) {
        Access::Full
    } else if session.watching.iter().any(|w| w == user.as_str()) {
        Access::Watch
    } else {
        Access::None
    }
}

/// Is there a session? Where there is one, another message or request opens nothing.
pub fn is_open(session: &Session) -> bool {
    session.state() != SessionState::SessionIdle
}

impl From<'_> {
    /// A connection of this node.
    pub fn here(connection: ConnectionId) -> Self {
        Self {
            connection,
            elsewhere: None,
        }
    }

    fn node(&self) -> u64 {
        self.elsewhere.map_or(0, |(node, ..)| node.0)
    }

    fn whose(&self) -> Option<Whose> {
        self.elsewhere.map(|(_, account, role)| Whose {
            tenant: account.tenant.tenant.as_str().to_owned(),
            user: account.user.as_str().to_owned(),
            role: role.into(),
        })
    }
}
