//! Keys and values of the embedded store's tables, and nothing of how they are written.
//!
//! A key begins with names, each ended by a NUL: tenants, lanes and users cannot hold one, so no name is a prefix of another
//! key's. Numbers are big endian, so that keys sort as the numbers do. Every value begins with its write time.

use bytes::{BufMut, Bytes, BytesMut};
use wire::{ConversationKey, Epoch, Lane, Partition, Seq, Tenant, User};

use crate::cell::read_i64;
use crate::{ClosedSession, OpenSession, StoreError, StoredMarks, cell};

/// Bytes of the write time before every value but marks.
pub(super) const TIME_BYTES: usize = 8;

/// `tenant NUL customer NUL`: what every key of the conversation's tables begins with.
pub(super) fn put_conversation(out: &mut impl BufMut, key: &ConversationKey) {
    put_name(out, key.tenant.as_str());
    put_name(out, key.customer.as_str());
}

pub(super) fn put_name(out: &mut impl BufMut, name: &str) {
    out.put_slice(name.as_bytes());
    out.put_u8(0);
}

/// `events`: the conversation, then the seq.
pub(super) fn event_key(key: &ConversationKey, seq: Seq) -> Vec<u8> {
    let mut out = conversation_key(key);
    out.put_u64(seq.0);
    out
}

/// The conversation's part of an event's key, and where the next conversation may begin.
pub(super) fn conversation_of(event_key: &[u8]) -> &[u8] {
    &event_key[..event_key.len().saturating_sub(8)]
}

/// The first key after all that begin with `names`, which end with a NUL.
pub(super) fn after(names: &[u8]) -> Vec<u8> {
    let mut next = names.to_vec();
    if let Some(nul) = next.last_mut() {
        *nul = 1;
    }
    next
}

/// The tenant a key begins with, its NUL included.
pub(super) fn tenant_of(key: &[u8]) -> &[u8] {
    let end = key.iter().position(|b| *b == 0).map_or(key.len(), |nul| nul + 1);
    &key[..end]
}

/// `states` and `marks`: the conversation.
pub(super) fn conversation_key(key: &ConversationKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.tenant.as_str().len() + key.customer.as_str().len() + 2 + 8);
    put_conversation(&mut out, key);
    out
}

/// `open_sessions` and `positions`: the partition (and the conversation).
pub(super) fn partition_key(lane: &Lane, epoch: Epoch, partition: Partition) -> Vec<u8> {
    let mut out = Vec::with_capacity(lane.as_str().len() + 9);
    put_name(&mut out, lane.as_str());
    out.put_u32(epoch.0);
    out.put_u32(partition.0);
    out
}

pub(super) fn agent_key(tenant: &Tenant, agent: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(tenant.as_str().len() + agent.len() + 128);
    put_name(&mut out, tenant.as_str());
    // An agent's name comes as a plain string: its length keeps it apart where a NUL might not.
    out.put_u32(agent.len() as u32);
    out.put_slice(agent.as_bytes());
    out
}

/// `sessions_by_agent`: the agent, newest first, then the customer.
pub(super) fn closed_key(key: &ConversationKey, closed: &ClosedSession) -> Vec<u8> {
    let mut out = agent_key(&key.tenant, &closed.agent);
    out.put_u64(!(closed.opened_at_ms as u64 ^ 1 << 63));
    out.put_slice(key.customer.as_str().as_bytes());
    out
}

pub(super) fn put_closed(out: &mut BytesMut, closed: &ClosedSession) {
    out.put_i64(closed.position.write_time());
    out.put_i64(closed.closed_at_ms);
    out.put_u64(closed.first_seq.0);
    out.put_u64(closed.last_seq.0);
}

pub(super) fn closed_of(
    tenant: &Tenant,
    agent: &str,
    key: &[u8],
    value: &[u8],
) -> Result<(ConversationKey, ClosedSession), StoreError> {
    let mut at = agent_key(tenant, agent).len();
    let opened = read_i64(key, at);
    at += 8;
    let customer = key.get(at..).and_then(user_of);
    let fields = (
        read_i64(value, 0),
        read_i64(value, 8),
        read_i64(value, 16),
        read_i64(value, 24),
    );
    match (opened, customer, fields) {
        (Some(opened), Some(customer), (Some(time), Some(closed_at_ms), Some(first), Some(last))) => Ok((
            ConversationKey::new(tenant.clone(), customer),
            ClosedSession {
                agent: agent.to_owned(),
                opened_at_ms: (!opened as u64 ^ 1 << 63) as i64,
                closed_at_ms,
                first_seq: Seq(first as u64),
                last_seq: Seq(last as u64),
                position: cell::position_of(time),
            },
        )),
        _ => Err(torn("a closed session", value)),
    }
}

