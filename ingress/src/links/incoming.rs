//! What a worker sends → the connections it names. A push of a lower generation than the highest heard is refused (I11).

use std::sync::Arc;

use serde_json::json;
use wire::link::from_worker::Item;
use wire::link::{FromWorker, NotOwner, Push, Registered, ToNode};
use wire::{CloseCode, ConnectionId, Generation, Partition, Seq};

use super::queue::LinkQueue;
use crate::conn::Conn;
use crate::node::Node;

/// How a receipt begins: frames are passed on unparsed.
const RECEIPT: &[u8] = br#"{"receipt":"#;

/// Applies one message of the link.
pub(super) fn apply(node: &Node, worker: &str, queue: &LinkQueue, message: ToNode) {
    for FromWorker { item } in message.items {
        match item {
            Some(Item::Push(push)) => apply_push(node, worker, push),
            Some(Item::Conversation(item)) => {
                let deed = Deed::new(worker, "conversation", &item.conversation, 0);
                if is_current(node, &deed, item.partition, item.generation) {
                    to_each(node, &item.connections, |conn, now| {
                        conn.with(|session| session.handle_conversation(now, &item));
                    });
                }
            }
            Some(Item::Frame(item)) => {
                let deed = Deed::new(worker, "frame", "", 0);
                if is_current(node, &deed, item.partition, item.generation) {
                    let frame = item.frame.clone();
                    let receipt = frame.starts_with(RECEIPT);
                    to_each(node, &item.connections, |conn, now| {
                        // Held off, receipts are not written; the next one says all that they said.
                        if !receipt || conn.account.tenant.receipts_on() {
                            conn.with(|session| session.handle_loose(now, frame.clone()));
                        }
                    });
                }
            }
            Some(Item::Reset(item)) => {
                let deed = Deed::new(worker, "reset", &item.conversation, item.last_seq);
                if is_current(node, &deed, item.partition, item.generation) {
                    to_each(node, &[item.connection], |conn, now| {
                        conn.with(|s| s.handle_moved(now, &item.conversation, Seq(item.last_seq), false));
                    });
                }
            }
            Some(Item::Rewind(item)) => {
                let deed = Deed::new(worker, "rewind", &item.conversation, item.last_seq);
                if is_current(node, &deed, item.partition, item.generation) {
                    to_each(node, &[item.connection], |conn, now| {
                        conn.with(|s| s.handle_moved(now, &item.conversation, Seq(item.last_seq), true));
                    });
                }
            }
            Some(Item::Registered(item)) => registered(node, &item),
            Some(Item::NotOwner(item)) => not_owner(node, queue, item),
            Some(Item::Close(item)) => {
                let code = u16::try_from(item.code).ok().and_then(CloseCode::from_number);
                to_each(node, &[item.connection], |conn, _| {
                    conn.close(code.unwrap_or(CloseCode::Internal))
                });
            }
            Some(Item::Answer(answer)) => node.links.answered(answer),
            Some(Item::Hello(_) | Item::Heartbeat(_)) | None => {}
        }
    }
}

fn apply_push(node: &Node, worker: &str, push: Push) {
    let deed = Deed::new(worker, "push", &push.conversation, push.seq);
    if !is_current(node, &deed, push.partition, push.generation) {
        return;
    }
    let frame = push.frame;
    let now = node.clock.now_ms();
    for id in &push.connections {
        let Some(conn) = node.find(ConnectionId(*id)) else {
            node.meters.dropped_gone.increment(1);
            continue;
        };
        let written = conn.with(|s| s.handle_push(now, &push.conversation, Seq(push.seq), frame.clone()));
        if written {
            node.meters.written.increment(1);
        } else {
            node.meters.dropped_not_next.increment(1);
        }
    }
}

/// Something an owner does here.
struct Deed<'a> {
    worker: &'a str,
    what: &'static str,
    conversation: &'a str,
    seq: u64,
}

impl<'a> Deed<'a> {
    fn new(worker: &'a str, what: &'static str, conversation: &'a str, seq: u64) -> Self {
        Self {
            worker,
            what,
            conversation,
            seq,
        }
    }
}

fn is_current(node: &Node, deed: &Deed, partition: u32, generation: Option<wire::link::Generation>) -> bool {
    let generation: Generation = generation.unwrap_or_default().into();
    let mut heard = node.links.heard.lock();
    let current = heard.accept(Partition(partition), generation);
    if node.recorder.is_on() {
        // Under the lock: the history has the deeds in the order in which they were let in.
        record(node, deed, partition, generation, current);
    }
    drop(heard);
    if !current {
        node.meters.stale(deed.what);
    }
    current
}

/// A node that starts anew has heard of nobody yet: it is another receiver.
fn record(node: &Node, deed: &Deed, partition: u32, generation: Generation, current: bool) {
    let fields = || {
        json!({
            "worker": deed.worker,
            "generation": { "group": generation.group, "announced": generation.announced },
            "partition": partition,
            "receiver": format!("{}/{:x}", node.name, node.id.0),
            "what": deed.what,
            "conversation": deed.conversation,
            "seq": deed.seq,
        })
    };
    if current {
        node.recorder.ok("out", fields);
    } else {
        node.recorder.fail("out", fields);
    }
}

fn to_each(node: &Node, connections: &[u64], mut apply: impl FnMut(&Arc<Conn>, u64)) {
    let now = node.clock.now_ms();
    for id in connections {
        match node.find(ConnectionId(*id)) {
            Some(conn) => apply(&conn, now),
            None => node.meters.dropped_gone.increment(1),
        }
    }
}

fn registered(node: &Node, item: &Registered) {
    let generation: Generation = item.generation.unwrap_or_default().into();
    node.links.heard.lock().accept(Partition(item.partition), generation);
    if let Some(conn) = node.find(ConnectionId(item.connection)) {
        conn.set_registered(item.rank);
    }
}

/// The worker says it does not own the partition. Either `owners` will name another one soon, or it is not ready yet: ask again.
fn not_owner(node: &Node, queue: &LinkQueue, item: NotOwner) {
    let partition = Partition(item.partition);
    if item.connections.is_empty() {
        let mut again = Vec::new();
        node.for_each(|conn| {
            if conn.partition.is_none_or(|p| p == partition) {
                again.push((partition, conn.id));
            }
        });
        queue.register_later(again);
    } else {
        queue.register_later(item.connections.iter().map(|id| (partition, ConnectionId(*id))));
    }
}
