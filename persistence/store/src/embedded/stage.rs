//! Turns `PartitionWrite`s into one fjall batch, and keeps the rule that of two writes of one cell the one with the higher
//! write time stands.
//!
//! Comparing would cost a read per row. It is left out where nothing stored can be newer: the write is of the highest epoch
//! ever stored, and all of it lies above the highest position ever stored because of its partition. A consumer that reads
//! on does nothing else. A replay, or a process that fell behind another epoch, takes the careful way: every cell is read
//! first, and only what is newer is written. `positions` holds what decides this and is written in the same batch.

use std::collections::{HashMap, HashSet};

use bytes::{BufMut, Bytes, BytesMut};
use fjall::{Keyspace, OwnedWriteBatch};
use wire::{ConversationKey, Seq};

use super::rows;
use super::tables::{Tables, failed};
use crate::{ConversationWrite, EventRow, OpenSessionWrite, PartitionWrite, StoreError, StoredMarks, cell};

/// The highest write times stored, by `rows::partition_key`.
pub(super) struct Highest {
    by_partition: HashMap<Vec<u8>, i64>,
    any: i64,
}

impl Highest {
    pub fn load(tables: &Tables) -> Result<Self, StoreError> {
        let mut highest = Self {
            by_partition: HashMap::new(),
            any: 0,
        };
        for row in tables.positions.iter() {
            let (key, value) = row.into_inner().map_err(failed)?;
            highest.raise(&key, rows::time_of(&value)?);
        }
        Ok(highest)
    }

    fn raise(&mut self, partition: &[u8], time: i64) {
        self.any = self.any.max(time);
        match self.by_partition.get_mut(partition) {
            Some(stored) => *stored = time.max(*stored),
            None => {
                self.by_partition.insert(partition.to_vec(), time);
            }
        }
    }

    fn of(&self, partition: &[u8]) -> i64 {
        self.by_partition.get(partition).copied().unwrap_or(0)
    }

    /// Whether some partition has written in a higher epoch than this time's.
    fn has_later_epoch(&self, time: i64) -> bool {
        cell::position_of(self.any).epoch > cell::position_of(time).epoch
    }
}

/// One batch in the making.
pub(super) struct Stage<'t> {
    tables: &'t Tables,
    batch: OwnedWriteBatch,
    /// Keys and values of the whole batch in one allocation: each row is two slices of it.
    out: BytesMut,
    marks: HashMap<Vec<u8>, StoredMarks>,
    /// Write times staged by careful writes, which the tables do not show yet.
    staged: HashMap<(u64, Bytes), i64>,
    /// Keys and values of rows.
    bytes: usize,
}

impl<'t> Stage<'t> {
    pub fn new(tables: &'t Tables, bytes: usize) -> Self {
        Self {
            tables,
            batch: tables.db.batch(),
            out: BytesMut::with_capacity(bytes),
            marks: HashMap::new(),
            staged: HashMap::new(),
            bytes: 0,
        }
    }