pub(super) fn put_open(out: &mut BytesMut, write_time: i64, open: &OpenSession) {
    out.put_i64(write_time);
    out.put_i32(open.state);
    out.put_slice(open.agent.as_bytes());
}

/// `at` is where the conversation begins in the key.
pub(super) fn open_of(key: &[u8], at: usize, value: &[u8]) -> Result<OpenSession, StoreError> {
    let open = || {
        let mut names = key.get(at..)?.split(|b| *b == 0);
        let tenant = Tenant::new(std::str::from_utf8(names.next()?).ok()?).ok()?;
        let customer = user_of(names.next()?)?;
        let state = value.get(TIME_BYTES..TIME_BYTES + 4)?;
        Some(OpenSession {
            key: ConversationKey::new(tenant, customer),
            state: i32::from_be_bytes(state.try_into().ok()?),
            agent: std::str::from_utf8(value.get(TIME_BYTES + 4..)?).ok()?.to_owned(),
        })
    };
    open().ok_or_else(|| torn("an open session", value))
}

/// Marks have no write time of their own: they only rise.
pub(super) fn put_marks(out: &mut impl BufMut, marks: &StoredMarks) {
    for mark in [
        marks.customer_recv,
        marks.customer_read,
        marks.agent_recv,
        marks.agent_read,
    ] {
        out.put_u64(mark);
    }
}

pub(super) fn marks_of(value: &[u8]) -> Result<StoredMarks, StoreError> {
    let mark = |i: usize| read_i64(value, i * 8).map(|n| n as u64);
    match (mark(0), mark(1), mark(2), mark(3)) {
        (Some(customer_recv), Some(customer_read), Some(agent_recv), Some(agent_read)) => Ok(StoredMarks {
            customer_recv,
            customer_read,
            agent_recv,
            agent_read,
        }),
        _ => Err(torn("watermarks", value)),
    }
}

/// When a stored session was closed.
pub(super) fn closed_at_ms_of(value: &[u8]) -> i64 {
    read_i64(value, 8).unwrap_or(0)
}

/// The write time a value begins with.
pub(super) fn time_of(value: &[u8]) -> Result<i64, StoreError> {
    read_i64(value, 0).ok_or_else(|| torn("a row", value))
}

/// An event's seq ends its key.
pub(super) fn seq_of(key: &[u8]) -> Result<Seq, StoreError> {
    let seq = key.len().checked_sub(8).and_then(|at| read_i64(key, at));
    seq.map(|seq| Seq(seq as u64))
        .ok_or_else(|| torn("an event's key", key))
}

/// An event's row; `None`: nothing is left of it but its place.
pub(super) fn event_of(key: &[u8], value: Bytes) -> Result<Option<crate::EventRow>, StoreError> {
    let (seq, time) = (seq_of(key)?, time_of(&value)?);
    let cell = value.slice(TIME_BYTES..);
    if cell::is_gone(&cell) {
        return Ok(None);
    }
    cell::decode(seq, time, &cell).map(Some)
}

fn user_of(bytes: &[u8]) -> Option<User> {
    User::new(std::str::from_utf8(bytes).ok()?).ok()
}

fn torn(what: &str, bytes: &[u8]) -> StoreError {
    StoreError::Failed(format!("{what} in the embedded store is torn: {} bytes", bytes.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wire::{Epoch, Offset, Position};

    use super::*;

    fn conversation(tenant: &str, customer: &str) -> ConversationKey {
        ConversationKey::new(Tenant::new(tenant).unwrap(), User::new(customer).unwrap())
    }

    #[test]
    fn no_conversations_keys_begin_with_anothers() {
        let keys = [("a", "b"), ("a", "b/c"), ("a", "bc"), ("ab", "c"), ("a", "b\u{a0}c")]
            .map(|(t, c)| conversation_key(&conversation(t, c)));
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert!(i == j || !a.starts_with(b), "{a:?} begins with {b:?}");
            }
        }
    }

    #[test]
    fn closed_sessions_sort_newest_first_and_are_read_back_even_from_before_1970() {
        let closed = |opened_at_ms| ClosedSession {
            agent: "bo".into(),
            opened_at_ms,
            closed_at_ms: 9,
            first_seq: Seq(1),
            last_seq: Seq(7),
            position: Position::new(Epoch(1), Offset(5)),
        };
        let key = conversation("demo", "爱丽丝");
        let keys = [5000, 4999, 0, -1, i64::MIN].map(|at| closed_key(&key, &closed(at)));
        assert!(keys.is_sorted());
        let mut value = BytesMut::new();
        put_closed(&mut value, &closed(-1));
        assert_eq!(
            closed_of(&key.tenant, "bo", &keys[3], &value).unwrap(),
            (key, closed(-1))
        );
    }
}
