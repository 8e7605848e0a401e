//! The control topic: followed by every process, and where a lane's epoch is tied to the topic it was made with.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ordered_log::{Log, LogError, TailEvent, append};
use process::{ControlView, Drain, Exit, Kind, Recorder, Tasks};
use prost::Message;
use serde_json::json;
use wire::record::{Control, LaneControl, control};
use wire::{LaneTopics, Partition, topics::CONTROL};

use crate::Failed;

/// Which switches are off is written to the metrics this often: an expiry makes no record.
const SHOW_SWITCHES_MS: u64 = 1_000;

/// Feeds the view from the topic, for ever; returns when what was there at the start has been read.
pub async fn follow(
    log: &Arc<dyn Log>,
    view: &ControlView,
    recorder: &Recorder,
    tasks: &Tasks,
    drain: &Drain,
) -> Result<(), LogError> {
    let mut tail = log.tail(CONTROL.into()).await?;
    let (feed, recorder, drain) = (view.clone(), recorder.clone(), drain.clone());
    // A new life knows nothing.
    recorder.note("control", || json!({ "key": "", "version": 0 }));
    tasks.spawn(Kind::Essential, "control", async move {
        let mut show = tokio::time::interval(Duration::from_millis(SHOW_SWITCHES_MS));
        show.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                () = drain.started() => return,
                event = tail.recv() => event,
                _ = show.tick() => {
                    feed.show_switches(wall_ms());
                    continue;
                }
            };
            match event {
                None => return,
                Some(TailEvent::CaughtUp) => feed.set_caught_up(),
                Some(TailEvent::Record(record)) => {
                    if let Some(key) = &record.key {
                        let fed = feed.feed([(&key[..], record.value.as_deref())]);
                        if fed.changed > 0 {
                            applied(&recorder, key, record.value.as_deref());
                        }
                    }
                }
            }
        }
    });
    view.caught_up().await;
    Ok(())
}

/// A control record counts in this process from now on.
fn applied(recorder: &Recorder, key: &[u8], value: Option<&[u8]>) {
    let version = value.and_then(|v| Control::decode(v).ok()).map(|c| c.version);
    if let Some(version) = version {
        recorder.info(
            "control",
            || json!({ "key": String::from_utf8_lossy(key), "version": version, "on": true }),
        );
    }
}

pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// The broker's id of the `messages` topic, which must be the one recorded with the epoch. The first process of an epoch
/// records it. A re-made topic under an old epoch would let new records lose against old write times: refused here.
pub async fn same_lane(
    log: &Arc<dyn Log>,
    view: &ControlView,
    recorder: &Recorder,
    topics: &LaneTopics,
) -> Result<String, Failed> {
    let unavailable = |e: LogError| Failed::new(Exit::Unavailable, e);
    let messages = log
        .topic(&topics.messages())
        .await
        .map_err(unavailable)?
        .map(|t| t.id)
        .unwrap_or_default();
    let desk = log
        .topic(&topics.desk())
        .await
        .map_err(unavailable)?
        .map(|t| t.id)
        .unwrap_or_default();
    let recorded = view.now().lane(&topics.lane).cloned();
    match recorded {
        Some(lane) if lane.epoch == topics.epoch.0 => {
            if lane.partitions != topics.partitions {
                return Err(refused(format!(
                    "lane {} was made with {} partitions and is configured with {}",
                    topics.lane, lane.partitions, topics.partitions
                )));
            }
            if lane.messages_topic_id != messages || lane.desk_topic_id != desk {
                return Err(refused(format!(
                    "the topics of lane {} are not those that epoch {} began with: they were made anew",
                    topics.lane, topics.epoch
                )));
            }
        }
        Some(lane) if lane.epoch > topics.epoch.0 => {
            return Err(refused(format!(
                "lane {} is in epoch {} already; epoch {} is over",
                topics.lane, lane.epoch, topics.epoch
            )));
        }
        _ => record_lane(log, view, recorder, topics, (messages.clone(), desk)).await?,
    }
    Ok(messages)
}

fn refused(what: String) -> Failed {
    Failed::new(
        Exit::Config,
        format!("{what}; a changed log gets an epoch that was never used before (key `epoch`)"),
    )
}

async fn record_lane(
    log: &Arc<dyn Log>,
    view: &ControlView,
    recorder: &Recorder,
    topics: &LaneTopics,
    (messages_topic_id, desk_topic_id): (String, String),
) -> Result<(), Failed> {
    let record = Control {
        version: view.now().version() + 1,
        about: Some(control::About::Lane(LaneControl {
            lane: topics.lane.to_string(),
            epoch: topics.epoch.0,
            partitions: topics.partitions,
            messages_topic_id,
            desk_topic_id,
        })),
    };
    let producer = log.producer().await.map_err(|e| Failed::new(Exit::Unavailable, e))?;
    let key = format!("lane/{}", topics.lane);
    // Before it is there: others may apply it before we hear that it is.
    recorder.ok(
        "control",
        || json!({ "key": key, "version": record.version, "on": true }),
    );
    let value = record.encode_to_vec().into();
    append(
        producer.as_ref(),
        CONTROL.into(),
        Partition(0),
        Some(key.into()),
        Some(value),
    )
    .await
    .map_err(|e| Failed::new(Exit::Unavailable, e))?;
    Ok(())
}
