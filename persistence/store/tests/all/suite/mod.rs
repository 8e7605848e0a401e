//! What every `History` must do: each behaviour one function over any store. Every behaviour works on tenants of its own, so
//! that one server can serve them all at once.

pub mod marks;
pub mod pages;
pub mod replay;
pub mod retention;
pub mod rows;
pub mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use store::{ConversationWrite, EventRow, History, Page, PartitionWrite};
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Position, Seq, Tenant, User};

pub type Store = Arc<dyn History>;

/// Drawn once per process, so that a server that outlives it never shows it another run's rows.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}-{:x}-{n}", now.as_millis(), std::process::id())
}

pub fn conversation(tenant: &str, customer: &str) -> ConversationKey {
    ConversationKey::new(Tenant::new(tenant).unwrap(), User::new(customer).unwrap())
}

/// A conversation nobody else has.
pub fn fresh(customer: &str) -> ConversationKey {
    conversation(&unique("t"), customer)
}

pub fn at(offset: u64) -> Position {
    Position::new(Epoch(1), Offset(offset))
}

pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    now.as_millis() as i64
}

pub fn event(seq: u64, position: Position, entry: impl Into<Bytes>) -> EventRow {
    EventRow {
        seq: Seq(seq),
        staff_only: seq.is_multiple_of(7),
        at_ms: now_ms(),
        entry: entry.into(),
        position,
    }
}

/// A partition nobody else writes to.
pub fn partition() -> PartitionWrite {
    PartitionWrite::new(Lane::new(unique("l")).unwrap(), Epoch(1), Partition(0))
}

/// `write` with one conversation in it.
pub fn of(write: &PartitionWrite, key: &ConversationKey, events: Vec<EventRow>) -> PartitionWrite {
    let mut write = write.clone();
    let state = events
        .last()
        .map(|last| (Bytes::from(format!("state at {}", last.seq)), last.position));
    write.conversations.push(ConversationWrite {
        key: Some(key.clone()),
        last_seq: events.last().map(|last| last.seq).unwrap_or_default(),
        events,
        state,
        ..Default::default()
    });
    write
}

/// Events `from..=to` of a conversation, at the offsets of their seqs.
pub fn stretch(from: u64, to: u64) -> Vec<EventRow> {
    (from..=to)
        .map(|seq| event(seq, at(seq), format!("\"entry {seq}\"")))
        .collect()
}

pub fn seqs(page: &Page) -> Vec<u64> {
    page.events.iter().map(|row| row.seq.0).collect()
}

/// Writes `events` in batches of at most 1,000, as a consumer would.
pub async fn write_all(store: &Store, key: &ConversationKey, events: &[EventRow]) {
    let partition = partition();
    for chunk in events.chunks(1_000) {
        store.write(of(&partition, key, chunk.to_vec())).await.unwrap();
    }
}
