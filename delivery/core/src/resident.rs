//! One conversation in memory: its state (or that it is being loaded), tail, cursors and marks. And the slots they live in.

use bytes::Bytes;
use conversation::State;
use wire::record::{Origin, Record};
use wire::{ConversationKey, Offset};

use crate::action::Loaded;
use crate::cursor::Cursor;
use crate::link::LinkId;
use crate::marks::Marks;
use crate::tail::Tail;

/// A record that waits for its conversation to be loaded.
#[derive(Debug)]
pub(crate) struct Parked {
    pub offset: u64,
    pub at_ms: i64,
    /// `None`: memory was short; it stands in the log.
    pub record: Option<Box<Record>>,
    pub bytes: usize,
}

/// A node's question that waits for the conversation to be loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub link: LinkId,
    pub ask: u64,
    pub until_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub parked: Vec<Parked>,
    pub asks: Vec<Asked>,
    /// The row has come, and the parked records are being read back: serial of that read.
    pub loaded: Option<Box<Loaded>>,
    pub reading: u32,
}

/// What the desk was told of the open session.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub session_first_seq: u64,
    pub replied: bool,
    pub last_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Conv {
    pub key: ConversationKey,
    /// `None`: being loaded.
    pub state: Option<State>,
    pub tail: Tail,
    pub cursors: Vec<Cursor>,
    /// As acked by connections; `logged` follows when the marks record is read back.
    pub acked: Marks,
    pub logged: Marks,
    /// The offset after the last record that touched it: it may leave memory when all below that is in the store.
    pub past: u64,
    pub waiting: Option<Box<Waiting>>,
    pub told: Option<Box<Told>>,
    /// When the desk is asked again; 0: not wanted.
    pub wanted_due_ms: u64,
    pub marks_written_ms: u64,
    pub marks_listed: bool,
    pub idle_listed: bool,
}

impl Conv {
    pub fn new(key: ConversationKey) -> Self {
        Conv {
            key,
            state: None,
            tail: Tail::default(),
            cursors: Vec::new(),
            acked: Marks::default(),
            logged: Marks::default(),
            past: 0,
            waiting: None,
            told: None,
            wanted_due_ms: 0,
            marks_written_ms: 0,
            marks_listed: false,
            idle_listed: false,
        }
    }

    pub fn head(&self) -> u64 {
        self.state.as_ref().map_or(0, |s| s.last_seq().0)
    }

    pub fn name(&self) -> &str {
        self.key.customer.as_str()
    }

    pub fn cursor_of(&self, link: LinkId, connection: u64) -> Option<usize> {
        self.cursors.iter().position(|c| c.is(link, connection))
    }

    /// The cursor of the connection a record came from, if it is its sender's.
    pub fn cursor_of_origin(&self, origin: &Origin, from_staff: Option<&str>) -> Option<usize> {
        self.cursors
            .iter()
            .position(|c| c.node == origin.node && c.connection == origin.connection && c.user() == from_staff)
    }

    /// Do this connection's acks count for its side? A mere watcher's do not.
    pub fn counts(&self, c: &Cursor) -> bool {
        c.user()
            .is_none_or(|user| self.state.as_ref().is_none_or(|s| s.serves(user) || !s.watches(user)))
    }

    /// (recv, read) of its own side as this connection is told it: what is in the log, and what it has acked itself, which its
    /// node says again at every registration. Nothing else is sure to be known to the next owner, and what is told never falls.
    pub fn own_marks(&self, c: &Cursor) -> (u64, u64) {
        let (recv, read) = self.logged.of(c.side());
        if self.counts(c) {
            (recv.max(c.recv), read.max(c.read))
        } else {
            (recv, read)
        }
    }

    /// Adds a cursor; most conversations have one or two, so no spare room is kept.
    pub fn add_cursor(&mut self, cursor: Cursor) -> usize {
        self.cursors.reserve_exact(1);
        self.cursors.push(cursor);
        self.cursors.len() - 1
    }

    pub fn is_open(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|s| s.session_state() != wire::record::SessionState::SessionIdle)
    }

    /// Nobody looks at it and nothing is going on.
    pub fn is_idle(&self) -> bool {
        self.state.is_some() && !self.is_open() && !self.marks_listed && !self.cursors.iter().any(|c| c.attached)
    }

    pub fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_default()
    }

    /// Offsets of parked records that are not in memory, in their order.
    pub fn spilled_parked(&self) -> Vec<Offset> {
        let parked = self.waiting.iter().flat_map(|w| &w.parked);
        parked
            .filter(|p| p.record.is_none())
            .map(|p| Offset(p.offset))
            .collect()
    }

    /// Lets the parked record of this offset go; the bytes freed.
    pub fn spill_parked(&mut self, offset: u64) -> usize {
        let Some(waiting) = self.waiting.as_deref_mut().filter(|w| w.loaded.is_none()) else {
            return 0;
        };
        let Ok(at) = waiting.parked.binary_search_by_key(&offset, |p| p.offset) else {
            return 0;
        };
        let parked = &mut waiting.parked[at];
        if parked.record.take().is_none() {
            return 0;
        }
        let left = size_of::<Parked>();
        let freed = parked.bytes.saturating_sub(left);
        parked.bytes = left;
        freed
    }

    pub fn heap_bytes(&self) -> usize {
        let parked: usize = self.waiting.iter().flat_map(|w| &w.parked).map(|p| p.bytes).sum();
        self.tail.bytes() + parked
    }
}

/// Conversations by number; numbers are used again.
#[derive(Default)]
pub(crate) struct Slots {
    all: Vec<Option<Box<Conv>>>,
    free: Vec<u32>,
}

impl Slots {
    pub fn insert(&mut self, conv: Conv) -> u32 {
        let boxed = Some(Box::new(conv));
        match self.free.pop() {
            Some(slot) => {
                self.all[slot as usize] = boxed;
                slot
            }
            None => {
                self.all.push(boxed);
                (self.all.len() - 1) as u32
            }
        }
    }

    /// Every slot is below this.
    pub fn len(&self) -> u32 {
        self.all.len() as u32
    }

    /// Takes a conversation out while it is worked on; `put_back` follows.
    pub fn take(&mut self, slot: u32) -> Option<Box<Conv>> {
        self.all.get_mut(slot as usize)?.take()
    }

    pub fn put_back(&mut self, slot: u32, conv: Box<Conv>) {
        self.all[slot as usize] = Some(conv);
    }

    pub fn get(&self, slot: u32) -> Option<&Conv> {
        self.all.get(slot as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Conv> {
        self.all.get_mut(slot as usize)?.as_deref_mut()
    }

    pub fn remove(&mut self, slot: u32) -> Option<Box<Conv>> {
        let conv = self.take(slot)?;
        self.free.push(slot);
        Some(conv)
    }
}

/// Bytes a parked record is counted with.
pub(crate) fn parked_bytes(key: Option<&Bytes>, value: Option<&Bytes>) -> usize {
    size_of::<Parked>() + size_of::<Record>() + key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_conversation_with_its_connection_is_small() {
        let whole = size_of::<Conv>() + size_of::<Cursor>() + 2 * (size_of::<ConversationKey>() + 8) + 48;
        assert!(
            whole <= 760,
            "{whole}: conv {} cursor {}",
            size_of::<Conv>(),
            size_of::<Cursor>()
        );
    }
}
