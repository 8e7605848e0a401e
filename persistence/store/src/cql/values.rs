//! The values of each statement, written into the frame where they lie: no row is copied before.

use bytes::Bytes;
use scylla::frame::response::result::ColumnType;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, RowWriter, WrittenCellProof};
use scylla::value::CqlTimestamp;
use wire::{ConversationKey, Seq};

use super::{schema, write::bucket_of};
use crate::{ClosedSession, EventRow, cell};

/// Lane, epoch, partition.
pub(super) type Place<'r> = (&'r str, i32, i32);

/// The values of each statement, in its order.
pub(super) enum Values<'r> {
    Event {
        key: &'r ConversationKey,
        row: &'r EventRow,
        ttl_s: i32,
    },
    State(&'r ConversationKey, i64, &'r Bytes, Seq),
    StateAlone(&'r ConversationKey, i64, &'r Bytes),
    Number(&'r ConversationKey, i64, u64),
    Open(Place<'r>, &'r ConversationKey, &'r str, i32, i64),
    DeleteOpen(i64, Place<'r>, &'r ConversationKey),
    ByAgent(&'r ConversationKey, &'r ClosedSession, i32),
    ByDay(&'r ConversationKey, &'r ClosedSession, i32),
}

impl SerializeRow for Values<'_> {
    fn serialize(
        &self,
        ctx: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        match self {
            Values::Event { key, row, ttl_s } => put(
                (
                    key.tenant.as_str(),
                    key.customer.as_str(),
                    bucket_of(row.seq),
                    row.seq.0 as i64,
                    EventCell(row),
                    row.position.write_time(),
                    ttl_s,
                ),
                ctx,
                writer,
            ),
            Values::State(key, time, state, last_seq) => put(
                (
                    time,
                    &state[..],
                    last_seq.0 as i64,
                    key.tenant.as_str(),
                    key.customer.as_str(),
                ),
                ctx,
                writer,
            ),
            Values::StateAlone(key, time, state) => put(
                (time, &state[..], key.tenant.as_str(), key.customer.as_str()),
                ctx,
                writer,
            ),
            Values::Number(key, time, number) => put(
                (time, *number as i64, key.tenant.as_str(), key.customer.as_str()),
                ctx,
                writer,
            ),
            Values::Open((lane, epoch, partition), key, agent, state, time) => put(
                (
                    lane,
                    epoch,
                    partition,
                    key.tenant.as_str(),
                    key.customer.as_str(),
                    agent,
                    state,
                    time,
                ),
                ctx,
                writer,
            ),
            Values::DeleteOpen(time, (lane, epoch, partition), key) => put(
                (time, lane, epoch, partition, key.tenant.as_str(), key.customer.as_str()),
                ctx,
                writer,
            ),
            Values::ByAgent(key, closed, ttl_s) => put(
                (
                    key.tenant.as_str(),
                    closed.agent.as_str(),
                    schema::month_of(closed.opened_at_ms),
                    CqlTimestamp(closed.opened_at_ms),
                    key.customer.as_str(),
                    CqlTimestamp(closed.closed_at_ms),
                    closed.first_seq.0 as i64,
                    closed.last_seq.0 as i64,
                    closed.position.write_time(),
                    ttl_s,
                ),
                ctx,
                writer,
            ),
            Values::ByDay(key, closed, ttl_s) => put(
                (
                    key.tenant.as_str(),
                    schema::day_of(closed.closed_at_ms),
                    schema::shard_of(key.customer.as_str()),
                    CqlTimestamp(closed.closed_at_ms),
                    key.customer.as_str(),
                    closed.agent.as_str(),
                    CqlTimestamp(closed.opened_at_ms),
                    closed.first_seq.0 as i64,
                    closed.last_seq.0 as i64,
                    closed.position.write_time(),
                    ttl_s,
                ),
                ctx,
                writer,
            ),
        }
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// Head and entry as one blob, put together in the frame.
struct EventCell<'r>(&'r EventRow);

impl SerializeValue for EventCell<'_> {
    fn serialize<'b>(
        &self,
        _type: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        let mut cell = writer.into_value_builder();
        cell.append_bytes(&cell::head(self.0));
        cell.append_bytes(&self.0.entry);
        cell.finish().map_err(SerializationError::new)
    }
}

/// A tuple is a row and a value to the driver: here it is a row.
fn put(
    row: impl SerializeRow,
    ctx: &RowSerializationContext<'_>,
    writer: &mut RowWriter<'_>,
) -> Result<(), SerializationError> {
    row.serialize(ctx, writer)
}
