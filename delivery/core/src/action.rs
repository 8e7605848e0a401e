//! What the core asks of its driver, and the answers it gets.

use std::collections::VecDeque;

use bytes::Bytes;
use wire::{ConversationKey, Offset, Partition, Seq};

use crate::link::LinkId;
use crate::marks::Marks;

/// An effect for the driver to carry out. None of them is waited for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the conversation's row, however long it takes, and answer with `handle_loaded`. Not needed any more once the
    /// partition is released.
    Load {
        partition: Partition,
        instance: u64,
        key: ConversationKey,
    },
    /// Read stored events after `after`, and answer with `handle_page`.
    ReadPage {
        token: PageToken,
        key: ConversationKey,
        after: Seq,
        limit: u32,
    },
    /// Read these records, which stand in rising order, from the partition's log, and answer with `handle_read_back`. If the log
    /// holds one of them no more, the partition must be stopped.
    ReadBack {
        token: PageToken,
        offsets: Vec<Offset>,
    },
    /// Ask the log for the partition's end, afresh, and answer with `handle_end`.
    AskEnd {
        partition: Partition,
        instance: u64,
    },
    /// Append a record; nobody waits for it and a failure is repaired by the next round.
    Produce {
        to: ProduceTo,
        partition: Partition,
        key: Option<Bytes>,
        value: Bytes,
    },
    /// The memory budget is spent, and nothing is left that could be kept as an offset: read no more of this partition until `Resume`.
    Pause {
        partition: Partition,
    },
    Resume {
        partition: Partition,
    },
    /// Drop this link: the node dials again and registers anew.
    CloseLink {
        link: LinkId,
        why: &'static str,
    },
    /// Something is wrong with the log or the store that must not be passed over: release the partition and raise the alarm.
    Stop {
        partition: Partition,
        why: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProduceTo {
    Messages,
    Desk,
}

/// Names one read, of a page or from the log; handed back with what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    pub partition: Partition,
    pub instance: u64,
    pub(crate) slot: u32,
    pub(crate) serial: u32,
}

/// A conversation's row as loaded; both empty if nothing was ever said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    pub state: Option<Bytes>,
    pub marks: Marks,
}

/// One stored event.
#[derive(Clone, Debug, PartialEq)]
pub struct PageRow {
    pub seq: Seq,
    pub staff_only: bool,
    pub at_ms: i64,
    /// The history entry, not the frame.
    pub entry: Bytes,
}

pub(crate) type Actions = VecDeque<Action>;
