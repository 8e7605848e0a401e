//! The log and the store a configuration names, opened.

use std::path::Path;
use std::sync::Arc;

use ordered_log::embedded::{Embedded, EmbeddedOptions};
use ordered_log::kafka::{Kafka, KafkaOptions};
use ordered_log::{Log, LogError};
use process::config::{LogKind, StoreKind};
use process::{Config, Exit, Recorder};
use store::{History, Metered, StoreError};
use wire::{Epoch, LaneTopics};

use crate::Failed;

pub fn lane_topics(config: &Config) -> LaneTopics {
    LaneTopics {
        lane: config.lane.clone(),
        epoch: Epoch(config.epoch),
        partitions: config.partitions,
    }
}

pub async fn log(config: &Config) -> Result<Arc<dyn Log>, Failed> {
    let opened: Result<Arc<dyn Log>, LogError> = match config.log.kind {
        LogKind::Embedded => {
            Embedded::open(Path::new(&config.log.dir), EmbeddedOptions::default()).map(|log| log as Arc<dyn Log>)
        }
        LogKind::Kafka => Kafka::connect(kafka_options(config)).map(|log| log as Arc<dyn Log>),
    };
    opened.map_err(|e| Failed::new(Exit::Unavailable, e))
}

fn kafka_options(config: &Config) -> KafkaOptions {
    let kafka = &config.log.kafka;
    let mut properties: Vec<(String, String)> = vec![("security.protocol".into(), kafka.protocol.clone())];
    let mut given = |name: &str, value: &str| {
        if !value.is_empty() {
            properties.push((name.to_owned(), value.to_owned()));
        }
    };
    given("ssl.ca.location", &kafka.ca_file);
    given("ssl.certificate.location", &kafka.cert_file);
    given("ssl.key.location", &kafka.key_file);
    if kafka.protocol.starts_with("sasl") {
        given("sasl.mechanism", &kafka.sasl_mechanism);
        given("sasl.username", &kafka.user);
        given("sasl.password", kafka.password.expose());
    }
    properties.extend(config.log.properties.clone());
    KafkaOptions {
        brokers: config.log.brokers.join(","),
        client_id: config.log.client_id.clone(),
        linger_ms: config.log.linger_ms,
        idempotent: config.log.idempotence,
        extra: properties,
        ..KafkaOptions::default()
    }
}

/// The process's own history, if it is to have one.
pub fn recorder(config: &Config, name: &str) -> Result<Recorder, Failed> {
    if config.history.file.is_empty() {
        return Ok(Recorder::default());
    }
    let path = Path::new(&config.history.file);
    Recorder::append(name, path, config.history.bytes_max)
        .map_err(|e| Failed::new(Exit::Unavailable, format!("history.file = {}: {e}", path.display())))
}

/// With `create`, the keyspace and its tables are made if they are missing.
pub async fn store(config: &Config, create: bool) -> Result<Arc<dyn History>, Failed> {
    let failed = |e: StoreError| Failed::new(Exit::Unavailable, e);
    match config.store.kind {
        StoreKind::Embedded => {
            let options = store::EmbeddedOptions {
                retention: retention(config),
                ..store::EmbeddedOptions::default()
            };
            let store = store::Embedded::open_with(&config.store.dir, options).map_err(failed)?;
            Ok(Metered::new(store))
        }
        StoreKind::Cql => {
            let options = cql_options(config);
            if create {
                store::Cql::create_schema(&options).await.map_err(failed)?;
            }
            Ok(Metered::new(store::Cql::connect(options).await.map_err(failed)?))
        }
    }
}

fn cql_options(config: &Config) -> store::CqlOptions {
    let store = &config.store;
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let consistency = if store.datacenter.is_empty() {
        "QUORUM"
    } else {
        "LOCAL_QUORUM"
    };
    store::CqlOptions {
        contact_points: store.nodes.clone(),
        keyspace: store.keyspace.clone(),
        user: given(&store.user),
        password: given(store.password.expose()),
        replication: replication(&store.datacenter, store.replication),
        datacenter: given(&store.datacenter),
        retention: retention(config),
        consistency: consistency.to_owned(),
        request_timeout_ms: store.request_timeout_ms,
        in_flight_max: store.writes_in_flight,
        ..store::CqlOptions::default()
    }
}

fn retention(config: &Config) -> store::Retention {
    store::Retention {
        ttl_s: config.store.event_ttl_s,
        ..store::Retention::default()
    }
}

/// CQL's map of copies per data centre.
pub fn replication(datacenter: &str, copies: u16) -> String {
    if datacenter.is_empty() {
        format!("{{'class': 'SimpleStrategy', 'replication_factor': {copies}}}")
    } else {
        format!(
            "{{'class': 'NetworkTopologyStrategy', '{}': {copies}}}",
            datacenter.replace('\'', "''")
        )
    }
}
