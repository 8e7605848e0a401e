//! What the embedded store adds to fjall itself: events written through `History` against the same number of bare inserts of
//! the same bytes, in the same run. The ratio is the figure; the absolute numbers are this machine's.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use store::{ConversationWrite, Embedded, EventRow, History, PartitionWrite};
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Position, Seq, Tenant, User};

const CONVERSATIONS: u64 = 100;
const EVENTS_EACH: u64 = 10;
const ENTRY_BYTES: usize = 300;
/// A fold's state with a full repeat window.
const STATE_BYTES: usize = 2_000;

fn key(n: u64) -> ConversationKey {
    let (tenant, customer) = (Tenant::new("demo"), User::new(format!("customer-{n:06}")));
    ConversationKey::new(tenant.expect("a tenant"), customer.expect("a user"))
}

/// The `turn`th batch of a partition: some events of each conversation and its state.
fn batch(turn: u64) -> PartitionWrite {
    let mut write = PartitionWrite::new(Lane::new("core").expect("a lane"), Epoch(1), Partition(0));
    let (entry, state) = (
        Bytes::from(vec![b'e'; ENTRY_BYTES]),
        Bytes::from(vec![b's'; STATE_BYTES]),
    );
    for n in 0..CONVERSATIONS {
        let base = turn * CONVERSATIONS * EVENTS_EACH + n * EVENTS_EACH;
        let position = |i: u64| Position::new(Epoch(1), Offset(base + i));
        write.conversations.push(ConversationWrite {
            key: Some(key(n)),
            events: (0..EVENTS_EACH)
                .map(|i| EventRow {
                    seq: Seq(turn * EVENTS_EACH + i + 1),
                    staff_only: false,
                    at_ms: 1_766_361_600_000,
                    entry: entry.clone(),
                    position: position(i),
                })
                .collect(),
            state: Some((state.clone(), position(EVENTS_EACH - 1))),
            last_seq: Seq((turn + 1) * EVENTS_EACH),
            ..Default::default()
        });
    }
    write
}

fn writes(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut group = c.benchmark_group("1,000 events of 100 conversations");
    group.throughput(Throughput::Elements(CONVERSATIONS * EVENTS_EACH));

    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path()).expect("a store");
    let mut turn = 0;
    group.bench_function("through History", |b| {
        let mut next = || {
            turn += 1;
            batch(turn)
        };
        b.iter_batched(
            &mut next,
            |write| runtime.block_on(store.write(write)).expect("written"),
            BatchSize::SmallInput,
        );
    });
    drop(store);

    let dir = tempfile::tempdir().expect("a directory");
    let db = fjall::Database::builder(dir.path()).open().expect("a database");
    let table = db
        .keyspace("events", fjall::KeyspaceCreateOptions::default)
        .expect("a table");
    let mut turn = 0;
    group.bench_function("bare fjall inserts", |b| {
        let mut next = || {
            turn += 1;
            rows(&batch(turn))
        };
        b.iter_batched(
            &mut next,
            |rows| {
                let mut all = db.batch().durability(Some(fjall::PersistMode::Buffer));
                for (key, value) in rows {
                    all.insert(&table, key, value);
                }
                all.commit().expect("written");
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
    black_box(turn);
}

/// The same keys and values, made beforehand.
fn rows(write: &PartitionWrite) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for conversation in &write.conversations {
        let key = conversation.key.as_ref().expect("a key").to_key();
        rows.extend(conversation.events.iter().map(|row| {
            let key = [&key[..], &row.seq.0.to_be_bytes()].concat();
            (key, [&[0; 18][..], &row.entry].concat())
        }));
        let (state, _) = conversation.state.as_ref().expect("a state");
        rows.push((key.to_vec(), [&[0; 8][..], state].concat()));
    }
    rows
}

criterion_group!(benches, writes);
criterion_main!(benches);
