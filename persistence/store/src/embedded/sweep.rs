//! Removes what retention has ended: events from a conversation's beginning on, and closed sessions. In portions, on the
//! writer's thread: so nothing is written beneath it, and no write waits long.
//!
//! The last event of a conversation leaves its place behind (a cell without a body), because that is where the history
//! ends; state and watermarks are in tables of their own and stay.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode};
use tokio::sync::{mpsc, oneshot};

use super::rows::{self, TIME_BYTES};
use super::tables::{Tables, failed};
use super::writer::Job;
use crate::{StoreError, cell};

/// Rows looked at in one portion.
const PORTION_ROWS: usize = 2_000;
/// Between two portions, for the writes.
const PAUSE: Duration = Duration::from_millis(5);

/// Where a sweep goes on.
#[derive(Debug)]
pub(super) enum Place {
    Events(Vec<u8>),
    Sessions(Vec<u8>),
}

impl Default for Place {
    fn default() -> Self {
        Place::Events(Vec::new())
    }
}

/// What a portion did.
pub(super) struct Swept {
    pub rows: u64,
    pub next: Option<Place>,
}

pub(super) fn portion(tables: &Tables, from: Place) -> Result<Swept, StoreError> {
    let mut batch = tables.db.batch();
    let next = match from {
        Place::Events(key) => match events(tables, key, &mut batch)? {
            Some(key) => Some(Place::Events(key)),
            None => Some(Place::Sessions(Vec::new())),
        },
        Place::Sessions(key) => sessions(tables, key, &mut batch)?.map(Place::Sessions),
    };
    let rows = batch.len() as u64;
    if rows > 0 {
        batch.durability(Some(PersistMode::Buffer)).commit().map_err(failed)?;
    }
    Ok(Swept { rows, next })
}

/// A row that is over, and not yet known to be the last of its conversation.
struct Over {
    key: Bytes,
    value: Bytes,
}

impl Over {
    /// More comes behind it: it goes.
    fn remove(self, tables: &Tables, batch: &mut OwnedWriteBatch) {
        batch.remove(&tables.events, self.key);
    }

    /// It is the last one: its place stays.
    fn empty(self, tables: &Tables, batch: &mut OwnedWriteBatch) {
        let cell = &self.value[TIME_BYTES.min(self.value.len())..];
        if !cell::is_gone(cell) {
            let head = cell::gone_head(cell::at_ms_of(cell));
            let value = [&self.value[..TIME_BYTES.min(self.value.len())], &head[..]].concat();
            batch.insert(&tables.events, self.key, value);
        }
    }
}

/// The key to go on at, or `None` at the end.
fn events(tables: &Tables, from: Vec<u8>, batch: &mut OwnedWriteBatch) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut from, mut looked) = (from, 0);
    loop {
        let mut pending: Option<Over> = None;
        // Where the next walk begins, if this one ends before the table does.
        let mut skip_to = None;
        for row in tables.events.range(std::mem::take(&mut from)..) {
            let (key, value) = row.into_inner().map_err(failed)?;
            let (key, value): (Bytes, Bytes) = (key.into(), value.into());
            looked += 1;
            let tenant = rows::tenant_of(&key);
            let same = |over: &Over| rows::conversation_of(&over.key) == rows::conversation_of(&key);
            if let Some(over) = pending.take() {
                match same(&over) {
                    true => over.remove(tables, batch),
                    false => over.empty(tables, batch),
                }
            }
            let name = std::str::from_utf8(tenant.strip_suffix(&[0]).unwrap_or(tenant)).unwrap_or_default();
            if tables.ages.retention.keeps_all_of(name) {
                skip_to = Some(rows::after(tenant));
                break;
            }
            let cell = &value[TIME_BYTES.min(value.len())..];
            if !cell::is_gone(cell) && !tables.ages.is_over(name, cell::at_ms_of(cell)) {
                // What follows is younger.
                skip_to = Some(rows::after(rows::conversation_of(&key)));
                break;
            }
            if looked >= PORTION_ROWS {
                return Ok(Some(key.to_vec()));
            }
            pending = Some(Over { key, value });
        }
        match skip_to {
            Some(next) if looked >= PORTION_ROWS => return Ok(Some(next)),
            Some(next) => from = next,
            None => {
                if let Some(over) = pending {
                    over.empty(tables, batch);
                }
                return Ok(None);
            }
        }
    }
}

fn sessions(tables: &Tables, from: Vec<u8>, batch: &mut OwnedWriteBatch) -> Result<Option<Vec<u8>>, StoreError> {
    for (looked, row) in tables.sessions_by_agent.range(from..).enumerate() {
        let (key, value) = row.into_inner().map_err(failed)?;
        if looked >= PORTION_ROWS {
            return Ok(Some(key.to_vec()));
        }
        let tenant = rows::tenant_of(&key);
        let name = std::str::from_utf8(tenant.strip_suffix(&[0]).unwrap_or(tenant)).unwrap_or_default();
        if tables.ages.is_over(name, rows::closed_at_ms_of(&value)) {
            batch.remove(&tables.sessions_by_agent, key);
        }
    }
    Ok(None)
}

/// The thread that sweeps now and then.
pub(super) struct Sweeper {
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Sweeper {
    pub fn start(jobs: Option<mpsc::Sender<Job>>, interval_ms: u64) -> Result<Self, StoreError> {
        let (stop, stopped) = sync_channel(1);
        let interval = Duration::from_millis(interval_ms);
        let thread = std::thread::Builder::new()
            .name("store-sweeper".into())
            .spawn(move || {
                let Some(jobs) = jobs else { return };
                let waited = |wait| matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout));
                while waited(interval) {
                    let mut from = Some(Place::default());
                    while let Some(place) = from {
                        let (reply, answer) = oneshot::channel();
                        if jobs.blocking_send(Job::Sweep(place, reply)).is_err() {
                            return;
                        }
                        from = match answer.blocking_recv() {
                            Ok(Ok(swept)) => swept.next,
                            Ok(Err(error)) => {
                                tracing::warn!(%error, "what is past its retention could not be removed; tried again later");
                                None
                            }
                            Err(_) => return,
                        };
                        if !waited(PAUSE) {
                            return;
                        }
                    }
                }
            })
            .map_err(|e| StoreError::Failed(format!("the store's sweeper cannot start: {e}")))?;
        Ok(Self { stop, thread })
    }

    pub fn stop(self) {
        let _ = self.stop.try_send(());
        if self.thread.join().is_err() {
            tracing::error!("the store's sweeper had panicked");
        }
    }
}
