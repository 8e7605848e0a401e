//! What only the embedded store promises: its directory is locked, and what was written survives the process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use store::{
    ConversationWrite, Embedded, EmbeddedOptions, EventRow, History, PageRange, PartitionWrite, Retention, StoreError,
};
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Position, Seq, Tenant, User};

/// Set in the child that [`what_was_written_survives_kill_9`] starts of this same program.
const CHILD_DIR: &str = "STORE_TEST_CHILD_DIR";

fn key() -> ConversationKey {
    ConversationKey::new(Tenant::new("demo").unwrap(), User::new("alice").unwrap())
}

fn write_of(seqs: std::ops::RangeInclusive<u64>) -> PartitionWrite {
    let mut write = PartitionWrite::new(Lane::new("core").unwrap(), Epoch(1), Partition(0));
    let events: Vec<_> = seqs
        .map(|seq| EventRow {
            seq: Seq(seq),
            staff_only: false,
            at_ms: 1,
            entry: vec![seq as u8; 200].into(),
            position: Position::new(Epoch(1), Offset(seq)),
        })
        .collect();
    let last = events.last().unwrap();
    let state = Some((Bytes::from(last.seq.to_string()), last.position));
    write.conversations.push(ConversationWrite {
        key: Some(key()),
        last_seq: last.seq,
        state,
        events,
        ..Default::default()
    });
    write
}

#[tokio::test]
async fn a_directory_in_use_is_refused_by_name_and_free_after_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    match Embedded::open(dir.path()) {
        Err(StoreError::Locked(name)) => assert_eq!(Path::new(&name), dir.path()),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("opened twice"),
    }
    store.write(write_of(1..=3)).await.unwrap();
    drop(store);
    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.page(&key(), PageRange::Newest, 10).await.unwrap().events.len(), 3);
}

/// Days later, by the store's own clock.
#[tokio::test]
async fn what_is_over_is_removed_and_nothing_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(1_000_000));
    let open = || {
        let clock = Arc::clone(&clock);
        let options = EmbeddedOptions {
            retention: Retention {
                ttl_s: 1_000,
                ttl_s_by_tenant: [("keeps".to_owned(), 0)].into(),
            },
            now_ms: Arc::new(move || clock.load(Ordering::Relaxed)),
            ..Default::default()
        };
        Embedded::open_with(dir.path(), options).unwrap()
    };
    let said = |tenant: &str, customer: &str, seqs: std::ops::RangeInclusive<u64>, at_ms: i64| {
        let mut write = write_of(seqs);
        let tenant = Tenant::new(tenant).unwrap();
        write.partition = Partition(customer.len() as u32 + tenant.as_str().len() as u32 * 100);
        write.conversations[0].key = Some(ConversationKey::new(tenant, User::new(customer).unwrap()));
        write.conversations[0]
            .events
            .iter_mut()
            .for_each(|row| row.at_ms = at_ms);
        write
    };
    let store = open();
    // More than one portion; a neighbour that goes on talking, one that fell silent, and a tenant that keeps everything.
    let old = said("demo", "alice", 1..=5_000, 1_000_000);
    store.write(old.clone()).await.unwrap();
    store
        .write(said("demo", "alice-neighbour", 1..=3, 1_000_000))
        .await
        .unwrap();
    store.write(said("keeps", "everybody", 1..=9, 1_000_000)).await.unwrap();
    // The last conversation of the table.
    store.write(said("zz", "silent", 1..=3, 1_000_000)).await.unwrap();
    assert_eq!(store.sweep().await.unwrap(), 0);
    clock.fetch_add(900_000, Ordering::Relaxed);
    store
        .write(said("demo", "alice", 5_001..=5_004, 1_900_000))
        .await
        .unwrap();
    clock.fetch_add(200_000, Ordering::Relaxed);
    // 5,000 of alice go, and two each of those who fell silent; the third leaves its place.
    assert_eq!(store.sweep().await.unwrap(), 5_006);
    assert_eq!(store.digest().await.unwrap().rows("events"), 4 + 1 + 9 + 1);
    assert_eq!(store.sweep().await.unwrap(), 0, "once is enough");
    let digest = store.digest().await.unwrap();
    store.write(old).await.unwrap();
    assert_eq!(store.digest().await.unwrap(), digest, "a replay brings nothing back");
    drop(store);
    let store = open();
    for (tenant, customer, shown, last) in [
        ("demo", "alice", 4, 5_004),
        ("demo", "alice-neighbour", 0, 3),
        ("keeps", "everybody", 9, 9),
        ("zz", "silent", 0, 3),
    ] {
        let key = ConversationKey::new(Tenant::new(tenant).unwrap(), User::new(customer).unwrap());
        let page = store.page(&key, PageRange::After(Seq(0)), 100).await.unwrap();
        assert_eq!((page.events.len(), page.last_seq), (shown, Seq(last)), "{customer}");
        assert!(store.load(&key).await.unwrap().unwrap().state.is_some());
    }
}

#[tokio::test]
async fn after_a_restart_an_older_write_still_loses() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    store.write(write_of(1..=9)).await.unwrap();
    let digest = store.digest().await.unwrap();
    drop(store);
    let store = Embedded::open(dir.path()).unwrap();
    store.write(write_of(1..=5)).await.unwrap();
    assert_eq!(store.digest().await.unwrap(), digest);
}

#[tokio::test]
async fn writers_at_once_are_all_answered_and_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for partition in 0..8u32 {
        let store: Arc<Embedded> = store.clone();
        tasks.spawn(async move {
            for turn in 0..50u64 {
                let mut write = write_of(turn * 4 + 1..=turn * 4 + 4);
                write.partition = Partition(partition);
                let customer = User::new(format!("c{partition}")).unwrap();
                write.conversations[0].key = Some(ConversationKey::new(Tenant::new("demo").unwrap(), customer));
                store.write(write).await.unwrap();
                store.sync().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(store.digest().await.unwrap().rows("events"), 8 * 200);
}

/// The child: writes, says what it was answered, and goes on until it is killed.
#[test]
fn child_that_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Embedded::open(dir).unwrap();
        for turn in 0u64.. {
            store.write(write_of(turn * 10 + 1..=turn * 10 + 10)).await.unwrap();
            if turn % 3 == 0 {
                store.sync().await.unwrap();
            }
            // Straight to the descriptor: the test harness keeps what println! prints.
            use std::io::Write;
            std::io::stderr()
                .write_all(format!("written {}\n", turn * 10 + 10).as_bytes())
                .unwrap();
        }
    });
}

#[tokio::test]
async fn what_was_written_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=4u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["embedded::child_that_writes_until_killed", "--exact", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut answered = 0;
        for line in lines {
            let line = line.unwrap();
            if let Some(n) = line.strip_prefix("written ") {
                answered = n.parse().unwrap_or(answered);
                if answered >= round * 700 {
                    // At whatever byte it is just then.
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(answered >= round * 700, "the child ended by itself after {answered}");
        let store = Embedded::open(dir.path()).unwrap();
        let page = store.page(&key(), PageRange::Newest, 1_000).await.unwrap();
        assert!(page.last_seq.0 >= answered, "{} of {answered}", page.last_seq);
        // Batches are whole: the state names the last event.
        let state = store.load(&key()).await.unwrap().unwrap().state.unwrap();
        assert_eq!(state, page.last_seq.to_string());
        assert!(page.events.is_sorted_by(|a, b| a.seq.0 + 1 == b.seq.0));
    }
}
