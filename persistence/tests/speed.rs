//! What a record costs from the log to the embedded store. Run by hand:
//! `cargo test --release -p persistence --test speed -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Instant;

use ordered_log::LogRecord;
use persistence::core::{Core, Place};
use store::History;
use support::{logged_record, message};
use wire::{Epoch, Lane, Offset, Partition};

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
