//! The implementations under test, and what only their owner can do to them: a second process, a stopped member, upkeep.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use ordered_log::{Embedded, EmbeddedOptions, Kafka, KafkaOptions, Log};

pub type Make = Box<dyn Fn() -> Pin<Box<dyn Future<Output = World>>>>;

pub struct World {
    pub log: Arc<dyn Log>,
    /// As another process would have it: another client of the same Kafka, or the same handle of the embedded log.
    pub other: Arc<dyn Log>,
    /// Whose members can be stopped, see `freeze_zombie`.
    pub zombie: Arc<dyn Log>,
    pub kind: Kind,
}

pub enum Kind {
    Embedded { log: Arc<Embedded>, now_ms: Arc<AtomicI64> },
    Kafka { frozen: Arc<AtomicBool> },
}

/// Every implementation, or the reason why it cannot run here.
pub fn worlds() -> Vec<(&'static str, Result<Make, ()>)> {
    let kafka = std::env::var("SWITCHBOARD_TEST_KAFKA")
        .ok()
        .filter(|brokers| !brokers.is_empty());
    let kafka = kafka
        .ok_or(())
        .map(|brokers| -> Make { Box::new(move || Box::pin(kafka_world(brokers.clone()))) });
    vec![("embedded", Ok(Box::new(|| Box::pin(embedded())))), ("kafka", kafka)]
}

/// Members leave after 7 s without a poll.
const POLL_INTERVAL_MAX_MS: u64 = 7_000;

async fn kafka_world(brokers: String) -> World {
    let options = KafkaOptions {
        brokers,
        client_id: "conformance".into(),
        poll_interval_max_ms: POLL_INTERVAL_MAX_MS,
        release_timeout_ms: 2_000,
        ..KafkaOptions::default()
    };
    let frozen = Arc::new(AtomicBool::new(false));
    let stop = frozen.clone();
    let before_poll = Arc::new(move || {
        while stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let zombie = KafkaOptions {
        before_poll: Some(before_poll),
        ..options.clone()
    };
    World {
        log: Kafka::connect(options.clone()).expect("a client"),
        other: Kafka::connect(options).expect("a client"),
        zombie: Kafka::connect(zombie).expect("a client"),
        kind: Kind::Kafka { frozen },
    }
}

async fn embedded() -> World {
    let now_ms = Arc::new(AtomicI64::new(1_000_000));
    let clock = now_ms.clone();
    let options = EmbeddedOptions {
        release_timeout_ms: 500,
        now_ms: Arc::new(move || clock.load(Ordering::Relaxed)),
        // Small, so that the tests read from the disk as well.
        ring_bytes_per_partition_max: 65_536,
        ring_bytes_max: 65_536,
        ..EmbeddedOptions::default()
    };
    let log = Embedded::open_temp(options).expect("a temporary directory");
    World {
        log: log.clone(),
        other: log.clone(),
        zombie: log.clone(),
        kind: Kind::Embedded { log, now_ms },
    }
}

impl World {
    /// Makes `ms` pass for the log and throws away what is too old then; a log of its own clock is waited for.
    pub async fn age(&self, ms: i64) {
        match &self.kind {
            Kind::Embedded { log, now_ms } => {
                now_ms.fetch_add(ms, Ordering::Relaxed);
                let log = log.clone();
                tokio::task::spawn_blocking(move || log.upkeep())
                    .await
                    .expect("no panic")
                    .expect("upkeep");
            }
            Kind::Kafka { .. } => tokio::time::sleep(Duration::from_millis(ms.unsigned_abs())).await,
        }
    }

    /// A wall clock that jumps back, where the test owns the clock.
    pub fn step_clock_back(&self) {
        match &self.kind {
            Kind::Embedded { now_ms, .. } => {
                now_ms.fetch_sub(500_000, Ordering::Relaxed);
            }
            Kind::Kafka { .. } => {}
        }
    }

    /// Stops the members of `zombie` from answering; a member of the embedded log stops when the test takes no events.
    pub fn freeze_zombie(&self, freeze: bool) {
        match &self.kind {
            Kind::Embedded { .. } => {}
            Kind::Kafka { frozen } => frozen.store(freeze, Ordering::Release),
        }
    }

    pub fn longer_than_a_session(&self) -> Duration {
        match &self.kind {
            Kind::Embedded { .. } => Duration::from_secs(1),
            Kind::Kafka { .. } => Duration::from_millis(POLL_INTERVAL_MAX_MS + 3_000),
        }
    }

    pub fn tells_generations(&self) -> bool {
        matches!(self.kind, Kind::Embedded { .. })
    }

    pub async fn close(&self) {
        match &self.kind {
            Kind::Embedded { log, .. } => log.close(),
            Kind::Kafka { frozen } => frozen.store(false, Ordering::Release),
        }
    }
}
