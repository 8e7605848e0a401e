//! Where a client stands in each conversation: the last seq handed over, what is acked, and whether this connection has caught up. Pure.

use std::collections::BTreeMap;

use wire::limits::{ACK_EVERY_EVENTS, ACK_INTERVAL_MS, SINCE_PLACES_MAX};

/// What a seq that arrived is to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Next,
    /// Handed over before.
    Repeat,
    /// Something is missing before it.
    Gap,
}

#[derive(Debug, Default)]
pub struct Place {
    /// The last seq handed over; `None` until the conversation has begun.
    pub last: Option<u64>,
    /// What the first `conversation` frame of this connection said; `None` before it.
    pub target: Option<u64>,
    pub recv_acked: u64,
    pub read: u64,
    pub read_acked: u64,
    unacked: u64,
    last_ack_ms: Option<u64>,
    touched: u64,
}

impl Place {
    /// A conversation without a place begins with whatever comes first.
    pub fn step(&mut self, seq: u64) -> Step {
        match self.last {
            Some(last) if seq <= last => Step::Repeat,
            Some(last) if seq != last + 1 => Step::Gap,
            _ => {
                self.last = Some(seq);
                self.unacked += 1;
                Step::Next
            }
        }
    }

    pub fn caught_up(&self) -> bool {
        self.target.is_some_and(|target| self.last.unwrap_or(0) >= target)
    }

    /// When an ack should go out; `None` while there is nothing new to say. Never before the conversation's frame on this connection.
    pub fn ack_due_ms(&self) -> Option<u64> {
        self.target?;
        let news = self.last.unwrap_or(0) > self.recv_acked || self.read > self.read_acked;
        if !news {
            None
        } else if self.unacked >= ACK_EVERY_EVENTS {
            Some(0)
        } else {
            Some(self.last_ack_ms.map_or(0, |t| t + ACK_INTERVAL_MS))
        }
    }

    /// The ack to send now: (recv, read).
    pub fn take_ack(&mut self, now_ms: u64) -> (u64, u64) {
        self.recv_acked = self.last.unwrap_or(0).max(self.read);
        self.read_acked = self.read;
        self.unacked = 0;
        self.last_ack_ms = Some(now_ms);
        (self.recv_acked, self.read_acked)
    }

    pub fn rewind(&mut self, last_seq: u64) {
        self.last = Some(last_seq);
        self.target = Some(last_seq);
        self.read = self.read.min(last_seq);
        self.recv_acked = self.recv_acked.min(last_seq);
        self.read_acked = self.read_acked.min(last_seq);
        self.unacked = 0;
    }
}

/// All conversations of one client.
#[derive(Debug, Default)]
pub struct Places {
    of: BTreeMap<String, Place>,
    touches: u64,
}

impl Places {
    pub fn at(&mut self, conversation: &str) -> &mut Place {
        self.touches += 1;
        if !self.of.contains_key(conversation) {
            self.of.insert(conversation.to_owned(), Place::default());
        }
        let touches = self.touches;
        // The line above made it.
        let place = self.of.entry(conversation.to_owned()).or_default();
        place.touched = touches;
        place
    }

    pub fn get(&self, conversation: &str) -> Option<&Place> {
        self.of.get(conversation)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Place)> {
        self.of.iter_mut()
    }

    /// A new connection: nothing is caught up, and what was acked on the old one may have been lost with it.
    pub fn disconnected(&mut self) {
        for place in self.of.values_mut() {
            place.target = None;
            place.recv_acked = 0;
            place.read_acked = 0;
            place.last_ack_ms = None;
        }
    }

    /// `since` for the next connection: the most recently used places, as many as are allowed.
    pub fn since(&self) -> BTreeMap<String, u64> {
        let mut begun: Vec<_> = self
            .of
            .iter()
            .filter_map(|(name, p)| Some((p.touched, name.clone(), p.last?)))
            .collect();
        begun.sort_by_key(|(touched, ..)| std::cmp::Reverse(*touched));
        begun
            .into_iter()
            .take(SINCE_PLACES_MAX)
            .map(|(_, name, last)| (name, last))
            .collect()
    }

    pub fn next_ack_ms(&self) -> Option<u64> {
        self.of.values().filter_map(Place::ack_due_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seq_is_next_once_a_repeat_after_and_a_gap_when_one_is_missing() {
        let mut place = Place::default();
        assert_eq!(place.step(7), Step::Next);
        assert_eq!(place.step(8), Step::Next);
        assert_eq!(place.step(8), Step::Repeat);
        assert_eq!(place.step(3), Step::Repeat);
        assert_eq!(place.step(10), Step::Gap);
        assert_eq!(place.step(9), Step::Next);
    }

    #[test]
    fn acks_go_at_once_then_every_interval_or_64_events() {
        let mut place = Place {
            target: Some(0),
            ..Place::default()
        };
        place.step(1);
        assert_eq!(place.ack_due_ms(), Some(0));
        assert_eq!(place.take_ack(1_000), (1, 0));
        assert_eq!(place.ack_due_ms(), None);
        place.step(2);
        assert_eq!(place.ack_due_ms(), Some(1_000 + ACK_INTERVAL_MS));
        for seq in 3..=65 {
            place.step(seq);
        }
        assert_eq!(place.ack_due_ms(), Some(0));
    }

    #[test]
    fn only_begun_places_are_named_in_since_and_the_latest_when_there_are_too_many() {
        let mut places = Places::default();
        places.at("never");
        for i in 0..SINCE_PLACES_MAX + 5 {
            places.at(&format!("c{i:05}")).step(3);
        }
        let since = places.since();
        assert_eq!(since.len(), SINCE_PLACES_MAX);
        assert!(!since.contains_key("never") && !since.contains_key("c00004") && since.contains_key("c00005"));
    }
}
