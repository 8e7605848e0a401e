//! One conversation on one connection: what it has been pushed, what it has acked, and how much may be under way.

use std::collections::VecDeque;

use bytes::Bytes;
use wire::User;
use wire::frames::Side;
use wire::limits;
use wire::record::Role;

use crate::link::LinkId;

/// Where a conversation begins on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Where the node says it stands: it has begun before, at this owner or another.
    Placed,
    /// At the first `conversation` frame's `last_seq`.
    Head,
    /// At the client's own `since`.
    Since(u64),
    /// Before the open session's first event.
    Session,
}

/// Whose connection it is.
#[derive(Debug)]
pub(crate) enum Who {
    Customer { rank: u64, device: Option<Box<str>> },
    Staff { user: User, role: Role },
}

/// What is pushed and not yet acked, oldest first. `placed` does not count.
#[derive(Debug, Default)]
pub(crate) struct Window {
    under_way: VecDeque<UnderWay>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    seq: u64,
    bytes: u32,
    received_at_ms: i64,
}

impl Window {
    /// May another event of this size be pushed? One always may when nothing is under way.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.under_way.is_empty()
            || (self.under_way.len() < limits::PUSH_WINDOW_EVENTS && self.bytes + bytes <= limits::PUSH_WINDOW_BYTES)
    }

    /// Events of about this size that may still be pushed: 0 bytes, of whatever size. At least one, where one has room.
    pub fn room_for(&self, bytes: usize) -> usize {
        let events = limits::PUSH_WINDOW_EVENTS.saturating_sub(self.under_way.len());
        let of_bytes = limits::PUSH_WINDOW_BYTES.saturating_sub(self.bytes).checked_div(bytes);
        events.min(of_bytes.map_or(usize::MAX, |n| n.max(1)))
    }

    pub fn add(&mut self, seq: u64, bytes: usize, received_at_ms: i64) {
        self.bytes += bytes;
        self.under_way.push_back(UnderWay {
            seq,
            bytes: bytes as u32,
            received_at_ms,
        });
    }

    /// Everything up to `recv` has arrived; calls `each` with the acked events' `received_at_ms`.
    pub fn acked(&mut self, recv: u64, mut each: impl FnMut(i64)) {
        while let Some(first) = self.under_way.front().filter(|u| u.seq <= recv) {
            self.bytes -= first.bytes as usize;
            each(first.received_at_ms);
            self.under_way.pop_front();
        }
        if self.under_way.is_empty() && self.under_way.capacity() > 8 {
            self.under_way = VecDeque::new();
        }
    }

    pub fn clear(&mut self) {
        *self = Window::default();
    }
}

#[derive(Debug)]
pub(crate) struct Cursor {
    pub link: LinkId,
    pub node: u64,
    pub connection: u64,
    pub who: Who,
    pub start: Start,
    /// The last seq pushed.
    pub pos: u64,
    pub recv: u64,
    pub read: u64,
    /// A `conversation` frame has told of the changes up to this seq.
    pub told: u64,
    /// Ends with this event, the one that detached it; `u64::MAX`: attached for good.
    pub until: u64,
    /// 0: not full.
    pub full_since_ms: u64,
    pub window: Window,
    /// Bytes of the last event that was read and found no room in the window; 0: there was none.
    pub row_bytes: u32,
    /// Serial of the page read under way; 0: none.
    pub reading: u32,
    /// Has had its first `conversation` frame.
    pub begun: bool,
    pub attached: bool,
    /// Stands above the head until the log's end is folded.
    pub ahead: bool,
    /// Wants a `conversation` frame when it is at the head.
    pub stale: bool,
    pub stalled: bool,
    /// The next event is the one of `row_bytes`.
    pub row_waits: bool,
    /// `placed` of dropped repeats that wait for the cursor to pass their seq.
    #[allow(clippy::box_collection)] // almost always absent: a third of a Vec's size
    pub placed: Option<Box<Vec<(u64, Bytes)>>>,
}

impl Cursor {
    pub fn new(link: LinkId, node: u64, connection: u64, who: Who, start: Start) -> Self {
        Cursor {
            link,
            node,
            connection,
            who,
            start,
            pos: 0,
            recv: 0,
            read: 0,
            told: 0,
            until: u64::MAX,
            full_since_ms: 0,
            window: Window::default(),
            row_bytes: 0,
            reading: 0,
            begun: false,
            attached: true,
            ahead: false,
            stale: false,
            stalled: false,
            row_waits: false,
            placed: None,
        }
    }

    pub fn side(&self) -> Side {
        match self.who {
            Who::Customer { .. } => Side::Customer,
            Who::Staff { .. } => Side::Agent,
        }
    }

    pub fn is_customer(&self) -> bool {
        matches!(self.who, Who::Customer { .. })
    }

    pub fn user(&self) -> Option<&str> {
        match &self.who {
            Who::Customer { .. } => None,
            Who::Staff { user, .. } => Some(user.as_str()),
        }
    }

    /// Is told of what has no place in the order: it has begun, and is not about to be let go.
    pub fn listens(&self) -> bool {
        self.begun && self.attached && !self.ahead && self.until == u64::MAX
    }

    pub fn is(&self, link: LinkId, connection: u64) -> bool {
        self.link == link && self.connection == connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_events_and_bytes_and_always_takes_one() {
        let mut window = Window::default();
        assert!(window.has_room(10 * limits::PUSH_WINDOW_BYTES));
        for seq in 1..=limits::PUSH_WINDOW_EVENTS as u64 {
            assert!(window.has_room(10));
            window.add(seq, 10, 0);
        }
        assert!(!window.has_room(1));
        let mut acked = 0;
        window.acked(2, |_| acked += 1);
        assert_eq!((acked, window.room_for(0)), (2, 2));
        assert!(!window.has_room(limits::PUSH_WINDOW_BYTES));
        assert_eq!(window.room_for(limits::PUSH_WINDOW_BYTES), 1);
        assert_eq!(Window::default().room_for(limits::PUSH_WINDOW_BYTES / 4), 4);
    }

    #[test]
    fn a_cursor_is_small() {
        assert!(size_of::<Cursor>() <= 208, "{}", size_of::<Cursor>());
    }
}
