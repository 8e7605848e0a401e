//! What an operator might do to topics and groups by mistake, one after the other on one lab (F43, F46, F47): each must be refused, healed
//! or stopped loudly, and never change what is stored.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use system::Failed;
use system::house::PROCESSES;
use wire::{Epoch, Lane, LaneTopics};

use crate::lab::{Ended, Lab};
use crate::servers::Brokers;

const TALK: Duration = Duration::from_secs(6);
/// An alarm must be seen within this.
const ALARM: Duration = Duration::from_secs(40);
/// As the tests' configuration has it, and as the operator makes it.
const PARTITIONS: u32 = 4;
const MORE_PARTITIONS: usize = 6;
/// Roles that go on from where they have read to.
const READERS: [&str; 3] = ["delivery", "persistence", "desk"];

fn admin(brokers: &Brokers) -> Result<AdminClient<DefaultClientContext>, Failed> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers.direct());
    config.create().map_err(|e| Failed::because("an operator's client", e))
}

fn topics(lane: &str) -> Result<LaneTopics, Failed> {
    let lane = Lane::new(lane).map_err(|e| Failed::because("the lane's name", e))?;
    Ok(LaneTopics {
        lane,
        epoch: Epoch(1),
        partitions: PARTITIONS,
    })
}

fn slow() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)))
}

/// F43: a topic has more partitions than the lane was cut into. Producers name the partition, so nobody's conversation moves; `topics
/// check` says what is wrong.
pub async fn partition_count(lab: &mut Lab) -> Result<String, Failed> {
    let topic = topics(&lab.lane)?.messages();
    let more = NewPartitions::new(&topic, MORE_PARTITIONS);
    let done = admin(&lab.brokers)?.create_partitions(&[more], &slow()).await;
    let done = done.map_err(|e| Failed::because("alter the topic", e))?;
    if let Some(Err((_, code))) = done.into_iter().next() {
        return Err(Failed(format!("alter the topic: {code}")));
    }
    let config = lab.dir.join("switchboard.toml").display().to_string();
    let checked = lab.run.house.once(&["topics", "check", "--config", &config]);
    let said = match checked {
        Ok(said) => return Err(Failed(format!("`topics check` finds nothing wrong: {said}"))),
        Err(Failed(said)) => said,
    };
    if !said.contains("6 partitions where 4 are configured") {
        return Err(Failed(format!("`topics check` does not say what is wrong: {said}")));
    }
    tokio::time::sleep(TALK).await;
    Ok("`topics check` names it, and everybody talks on".into())
}

/// F46: persistence's committed offsets are gone. It begins at the log's start and writes the same rows again.
pub async fn offsets_lost(lab: &mut Lab) -> Result<String, Failed> {
    let both: Vec<usize> = ["persistence-0", "persistence-1"]
        .iter()
        .map(|name| lab.run.house.index(name))
        .collect::<Result<_, _>>()?;
    for index in &both {
        lab.down.insert(*index);
        lab.run.house.signal(*index, "TERM")?;
    }
    let began = Instant::now();
    while both
        .iter()
        .any(|index| lab.run.house.ended(*index).is_none() && lab.run.house.pid(*index).is_some())
    {
        if began.elapsed() > ALARM {
            return Err(Failed("persistence does not leave".into()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let group = topics(&lab.lane)?.persistence_group();
    let gone = admin(&lab.brokers)?.delete_groups(&[&group], &slow()).await;
    let gone = gone.map_err(|e| Failed::because("delete the group", e))?;
    if let Some(Err((_, code))) = gone.into_iter().next() {
        return Err(Failed(format!("delete the group {group}: {code}")));
    }
    for index in &both {
        lab.down.remove(index);
        lab.run.house.start(*index)?;
    }
    lab.mended().await?;
    tokio::time::sleep(TALK).await;
    Ok("persistence began again at the log's start".into())
}

/// F47: `messages` and `desk` are other topics under the same names; their offsets begin again. Whoever starts now must refuse to
/// go on, and of whoever runs one of each kind must have stopped.
pub async fn topics_made_anew(lab: &mut Ended) -> Result<String, Failed> {
    let topics = topics(&lab.lane)?;
    let both = [topics.messages(), topics.desk()];
    let gone = admin(&lab.brokers)?.delete_topics(&[&both[0], &both[1]], &slow()).await;
    for one in gone.map_err(|e| Failed::because("delete the topics", e))? {
        one.map_err(|(topic, code)| Failed(format!("delete the topic {topic}: {code}")))?;
    }
    tokio::time::sleep(TALK).await;
    let config = lab.dir.join("switchboard.toml").display().to_string();
    lab.finished.house.once(&["topics", "create", "--config", &config])?;
    let began = Instant::now();
    loop {
        let (mut stopped, mut kinds) = (Vec::new(), BTreeSet::new());
        for (name, roles) in PROCESSES {
            if !READERS.contains(&roles) {
                continue;
            }
            let index = lab.finished.house.index(name)?;
            // One that left with an error is as loud as one that stops its partitions.
            let left = lab.finished.house.ended(index).is_some();
            if left || stopped_partitions(lab, index).await > 0 {
                kinds.insert(roles);
                stopped.push(format!("{name}{}", if left { " (left)" } else { "" }));
            }
        }
        if kinds.len() == READERS.len() {
            return Ok(format!(
                "stopped loudly after {:.0?}: {}",
                began.elapsed(),
                stopped.join(", ")
            ));
        }
        if began.elapsed() > ALARM {
            return Err(Failed(format!(
                "{ALARM:?} after the topics were made anew only these have stopped: {stopped:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Partitions a process says it has stopped.
async fn stopped_partitions(lab: &Ended, index: usize) -> usize {
    let url = format!("http://127.0.0.1:{}/metrics", lab.finished.house.procs[index].ops_port);
    let Ok(answer) = reqwest::get(&url).await else {
        return 0;
    };
    let text = answer.text().await.unwrap_or_default();
    let stopped = text
        .lines()
        .filter(|line| line.starts_with("switchboard_partition_stopped{") && line.ends_with(" 1"));
    stopped.count()
}
