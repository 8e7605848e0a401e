//! `switchboard topics`: the lane's topics, created or compared with what is configured.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ordered_log::{Log, LogError, TopicSpec};
use process::config::LogKind;
use process::{Config, Exit};
use wire::LaneTopics;

use crate::{Failed, open};

#[derive(Args, Debug)]
pub struct TopicsArgs {
    #[command(subcommand)]
    what: What,
    /// The configuration; see deploy/switchboard.toml for every key
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// One key of the configuration, as section.key=value
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::serve::parse_override, global = true)]
    overrides: Vec<(String, String)>,
}

#[derive(Subcommand, Debug, Clone, Copy)]
enum What {
    /// Create what is missing; leave what exists alone
    Create,
    /// Say what is missing or differs; exit code 69 if anything does
    Check,
}

/// All topics a lane needs, the platform's control topic included.
pub fn specs(topics: &LaneTopics, config: &Config) -> Vec<TopicSpec> {
    let spec = |name: String, partitions: u32, compacted: bool, retention_ms: Option<u64>| TopicSpec {
        name,
        partitions,
        compacted,
        retention_ms,
        replication: config.replication,
    };
    let kept = (config.log.retention_ms > 0).then_some(config.log.retention_ms);
    vec![
        spec(topics.messages(), topics.partitions, false, kept),
        spec(topics.desk(), topics.partitions, false, kept),
        spec(topics.dead_letters(), topics.partitions, false, None),
        spec(topics.desk_snapshots(), topics.partitions, true, None),
        spec(topics.owners(), 1, true, None),
        spec(wire::topics::CONTROL.to_owned(), 1, true, None),
    ]
}

/// Creates what is missing.
pub async fn create(log: &dyn Log, topics: &LaneTopics, config: &Config) -> Result<(), LogError> {
    log.create_topics(&specs(topics, config)).await
}

/// What is missing or differs, one line each.
pub async fn differences(log: &dyn Log, topics: &LaneTopics, config: &Config) -> Result<Vec<String>, LogError> {
    let mut found = Vec::new();
    for spec in specs(topics, config) {
        match log.topic(&spec.name).await? {
            None => found.push(format!("{} does not exist", spec.name)),
            Some(info) if info.partitions != spec.partitions => found.push(format!(
                "{} has {} partitions where {} are configured; a lane is re-cut by a new epoch, never in place",
                spec.name, info.partitions, spec.partitions
            )),
            Some(_) => {}
        }
    }
    Ok(found)
}

pub fn run(args: TopicsArgs) -> Result<Exit, Failed> {
    let config = Config::load(args.config.as_deref(), std::env::vars(), &args.overrides)
        .and_then(|config| config.validate().map(|()| config))
        .map_err(|e| Failed::new(Exit::Config, e))?;
    if config.log.kind == LogKind::Embedded {
        let text = "the embedded log makes its topics by itself; for Kafka's set log.kind = \"kafka\" (or --set log.kind=kafka --set log.brokers=HOST:PORT)";
        return Err(Failed::new(Exit::Usage, text));
    }
    crate::runtime(1)?.block_on(async {
        let log = open::log(&config).await?;
        let topics = open::lane_topics(&config);
        let log_failed = |e: LogError| Failed::new(Exit::Unavailable, e);
        if let What::Create = args.what {
            create(log.as_ref(), &topics, &config).await.map_err(log_failed)?;
        }
        let found = differences(log.as_ref(), &topics, &config).await.map_err(log_failed)?;
        for spec in specs(&topics, &config) {
            println!("{} ({} partitions)", spec.name, spec.partitions);
        }
        if found.is_empty() {
            println!("all there");
            return Ok(Exit::Ok);
        }
        Err(Failed::new(Exit::Unavailable, found.join("\n")))
    })
}
