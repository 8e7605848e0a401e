//! I14 on the real thing: persistence on Kafka and a CQL server is stopped, its group set back to 0, and run again; every row of
//! every table stands as before, write times included. Runs where `SWITCHBOARD_TEST_KAFKA` and `SWITCHBOARD_TEST_CQL` name servers.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{effect, key, marks, message};
use bytes::Bytes;
use ordered_log::{ConsumerEvent, Kafka, KafkaOptions, Log, Pace, TopicPartition, TopicSpec, append};
use persistence::{Options, Service};
use process::{Drain, Health, Kind, Tasks};
use store::{Cql, CqlOptions, History};
use wire::record::{Record, SessionState};
use wire::{Epoch, Lane, LaneTopics, Offset, Partition};

const PARTITIONS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(240);

struct World {
    topics: LaneTopics,
    log: Arc<dyn Log>,
    store: Arc<dyn History>,
}

impl World {
    fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition {
            topic: self.topics.messages().into(),
            partition: Partition(partition),
        }
    }

    fn all(&self) -> Vec<TopicPartition> {
        (0..PARTITIONS).map(|p| self.at(p)).collect()
    }

    async fn committed(&self) -> Vec<Offset> {
        let group = self.topics.persistence_group();
        let committed = self.log.committed(&group, &self.all()).await.unwrap();
        committed.into_iter().map(|o| o.unwrap_or(Offset::ZERO)).collect()
    }

    /// Persistence runs until it has committed everything, and leaves.
    async fn persist(&self) {
        let mut ends = Vec::new();
        for at in self.all() {
            ends.push(self.log.bounds(&at).await.unwrap().end);
        }
        let tasks = Tasks::new(Drain::new(PATIENCE));
        let options = Options::new(self.topics.clone(), tasks.clone(), Health::new());
        let service = Service::new(options, Arc::clone(&self.log), Arc::clone(&self.store));
        tasks.spawn(Kind::Essential, "persistence", service.run(tasks.drain().clone()));
        let began = Instant::now();
        while self.committed().await != ends {
            assert!(began.elapsed() < PATIENCE, "not everything is committed in time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tasks.drain().start("test");
        tasks.join(PATIENCE).await;
        assert_eq!(tasks.failure(), None);
    }

    /// Commits 0 for every partition, as an operator would.
    async fn set_back(&self) {
        let group = self.topics.persistence_group();
        let topics = [self.topics.messages().into()];
        let mut consumer = self.log.consume(&group, &topics, Pace::Gathered).await.unwrap();
        while !matches!(
            tokio::time::timeout(PATIENCE, consumer.events.recv()).await.unwrap(),
            Some(ConsumerEvent::Assigned(all)) if all.len() == PARTITIONS as usize
        ) {}
        let zero = self.all().into_iter().map(|at| (at, Offset(0))).collect();
        consumer.control.commit(zero).await.unwrap();
        consumer.control.close().await;
        assert_eq!(self.committed().await, [Offset(0); PARTITIONS as usize]);
    }

    async fn put(&self, partition: Partition, key: Option<Bytes>, value: Bytes) {
        let producer = self.log.producer().await.unwrap();
        let topic = self.topics.messages().into();
        append(&*producer, topic, partition, key, Some(value)).await.unwrap();
    }

    async fn say(&self, customer: &str, record: &Record) {
        let partition = self.topics.partition_of(&key(customer));
        self.put(partition, Some(key(customer).to_key()), wire::codec::encode(record))
            .await;
    }

    /// A bit of everything: messages, repeats, sessions with and without events, watermarks, garbage.
    async fn fill(&self) {
        for i in 0..200u32 {
            let customer = format!("c{}", i % 9);
            let id = (i % 190).to_string();
            self.say(
                &customer,
                &message(i % 3 != 0, &customer, &id, &format!("text {i} 你好")),
            )
            .await;
            if i % 11 == 0 {
                let state = if i % 22 == 0 {
                    SessionState::SessionActive
                } else {
                    SessionState::SessionIdle
                };
                self.say(&customer, &effect(u64::from(i) + 1, state, u64::from(i), i % 33 == 0))
                    .await;
            }
            if i % 17 == 0 {
                let partition = self.topics.partition_of(&key(&customer));
                let record = marks(partition.0, &customer, u64::from(i % 20));
                self.put(partition, None, wire::codec::encode(&record)).await;
            }
            if i % 50 == 0 {
                self.put(Partition(i % PARTITIONS), Some("garbage".into()), "garbage".into())
                    .await;
            }
        }
    }
}

/// A lane and a keyspace that nobody has used before; `None`: there are no servers.
async fn world() -> Option<World> {
    let server = |name: &str| std::env::var(name).ok().filter(|s| !s.is_empty());
    let (Some(kafka), Some(cql)) = (server("SWITCHBOARD_TEST_KAFKA"), server("SWITCHBOARD_TEST_CQL")) else {
        let said = "SKIPPED replay: SWITCHBOARD_TEST_KAFKA and SWITCHBOARD_TEST_CQL name no servers\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return None;
    };
    let unique = format!("replay{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_millis());
    let topics = LaneTopics {
        lane: Lane::new(&unique).unwrap(),
        epoch: Epoch(1),
        partitions: PARTITIONS,
    };
    let options = KafkaOptions {
        brokers: kafka,
        client_id: "replay".into(),
        ..KafkaOptions::default()
    };
    let log: Arc<dyn Log> = Kafka::connect(options).unwrap();
    let spec = |name: String| TopicSpec {
        name,
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    let wanted = [spec(topics.messages()), spec(topics.dead_letters())];
    log.create_topics(&wanted).await.unwrap();
    let options = CqlOptions {
        contact_points: vec![cql],
        keyspace: unique,
        ..CqlOptions::default()
    };
    Cql::create_schema(&options).await.unwrap();
    let store: Arc<dyn History> = Cql::connect(options).await.unwrap();
    Some(World { topics, log, store })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_set_back_to_zero_changes_no_byte_and_no_write_time_of_any_table() {
    let Some(world) = world().await else { return };
    world.fill().await;
    world.persist().await;
    let want = world.store.digest().await.unwrap();
    world.set_back().await;
    world.persist().await;
    assert_eq!(world.store.digest().await.unwrap(), want);
    // The digest is one of something: a message more is another.
    world.say("c1", &message(true, "c1", "one more", "one more")).await;
    world.persist().await;
    assert_ne!(world.store.digest().await.unwrap(), want);
}
