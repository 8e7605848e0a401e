//! The tasks behind the links: one that follows `owners`, and one per worker that dials, sends, receives and dials again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ordered_log::{Log, LogRecord, TailEvent};
use process::{Drain, Kind};
use tokio::sync::mpsc;
use wire::frames::Since as SinceFrame;
use wire::link::from_node::Item;
use wire::link::{FromNode, Heartbeat, NodeHello, Place, Register, Since, ToWorker};
use wire::record::Owner;
use wire::{Generation, Partition, limits};

use super::dial::{Incoming, LinkTls, LocalDialer, dial};
use super::incoming;
use super::queue::{LinkQueue, Next, ToRegister};
use crate::conn::Conn;
use crate::node::Node;

const LINK_VERSION: u32 = 1;
const DIAL_AGAIN_MS_MIN: u64 = 50;
const DIAL_AGAIN_MS_MAX: u64 = 2_000;
/// So many failures in a row are told: fewer are a restart.
const FAILURES_TOLD: u32 = 4;
const TAIL_AGAIN_MS: u64 = 500;

/// What every link of a node needs.
#[derive(Clone)]
pub struct LinkContext {
    pub node: Arc<Node>,
    pub local: Option<LocalDialer>,
    pub tls: Option<LinkTls>,
}

/// Follows the compacted `owners` topic for as long as the node lives.
pub async fn run_owners(context: LinkContext, log: Arc<dyn Log>, drain: Drain) {
    let topic: ordered_log::Topic = context.node.topics.owners().into();
    loop {
        match log.tail(Arc::clone(&topic)).await {
            Ok(mut events) => {
                while let Some(event) = events.recv().await {
                    if let TailEvent::Record(record) = event {
                        learn(&context, &record);
                    }
                    context
                        .node
                        .meters
                        .link_queue_items
                        .set(context.node.links.queue_items() as f64);
                }
            }
            Err(error) => tracing::warn!(%error, "the owners of partitions cannot be followed; trying again"),
        }
        // Connections stay during a drain, and so do their links; only a log that ended because of it is not asked again.
        let again = tokio::time::sleep(Duration::from_millis(TAIL_AGAIN_MS));
        if drain.unless_started(again).await.is_none() {
            return;
        }
    }
}

/// One record of `owners`. What cannot be read is passed over: the last good owner stays.
fn learn(context: &LinkContext, record: &LogRecord) {
    let Some(owner) = read_owner(record.key.as_ref(), record.value.as_ref()) else {
        if record.value.is_some() {
            tracing::warn!(
                offset = record.offset.0,
                "a record of `owners` cannot be read and is passed over"
            );
        }
        return;
    };
    let generation = Generation {
        group: owner.group_generation,
        announced: record.offset.0,
    };
    let worker = owner.worker_incarnation;
    if let Some(queue) = context.node.links.learn(&context.node, owner, generation) {
        context
            .node
            .tasks
            .spawn(Kind::Worker, "link", Box::pin(run_link(context.clone(), worker, queue)));
    }
}

fn read_owner(key: Option<&Bytes>, value: Option<&Bytes>) -> Option<Owner> {
    let owner: Owner = prost::Message::decode(value?.clone()).ok()?;
    let named: u32 = std::str::from_utf8(key?).ok()?.parse().ok()?;
    (named == owner.partition).then_some(owner)
}

/// An error of the transport says what it was only by its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

