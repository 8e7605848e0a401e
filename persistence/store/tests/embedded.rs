//! What only the embedded store promises: its directory is locked, and what was written survives the process.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use store::{ConversationWrite, Embedded, EventRow, History, PageRange, PartitionWrite, StoreError};
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
            .args(["child_that_writes_until_killed", "--exact", "--nocapture"])
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
