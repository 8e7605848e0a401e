//! Reads of the embedded store. Each looks at one snapshot: it sees a batch whole or not at all.

use bytes::Bytes;
use fjall::Readable;
use wire::{ConversationKey, Seq, Tenant, limits};

use super::rows;
use super::tables::{Tables, failed};
use crate::{
    ClosedSession, Digest, EventRow, OpenSession, Page, PageRange, StoreError, StoredConversation, StoredMarks,
};

pub(super) fn load(tables: &Tables, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
    let key = rows::conversation_key(key);
    let snapshot = tables.db.snapshot();
    let state = snapshot.get(&tables.states, &key).map_err(failed)?;
    let marks = snapshot.get(&tables.marks, &key).map_err(failed)?;
    if state.is_none() && marks.is_none() {
        return Ok(None);
    }
    let marks = match marks {
        Some(value) => rows::marks_of(&value)?,
        None => StoredMarks::default(),
    };
    Ok(Some(StoredConversation {
        state: state.map(|value| Bytes::from(value).slice(rows::TIME_BYTES..)),
        marks,
    }))
}

pub(super) fn page(tables: &Tables, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError> {
    let limit = limit.min(limits::PAGE_EVENTS_MAX) as usize;
    let snapshot = tables.db.snapshot();
    let rows_of = |from: Seq, to: Seq| {
        let span = rows::event_key(key, from)..=rows::event_key(key, to);
        snapshot.range(&tables.events, span)
    };
    let last_seq = match rows_of(Seq(1), Seq(u64::MAX)).next_back() {
        // Its body may be gone, its place is not.
        Some(guard) => rows::seq_of(&guard.key().map_err(failed)?)?,
        None => return Ok(Page::default()),
    };
    // `None`: its retention is over, whether it was removed yet or not.
    let row_of = |guard: fjall::Guard| -> Option<Result<EventRow, StoreError>> {
        let (row_key, value) = match guard.into_inner() {
            Ok(row) => row,
            Err(e) => return Some(Err(failed(e))),
        };
        let row = rows::event_of(&row_key, value.into()).transpose()?;
        match row {
            Ok(row) if tables.ages.is_over(key.tenant.as_str(), row.at_ms) => None,
            row => Some(row),
        }
    };
    let last_before = |end: Seq| {
        let mut events = rows_of(Seq(1), end)
            .rev()
            .filter_map(row_of)
            .take(limit)
            .collect::<Result<Vec<_>, _>>()?;
        events.reverse();
        Ok(events)
    };
    let events = match range {
        PageRange::After(seq) if seq >= last_seq => Vec::new(),
        PageRange::After(seq) => rows_of(seq.next(), last_seq)
            .filter_map(row_of)
            .take(limit)
            .collect::<Result<_, _>>()?,
        PageRange::Before(Seq(0 | 1)) => Vec::new(),
        PageRange::Before(seq) => last_before(Seq(seq.0 - 1))?,
        PageRange::Newest => last_before(last_seq)?,
    };
    Ok(Page { events, last_seq })
}

pub(super) fn open_sessions(tables: &Tables, partition: &[u8]) -> Result<Vec<OpenSession>, StoreError> {
    tables
        .db
        .snapshot()
        .prefix(&tables.open_sessions, partition)
        .map(|row| {
            let (key, value) = row.into_inner().map_err(failed)?;
            rows::open_of(&key, partition.len(), &value)
        })
        .collect()
}

pub(super) fn sessions_of_agent(
    tables: &Tables,
    tenant: &Tenant,
    agent: &str,
    limit: u32,
) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
    tables
        .db
        .snapshot()
        .prefix(&tables.sessions_by_agent, rows::agent_key(tenant, agent))
        .map(|row| {
            let (key, value) = row.into_inner().map_err(failed)?;
            rows::closed_of(tenant, agent, &key, &value)
        })
        .filter(|row| !matches!(row, Ok((_, closed)) if tables.ages.is_over(tenant.as_str(), closed.closed_at_ms)))
        .take(limit as usize)
        .collect()
}

/// Every row of every table, values as they stand, write times in front. `deleted_sessions` too: they are write times.
pub(super) fn digest(tables: &Tables) -> Result<Digest, StoreError> {
    let snapshot = tables.db.snapshot();
    let mut digest = Digest::default();
    for (name, table) in [
        ("events", &tables.events),
        ("states", &tables.states),
        ("marks", &tables.marks),
        ("open_sessions", &tables.open_sessions),
        ("deleted_sessions", &tables.deleted_sessions),
        ("sessions_by_agent", &tables.sessions_by_agent),
        ("positions", &tables.positions),
    ] {
        for row in snapshot.iter(table) {
            let (key, value) = row.into_inner().map_err(failed)?;
            digest.row(name, &[&key, &value]);
        }
    }
    Ok(digest)
}
