//! Reading. A conversation's row says how far its history goes: what lies above `last_seq` is half written and not shown,
//! what lies below must be there. A page that has not all of it is read again at QUORUM; what is missing then has expired.

use std::ops::RangeInclusive;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use wire::{ConversationKey, Epoch, Lane, Partition, Seq, Tenant, User, limits};

use super::write::bucket_of;
use super::{Cql, error, schema};
use crate::{ClosedSession, EventRow, OpenSession, Page, PageRange, StoreError, StoredConversation, StoredMarks, cell};

/// How far back an agent's sessions are looked for.
const AGENT_MONTHS: i32 = 36;
/// Months asked for at once.
const MONTHS_AT_ONCE: usize = 4;

pub(super) async fn load(cql: &Cql, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
    type Row = (Option<Bytes>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);
    let result = cql.select(&cql.statements.get_conversation, names(key)).await?;
    let rows = result.into_rows_result().map_err(error::torn)?;
    let row = rows.maybe_first_row::<Row>().map_err(error::torn)?;
    let Some((state, customer_recv, customer_read, agent_recv, agent_read)) = row else {
        return Ok(None);
    };
    let mark = |mark: Option<i64>| mark.unwrap_or(0) as u64;
    let marks = StoredMarks {
        customer_recv: mark(customer_recv),
        customer_read: mark(customer_read),
        agent_recv: mark(agent_recv),
        agent_read: mark(agent_read),
    };
    // A row may be there for its `last_seq` alone.
    if state.is_none() && marks == StoredMarks::default() {
        return Ok(None);
    }
    // A copy: a slice of the frame would hold all of it for as long as the conversation is in memory.
    let state = state.map(|state| Bytes::copy_from_slice(&state));
    Ok(Some(StoredConversation { state, marks }))
}

pub(super) async fn page(cql: &Cql, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError> {
    let last_seq = last_seq(cql, key).await?;
    let limit = u64::from(limit.min(limits::PAGE_EVENTS_MAX));
    let span = span_of(range, limit, last_seq);
    if span.is_empty() {
        return Ok(Page {
            events: Vec::new(),
            last_seq,
        });
    }
    let wanted = (span.end() - span.start() + 1) as usize;
    let walk = Walk { cql, key };
    let mut events = walk.rising(&cql.statements.get_span, &span, wanted).await?;
    if events.len() < wanted {
        events = walk.rising(&cql.statements.reread_span, &span, wanted).await?;
        // Part of the span has expired: the page is filled from what lies beyond, where something does.
        let missing = limit as usize - events.len();
        match range {
            PageRange::After(_) => {
                let beyond = span.end() + 1..=last_seq.0;
                events.extend(walk.rising(&cql.statements.reread_span, &beyond, missing).await?);
            }
            PageRange::Before(_) | PageRange::Newest => {
                let mut older = walk.falling(1..=span.start() - 1, missing).await?;
                older.append(&mut events);
                events = older;
            }
        }
    }
    Ok(Page { events, last_seq })
}

/// The seqs a page would hold if nothing had expired; empty if none.
fn span_of(range: PageRange, limit: u64, last_seq: Seq) -> RangeInclusive<u64> {
    let below = |end: u64| end.saturating_sub(limit) + 1..=end;
    match range {
        PageRange::After(seq) => {
            let start = seq.0.saturating_add(1);
            start..=last_seq.0.min(seq.0.saturating_add(limit))
        }
        PageRange::Before(seq) => below(last_seq.0.min(seq.0.saturating_sub(1))),
        PageRange::Newest => below(last_seq.0),
    }
}

async fn last_seq(cql: &Cql, key: &ConversationKey) -> Result<Seq, StoreError> {
    let result = cql.select(&cql.statements.get_last_seq, names(key)).await?;
    let rows = result.into_rows_result().map_err(error::torn)?;
    let row = rows.maybe_first_row::<(Option<i64>,)>().map_err(error::torn)?;
    Ok(Seq(row.and_then(|(seq,)| seq).unwrap_or(0) as u64))
}

/// A walk over a conversation's buckets.
struct Walk<'r> {
    cql: &'r Cql,
    key: &'r ConversationKey,
}

impl Walk<'_> {
    /// The first `limit` events of a span.
    async fn rising(
        &self,
        statement: &PreparedStatement,
        span: &RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let mut events = Vec::new();
        if span.is_empty() {
            return Ok(events);
        }
        for bucket in bucket_of(Seq(*span.start()))..=bucket_of(Seq(*span.end())) {
            if events.len() == limit {
                break;
            }
            let left = limit - events.len();
            self.bucket(statement, bucket, span, left, &mut events).await?;
        }
        Ok(events)
    }

    /// The last `limit` events of a span, rising. Events expire in their order: below an empty bucket all are empty.
    async fn falling(&self, span: RangeInclusive<u64>, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        let mut events = Vec::new();
        if span.is_empty() {
            return Ok(events);
        }
        for bucket in (bucket_of(Seq(*span.start()))..=bucket_of(Seq(*span.end()))).rev() {
            let before = events.len();
            let statement = &self.cql.statements.reread_span_falling;
            self.bucket(statement, bucket, &span, limit - before, &mut events)
                .await?;
            if events.len() == limit || events.len() == before {
                break;
            }
        }
        events.reverse();
        Ok(events)
    }

    async fn bucket(
        &self,
        statement: &PreparedStatement,
        bucket: i32,
        span: &RangeInclusive<u64>,
        limit: usize,
        events: &mut Vec<EventRow>,
    ) -> Result<(), StoreError> {
        let (tenant, customer) = names(self.key);
        let bind = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
        let values = (
            tenant,
            customer,
            bucket,
            bind(*span.start()),
            bind(*span.end()),
            limit as i32,
        );
        let result = self.cql.select(statement, values).await?;
        let rows = result.into_rows_result().map_err(error::torn)?;
        for row in rows.rows::<(i64, Bytes, i64)>().map_err(error::torn)? {
            let (seq, event, write_time) = row.map_err(error::torn)?;
            events.push(cell::decode(Seq(seq as u64), write_time, &event)?);
        }
        Ok(())
    }
}

