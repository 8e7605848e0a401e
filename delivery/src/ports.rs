//! Links as the driver holds them: a bounded channel each way. A full one is never awaited: what the core has for it stays in
//! the core until there is room.

use std::collections::{BTreeMap, BTreeSet};

use delivery_core::{LinkId, Worker};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::limits;
use wire::link::from_worker::Item;
use wire::link::{FromWorker, Heartbeat, ToNode, ToWorker};

use crate::handle::NewLink;

struct Port {
    outgoing: mpsc::Sender<ToNode>,
    /// Waiting for room in `outgoing`.
    blocked: bool,
    sent_ms: u64,
    heard_ms: u64,
    /// Its drop ends the incoming stream too.
    _open: DropGuard,
}

/// What came over a link; `None`: it is down.
pub(crate) type Arrival = (LinkId, Option<ToWorker>);
/// A link that has room again, with the permit to use it; `None`: it is down.
pub(crate) type Room = (LinkId, Option<mpsc::OwnedPermit<ToNode>>);

#[derive(Default)]
pub(crate) struct Ports {
    ports: BTreeMap<LinkId, Port>,
    /// Links the core has something for.
    ready: BTreeSet<LinkId>,
    pub arrivals: SelectAll<BoxStream<'static, Arrival>>,
    pub rooms: FuturesUnordered<BoxFuture<'static, Room>>,
    last: u64,
    beaten_ms: u64,
}

impl Ports {
    pub fn open(&mut self, now_ms: u64, link: NewLink) -> LinkId {
        self.last += 1;
        let id = LinkId(self.last);
        let closed = CancellationToken::new();
        let port = Port {
            outgoing: link.outgoing,
            blocked: false,
            sent_ms: now_ms,
            heard_ms: now_ms,
            _open: closed.clone().drop_guard(),
        };
        self.ports.insert(id, port);
        let incoming = ReceiverStream::new(link.incoming)
            .take_until(closed.cancelled_owned())
            .map(move |message| (id, Some(message)));
        self.arrivals
            .push(incoming.chain(stream::once(async move { (id, None) })).boxed());
        id
    }

    /// Drops both ends: the node sees the link go down.
    pub fn close(&mut self, link: LinkId) -> bool {
        self.ready.remove(&link);
        self.ports.remove(&link).is_some()
    }

    pub fn heard(&mut self, now_ms: u64, link: LinkId) -> bool {
        let port = self.ports.get_mut(&link);
        port.map(|p| p.heard_ms = now_ms).is_some()
    }

    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Moves what the core has queued into the links that have room. Returns links that are down.
    pub fn flush(&mut self, now_ms: u64, core: &mut Worker) -> Vec<LinkId> {
        let mut down = Vec::new();
        self.ready.extend(core.ready_links());
        let ready: Vec<LinkId> = self.ready.iter().copied().collect();
        for link in ready {
            self.ready.remove(&link);
            let Some(port) = self.ports.get_mut(&link) else {
                continue;
            };
            if port.blocked {
                self.ready.insert(link);
                continue;
            }
            loop {
                match port.outgoing.clone().try_reserve_owned() {
                    Ok(permit) => {
                        let items = core.take_sends(now_ms, link, limits::LINK_BATCH_ITEMS);
                        if items.is_empty() {
                            break;
                        }
                        port.sent_ms = now_ms;
                        permit.send(ToNode { items });
                    }
                    Err(mpsc::error::TrySendError::Full(sender)) => {
                        port.blocked = true;
                        self.ready.insert(link);
                        self.rooms
                            .push(sender.reserve_owned().map(move |r| (link, r.ok())).boxed());
                        break;
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        down.push(link);
                        break;
                    }
                }
            }
        }
        down
    }

    /// A blocked link has room again: use it. False if the link is down.
    pub fn has_room(&mut self, now_ms: u64, core: &mut Worker, (link, permit): Room) -> bool {
        let Some(port) = self.ports.get_mut(&link) else {
            return true;
        };
        let Some(permit) = permit else { return false };
        port.blocked = false;
        let items = core.take_sends(now_ms, link, limits::LINK_BATCH_ITEMS);
        if !items.is_empty() {
            port.sent_ms = now_ms;
            permit.send(ToNode { items });
        }
        self.ready.insert(link);
        true
    }

    /// A heartbeat on links that were silent; the links that heard nothing for too long.
    pub fn beat(&mut self, now_ms: u64) -> Vec<LinkId> {
        let beaten_ms = std::mem::replace(&mut self.beaten_ms, now_ms);
        let stood_still_ms = if beaten_ms == 0 {
            0
        } else {
            now_ms.saturating_sub(beaten_ms)
        };
        for port in self.ports.values_mut() {
            if stood_still_ms > limits::LINK_HEARTBEAT_MS {
                // We were the ones who stood still: what was said meanwhile waits unread, and nobody is to blame.
                port.heard_ms += stood_still_ms;
            }
            if now_ms >= port.sent_ms + limits::LINK_HEARTBEAT_MS && !port.blocked {
                let heartbeat = FromWorker {
                    item: Some(Item::Heartbeat(Heartbeat {})),
                };
                // A full channel needs no sign of life.
                if port.outgoing.try_send(ToNode { items: vec![heartbeat] }).is_ok() {
                    port.sent_ms = now_ms;
                }
            }
        }
        let silent = |p: &Port| now_ms >= p.heard_ms + limits::LINK_TIMEOUT_MS;
        self.ports
            .iter()
            .filter(|(_, p)| silent(p))
            .map(|(id, _)| *id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports with one link whose node says nothing, beaten every 50 ms over the given stretch; the times at which it was blamed.
    fn blamed(from_ms: u64, stretches: &[(u64, u64)]) -> Vec<u64> {
        let mut ports = Ports::default();
        let (_to_worker, incoming) = mpsc::channel(4);
        let (outgoing, _from_worker) = mpsc::channel(64);
        ports.open(from_ms, NewLink { incoming, outgoing });
        let mut blamed = Vec::new();
        for &(from, until) in stretches {
            for now in (from..until).step_by(50) {
                if !ports.beat(now).is_empty() {
                    blamed.push(now);
                }
            }
        }
        blamed
    }

    #[test]
    fn a_silent_node_is_blamed_and_who_stood_still_blames_nobody_for_that_time() {
        const T: u64 = limits::LINK_TIMEOUT_MS;
        let began = 1_000_000;
        let silent = blamed(began, &[(began, began + T + 100)]);
        assert_eq!(silent.first(), Some(&(began + T)));
        // For ten timeouts nobody here ran: only what was heard in our own time counts.
        let woke = began + 1_000 + 10 * T;
        let stood = blamed(began, &[(began, began + 1_000), (woke, woke + T)]);
        assert!(stood.iter().all(|at| *at >= woke + T - 1_100), "{stood:?}");
        assert!(!stood.is_empty(), "silent all the same, it is blamed in the end");
    }
}
