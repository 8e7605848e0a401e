//! A log's worth of records, and a store in memory that can be away or refuse a value.
#![allow(dead_code, clippy::unwrap_used)]

pub mod running;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use ordered_log::LogRecord;
use parking_lot::Mutex;
use store::{
    ClosedSession, ConversationWrite, Digest, History, OpenSession, Page, PageRange, PartitionWrite, StoreError,
    StoredConversation, StoredMarks,
};
use wire::codec;
use wire::record::{Decision, Effect, Kind, Mark, Marks, Record, Role, Sender, Session, SessionState};
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Tenant, User};

pub fn key(customer: &str) -> ConversationKey {
    ConversationKey::new(Tenant::new("demo").unwrap(), User::new(customer).unwrap())
}

pub fn message(from_customer: bool, user: &str, id: &str, text: &str) -> Record {
    let role = if from_customer { Role::Customer } else { Role::Agent };
    Record {
        version: 1,
        kind: Kind::Message.into(),
        numbered: true,
        wants_agent: from_customer,
        from: Some(Sender {
            role: role.into(),
            user: user.into(),
        }),
        id: id.into(),
        member: format!("\"message\":{}", serde_json::json!({ "text": text })).into(),
        received_at_ms: 1,
        ..Record::default()
    }
}

pub fn effect(offset: u64, state: SessionState, closed_at_seq: u64, numbered: bool) -> Record {
    let closes = state == SessionState::SessionIdle;
    Record {
        version: 1,
        kind: Kind::Effect.into(),
        numbered,
        from: Some(Sender {
            role: Role::System.into(),
            user: String::new(),
        }),
        member: "\"assigned\":{\"agent\":\"bo\"}".into(),
        effect: Some(Effect {
            decision: Some(Decision {
                epoch: 1,
                offset,
                number: 0,
            }),
            session: Some(Session {
                state: state.into(),
                agent: if closes { String::new() } else { "bo".into() },
                ..Session::default()
            }),
            closed_at_seq,
            closes,
        }),
        ..Record::default()
    }
}

pub fn marks(partition: u32, customer: &str, recv: u64) -> Record {
    Record {
        version: 1,
        kind: Kind::Marks.into(),
        marks: Some(Marks {
            partition,
            marks: vec![Mark {
                tenant: "demo".into(),
                customer: customer.into(),
                customer_recv: recv,
                agent_recv: recv / 2,
                ..Mark::default()
            }],
        }),
        ..Record::default()
    }
}

pub fn logged(offset: u64, key: Option<Bytes>, value: Option<Bytes>) -> LogRecord {
    LogRecord {
        offset: Offset(offset),
        at_ms: 1_000 + offset as i64,
        key,
        value,
        headers: Vec::new(),
    }
}

pub fn logged_record(offset: u64, customer: &str, record: &Record) -> LogRecord {
    logged(offset, Some(key(customer).to_key()), Some(codec::encode(record)))
}

/// A cell and its write time.
type Cell<T> = (i64, T);

/// Everything stored, as a reader would find it.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Rows {
    pub events: BTreeMap<(String, u64), Cell<Bytes>>,
    pub states: BTreeMap<String, Cell<Bytes>>,
    pub marks: BTreeMap<String, (u64, u64, u64, u64)>,
    /// `None`: deleted.
    pub open: BTreeMap<String, Cell<Option<(String, i32)>>>,
    pub closed: BTreeMap<(String, u64), Cell<ClosedRow>>,
}

pub type ClosedRow = (String, i64, i64, u64);

impl Rows {
    /// The write as a store carries it out: of two writes of one cell the one with the higher time stands.
    pub fn apply(&mut self, write: PartitionWrite) {
        for conversation in write.conversations {
            self.apply_one(conversation);
        }
        for (key, new) in write.marks {
            let cell = self.marks.entry(key.to_string()).or_default();
            let old = StoredMarks {
                customer_recv: cell.0,
                customer_read: cell.1,
                agent_recv: cell.2,
                agent_read: cell.3,
            };
            let m = old.merged(new);
            *cell = (m.customer_recv, m.customer_read, m.agent_recv, m.agent_read);
        }
    }

    fn apply_one(&mut self, write: ConversationWrite) {
        let key = write.key.expect("every write names its conversation").to_string();
        for row in write.events {
            put(
                &mut self.events,
                (key.clone(), row.seq.0),
                row.position.write_time(),
                row.entry,
            );
        }
        if let Some(session) = write.open_session {
            let open = session.open.map(|o| (o.agent, o.state));
            put(&mut self.open, key.clone(), session.position.write_time(), open);
        }
        for closed in write.sessions_closed {
            let row = (
                closed.agent,
                closed.opened_at_ms,
                closed.closed_at_ms,
                closed.last_seq.0,
            );
            put(
                &mut self.closed,
                (key.clone(), closed.first_seq.0),
                closed.position.write_time(),
                row,
            );
        }
        if let Some((state, position)) = write.state {
            put(&mut self.states, key, position.write_time(), state);
        }
    }

