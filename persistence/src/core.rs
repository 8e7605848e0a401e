//! What a batch of records does to the rows: pure. No clock, no IO, no metrics.
//!
//! Order of calls: `read` → `loaded` for each key it says is missing → `fold`; at any time between folds `cut` → (the
//! cut is written) → `cut_done`. A conversation whose state is not written yet is never evicted, so a later load cannot
//! bring back an older state.

use std::collections::{HashMap, HashSet};

use conversation::{Event, Folded, SessionChange, State};
use ordered_log::LogRecord;
use store::{
    ClosedSession, ConversationWrite, EventRow, OpenSession, OpenSessionWrite, PartitionWrite, StoredConversation,
    StoredMarks,
};
use wire::codec::{self, DecodeError};
use wire::event::entry_of;
use wire::record::{Marks, Record, SessionState};
use wire::topics::partition_of;
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Position, Seq, Tenant, User};

use crate::error::Alarm;

/// Which partition of which log.
#[derive(Clone, Debug)]
pub struct Place {
    pub lane: Lane,
    pub epoch: Epoch,
    pub partition: Partition,
    pub partitions: u32,
}

/// One partition's conversations, as far as they are in memory.
pub struct Core {
    place: Place,
    resident: HashMap<ConversationKey, Resident>,
    resident_bytes: usize,
    resident_bytes_max: usize,
    /// Conversations whose state changed since the last cut.
    dirty: Vec<ConversationKey>,
    /// A cut is being written: nothing is evicted until it is done.
    cutting: bool,
    marks: HashMap<ConversationKey, StoredMarks>,
    /// The first offset not folded yet.
    next: Offset,
    /// The first offset not covered by a finished or running cut.
    cut_through: Offset,
    batches: u64,
}

struct Resident {
    state: State,
    bytes: usize,
    /// The batch that used it last, or will: a batch that was read and not folded yet keeps its conversations here.
    used: u64,
    /// Where its rows are in that batch's write.
    slot: Option<(u64, usize)>,
    dirty: bool,
}

/// A batch, decoded.
pub struct Read {
    items: Vec<Item>,
    /// Load these before `fold`.
    pub missing: Vec<ConversationKey>,
    next: Option<Offset>,
}

impl Read {
    /// Records in it; those left out because they were folded already do not count.
    pub fn records(&self) -> u64 {
        self.items.len() as u64
    }
}

struct Item {
    offset: Offset,
    at_ms: i64,
    what: Result<codec::Decoded, DeadLetter>,
}

/// A record that could not be read, as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub record: LogRecord,
    pub reason: DecodeError,
}

/// What became of the records of a batch (I20): the parts add up to `records`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub records: u64,
    pub rows: u64,
    /// Desk decisions without an event of their own.
    pub state_only: u64,
    pub repeats: u64,
    /// Desk decisions that were not above the last one.
    pub superseded: u64,
    /// At or before the loaded state.
    pub skipped: u64,
    /// Notices, marks, seals.
    pub unnumbered: u64,
    pub dead_letters: u64,
}

impl Counts {
    pub fn accounted(&self) -> u64 {
        self.rows
            + self.state_only
            + self.repeats
            + self.superseded
            + self.skipped
            + self.unnumbered
            + self.dead_letters
    }
}

/// A batch, folded: to be written now.
#[derive(Debug)]
pub struct FoldedBatch {
    /// The records read for it: the first offset, and the one after the last.
    pub from: Offset,
    pub to: Offset,
    /// Event and session rows; no state.
    pub write: PartitionWrite,
    pub dead_letters: Vec<DeadLetter>,
    pub counts: Counts,
    /// `received_at_ms` of the events, where known.
    pub received_at_ms: Vec<i64>,
}

/// State rows and watermarks as of `through`: to be written after everything folded before, then `through` is committed.
#[derive(Debug)]
pub struct Cut {
    pub write: PartitionWrite,
    pub through: Offset,
}

/// What a load found.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded {
    Fine,
    /// The state is of a position at or beyond what was read so far. Only right if the log holds it: ask its bounds afresh.
    AheadOfReading(Position),
}

