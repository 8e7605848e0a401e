//! Making topics, and recognising one again.
//!
//! rdkafka cannot read Kafka's own topic id (KIP-516). So a topic gets an id of ours when it is made, in the one place that
//! lives and dies with it and that any client may read: its configuration. `message.timestamp.before.max.ms` is a free
//! 63-bit number there; it limits timestamps that producers set, and our topics take the broker's
//! (`message.timestamp.type=LogAppendTime`), so it has no effect. Whoever makes the topic anew by other means leaves it at its default, which
//! is an id of its own (`unmarked`) and not the one recorded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;

use super::reader::Reader;
use super::{KafkaOptions, blocking, settings, unavailable};
use crate::{LogError, TopicInfo, TopicSpec};

const ID_SETTING: &str = "message.timestamp.before.max.ms";
/// Ids are far above any sensible value of the setting.
const ID_MIN: u64 = 1 << 61;
/// Of compacted topics: small and old enough to be compacted soon.
const COMPACTED_SEGMENT_BYTES: u64 = 32 << 20;
const COMPACTED_SEGMENT_MS: u64 = 600_000;
/// A new topic's leaders are there within this.
const LED_WITHIN: Duration = Duration::from_secs(15);
/// A topic that was just made is known to every broker within this.
const HEARD_OF_WITHIN: Duration = Duration::from_millis(400);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn admin(options: &KafkaOptions) -> Result<AdminClient<DefaultClientContext>, LogError> {
    settings::asking(options).create().map_err(unavailable)
}

fn admin_options(options: &KafkaOptions) -> AdminOptions {
    let timeout = Duration::from_millis(options.ask_timeout_ms);
    AdminOptions::new()
        .request_timeout(Some(timeout * 2))
        .operation_timeout(Some(timeout))
}

async fn ask(reader: &Arc<Reader>, topic: &str) -> Result<Option<u32>, LogError> {
    let (reader, topic) = (reader.clone(), topic.to_owned());
    blocking(move || reader.partitions(&topic)).await
}

/// Partitions of a topic; `None` if there is no such topic. A broker that has not heard of a new topic yet says so too: it is
/// believed the second time.
pub(super) async fn partitions(reader: &Arc<Reader>, topic: &str) -> Result<Option<u32>, LogError> {
    if let Some(count) = ask(reader, topic).await? {
        return Ok(Some(count));
    }
    tokio::time::sleep(HEARD_OF_WITHIN).await;
    ask(reader, topic).await
}

fn settings_of(spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    let id = ID_MIN | (random >> 3);
    let mut settings = vec![
        (ID_SETTING, id.to_string()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        (
            "cleanup.policy",
            if spec.compacted { "compact" } else { "delete" }.to_owned(),
        ),
        (
            "retention.ms",
            spec.retention_ms.map_or("-1".to_owned(), |ms| ms.to_string()),
        ),
        (
            "min.insync.replicas",
            spec.replication.saturating_sub(1).max(1).to_string(),
        ),
    ];
    if spec.compacted {
        // Who starts reads the whole topic. A broker never compacts the segment it writes to, and its own are of 1 GiB.
        settings.push(("segment.bytes", COMPACTED_SEGMENT_BYTES.to_string()));
        settings.push(("segment.ms", COMPACTED_SEGMENT_MS.to_string()));
        settings.push(("min.cleanable.dirty.ratio", "0.1".to_owned()));
    }
    settings
}

pub(super) async fn create(options: &KafkaOptions, reader: &Arc<Reader>, specs: &[TopicSpec]) -> Result<(), LogError> {
    let mut missing = Vec::new();
    for spec in specs {
        match check(reader, spec).await? {
            true => {}
            false => missing.push(spec),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let set: Vec<_> = missing.iter().map(|spec| settings_of(spec)).collect();
    let topics: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&set)
        .map(|(spec, set)| {
            let replication = TopicReplication::Fixed(i32::from(spec.replication));
            let topic = NewTopic::new(&spec.name, spec.partitions as i32, replication);
            set.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        })
        .collect();
    let made = admin(options)?
        .create_topics(&topics, &admin_options(options))
        .await
        .map_err(unavailable)?;
    for result in made {
        match result {
            // Somebody else was faster: what they made is checked below.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(LogError::Failed(format!("topic {name} could not be made: {code}"))),
        }
    }
    let deadline = Instant::now() + LED_WITHIN;
    for spec in missing {
        let (asked, name) = (reader.clone(), spec.name.clone());
        blocking(move || {
            while !asked.is_led(&name) && Instant::now() < deadline {
                std::thread::sleep(LOOK_AGAIN);
            }
            Ok(())
        })
        .await?;
        if !check(reader, spec).await? {
            return Err(LogError::Unavailable(format!(
                "topic {} was made but cannot be seen yet",
                spec.name
            )));
        }
    }
    Ok(())
}

/// Whether the topic is there; an error if with another count.
async fn check(reader: &Arc<Reader>, spec: &TopicSpec) -> Result<bool, LogError> {
    match ask(reader, &spec.name).await? {
        Some(found) if found != spec.partitions => Err(LogError::PartitionCount {
            topic: spec.name.clone(),
            found,
            wanted: spec.partitions,
        }),
        found => Ok(found.is_some()),
    }
}

pub(super) async fn describe(
    options: &KafkaOptions,
    reader: &Arc<Reader>,
    name: &str,
) -> Result<Option<TopicInfo>, LogError> {
    let Some(partitions) = partitions(reader, name).await? else {
        return Ok(None);
    };
    let asked = [ResourceSpecifier::Topic(name)];
    let answers = admin(options)?
        .describe_configs(&asked, &admin_options(options))
        .await
        .map_err(unavailable)?;
    let config = answers
        .into_iter()
        .next()
        .ok_or_else(|| LogError::Failed("no answer about a topic's settings".into()))?;
    let config = config.map_err(|code| LogError::Unavailable(format!("topic {name}: {code}")))?;
    let id = config
        .get(ID_SETTING)
        .and_then(|entry| entry.value.as_deref())
        .and_then(|v| v.parse::<u64>().ok());
    let id = match id {
        Some(id) if id >= ID_MIN && id != i64::MAX.unsigned_abs() => format!("{id:016x}"),
        _ => {
            tracing::warn!(
                topic = name,
                "not made by `switchboard topics create`: a topic made anew under this name cannot be told from it"
            );
            "unmarked".to_owned()
        }
    };
    Ok(Some(TopicInfo { id, partitions }))
}
