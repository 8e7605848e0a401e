//! How long a record takes through the log alone: call → report, and call → consumer, at a given rate.
//!
//! `latency embedded:/some/dir 1000 5` or `latency kafka:127.0.0.1:9092 20000 10`: records per second, seconds.
//! Latency counts from when a record was due, so a stall is not hidden. Ends with what was lost or repeated, if anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordered_log::*;
use parking_lot::Mutex;
use wire::{Offset, Partition};

const PARTITIONS: u32 = 12;

struct Sink {
    due: Instant,
    spacing: Duration,
    outcome: Mutex<(Vec<u32>, u64, Option<String>)>,
}

impl Sink {
    /// Microseconds since the record was due.
    fn late(&self, token: u64) -> u32 {
        let due = self.due + self.spacing.mul_f64(token as f64);
        Instant::now().saturating_duration_since(due).as_micros() as u32
    }
}

impl Reports for Sink {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        let mut all = self.outcome.lock();
        match outcome {
            Ok(_) => all.0.push(self.late(token)),
            Err(error) => {
                all.1 += 1;
                all.2 = Some(error.to_string());
            }
        }
    }
}

fn line(what: &str, mut micros: Vec<u32>) {
    micros.sort_unstable();
    let at = |q: f64| {
        micros
            .get(((micros.len() as f64 * q) as usize).min(micros.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    println!(
        "{what}: {} records, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
        micros.len(),
        f64::from(at(0.5)) / 1e3,
        f64::from(at(0.99)) / 1e3,
        f64::from(at(0.999)) / 1e3,
        f64::from(at(1.0)) / 1e3
    );
}

/// User and system time of this process, seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let place = args.next().ok_or("embedded:DIR or kafka:BROKERS")?;
    let rate: f64 = args.next().ok_or("records per second")?.parse()?;
    let seconds: f64 = args.next().ok_or("seconds")?.parse()?;
    let log: Arc<dyn Log> = match place.split_once(':') {
        Some(("embedded", dir)) => Embedded::open(dir.as_ref(), EmbeddedOptions::default())?,
        Some(("kafka", brokers)) => Kafka::connect(KafkaOptions {
            brokers: brokers.into(),
            ..KafkaOptions::default()
        })?,
        _ => return Err("embedded:DIR or kafka:BROKERS".into()),
    };
    let name = format!("latency-{}", std::process::id());
    let spec = TopicSpec {
        name: name.clone(),
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    log.create_topics(&[spec]).await?;
    let mut consumer = log.consume(&name, &[name.as_str().into()], Pace::AtOnce).await?;
    let Some(ConsumerEvent::Assigned(shares)) = consumer.events.recv().await else {
        return Err("nothing was assigned".into());
    };
    for share in &shares {
        consumer.control.start(&share.at, Offset::ZERO).await?;
    }
    let producer = log.producer().await?;
    // A client's first record pays for connections.
    append(&*producer, name.as_str().into(), Partition(0), None, Some(Bytes::new())).await?;

    let total = (rate * seconds) as u64;
    let sink = Arc::new(Sink {
        due: Instant::now() + Duration::from_millis(50),
        spacing: Duration::from_secs_f64(1.0 / rate),
        outcome: Mutex::default(),
    });
    let timed = sink.clone();
    let reading = async move {
        let (mut micros, mut repeated, mut seen) = (Vec::new(), 0u64, std::collections::HashSet::new());
        loop {
            let event = tokio::time::timeout(Duration::from_secs(15), consumer.events.recv()).await;
            let Ok(Some(event)) = event else { break };
            match event {
                ConsumerEvent::Records(batch) => {
                    for record in batch.records {
                        let value = record.value.unwrap_or_default();
                        let Some(token) = value.get(..8).and_then(|t| t.try_into().ok()).map(u64::from_be_bytes) else {
                            continue;
                        };
                        micros.push(timed.late(token));
                        repeated += u64::from(!seen.insert(token));
                    }
                }
                other => println!("{other:?}"),
            }
            if seen.len() as u64 == total {
                break;
            }
        }
        (micros, repeated, seen.len() as u64)
    };
    let began_cpu = cpu_s();
    let producing = async {
        let topic: Topic = name.as_str().into();
        let mut refused = 0;
        for token in 0..total {
            let due = sink.due + sink.spacing.mul_f64(token as f64);
            if due > Instant::now() + Duration::from_micros(200) {
                tokio::time::sleep_until(due.into()).await;
            } else if token % 64 == 0 {
                tokio::task::yield_now().await;
            }
            let mut value = vec![b'x'; 200];
            value[..8].copy_from_slice(&token.to_be_bytes());
            let record = ToProduce {
                topic: topic.clone(),
                partition: Partition((token % u64::from(PARTITIONS)) as u32),
                key: Some(Bytes::from_static(b"tenant/customer")),
                value: Some(value.into()),
                headers: Vec::new(),
                token,
                reports: sink.clone(),
            };
            refused += u64::from(producer.produce(record).is_err());
        }
        producer.flush(20_000).await;
        refused
    };
    let (refused, (micros, repeated, seen)) = tokio::join!(producing, reading);
    let cpu = cpu_s() - began_cpu;
    let (reported, failed, why) = std::mem::take(&mut *sink.outcome.lock());
    let ok = reported.len();
    line("call -> report  ", reported);
    line("call -> consumer", micros);
    println!(
        "{refused} refused, {failed} failed {why:?}, {ok} reported, {seen} seen, {repeated} repeated; CPU {:.1} us a record",
        cpu * 1e6 / total as f64
    );
    Ok(())
}