pub(super) async fn open_sessions(
    cql: &Cql,
    lane: &Lane,
    epoch: Epoch,
    partition: Partition,
) -> Result<Vec<OpenSession>, StoreError> {
    let values = (lane.as_str(), epoch.0 as i32, partition.0 as i32);
    // Paged by the driver: a partition may have many, and a take-over wants them all.
    let rows = cql
        .session
        .execute_iter(cql.statements.get_open.clone(), values)
        .await
        .map_err(|e| StoreError::Unavailable(e.to_string()))?;
    rows.rows_stream::<(String, String, String, i32)>()
        .map_err(error::torn)?
        .map(|row| {
            let (tenant, customer, agent, state) = row.map_err(|e| StoreError::Unavailable(e.to_string()))?;
            Ok(OpenSession {
                key: key_of(&tenant, &customer)?,
                agent,
                state,
            })
        })
        .try_collect()
        .await
}

pub(super) async fn sessions_of_agent(
    cql: &Cql,
    tenant: &Tenant,
    agent: &str,
    limit: u32,
    now_ms: i64,
) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
    // The month after this one too: clocks differ.
    let newest = schema::month_of(now_ms) + 1;
    let mut months = stream::iter((newest - AGENT_MONTHS..=newest).rev())
        .map(|month| sessions_of_month(cql, tenant, agent, month, limit))
        .buffered(MONTHS_AT_ONCE);
    let mut all = Vec::new();
    while all.len() < limit as usize {
        match months.try_next().await? {
            Some(sessions) => all.extend(sessions),
            None => break,
        }
    }
    all.truncate(limit as usize);
    Ok(all)
}

async fn sessions_of_month(
    cql: &Cql,
    tenant: &Tenant,
    agent: &str,
    month: i32,
    limit: u32,
) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
    type Row = (CqlTimestamp, String, CqlTimestamp, i64, i64, i64);
    let values = (tenant.as_str(), agent, month, i32::try_from(limit).unwrap_or(i32::MAX));
    let result = cql.select(&cql.statements.get_by_agent, values).await?;
    let rows = result.into_rows_result().map_err(error::torn)?;
    rows.rows::<Row>()
        .map_err(error::torn)?
        .map(|row| {
            let (opened_at, customer, closed_at, first_seq, last_seq, write_time) = row.map_err(error::torn)?;
            let session = ClosedSession {
                agent: agent.to_owned(),
                opened_at_ms: opened_at.0,
                closed_at_ms: closed_at.0,
                first_seq: Seq(first_seq as u64),
                last_seq: Seq(last_seq as u64),
                position: cell::position_of(write_time),
            };
            Ok((key_of(tenant.as_str(), &customer)?, session))
        })
        .collect()
}

pub(super) fn key_of(tenant: &str, customer: &str) -> Result<ConversationKey, StoreError> {
    Ok(ConversationKey::new(
        Tenant::new(tenant).map_err(error::torn)?,
        User::new(customer).map_err(error::torn)?,
    ))
}

fn names(key: &ConversationKey) -> (&str, &str) {
    (key.tenant.as_str(), key.customer.as_str())
}

impl Cql {
    pub(super) async fn select(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, StoreError> {
        self.session
            .execute_unpaged(statement, values)
            .await
            .map_err(error::of_request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_wants_just_what_is_said_to_be_there() {
        use PageRange::{After, Before, Newest};
        let span = |range, limit, last| span_of(range, limit, Seq(last));
        assert_eq!(span(After(Seq(0)), 10, 5), 1..=5);
        assert_eq!(span(After(Seq(3)), 2, 50), 4..=5);
        assert!(span(After(Seq(5)), 10, 5).is_empty());
        assert!(span(After(Seq(u64::MAX)), 10, 5).is_empty());
        assert_eq!(span(Before(Seq(4)), 10, 50), 1..=3);
        assert_eq!(span(Before(Seq(40)), 10, 50), 30..=39);
        assert_eq!(span(Before(Seq(u64::MAX)), 10, 50), 41..=50);
        assert!(span(Before(Seq(1)), 10, 50).is_empty());
        assert!(span(Before(Seq(0)), 10, 50).is_empty());
        assert_eq!(span(Newest, 10, 50), 41..=50);
        for range in [After(Seq(0)), Before(Seq(9)), Newest] {
            assert!(span(range, 10, 0).is_empty() && span(range, 0, 50).is_empty());
        }
    }
}