impl Core {
    /// `from`: the first offset that will be read.
    pub fn new(place: Place, from: Offset, resident_bytes_max: usize) -> Self {
        Self {
            place,
            resident: HashMap::new(),
            resident_bytes: 0,
            resident_bytes_max,
            dirty: Vec::new(),
            cutting: false,
            marks: HashMap::new(),
            next: from,
            cut_through: from,
            batches: 0,
        }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The first offset not folded yet.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Records folded and not covered by any cut.
    pub fn uncut(&self) -> u64 {
        self.next.0 - self.cut_through.0
    }

    /// A conversation's state, if it is in memory.
    pub fn state(&self, key: &ConversationKey) -> Option<&State> {
        self.resident.get(key).map(|r| &r.state)
    }

    /// Conversations in memory, and their bytes.
    pub fn resident(&self) -> (usize, usize) {
        (self.resident.len(), self.resident_bytes)
    }

    pub fn over_budget(&self) -> bool {
        self.resident_bytes > self.resident_bytes_max
    }

    /// Decodes a batch and says which conversations must be loaded for it. Records read again after a restart of the
    /// reading (below `next`) are left out.
    pub fn read(&mut self, records: Vec<LogRecord>) -> Read {
        let next = records.last().map(|r| r.offset.next());
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        let mut items = Vec::with_capacity(records.len());
        for record in records.into_iter().filter(|r| r.offset >= self.next) {
            let (offset, at_ms) = (record.offset, record.at_ms);
            let decoded = codec::decode(
                record.key.as_ref(),
                record.value.as_ref(),
                self.place.partition,
                self.place.partitions,
            );
            if let Ok(codec::Decoded { key: Some(key), .. }) = &decoded {
                match self.resident.get_mut(key) {
                    Some(resident) => resident.used = self.batches + 1,
                    None if seen.insert(key.clone()) => missing.push(key.clone()),
                    None => {}
                }
            }
            items.push(Item {
                offset,
                at_ms,
                what: decoded.map_err(|reason| DeadLetter { record, reason }),
            });
        }
        Read { items, missing, next }
    }

    /// The store's answer for a missing conversation. `read_through`: the first offset nobody has read yet.
    pub fn loaded(&mut self, key: ConversationKey, stored: Option<StoredConversation>) -> Result<Loaded, Alarm> {
        let state = match stored.and_then(|s| s.state) {
            Some(cell) => State::decode(cell).map_err(|why| Alarm::BadState { key: key.clone(), why })?,
            None => State::default(),
        };
        let ahead = state
            .applied()
            .filter(|a| *a >= Position::new(self.place.epoch, self.next));
        let bytes = bytes_of(&key, &state);
        self.resident_bytes += bytes;
        let fresh = Resident {
            state,
            bytes,
            used: self.batches + 1,
            slot: None,
            dirty: false,
        };
        if let Some(before) = self.resident.insert(key, fresh) {
            self.resident_bytes -= before.bytes;
        }
        Ok(ahead.map_or(Loaded::Fine, Loaded::AheadOfReading))
    }

    /// Folds a batch whose missing conversations are loaded.
    pub fn fold(&mut self, read: Read) -> FoldedBatch {
        self.batches += 1;
        let mut out = FoldedBatch {
            from: self.next,
            to: read.next.map_or(self.next, |n| n.max(self.next)),
            write: self.empty_write(),
            dead_letters: Vec::new(),
            counts: Counts {
                records: read.items.len() as u64,
                ..Counts::default()
            },
            received_at_ms: Vec::with_capacity(read.items.len()),
        };
        for item in read.items {
            match item.what {
                Ok(codec::Decoded { key: Some(key), record }) => {
                    self.fold_one(key, item.offset, item.at_ms, &record, &mut out);
                }
                Ok(codec::Decoded { key: None, record }) => {
                    out.counts.unnumbered += 1;
                    if let Some(marks) = &record.marks {
                        self.merge_marks(marks);
                    }
                }
                Err(letter) => {
                    out.counts.dead_letters += 1;
                    out.dead_letters.push(letter);
                }
            }
        }
        self.next = out.to;
        debug_assert_eq!(out.counts.records, out.counts.accounted());
        out
    }

    fn fold_one(&mut self, key: ConversationKey, offset: Offset, at_ms: i64, record: &Record, out: &mut FoldedBatch) {
        let position = Position::new(self.place.epoch, offset);
        let batch = self.batches;
        let resident = self
            .resident
            .get_mut(&key)
            .expect("read names it, loaded brings it, evict spares it until here");
        let folded = resident.state.fold(&key, position, at_ms, record);
        if matches!(folded, Folded::Event(_) | Folded::Session(_)) {
            if !resident.dirty {
                resident.dirty = true;
                self.dirty.push(key.clone());
            }
            let slot = match resident.slot {
                Some((of, slot)) if of == batch => slot,
                _ => {
                    let new = ConversationWrite {
                        key: Some(key.clone()),
                        ..ConversationWrite::default()
                    };
                    out.write.conversations.push(new);
                    let slot = out.write.conversations.len() - 1;
                    resident.slot = Some((batch, slot));
                    slot
                }
            };
            let rows = &mut out.write.conversations[slot];
            match folded {
                Folded::Event(event) => {
                    out.counts.rows += 1;
                    if record.received_at_ms > 0 {
                        out.received_at_ms.push(record.received_at_ms);
                    }
                    if let Some(change) = &event.session {
                        write_session(rows, &key, change, event.seq, position, at_ms);
                    }
                    rows.events.push(row_of(*event));
                }
                Folded::Session(change) => {
                    out.counts.state_only += 1;
                    write_session(rows, &key, &change, resident.state.last_seq(), position, at_ms);
                }
                _ => {}
            }
            return;
        }
        match folded {
            Folded::Skipped => out.counts.skipped += 1,
            Folded::Repeat { .. } => out.counts.repeats += 1,
            Folded::Superseded => out.counts.superseded += 1,
            _ => out.counts.unnumbered += 1,
        }
    }

    /// Only marks of this partition's conversations count; others are somebody's error and change nothing.
    fn merge_marks(&mut self, marks: &Marks) {
        for mark in &marks.marks {
            let (Ok(tenant), Ok(customer)) = (Tenant::new(&mark.tenant), User::new(&mark.customer)) else {
                continue;
            };
            let key = ConversationKey::new(tenant, customer);
            if partition_of(&key.to_key(), self.place.partitions) != self.place.partition {
                continue;
            }
            let risen = StoredMarks {
                customer_recv: mark.customer_recv,
                customer_read: mark.customer_read,
                agent_recv: mark.agent_recv,
                agent_read: mark.agent_read,
            };
            let merged = self.marks.entry(key).or_default();
            *merged = merged.merged(risen);
        }
    }

    /// Everything changed since the last cut, or `None` if nothing was read since. One cut at a time.
    pub fn cut(&mut self) -> Option<Cut> {
        if self.uncut() == 0 || self.cutting {
            return None;
        }
        let mut write = self.empty_write();
        let dirty = std::mem::take(&mut self.dirty);
        write.conversations.reserve(dirty.len());
        for key in &dirty {
            let Some(resident) = self.resident.get_mut(key) else {
                continue;
            };
            resident.dirty = false;
            let bytes = bytes_of(key, &resident.state);
            self.resident_bytes = self.resident_bytes + bytes - resident.bytes;
            resident.bytes = bytes;
            if let Some(applied) = resident.state.applied() {
                write.conversations.push(ConversationWrite {
                    key: Some(key.clone()),
                    state: Some((resident.state.encode(), applied)),
                    last_seq: resident.state.last_seq(),
                    ..ConversationWrite::default()
                });
            }
        }
        write.marks = self.marks.drain().collect();
        write.marks.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        self.cutting = true;
        self.cut_through = self.next;
        Some(Cut {
            write,
            through: self.next,
        })
    }

    /// The last cut is written: its conversations may leave memory.
    pub fn cut_done(&mut self) {
        self.cutting = false;
        if self.over_budget() {
            self.evict();
        }
    }

    /// Lets the longest unused go, down to three quarters of the budget.
    fn evict(&mut self) {
        let mut clean: Vec<(u64, ConversationKey)> = self
            .resident
            .iter()
            .filter(|(_, r)| !r.dirty && r.used <= self.batches)
            .map(|(key, r)| (r.used, key.clone()))
            .collect();
        clean.sort_unstable();
        let target = self.resident_bytes_max / 4 * 3;
        for (_, key) in clean {
            if self.resident_bytes <= target {
                break;
            }
            if let Some(gone) = self.resident.remove(&key) {
                self.resident_bytes -= gone.bytes;
            }
        }
    }

    fn empty_write(&self) -> PartitionWrite {
        PartitionWrite {
            lane: self.place.lane.clone(),
            epoch: self.place.epoch,
            partition: self.place.partition,
            conversations: Vec::new(),
            marks: Vec::new(),
        }
    }
}

/// Key, map entry and state.
fn bytes_of(key: &ConversationKey, state: &State) -> usize {
    320 + key.tenant.as_str().len() + key.customer.as_str().len() + state.heap_bytes()
}

fn row_of(event: Event) -> EventRow {
    EventRow {
        seq: event.seq,
        staff_only: event.staff_only(),
        at_ms: event.at_ms,
        entry: entry_of(&event.frame),
        position: event.position,
    }
}

fn write_session(
    rows: &mut ConversationWrite,
    key: &ConversationKey,
    change: &SessionChange,
    seq: Seq,
    position: Position,
    at_ms: i64,
) {
    if change.ended {
        rows.sessions_closed.push(ClosedSession {
            agent: change.before.agent.clone(),
            opened_at_ms: change.span.opened_at_ms,
            closed_at_ms: at_ms,
            first_seq: change.span.first_seq,
            last_seq: seq,
            position,
        });
    }
    let after = &change.after;
    let open = (after.state() != SessionState::SessionIdle).then(|| OpenSession {
        key: key.clone(),
        agent: after.agent.clone(),
        state: after.state,
    });
    rows.open_session = Some(OpenSessionWrite { open, position });
}
