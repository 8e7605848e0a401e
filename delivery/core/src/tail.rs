//! The last events of a conversation in memory: contiguous, and always up to its head. What is below is in the store.

use std::collections::VecDeque;

use bytes::Bytes;

/// One event as it will be pushed.
#[derive(Debug)]
pub(crate) struct TailEvent {
    pub offset: u64,
    pub at_ms: i64,
    pub frame: Bytes,
    /// The client's id, for `placed`.
    pub id: String,
    /// The connection it came from; 0: none.
    pub node: u64,
    pub connection: u64,
    pub received_at_ms: i64,
    pub staff_only: bool,
    /// It changed the conversation's state or agent: a `conversation` frame follows it.
    pub changes: bool,
}

impl TailEvent {
    pub fn bytes(&self) -> usize {
        size_of::<TailEvent>() + self.frame.len() + self.id.len()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<TailEvent>);

impl Tail {
    pub fn push(&mut self, event: TailEvent) {
        self.0.push_back(event);
    }

    /// The event of this seq, given the conversation's head.
    pub fn get(&self, seq: u64, head: u64) -> Option<&TailEvent> {
        let below = head.checked_sub(seq)? as usize;
        let index = self.0.len().checked_sub(below + 1)?;
        self.0.get(index)
    }

    /// The highest seq that is not in memory.
    pub fn before(&self, head: u64) -> u64 {
        head - self.0.len() as u64
    }

    /// The highest seq that is in the store for certain, when everything below offset `committed` is.
    pub fn stored(&self, head: u64, committed: u64) -> u64 {
        let above = self.0.iter().rev().take_while(|e| e.offset >= committed).count();
        head - above as u64
    }

    /// Drops what stands at or below `offset`; the bytes freed.
    pub fn trim(&mut self, offset: u64) -> usize {
        let mut freed = 0;
        while self.0.front().is_some_and(|e| e.offset <= offset) {
            freed += self.0.pop_front().map_or(0, |e| e.bytes());
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
        freed
    }

    /// Is the oldest event in memory the one of this offset?
    pub fn begins_at(&self, offset: u64) -> bool {
        self.0.front().is_some_and(|e| e.offset == offset)
    }

    pub fn bytes(&self) -> usize {
        self.0.iter().map(TailEvent::bytes).sum()
    }
}
