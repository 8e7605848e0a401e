//! What a record costs from the log to the embedded store. Run by hand:
//! `cargo test --release -p persistence --test speed -- --ignored --nocapture`

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{logged_record, message};
use ordered_log::embedded::{Embedded as EmbeddedLog, EmbeddedOptions};
use ordered_log::{Appended, Log, LogRecord, ProduceError, Reports, ToProduce, TopicPartition, TopicSpec};
use persistence::core::{Core, Place};
use persistence::{Options, Service};
use process::{Drain, Health, Kind, Tasks};
use store::History;
use wire::{Epoch, Lane, LaneTopics, Offset, Partition};

const RECORDS: u64 = 200_000;
const CONVERSATIONS: u64 = 500;

#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn records_through_the_fold_and_into_the_store() {
    let text = "x".repeat(180);
    let log: Vec<LogRecord> = (0..RECORDS)
        .map(|i| {
            let customer = format!("customer-{}", i % CONVERSATIONS);
            logged_record(
                i,
                &customer,
                &message(i % 2 == 0, &customer, &format!("018f-{i:032}"), &text),
            )
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let store = store::embedded::Embedded::open(dir.path()).unwrap();
    let place = Place {
        lane: Lane::new("core").unwrap(),
        epoch: Epoch(1),
        partition: Partition(0),
        partitions: 1,
    };
    for (name, write, batch) in [
        ("fold only", false, 256),
        ("fold and store, 256 a batch", true, 256),
        ("32 a batch", true, 32),
    ] {
        let mut core = Core::new(place.clone(), Offset(0), usize::MAX);
        let begun = Instant::now();
        let mut last_cut = Instant::now();
        for records in log.chunks(batch) {
            let mut read = core.read(records.to_vec());
            for key in std::mem::take(&mut read.missing) {
                core.loaded(key, None).unwrap();
            }
            let folded = core.fold(read);
            if write {
                store.write(folded.write).await.unwrap();
            }
            if last_cut.elapsed().as_millis() > 300 {
                let cut = core.cut().unwrap();
                if write {
                    store.write(cut.write).await.unwrap();
                    store.sync().await.unwrap();
                }
                core.cut_done();
                last_cut = Instant::now();
            }
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / RECORDS as f64;
        println!("{name}: {each:.2} µs a record, {:.0} records/s", 1e6 / each);
    }
}

/// From the embedded log through the service into the embedded store, twelve partitions, everything on this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement, not a check"]
async fn records_through_the_whole_service() {
    let topics = LaneTopics {
        lane: Lane::new("core").unwrap(),
        epoch: Epoch(1),
        partitions: 12,
    };
    let log = EmbeddedLog::open_temp(EmbeddedOptions::default()).unwrap();
    let spec = |name: String| TopicSpec {
        name,
        partitions: 12,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    log.create_topics(&[spec(topics.messages()), spec(topics.dead_letters())])
        .await
        .unwrap();
    let producer = log.producer().await.unwrap();
    let text = "x".repeat(180);
    let begun = Instant::now();
    for i in 0..RECORDS {
        let customer = format!("customer-{}", i % CONVERSATIONS);
        let key = crate::support::key(&customer);
        let record = message(i % 2 == 0, &customer, &format!("018f-{i:032}"), &text);
        let reports: Arc<dyn Reports> = Arc::new(Nobody);
        let to_produce = ToProduce {
            topic: topics.messages().into(),
            partition: topics.partition_of(&key),
            key: Some(key.to_key()),
            value: Some(wire::codec::encode(&record)),
            headers: Vec::new(),
            token: 0,
            reports,
        };
        producer.produce(to_produce).unwrap();
        if i % 10_000 == 0 {
            producer.flush(60_000).await;
        }
    }
    producer.flush(60_000).await;
    println!(
        "logged: {:.2} µs a record",
        begun.elapsed().as_secs_f64() * 1e6 / RECORDS as f64
    );
    let dir = tempfile::tempdir().unwrap();
    let store = store::embedded::Embedded::open(dir.path()).unwrap();
    let tasks = Tasks::new(Drain::new(Duration::from_secs(10)));
    let options = Options::new(topics.clone(), tasks.clone(), Health::new());
    let service = Service::new(options, log.clone() as Arc<dyn Log>, store.clone());
    let all: Vec<TopicPartition> = (0..12)
        .map(|p| TopicPartition {
            topic: topics.messages().into(),
            partition: Partition(p),
        })
        .collect();
    let (begun, cpu) = (Instant::now(), cpu_s());
    tasks.spawn(Kind::Essential, "persistence", service.run(tasks.drain().clone()));
    loop {
        let committed = log.committed(&topics.persistence_group(), &all).await.unwrap();
        if committed.iter().map(|o| o.map_or(0, |o| o.0)).sum::<u64>() == RECORDS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let each = begun.elapsed().as_secs_f64() * 1e6 / RECORDS as f64;
    let cpu_each = (cpu_s() - cpu) * 1e6 / RECORDS as f64;
    println!(
        "the whole service: {each:.2} µs a record, {cpu_each:.2} µs of CPU, {:.0} records/s",
        1e6 / each
    );
    tasks.drain().start("done");
    tasks.join(Duration::from_secs(10)).await;
}

struct Nobody;

impl Reports for Nobody {
    fn report(&self, _: u64, _: Result<Appended, ProduceError>) {}
}

/// CPU seconds of this process, all threads.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