    pub fn entries(&self, customer: &str) -> Vec<String> {
        let key = key(customer).to_string();
        self.events
            .range((key.clone(), 0)..=(key, u64::MAX))
            .map(|(_, (_, entry))| String::from_utf8_lossy(entry).into_owned())
            .collect()
    }

    pub fn load(&self, key: &ConversationKey) -> Option<StoredConversation> {
        let (_, state) = self.states.get(&key.to_string())?;
        Some(StoredConversation {
            state: Some(state.clone()),
            ..StoredConversation::default()
        })
    }
}

fn put<K: Ord, V: PartialEq + std::fmt::Debug>(table: &mut BTreeMap<K, Cell<V>>, key: K, time: i64, value: V) {
    match table.get(&key) {
        Some((stood, _)) if *stood > time => {}
        Some((stood, old)) if *stood == time => assert_eq!(old, &value, "two values at one write time"),
        _ => {
            table.insert(key, (time, value));
        }
    }
}

/// `Rows` as a store that can be away, be slow, or refuse entries with a certain text.
#[derive(Default)]
pub struct FaultyStore {
    pub rows: Mutex<Rows>,
    pub away: AtomicBool,
    pub refused_text: Mutex<Option<String>>,
    pub attempts: AtomicU64,
    pub syncs: AtomicU64,
    /// Rows as of the last `sync`.
    pub synced: Mutex<Rows>,
    /// Of so many operations one is carried out and its answer is lost, and one of the writes is carried out much later; 0: none.
    pub unknown_every: AtomicU64,
    pub slow_ms: AtomicU64,
    /// So much slower are writes of events: what is written after them, and must stand after them, could overtake.
    pub events_slow_ms: AtomicU64,
    /// Writes on their way although their senders gave them up.
    pub late: Mutex<Vec<PartitionWrite>>,
    pub lost_answers: AtomicU64,
    pub landed_late: AtomicU64,
}

impl FaultyStore {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn here(&self) -> Result<(), StoreError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("no host answers".into()));
        }
        Ok(())
    }
}

#[derive(PartialEq)]
enum Luck {
    Good,
    AnswerLost,
    Late,
}

impl FaultyStore {
    /// What becomes of an operation whose answer is not sure to come; slow, if the store is.
    async fn luck(&self) -> Luck {
        let slow_ms = self.slow_ms.load(Ordering::Relaxed);
        if slow_ms > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(slow_ms)).await;
        }
        let n = self.attempts.load(Ordering::Relaxed);
        match self.unknown_every.load(Ordering::Relaxed) {
            0 => Luck::Good,
            every if n.is_multiple_of(every) => {
                self.lost_answers.fetch_add(1, Ordering::Relaxed);
                Luck::AnswerLost
            }
            every if n % every == 1 => Luck::Late,
            every if n % every == 2 => {
                // Older writes land behind newer ones.
                for write in std::mem::take(&mut *self.late.lock()) {
                    self.landed_late.fetch_add(1, Ordering::Relaxed);
                    self.rows.lock().apply(write);
                }
                Luck::Good
            }
            _ => Luck::Good,
        }
    }
}

#[async_trait]
impl History for FaultyStore {
    async fn load(&self, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
        self.here()?;
        if self.luck().await != Luck::Good {
            return Err(StoreError::Unavailable("no answer in time".into()));
        }
        Ok(self.rows.lock().load(key))
    }

    async fn page(&self, _: &ConversationKey, _: PageRange, _: u32) -> Result<Page, StoreError> {
        Ok(Page::default())
    }

    async fn open_sessions(&self, _: &Lane, _: Epoch, _: Partition) -> Result<Vec<OpenSession>, StoreError> {
        Ok(Vec::new())
    }

    async fn write(&self, batch: PartitionWrite) -> Result<(), StoreError> {
        self.here()?;
        if let Some(text) = &*self.refused_text.lock() {
            let refused = |e: &store::EventRow| String::from_utf8_lossy(&e.entry).contains(text);
            if batch.conversations.iter().flat_map(|c| &c.events).any(refused) {
                return Err(StoreError::Refused("too strange".into()));
            }
        }
        let events_slow_ms = self.events_slow_ms.load(Ordering::Relaxed);
        if events_slow_ms > 0 && batch.conversations.iter().any(|c| !c.events.is_empty()) {
            tokio::time::sleep(std::time::Duration::from_millis(events_slow_ms)).await;
        }
        let timed_out = || Err(StoreError::Unavailable("no answer in time".into()));
        match self.luck().await {
            Luck::Good => {}
            Luck::AnswerLost => {
                self.rows.lock().apply(batch);
                return timed_out();
            }
            Luck::Late => {
                self.late.lock().push(batch);
                return timed_out();
            }
        }
        self.rows.lock().apply(batch);
        Ok(())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.here()?;
        if self.luck().await != Luck::Good {
            return Err(StoreError::Unavailable("no answer in time".into()));
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
        *self.synced.lock() = self.rows.lock().clone();
        Ok(())
    }

    async fn sessions_of_agent(
        &self,
        _: &Tenant,
        _: &str,
        _: u32,
    ) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
        Ok(Vec::new())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.here()
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        Err(StoreError::Failed("not this one".into()))
    }
}