    /// What goes to the journal, but for marks and positions, which are small.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.marks.is_empty()
    }

    pub fn rows(&self) -> usize {
        self.batch.len() + self.marks.len()
    }

    pub fn finish(mut self) -> OwnedWriteBatch {
        for (key, marks) in std::mem::take(&mut self.marks) {
            rows::put_marks(&mut self.out, &marks);
            let value = self.out.split().freeze();
            self.batch.insert(&self.tables.marks, key, value);
        }
        self.batch
    }

    /// Stages a write without reading anything but marks. `false`: it may not be newer than what is stored, or names a cell
    /// twice; nothing was staged, [`Self::add_careful`] must have a stage of its own.
    pub fn add(&mut self, write: &PartitionWrite, highest: &mut Highest) -> Result<bool, StoreError> {
        let partition = rows::partition_key(&write.lane, write.epoch, write.partition);
        let times = times(write);
        if let Some((lowest, _)) = times {
            let names_once = names_each_cell_once(write);
            if lowest <= highest.of(&partition) || highest.has_later_epoch(lowest) || !names_once {
                return Ok(false);
            }
        }
        self.put_all(write, &partition, false)?;
        self.put_position(partition, times, highest);
        Ok(true)
    }

    /// Stages what is newer than the stored cells.
    pub fn add_careful(&mut self, write: &PartitionWrite, highest: &mut Highest) -> Result<(), StoreError> {
        let partition = rows::partition_key(&write.lane, write.epoch, write.partition);
        self.put_all(write, &partition, true)?;
        self.put_position(partition, times(write), highest);
        Ok(())
    }

    fn put_position(&mut self, partition: Vec<u8>, times: Option<(i64, i64)>, highest: &mut Highest) {
        let Some((_, time)) = times else { return };
        if time > highest.of(&partition) {
            highest.raise(&partition, time);
            self.batch
                .insert(&self.tables.positions, partition, time.to_be_bytes().to_vec());
        }
    }

    fn put_all(&mut self, write: &PartitionWrite, partition: &[u8], careful: bool) -> Result<(), StoreError> {
        for conversation in &write.conversations {
            let Some(key) = &conversation.key else {
                return Err(StoreError::Failed("a conversation's write without its key".into()));
            };
            self.put_conversation(key, conversation, partition, careful)?;
        }
        for (key, marks) in &write.marks {
            self.put_marks(key, *marks)?;
        }
        Ok(())
    }

    fn put_conversation(
        &mut self,
        key: &ConversationKey,
        write: &ConversationWrite,
        partition: &[u8],
        careful: bool,
    ) -> Result<(), StoreError> {
        let tables = self.tables;
        for (i, row) in write.events.iter().enumerate() {
            let is_over = tables.ages.is_over(key.tenant.as_str(), row.at_ms);
            // Of what is over only the conversation's last place is kept: it says where the history ends.
            if is_over && (i + 1 < write.events.len() || self.reaches(key, row)?) {
                continue;
            }
            rows::put_conversation(&mut self.out, key);
            self.out.put_u64(row.seq.0);
            let row_key = self.out.split().freeze();
            let time = row.position.write_time();
            self.out.put_i64(time);
            if is_over {
                self.out.put_slice(&cell::gone_head(row.at_ms));
            } else {
                self.out.put_slice(&cell::head(row));
                self.out.put_slice(&row.entry);
            }
            self.put(&tables.events, row_key, time, careful)?;
        }
        for closed in &write.sessions_closed {
            let row_key = rows::closed_key(key, closed).into();
            rows::put_closed(&mut self.out, closed);
            self.put(
                &tables.sessions_by_agent,
                row_key,
                closed.position.write_time(),
                careful,
            )?;
        }
        if let Some(session) = &write.open_session {
            self.put_session(key, session, partition, careful)?;
        }
        if let Some((state, position)) = &write.state {
            rows::put_conversation(&mut self.out, key);
            let row_key = self.out.split().freeze();
            self.out.put_i64(position.write_time());
            self.out.put_slice(state);
            self.put(&tables.states, row_key, position.write_time(), careful)?;
        }
        Ok(())
    }

    /// Whether the conversation's stored history reaches this event, or beyond.
    fn reaches(&self, key: &ConversationKey, row: &EventRow) -> Result<bool, StoreError> {
        let span = rows::event_key(key, row.seq)..=rows::event_key(key, Seq(u64::MAX));
        let first = self.tables.events.range(span).next();
        first.map_or(Ok(false), |row| row.key().map(|_| true).map_err(failed))
    }

    /// A put or a delete. A conversation has a live row or the time of its last delete, never both: what stands is then the
    /// same whatever came between and was coalesced away.
    fn put_session(
        &mut self,
        key: &ConversationKey,
        session: &OpenSessionWrite,
        partition: &[u8],
        careful: bool,
    ) -> Result<(), StoreError> {
        let (live, deleted) = (&self.tables.open_sessions, &self.tables.deleted_sessions);
        let time = session.position.write_time();
        self.out.put_slice(partition);
        rows::put_conversation(&mut self.out, key);
        let row_key = self.out.split().freeze();
        let (table, other) = if session.open.is_some() {
            (live, deleted)
        } else {
            (deleted, live)
        };
        if careful {
            let other_time = self.stored_time(other, &row_key)?;
            // Of a put and a delete at one time the delete stands, as in CQL.
            if time < other_time || (time == other_time && session.open.is_some()) {
                return Ok(());
            }
            self.staged.insert((other.id(), row_key.clone()), i64::MIN);
        }
        self.batch.remove(other, row_key.clone());
        match &session.open {
            Some(open) => rows::put_open(&mut self.out, time, open),
            None => self.out.put_i64(time),
        }
        self.put(table, row_key, time, careful)
    }

    /// The row `key` with the bytes written to `out` as its value.
    fn put(&mut self, table: &Keyspace, key: Bytes, time: i64, careful: bool) -> Result<(), StoreError> {
        let value = self.out.split().freeze();
        if careful {
            if time <= self.stored_time(table, &key)? {
                return Ok(());
            }
            self.staged.insert((table.id(), key.clone()), time);
        }
        self.bytes += key.len() + value.len();
        self.batch.insert(table, key, value);
        Ok(())
    }

    /// The write time of a cell as it will stand after what is staged so far; below every other where there is none.
    fn stored_time(&self, table: &Keyspace, key: &Bytes) -> Result<i64, StoreError> {
        let staged = self.staged.get(&(table.id(), key.clone()));
        if let Some(time) = staged {
            return Ok(*time);
        }
        match table.get(key).map_err(failed)? {
            Some(value) => rows::time_of(&value),
            None => Ok(i64::MIN),
        }
    }

    fn put_marks(&mut self, key: &ConversationKey, marks: StoredMarks) -> Result<(), StoreError> {
        let key = rows::conversation_key(key);
        let stored = match self.marks.get(&key) {
            Some(staged) => *staged,
            None => match self.tables.marks.get(&key).map_err(failed)? {
                Some(value) => rows::marks_of(&value)?,
                None => StoredMarks::default(),
            },
        };
        let merged = stored.merged(marks);
        if merged != stored {
            self.marks.insert(key, merged);
        }
        Ok(())
    }
}

/// The lowest and the highest write time of a write; `None` if it has no positions.
fn times(write: &PartitionWrite) -> Option<(i64, i64)> {
    let mut span: Option<(i64, i64)> = None;
    let mut add = |time: i64| span = Some(span.map_or((time, time), |(low, high)| (low.min(time), high.max(time))));
    for conversation in &write.conversations {
        conversation
            .events
            .iter()
            .for_each(|row| add(row.position.write_time()));
        conversation
            .sessions_closed
            .iter()
            .for_each(|closed| add(closed.position.write_time()));
        conversation
            .state
            .iter()
            .for_each(|(_, position)| add(position.write_time()));
        conversation
            .open_session
            .iter()
            .for_each(|session| add(session.position.write_time()));
    }
    span
}

/// Whether no cell can be named twice: each conversation once, its events rising, its closed sessions at most one.
fn names_each_cell_once(write: &PartitionWrite) -> bool {
    let mut seen = HashSet::with_capacity(write.conversations.len());
    write.conversations.iter().all(|conversation| {
        seen.insert(&conversation.key)
            && conversation.events.is_sorted_by(|a, b| a.seq < b.seq)
            && conversation.sessions_closed.len() <= 1
    })
}
