//! Writing: per conversation first its events and session rows, then its state; conversations side by side, so many
//! statements under way at once and no more.
//!
//! Rows of one partition key travel in one unlogged batch: to the replicas it is one mutation, and to us one frame instead
//! of many.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use wire::{ConversationKey, Seq, limits};

use super::values::Values;
use super::{Cql, error};
use crate::{ClosedSession, ConversationWrite, EventRow, OpenSessionWrite, PartitionWrite, StoreError, StoredMarks};

/// Of one batch. Servers warn of batches of several partitions much smaller than this; of one partition they are one
/// mutation, whose limit is half a commit log segment.
const BATCH_ROWS_MAX: usize = 50;
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// What a conversation's part of a write needs to know.
struct Context<'w> {
    cql: &'w Cql,
    write: &'w PartitionWrite,
    now_ms: i64,
}

pub(super) async fn write(cql: &Cql, write: &PartitionWrite, now_ms: i64) -> Result<(), StoreError> {
    let context = &Context { cql, write, now_ms };
    let side_by_side = cql.in_flight_max;
    // Marks stand in the row of the state: where both are written they are one mutation.
    let mut marks: HashMap<&ConversationKey, StoredMarks> = HashMap::with_capacity(write.marks.len());
    for (key, more) in &write.marks {
        let of_key = marks.entry(key).or_default();
        *of_key = of_key.merged(*more);
    }
    let with_marks: Vec<_> = write
        .conversations
        .iter()
        .map(|conversation| {
            let key = conversation.key.as_ref().filter(|_| conversation.state.is_some());
            (conversation, key.and_then(|key| marks.remove(key)))
        })
        .collect();
    stream::iter(with_marks)
        .map(Ok)
        .try_for_each_concurrent(side_by_side, |(conversation, marks)| {
            context.conversation(conversation, marks)
        })
        .await?;
    stream::iter(marks)
        .map(Ok)
        .try_for_each_concurrent(side_by_side, |(key, marks)| context.marks(key, marks))
        .await
}

impl Context<'_> {
    async fn conversation(
        &self,
        conversation: &ConversationWrite,
        marks: Option<StoredMarks>,
    ) -> Result<(), StoreError> {
        let Some(key) = &conversation.key else {
            return Err(StoreError::Failed("a conversation's write without its key".into()));
        };
        let events = self.events(key, &conversation.events);
        match (&conversation.open_session, conversation.sessions_closed.as_slice()) {
            (None, []) => events.await?,
            (open, closed) => {
                let open = async {
                    match open {
                        Some(session) => self.open_session(key, session).await,
                        None => Ok(()),
                    }
                };
                let closed =
                    futures::future::try_join_all(closed.iter().map(|session| self.closed_session(key, session)));
                futures::try_join!(events, open, closed)?;
            }
        }
        self.state(key, conversation, marks).await
    }

    async fn events(&self, key: &ConversationKey, events: &[EventRow]) -> Result<(), StoreError> {
        let mut chunks = stream::FuturesUnordered::new();
        for chunk in Chunks(events) {
            let values: Vec<_> = chunk.iter().filter_map(|row| self.event(key, row)).collect();
            // One chunk, as nearly always: no need for the machinery of many.
            if chunk.len() == events.len() {
                return self.send(&self.cql.statements.put_event, values).await;
            }
            chunks.push(self.send(&self.cql.statements.put_event, values));
        }
        while chunks.try_next().await?.is_some() {}
        Ok(())
    }

    /// `None`: its retention is over, it is not written.
    fn event<'r>(&self, key: &'r ConversationKey, row: &'r EventRow) -> Option<Values<'r>> {
        Some(Values::Event {
            key,
            row,
            ttl_s: self.cql.retention.left_s(&key.tenant, row.at_ms, self.now_ms)?,
        })
    }

    async fn state(
        &self,
        key: &ConversationKey,
        write: &ConversationWrite,
        marks: Option<StoredMarks>,
    ) -> Result<(), StoreError> {
        let statements = &self.cql.statements;
        let last_event = write.events.last();
        let last_seq = last_event.map_or(Seq::ZERO, |row| row.seq).max(write.last_seq);
        let (statement, values) = match (&write.state, last_event) {
            (Some((state, position)), _) if last_seq > Seq::ZERO => (
                &statements.put_state,
                Values::State(key, position.write_time(), state, last_seq),
            ),
            // A state that names no last seq leaves the stored one alone.
            (Some((state, position)), _) => (
                &statements.put_state_alone,
                Values::StateAlone(key, position.write_time(), state),
            ),
            (None, Some(row)) => (
                &statements.put_last_seq,
                Values::Number(key, row.position.write_time(), last_seq.0),
            ),
            (None, None) => return Ok(()),
        };
        let Some(marks) = marks else {
            return self.cql.execute(statement, values).await;
        };
        let (mut batch, mut of_marks) = self.marks_batch(key, marks);
        batch.append_statement(statement.clone());
        of_marks.push(values);
        self.cql.execute_batch(&batch, &of_marks).await
    }

    async fn open_session(&self, key: &ConversationKey, session: &OpenSessionWrite) -> Result<(), StoreError> {
        let PartitionWrite {
            lane, epoch, partition, ..
        } = self.write;
        let place = (lane.as_str(), epoch.0 as i32, partition.0 as i32);
        let time = session.position.write_time();
        match &session.open {
            Some(open) => {
                let values = Values::Open(place, key, &open.agent, open.state, time);
                self.cql.execute(&self.cql.statements.put_open, values).await
            }
            None => {
                let values = Values::DeleteOpen(time, place, key);
                self.cql.execute(&self.cql.statements.delete_open, values).await
            }
        }
    }

    async fn closed_session(&self, key: &ConversationKey, closed: &ClosedSession) -> Result<(), StoreError> {
        let Some(ttl_s) = self.cql.retention.left_s(&key.tenant, closed.closed_at_ms, self.now_ms) else {
            return Ok(());
        };
        let statements = &self.cql.statements;
        let by_agent = self
            .cql
            .execute(&statements.put_by_agent, Values::ByAgent(key, closed, ttl_s));
        let by_day = self
            .cql
            .execute(&statements.put_by_day, Values::ByDay(key, closed, ttl_s));
        futures::try_join!(by_agent, by_day).map(|_| ())
    }

    /// Each mark is a cell whose write time is the mark itself: the store keeps the highest, whatever the order, and two
    /// writers at once cannot undo one another. Nothing is read.
    async fn marks(&self, key: &ConversationKey, marks: StoredMarks) -> Result<(), StoreError> {
        let (batch, values) = self.marks_batch(key, marks);
        if values.is_empty() {
            return Ok(());
        }
        self.cql.execute_batch(&batch, &values).await
    }

    fn marks_batch<'r>(&self, key: &'r ConversationKey, marks: StoredMarks) -> (Batch, Vec<Values<'r>>) {
        let marks = [
            marks.customer_recv,
            marks.customer_read,
            marks.agent_recv,
            marks.agent_read,
        ];
        let (mut batch, mut values) = (self.cql.batch(), Vec::with_capacity(5));
        for (mark, statement) in marks.into_iter().zip(&self.cql.statements.put_marks) {
            // Nothing has arrived: what is not there says the same.
            if mark > 0 {
                batch.append_statement(statement.clone());
                values.push(Values::Number(key, mark as i64, mark));
            }
        }
        (batch, values)
    }

    async fn send(&self, statement: &PreparedStatement, mut values: Vec<Values<'_>>) -> Result<(), StoreError> {
        match values.len() {
            0 => Ok(()),
            1 => match values.pop() {
                Some(values) => self.cql.execute(statement, values).await,
                None => Ok(()),
            },
            n => {
                let statements = vec![BatchStatement::PreparedStatement(statement.clone()); n];
                let batch = self.cql.batch_of(statements);
                self.cql.execute_batch(&batch, &values).await
            }
        }
    }
}

