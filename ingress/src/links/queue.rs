//! What waits to go to one worker. Registrations wait as names and are built when they leave, so they say where the connection
//! stands then; everything else waits as it is. A queue that overflows gives the link up: registering again repairs all of it.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::link::FromNode;
use wire::link::from_node::Item;
use wire::{ConnectionId, Partition, limits};

const HEARTBEAT: Duration = Duration::from_millis(limits::LINK_HEARTBEAT_MS);

/// A connection to be registered with the owner of a partition.
pub type ToRegister = (Partition, ConnectionId);

#[derive(Default)]
pub struct LinkQueue {
    inner: Mutex<Waiting>,
    notify: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Nothing is taken while the link is down: coming up, it registers everybody anyway.
    up: bool,
    overflowed: bool,
    closed: bool,
    register: VecDeque<ToRegister>,
    /// Told `not_owner`: asked again a heartbeat after the first of them was, however busy the link is meanwhile.
    register_later: Vec<ToRegister>,
    later_at: Option<Instant>,
    items: VecDeque<FromNode>,
}

/// What the sending side found in the queue.
pub enum Next {
    Register(Vec<ToRegister>),
    Items(Vec<FromNode>),
    /// Nothing for a heartbeat's time.
    Quiet,
    Overflowed,
    /// The node leaves.
    Closed,
}

impl LinkQueue {
    /// Empties the queue; from here on it takes (or refuses) items.
    pub fn set_up(&self, up: bool) {
        *self.inner.lock() = Waiting {
            up,
            ..Waiting::default()
        };
        self.notify.notify_one();
    }

    /// Ends the link.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.notify.notify_one();
    }

    pub fn push(&self, item: Item) {
        let mut waiting = self.inner.lock();
        if !waiting.up {
            return;
        }
        if waiting.items.len() >= limits::LINK_QUEUE_ITEMS {
            waiting.overflowed = true;
        } else {
            waiting.items.push_back(FromNode { item: Some(item) });
        }
        drop(waiting);
        self.notify.notify_one();
    }

    pub fn register(&self, what: impl IntoIterator<Item = ToRegister>) {
        let mut waiting = self.inner.lock();
        if waiting.up {
            waiting.register.extend(what);
            drop(waiting);
            self.notify.notify_one();
        }
    }

    pub fn register_later(&self, what: impl IntoIterator<Item = ToRegister>) {
        let mut waiting = self.inner.lock();
        if waiting.up {
            waiting.register_later.extend(what);
            waiting.later_at.get_or_insert_with(|| Instant::now() + HEARTBEAT);
            drop(waiting);
            self.notify.notify_one();
        }
    }

    pub fn is_up(&self) -> bool {
        self.inner.lock().up
    }

    pub fn len(&self) -> usize {
        let waiting = self.inner.lock();
        waiting.items.len() + waiting.register.len()
    }

    /// What leaves next, at most one batch. Registrations first: what follows them refers to them.
    pub async fn next(&self) -> Next {
        let quiet_at = Instant::now() + HEARTBEAT;
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            let later_at = self.inner.lock().later_at;
            tokio::select! {
                () = self.notify.notified() => {}
                () = tokio::time::sleep_until(later_at.map_or(quiet_at, |at| at.min(quiet_at))) => {
                    if later_at.is_none_or(|at| at > quiet_at) {
                        return Next::Quiet;
                    }
                }
            }
        }
    }

    fn take(&self) -> Option<Next> {
        let mut waiting = self.inner.lock();
        if waiting.later_at.is_some_and(|at| at <= Instant::now()) {
            waiting.later_at = None;
            let later = std::mem::take(&mut waiting.register_later);
            waiting.register.extend(later);
        }
        if waiting.closed {
            return Some(Next::Closed);
        }
        if waiting.overflowed {
            return Some(Next::Overflowed);
        }
        if !waiting.register.is_empty() {
            let n = waiting.register.len().min(limits::LINK_BATCH_ITEMS);
            return Some(Next::Register(waiting.register.drain(..n).collect()));
        }
        if waiting.items.is_empty() {
            return None;
        }
        let n = waiting.items.len().min(limits::LINK_BATCH_ITEMS);
        Some(Next::Items(waiting.items.drain(..n).collect()))
    }
}

#[cfg(test)]
mod tests {
    use wire::link::Heartbeat;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn registrations_leave_before_items_and_a_quiet_second_is_told() {
        let queue = LinkQueue::default();
        queue.push(Item::Heartbeat(Heartbeat {}));
        assert_eq!(queue.len(), 0, "a link that is down takes nothing");
        queue.set_up(true);
        queue.push(Item::Heartbeat(Heartbeat {}));
        queue.register([(Partition(1), ConnectionId(7))]);
        assert!(matches!(queue.next().await, Next::Register(r) if r == [(Partition(1), ConnectionId(7))]));
        assert!(matches!(queue.next().await, Next::Items(i) if i.len() == 1));
        assert!(matches!(queue.next().await, Next::Quiet));
        queue.register_later([(Partition(2), ConnectionId(8))]);
        assert!(matches!(queue.next().await, Next::Register(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_told_not_owner_asks_again_in_time_on_a_busy_link() {
        let queue = LinkQueue::default();
        queue.set_up(true);
        queue.register_later([(Partition(2), ConnectionId(8))]);
        for _ in 0..20 {
            tokio::time::advance(Duration::from_millis(100)).await;
            queue.push(Item::Heartbeat(Heartbeat {}));
            if matches!(queue.next().await, Next::Register(_)) {
                return;
            }
        }
        panic!("it waits for the link to be quiet");
    }

    #[tokio::test]
    async fn a_queue_that_overflows_gives_the_link_up() {
        let queue = LinkQueue::default();
        queue.set_up(true);
        for _ in 0..=limits::LINK_QUEUE_ITEMS {
            queue.push(Item::Heartbeat(Heartbeat {}));
        }
        assert!(matches!(queue.next().await, Next::Overflowed));
    }
}
