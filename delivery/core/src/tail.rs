//! The last events of a conversation: contiguous, and always up to its head. What is below is in the store.

use std::collections::VecDeque;

use bytes::Bytes;
use wire::Offset;

/// One event as it will be pushed.
#[derive(Debug)]
pub(crate) struct TailEvent {
    pub offset: u64,
    pub at_ms: i64,
    pub frame: Bytes,
    /// The client's id, for `placed`.
    pub id: String,
    /// The connection it came from, as its node was told; 0: none. It counts only if the connection is the sender's.
    pub node: u64,
    pub connection: u64,
    /// The sender, if it was not the customer.
    pub from_staff: Option<Box<str>>,
    pub received_at_ms: i64,
    pub staff_only: bool,
    /// It changed the conversation's state or agent: a `conversation` frame follows it.
    pub changes: bool,
}

impl TailEvent {
    pub fn bytes(&self) -> usize {
        size_of::<TailEvent>() + self.frame.len() + self.id.len() + self.from_staff.as_ref().map_or(0, |s| s.len())
    }
}

/// The older part of a tail may be kept as offsets only, when memory is short and the store does not take it: its bodies stand
/// in the log.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    spilled: VecDeque<u64>,
    events: VecDeque<TailEvent>,
}

/// Bytes a spilled event is counted with.
const SPILLED_BYTES: usize = size_of::<u64>();

impl Tail {
    pub fn push(&mut self, event: TailEvent) {
        self.events.push_back(event);
    }

    /// The event of this seq, given the conversation's head; `None` if its body is not in memory.
    pub fn get(&self, seq: u64, head: u64) -> Option<&TailEvent> {
        let below = head.checked_sub(seq)? as usize;
        let index = self.events.len().checked_sub(below + 1)?;
        self.events.get(index)
    }

    /// The highest seq that is neither in memory nor known by its offset.
    pub fn before(&self, head: u64) -> u64 {
        head - (self.spilled.len() + self.events.len()) as u64
    }

    /// Offsets of the spilled events from this seq on, at most so many.
    pub fn offsets(&self, seq: u64, head: u64, most: usize) -> Vec<Offset> {
        let first = self.before(head) + 1;
        let skip = seq.checked_sub(first).map_or(self.spilled.len(), |n| n as usize);
        self.spilled.iter().skip(skip).take(most).map(|o| Offset(*o)).collect()
    }

    /// The seq of the spilled event of this offset.
    pub fn seq_of(&self, offset: Offset, head: u64) -> Option<u64> {
        let index = self.spilled.binary_search(&offset.0).ok()?;
        Some(self.before(head) + 1 + index as u64)
    }

    /// The highest seq that is in the store for certain, when everything below offset `committed` is.
    pub fn stored(&self, head: u64, committed: u64) -> u64 {
        let offsets = self.events.iter().map(|e| e.offset).rev();
        let above = offsets.chain(self.spilled.iter().rev().copied());
        head - above.take_while(|offset| *offset >= committed).count() as u64
    }

    /// Drops what stands at or below `offset`; the bytes freed.
    pub fn trim(&mut self, offset: u64) -> usize {
        let mut freed = 0;
        while self.spilled.front().is_some_and(|o| *o <= offset) {
            self.spilled.pop_front();
            freed += SPILLED_BYTES;
        }
        while self.spilled.is_empty() && self.events.front().is_some_and(|e| e.offset <= offset) {
            freed += self.events.pop_front().map_or(0, |e| e.bytes());
        }
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        if self.spilled.is_empty() {
            self.spilled = VecDeque::new();
        }
        freed
    }

    /// Lets the body of the oldest event in memory go if it is the one of this offset; the bytes freed.
    pub fn spill(&mut self, offset: u64) -> usize {
        if self.events.front().is_none_or(|e| e.offset != offset) {
            return 0;
        }
        let freed = self.events.pop_front().map_or(0, |e| e.bytes());
        self.spilled.push_back(offset);
        freed.saturating_sub(SPILLED_BYTES)
    }

    /// Is the oldest event in memory the one of this offset?
    pub fn begins_at(&self, offset: u64) -> bool {
        let first = self.spilled.front().copied();
        first.or_else(|| self.events.front().map(|e| e.offset)) == Some(offset)
    }

    pub fn bytes(&self) -> usize {
        self.events.iter().map(TailEvent::bytes).sum::<usize>() + self.spilled.len() * SPILLED_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(offset: u64) -> TailEvent {
        TailEvent {
            offset,
            at_ms: 0,
            frame: Bytes::from(vec![b'x'; 100]),
            id: String::new(),
            node: 0,
            connection: 0,
            from_staff: None,
            received_at_ms: 0,
            staff_only: false,
            changes: false,
        }
    }

    #[test]
    fn a_spilled_tail_knows_the_seqs_of_its_offsets_and_is_trimmed_like_any() {
        let mut tail = Tail::default();
        let head = 14;
        for offset in [20, 23, 30, 31, 40] {
            tail.push(event(offset));
        }
        let whole = tail.bytes();
        assert_eq!(tail.spill(23), 0, "only the oldest");
        let freed = tail.spill(20) + tail.spill(23);
        assert_eq!(tail.bytes(), whole - freed);
        assert_eq!(
            (tail.before(head), tail.stored(head, 23), tail.stored(head, 31)),
            (9, 10, 12)
        );
        assert!(tail.get(11, head).is_none() && tail.get(12, head).is_some_and(|e| e.offset == 30));
        assert_eq!(tail.offsets(10, head, 9), [Offset(20), Offset(23)]);
        assert_eq!(tail.offsets(11, head, 9), [Offset(23)]);
        assert!(tail.offsets(12, head, 9).is_empty() && tail.offsets(9, head, 9).is_empty());
        assert_eq!(tail.seq_of(Offset(23), head), Some(11));
        assert!(tail.begins_at(20));
        let freed = tail.trim(30);
        assert!(freed > 0 && tail.begins_at(31));
        assert_eq!((tail.before(head), tail.seq_of(Offset(23), head)), (12, None));
    }
}