impl Cql {
    fn batch(&self) -> Batch {
        self.batch_of(Vec::new())
    }

    fn batch_of(&self, statements: Vec<BatchStatement>) -> Batch {
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        batch.set_consistency(self.consistency);
        batch
    }

    async fn execute(&self, statement: &PreparedStatement, values: Values<'_>) -> Result<(), StoreError> {
        let _permit = self.permit().await?;
        let outcome = self.session.execute_unpaged(statement, values).await;
        outcome.map(|_| ()).map_err(error::of_request)
    }

    async fn execute_batch(&self, batch: &Batch, values: &[Values<'_>]) -> Result<(), StoreError> {
        let _permit = self.permit().await?;
        let outcome = self.session.batch(batch, values).await;
        outcome.map(|_| ()).map_err(error::of_request)
    }
}

/// Runs of events that go into one batch: of one bucket, and within a batch's limits.
struct Chunks<'e>(&'e [EventRow]);

impl<'e> Iterator for Chunks<'e> {
    type Item = &'e [EventRow];

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.0.first()?;
        let mut bytes = 0;
        let len = self
            .0
            .iter()
            .take(BATCH_ROWS_MAX)
            .take_while(|row| {
                bytes += row.entry.len();
                bucket_of(row.seq) == bucket_of(first.seq) && bytes <= BATCH_BYTES_MAX
            })
            .count()
            // One that is larger than a batch may be goes alone.
            .max(1);
        let (chunk, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(chunk)
    }
}

pub(super) fn bucket_of(seq: Seq) -> i32 {
    (seq.0 / limits::BUCKET_EVENTS).min(i32::MAX as u64) as i32
}

#[cfg(test)]
mod tests {
    use wire::{Epoch, Offset, Position};

    use super::*;

    #[test]
    fn chunks_hold_to_their_limits_and_to_one_bucket_and_lose_nothing() {
        let row = |seq: u64, len: usize| EventRow {
            seq: Seq(seq),
            staff_only: false,
            at_ms: 0,
            entry: vec![0; len].into(),
            position: Position::new(Epoch(1), Offset(seq)),
        };
        let start = limits::BUCKET_EVENTS - 75;
        let rows: Vec<_> = (start..start + 200)
            .map(|seq| row(seq, if seq % 40 == 0 { 70_000 } else { 3_000 }))
            .collect();
        let chunks: Vec<_> = Chunks(&rows).collect();
        assert_eq!(chunks.concat(), rows);
        for chunk in chunks {
            let bytes: usize = chunk.iter().map(|row| row.entry.len()).sum();
            assert!(chunk.len() <= BATCH_ROWS_MAX && (bytes <= BATCH_BYTES_MAX || chunk.len() == 1));
            assert!(chunk.iter().all(|row| bucket_of(row.seq) == bucket_of(chunk[0].seq)));
        }
        assert_eq!(Chunks(&[]).count(), 0);
    }
}
