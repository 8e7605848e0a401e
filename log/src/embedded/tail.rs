//! Reads one partition from its start for ever, without a group.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use wire::Offset;

use super::Shared;
use super::member::PORTION;
use super::partition::PartitionLog;
use crate::{LogError, LogRecord, TailEvent};

const READ_AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>, part: Arc<PartitionLog>, events: mpsc::Sender<TailEvent>) {
    let wake = Arc::new(Notify::new());
    part.subscribe(&wake);
    let mut at = part.bounds().start;
    // What is there now; the caller hears when it has all of it.
    let mut catching_up = Some(part.end());
    'tail: loop {
        if catching_up.is_some_and(|end| at >= end) {
            catching_up = None;
            if events.send(TailEvent::CaughtUp).await.is_err() {
                break;
            }
        }
        let end = part.end();
        if at >= end {
            tokio::select! {
                () = wake.notified() => continue,
                () = events.closed() => break,
            }
        }
        let records = next(&shared, &part, &mut at).await;
        if records.is_empty() {
            at = at.max(end);
        }
        for record in records {
            if catching_up.is_some_and(|end| record.offset >= end) {
                catching_up = None;
                if events.send(TailEvent::CaughtUp).await.is_err() {
                    break 'tail;
                }
            }
            at = record.offset.next();
            if events.send(TailEvent::Record(record)).await.is_err() {
                break 'tail;
            }
        }
    }
    part.unsubscribe(&wake);
}

async fn next(shared: &Shared, part: &Arc<PartitionLog>, at: &mut Offset) -> Vec<LogRecord> {
    loop {
        match shared.fetch(part, *at, PORTION).await {
            Ok(records) => return records,
            // Trimmed meanwhile: what was there no longer matters to a reader of newest values.
            Err(LogError::OutOfRange { start, .. }) => *at = (*at).max(start),
            Err(error) => {
                tracing::warn!(topic = %part.at.topic, %error, "the tail could not read");
                tokio::time::sleep(READ_AGAIN).await;
            }
        }
    }
}