/// One worker's link, until it owns nothing any more.
async fn run_link(context: LinkContext, worker: u64, queue: Arc<LinkQueue>) {
    let node = &context.node;
    let (mut wait_ms, mut failures) = (DIAL_AGAIN_MS_MIN, 0u32);
    loop {
        if node.tasks.drain().is_started() && node.open_connections() == 0 {
            return;
        }
        let Some(owner) = node.links.still_wanted(worker) else {
            return;
        };
        match dial(&owner, context.local.as_ref(), context.tls.as_ref()).await {
            Ok((sender, incoming)) => {
                node.meters.link_connect("ok");
                node.meters.link_up.increment(1.0);
                let reason = attached(node, &owner, &queue, sender, incoming).await;
                queue.set_up(false);
                node.meters.link_up.decrement(1.0);
                node.meters.link_lost(reason);
                tracing::info!(worker = owner.worker, reason, "the link is down");
                (wait_ms, failures) = (DIAL_AGAIN_MS_MIN, 0);
            }
            Err(error) => {
                node.meters.link_connect("failed");
                failures = failures.saturating_add(1);
                let (worker, address, why) = (&owner.worker, &owner.link_address, with_causes(&error));
                if failures == FAILURES_TOLD {
                    tracing::warn!(
                        worker,
                        address,
                        why,
                        "a worker cannot be reached; it is dialled again until it can"
                    );
                } else {
                    tracing::debug!(worker, address, why, "no link yet");
                }
                wait_ms = (wait_ms * 2).min(DIAL_AGAIN_MS_MAX);
            }
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// A link that is up, until it is not. Returns why: a metric label.
async fn attached(
    node: &Arc<Node>,
    owner: &Owner,
    queue: &Arc<LinkQueue>,
    sender: mpsc::Sender<ToWorker>,
    mut incoming: Incoming,
) -> &'static str {
    let hello = Item::Hello(NodeHello {
        version: LINK_VERSION,
        node: node.id.0,
        name: node.name.clone(),
        lane: node.topics.lane.as_str().to_owned(),
    });
    if sender.send(message([hello])).await.is_err() {
        return "closed";
    }
    node.links.came_up(node, owner.worker_incarnation);
    // A worker of this process shares our fate: its channel closes when it ends, and while all of us stand still it cannot be heard.
    let silence = match incoming {
        Incoming::Local(_) => Duration::MAX,
        _ => Duration::from_millis(limits::LINK_TIMEOUT_MS),
    };
    let receive = async {
        loop {
            match tokio::time::timeout(silence, incoming.next()).await {
                Ok(Some(message)) => incoming::apply(node, &owner.worker, queue, message),
                Ok(None) => return "closed",
                Err(_) => return "timeout",
            }
        }
    };
    // Neither side's progress is lost when the other ends: the link is over then, and registering again repairs it.
    tokio::select! {
        reason = receive => reason,
        reason = send(node, owner.worker_incarnation, queue, sender, silence) => reason,
    }
}

async fn send(
    node: &Node,
    worker: u64,
    queue: &LinkQueue,
    sender: mpsc::Sender<ToWorker>,
    in_time: Duration,
) -> &'static str {
    loop {
        let batch = match queue.next().await {
            Next::Register(names) => {
                let items = names.into_iter().filter_map(|name| registration(node, worker, name));
                message(items)
            }
            Next::Items(items) => ToWorker { items },
            Next::Quiet => message([Item::Heartbeat(Heartbeat {})]),
            Next::Overflowed => return "error",
            Next::Closed => return "closed",
        };
        match tokio::time::timeout(in_time, sender.send(batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return "closed",
            Err(_) => return "timeout",
        }
    }
}

fn message(items: impl IntoIterator<Item = Item>) -> ToWorker {
    ToWorker {
        items: items.into_iter().map(|item| FromNode { item: Some(item) }).collect(),
    }
}

/// Where the connection stands now; `None` if it has gone, or if its partition is another worker's by now.
fn registration(node: &Node, worker: u64, (partition, id): ToRegister) -> Option<Item> {
    let conn = node.find(id)?;
    let generation = node.links.generation(partition, worker)?;
    Some(Item::Register(register(&conn, partition, generation, &node.topics)))
}

fn register(conn: &Conn, partition: Partition, generation: Generation, topics: &wire::LaneTopics) -> Register {
    let session = conn.session();
    let here = |conversation: &wire::User| {
        let key = wire::ConversationKey::new(conn.tenant().clone(), conversation.clone());
        topics.partition_of(&key) == partition
    };
    let places = session.places().filter(|(conversation, _)| here(conversation));
    let places = places.map(|(conversation, place)| Place {
        conversation: conversation.as_str().to_owned(),
        written: place.written.unwrap_or_default().0,
        recv: place.recv.0,
        read: place.read.0,
        attached: place.attached(),
    });
    let since = match session.since() {
        None => Vec::new(),
        // A number names no conversation of an agent's.
        Some(SinceFrame::Own(_)) if conn.is_staff() => Vec::new(),
        Some(SinceFrame::Own(seq)) => vec![(conn.account.user.as_str(), *seq)],
        Some(SinceFrame::Conversations(map)) => map.iter().map(|(c, seq)| (c.as_str(), *seq)).collect(),
    };
    let since = since
        .into_iter()
        .filter(|(c, _)| wire::User::new(c).is_ok_and(|c| here(&c)));
    Register {
        connection: conn.id.0,
        rank: conn.rank(),
        fresh: conn.is_fresh(),
        partition: partition.0,
        generation: Some(generation.into()),
        tenant: conn.tenant().as_str().to_owned(),
        user: conn.account.user.as_str().to_owned(),
        role: session.role.into(),
        device: conn.device.as_ref().map_or("", |d| d.as_str()).to_owned(),
        places: places.collect(),
        since: since
            .map(|(conversation, seq)| Since {
                conversation: conversation.to_owned(),
                seq,
            })
            .collect(),
        node_session: String::new(),
    }
}
