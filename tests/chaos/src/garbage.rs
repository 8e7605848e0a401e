//! Records that nobody of ours would write, into every topic we read (F38, F44, F51).

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use system::Failed;
use wire::topics::CONTROL;
use wire::{Epoch, Lane, LaneTopics};

/// A record's report may take this long; one that comes later is not counted.
const REPORT: Duration = Duration::from_secs(5);
/// As the tests' configuration has them.
const PARTITIONS: u32 = 4;

fn producer(brokers: &str) -> Result<FutureProducer, Failed> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("message.timeout.ms", "4000")
        .set("message.max.bytes", "1000000")
        .create()
        .map_err(|e| Failed::because("a producer of garbage", e))
}

/// One bad record for each topic; how many of them the log took.
pub async fn throw(brokers: &str, lane: &str, rng: &mut ChaCha8Rng) -> Result<u64, Failed> {
    let producer = producer(brokers)?;
    let lane = Lane::new(lane).map_err(|e| Failed::because("the lane's name", e))?;
    let topics = LaneTopics {
        lane,
        epoch: Epoch(1),
        partitions: PARTITIONS,
    };
    let mut taken = 0;
    for (topic, partition, key, value) in records(&topics, rng) {
        let mut record = FutureRecord::<[u8], [u8]>::to(&topic).partition(partition);
        if let Some(key) = &key {
            record = record.key(key);
        }
        if let Some(value) = &value {
            record = record.payload(value);
        }
        // With brokers down nothing is taken; that is not this fault's business.
        let report = tokio::time::timeout(REPORT, producer.send(record, Duration::ZERO)).await;
        taken += u64::from(matches!(report, Ok(Ok(_))));
    }
    Ok(taken)
}

type Bad = (String, i32, Option<Vec<u8>>, Option<Vec<u8>>);

fn records(topics: &LaneTopics, rng: &mut ChaCha8Rng) -> Vec<Bad> {
    let mut noise = |most: usize| -> Vec<u8> { (0..rng.random_range(0..most)).map(|_| rng.random()).collect() };
    let customer = b"demo/customer-0".to_vec();
    let values = [
        None,
        Some(Vec::new()),
        Some(noise(200)),
        Some(noise(900_000)),
        // Field 1 (the version) is one that does not exist yet.
        Some(vec![0x08, 0xff, 0x7f]),
        Some(b"{\"json\":\"instead\"}".to_vec()),
    ];
    let keys = [
        None,
        Some(Vec::new()),
        Some(noise(40)),
        Some(customer.clone()),
        Some(b"no-slash".to_vec()),
    ];
    // Said to own a partition, and is nobody: field 1 the partition, 2 the name, 3 where it listens.
    let ghost = |partition: u8| {
        let mut value = vec![0x08, partition, 0x12, 5];
        value.extend_from_slice(b"ghost");
        value.extend_from_slice(&[0x1a, 11]);
        value.extend_from_slice(b"127.0.0.1:1");
        value
    };
    let mut pick = |from: &[Option<Vec<u8>>]| from[rng.random_range(0..from.len())].clone();
    let mut bad: Vec<Bad> = Vec::new();
    let partitions = i32::try_from(PARTITIONS).unwrap_or(1);
    for partition in 0..partitions {
        bad.push((topics.messages(), partition, pick(&keys), pick(&values)));
        bad.push((topics.desk(), partition, pick(&keys), pick(&values)));
    }
    bad.push((topics.owners(), 0, pick(&keys), pick(&values)));
    let partition = u8::try_from(PARTITIONS).unwrap_or(1) - 1;
    let name = partition.to_string().into_bytes();
    bad.push((topics.owners(), 0, Some(name), Some(ghost(partition))));
    // Of a tenant nobody has.
    bad.push((
        topics.desk_snapshots(),
        0,
        Some(b"nobody".to_vec()),
        Some(vec![0xff; 40]),
    ));
    bad.push((CONTROL.into(), 0, pick(&keys), pick(&values)));
    bad.push((
        CONTROL.into(),
        0,
        Some(b"switch/x/y/typing".to_vec()),
        Some(vec![0xff; 9]),
    ));
    bad
}
