//! Append throughput of the embedded log: 200-byte records over 12 partitions, beside a bare file that gets the same
//! bytes in batches of the same sizes, each followed by fdatasync. The difference is what the log costs.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ordered_log::*;
use parking_lot::{Condvar, Mutex};
use wire::Partition;

const BYTES: usize = 200;
const PARTITIONS: u32 = 12;

/// Counts reports; the producer waits for the count of a batch.
#[derive(Default)]
struct Count {
    reported: AtomicU64,
    told: Mutex<u64>,
    came: Condvar,
}

impl Reports for Count {
    fn report(&self, _: u64, outcome: Result<Appended, ProduceError>) {
        outcome.expect("appended");
        self.reported.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&self) {
        *self.told.lock() = self.reported.load(Ordering::Relaxed);
        self.came.notify_one();
    }
}

impl Count {
    fn wait(&self, count: u64) {
        let mut told = self.told.lock();
        while *told < count {
            self.came.wait(&mut told);
        }
    }
}

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir_in(std::env::var("SWITCHBOARD_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into()))
        .expect("a directory");
    let log = Embedded::open(&dir.path().join("log"), EmbeddedOptions::default()).expect("opened");
    let topic: Topic = "messages".into();
    let spec = TopicSpec {
        name: topic.to_string(),
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    runtime.block_on(log.create_topics(&[spec])).expect("made");
    let producer = runtime.block_on(log.producer()).expect("a producer");
    let mut bare = std::fs::File::create(dir.path().join("bare")).expect("a file");
    // As long as it will get, like the journal: then a sync has no length to write.
    bare.set_len(4 << 30).expect("room");
    let body = Bytes::from(vec![b'x'; BYTES]);

    let mut group = c.benchmark_group("append");
    group
        .measurement_time(Duration::from_secs(4))
        .warm_up_time(Duration::from_secs(1))
        .sample_size(20);
    for batch in [1u64, 64, 1024] {
        group.throughput(Throughput::Elements(batch));
        group.bench_with_input(BenchmarkId::new("embedded", batch), &batch, |b, &batch| {
            b.iter_custom(|rounds| {
                let count = Arc::new(Count::default());
                let began = Instant::now();
                for round in 0..rounds {
                    for i in 0..batch {
                        let record = ToProduce {
                            topic: topic.clone(),
                            partition: Partition((i % u64::from(PARTITIONS)) as u32),
                            key: Some(body.slice(..16)),
                            value: Some(body.clone()),
                            headers: Vec::new(),
                            token: i,
                            reports: count.clone(),
                        };
                        producer.produce(record).expect("handed over");
                    }
                    count.wait((round + 1) * batch);
                }
                began.elapsed()
            });
        });
        group.bench_with_input(BenchmarkId::new("bare file", batch), &batch, |b, &batch| {
            let bytes = vec![b'x'; (BYTES + 16 + 12) * batch as usize];
            b.iter(|| {
                bare.write_all(&bytes).expect("written");
                bare.sync_data().expect("synced");
            });
        });
    }
    group.finish();
    log.close();
}

criterion_group!(benches, append);
criterion_main!(benches);
