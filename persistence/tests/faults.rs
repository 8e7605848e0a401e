//! The service under a store that fails (F49, F50), a log that shrinks (F46, F47) or has grown partitions (F43), and its
//! books (I20): what `/metrics` says is compared with what log and store hold.
//!
//! A binary of its own: metrics are the process's, and their recorder comes before anything is counted.

#![allow(clippy::unwrap_used)]

#[path = "all/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use ordered_log::embedded::Embedded as EmbeddedLog;
use ordered_log::{
    Bounds, Consumer, Log, LogError, LogRecord, Pace, Producer, TailEvent, Topic, TopicInfo, TopicPartition, TopicSpec,
};
use support::running::*;
use support::{FaultyStore, effect, key, marks, message};
use tokio::sync::{Mutex, mpsc};
use tokio::time::sleep;
use wire::record::SessionState;
use wire::{Offset, Partition};

/// Metrics are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Every line of a metric: its labels' text and value.
fn metric(name: &str) -> BTreeMap<String, f64> {
    static RENDER: OnceLock<Box<dyn Fn() -> String + Send + Sync>> = OnceLock::new();
    let render = RENDER.get_or_init(|| {
        let handle = process::metrics::install_recorder("core", "n1").unwrap();
        Box::new(move || handle.render())
    });
    let text = render();
    let line = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn sum(name: &str, labels: &[&str]) -> u64 {
    let all = metric(name);
    let named = all.iter().filter(|(l, _)| labels.iter().all(|label| l.contains(label)));
    named.map(|(_, value)| *value as u64).sum()
}

/// Who said how much below which offset.
type Said = Arc<parking_lot::Mutex<Vec<(Partition, Offset, String)>>>;

/// I12, looked at all the time: a committed offset is never beyond a record whose row is not written.
async fn watch_commits(
    log: Arc<EmbeddedLog>,
    store: Arc<FaultyStore>,
    said: Said,
    looks: Arc<std::sync::atomic::AtomicU64>,
) {
    loop {
        let committed = committed(&log).await;
        let rows = store.rows.lock().clone();
        let mut due: BTreeMap<String, usize> = BTreeMap::new();
        for (partition, offset, customer) in said.lock().iter() {
            if offset.0 < committed[partition.0 as usize] {
                *due.entry(customer.clone()).or_default() += 1;
            }
        }
        for (customer, count) in due {
            let stored = rows.entries(&customer).len();
            assert!(stored >= count, "{customer}: {count} committed, {stored} stored");
            assert!(
                rows.states.contains_key(&key(&customer).to_string()),
                "{customer}: committed without its state"
            );
        }
        looks.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(1)).await;
    }
}

/// F50 and a slow store: answers get lost, writes land late and out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_of_unknown_outcome_change_nothing_and_no_commit_is_early() {
    let _alone = ALONE.lock().await;
    let log = a_log().await;
    let store = FaultyStore::new();
    store.unknown_every.store(5, Ordering::Relaxed);
    store.slow_ms.store(2, Ordering::Relaxed);
    store.events_slow_ms.store(80, Ordering::Relaxed);
    let (said, looks) = (Said::default(), Arc::default());
    let watch = tokio::spawn(watch_commits(
        log.clone(),
        store.clone(),
        said.clone(),
        Arc::clone(&looks),
    ));
    let running = Running::start(&log, store.clone());
    for i in 0..400u32 {
        let customer = format!("c{}", i % 10);
        let (partition, offset) = say(&log, &customer, &message(true, &customer, &i.to_string(), "hello")).await;
        said.lock().push((partition, offset, customer.clone()));
        if i % 50 == 0 {
            let state = if i % 100 == 0 {
                SessionState::SessionActive
            } else {
                SessionState::SessionIdle
            };
            say(&log, &customer, &effect(u64::from(i) + 1, state, u64::from(i), false)).await;
        }
        if i % 8 == 0 {
            sleep(Duration::from_millis(3)).await;
        }
    }
    until_committed(&log).await;
    assert!(!watch.is_finished(), "{:?}", watch.await);
    watch.abort();
    running.stop().await;
    let (lost, late) = (
        store.lost_answers.load(Ordering::Relaxed),
        store.landed_late.load(Ordering::Relaxed),
    );
    let looks = looks.load(Ordering::Relaxed);
    println!("{lost} answers lost, {late} writes landed late, {looks} looks at the commits");
    assert!(lost > 10 && late > 0 && looks > 50, "the faults took effect");

    let faultless = FaultyStore::new();
    set_back(&log).await;
    let again = Running::start(&log, faultless.clone());
    until_committed(&log).await;
    again.stop().await;
    assert_eq!(*store.rows.lock(), *faultless.rows.lock());
}

/// F49. SWITCHBOARD_TEST_OUTAGE_S lengthens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_shows_in_gauge_and_health_holds_the_commits_and_ends_by_itself() {
    let _alone = ALONE.lock().await;
    let paused = || metric("switchboard_persistence_paused").values().sum::<f64>();
    let _ = paused();
    let outage_s = std::env::var("SWITCHBOARD_TEST_OUTAGE_S").map_or(2, |s| s.parse().unwrap());
    let log = a_log().await;
    let store = FaultyStore::new();
    let said = Said::default();
    let watch = tokio::spawn(watch_commits(log.clone(), store.clone(), said.clone(), Arc::default()));
    let running = Running::start(&log, store.clone());
    let mut n = 0;
    let mut talk = async || {
        n += 1;
        let customer = format!("c{}", n % 7);
        let (partition, offset) = say(&log, &customer, &message(true, &customer, &n.to_string(), "hello")).await;
        said.lock().push((partition, offset, customer));
    };
    for _ in 0..20 {
        talk().await;
    }
    until_committed(&log).await;
    assert_eq!(paused(), 0.0);
    let before = committed(&log).await;
    store.away.store(true, Ordering::Relaxed);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(outage_s) {
        talk().await;
        sleep(Duration::from_millis(10)).await;
    }
    until("the gauge shows it", || paused() == 1.0).await;
    let is_told = || {
        running
            .health
            .troubles()
            .iter()
            .any(|(name, _)| *name == "persistence-store")
    };
    until("health says so", is_told).await;
    assert_eq!(committed(&log).await, before);
    let back = Instant::now();
    store.away.store(false, Ordering::Relaxed);
    until_committed(&log).await;
    println!("caught up {:?} after an outage of {outage_s} s", back.elapsed());
    until("the gauge falls", || paused() == 0.0).await;
    assert!(running.health.is_ready());
    assert!(!watch.is_finished(), "{:?}", watch.await);
    watch.abort();
    let counted: usize = (0..7).map(|c| store.rows.lock().entries(&format!("c{c}")).len()).sum();
    assert_eq!(counted, said.lock().len());
    running.stop().await;
}

/// I20: the books balance with what the log held, and each dead letter names its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_a_row_a_state_a_repeat_or_a_dead_letter_and_the_metrics_say_so() {
    let _alone = ALONE.lock().await;
    let count = |partition: u32, outcome: &str| {
        let partition = format!(r#"partition="{partition}""#);
        sum("switchboard_records_done_total", &[&partition, outcome])
    };
    let outcomes = [
        "row",
        "state",
        "repeat",
        "superseded",
        "skipped",
        "unnumbered",
        "dead_letter",
    ];
    let all = || -> Vec<(u64, Vec<u64>)> {
        let of = |p: u32| {
            let read = sum("switchboard_records_read_total", &[&format!(r#"partition="{p}""#)]);
            (
                read,
                outcomes
                    .iter()
                    .map(|o| count(p, &format!(r#"outcome="{o}""#)))
                    .collect(),
            )
        };
        (0..PARTITIONS).map(of).collect()
    };
    let before = all();
    let log = a_log().await;
    let store = FaultyStore::new();
    store.unknown_every.store(7, Ordering::Relaxed);
    let mut poison = BTreeSet::new();
    for i in 0..300u32 {
        let customer = format!("c{}", i % 9);
        // Every tenth is a repeat of the one nine before it.
        let id = if i % 10 == 9 { i - 9 } else { i };
        say(&log, &customer, &message(true, &customer, &id.to_string(), "hello")).await;
        let partition = topics().partition_of(&key(&customer));
        match i % 25 {
            3 => {
                let garbage = Some(Bytes::from(format!("garbage {i}")));
                poison.insert(put(&log, partition, Some(key(&customer).to_key()), garbage).await);
            }
            7 => {
                say(
                    &log,
                    &customer,
                    &effect(u64::from(i) + 1, SessionState::SessionActive, 0, false),
                )
                .await;
                // An older decision comes behind it.
                say(
                    &log,
                    &customer,
                    &effect(u64::from(i), SessionState::SessionActive, 0, false),
                )
                .await;
            }
            11 => {
                put(
                    &log,
                    partition,
                    None,
                    Some(wire::codec::encode(&marks(partition.0, &customer, 5))),
                )
                .await;
            }
            _ => {}
        }
    }
    let began = Instant::now();
    let running = Running::start(&log, store.clone());
    until_committed(&log).await;
    println!("stored, with {} poison records, in {:?}", poison.len(), began.elapsed());
    running.stop().await;
    let committed = committed(&log).await;
    for (p, ((read, done), (read_before, done_before))) in all().into_iter().zip(before).enumerate() {
        let done: Vec<u64> = done
            .iter()
            .zip(done_before)
            .map(|(after, before)| after - before)
            .collect();
        println!("partition {p}: {outcomes:?} = {done:?}");
        assert_eq!(read - read_before, committed[p], "every record was read once");
        assert_eq!(done.iter().sum::<u64>(), committed[p], "and ended in one outcome");
        let letters = poison.iter().filter(|(partition, _)| partition.0 as usize == p).count() as u64;
        assert_eq!(done[6], letters);
    }
    let rows: u64 = store.rows.lock().events.len() as u64;
    assert!(rows > 200);
    let mut named = BTreeSet::new();
    for p in 0..PARTITIONS {
        let at = TopicPartition {
            topic: topics().dead_letters().into(),
            partition: Partition(p),
        };
        for letter in log.read(&at, Offset(0), 1_000, 10_000_000).await.unwrap() {
            let header = |name: &str| {
                let found = letter.headers.iter().find(|(n, _)| n == name).unwrap();
                String::from_utf8_lossy(&found.1).into_owned()
            };
            assert_eq!(header("topic"), topics().messages());
            let place = (
                Partition(header("partition").parse().unwrap()),
                Offset(header("offset").parse().unwrap()),
            );
            assert!(named.insert(place), "{place:?} was put aside twice");
            let text = letter.value.unwrap();
            assert!(text.starts_with(b"garbage"), "as it was");
        }
    }
    assert_eq!(named, poison);
}

/// An embedded log that can say that it ends at the beginning: as if it had been made anew under a running consumer.
struct Shrinking {
    log: Arc<EmbeddedLog>,
    shrunk: AtomicBool,
    has_other_id: AtomicBool,
}

#[async_trait]
impl Log for Shrinking {
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.log.create_topics(topics).await
    }
    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        let mut found = self.log.topic(name).await?;
        if let Some(topic) = found.as_mut().filter(|_| self.has_other_id.load(Ordering::Relaxed)) {
            topic.id = "another".into();
        }
        Ok(found)
    }
    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        self.log.producer().await
    }
    async fn consume(&self, group: &str, topics: &[Topic], pace: Pace) -> Result<Consumer, LogError> {
        self.log.consume(group, topics, pace).await
    }
    async fn read(
        &self,
        at: &TopicPartition,
        from: Offset,
        n: usize,
        bytes: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        self.log.read(at, from, n, bytes).await
    }
    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        if self.shrunk.load(Ordering::Relaxed) {
            return Ok(Bounds {
                start: Offset(0),
                end: Offset(0),
            });
        }
        self.log.bounds(at).await
    }
    async fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        self.log.committed(group, at).await
    }
    async fn tail(&self, topic: Topic) -> Result<mpsc::Receiver<TailEvent>, LogError> {
        self.log.tail(topic).await
    }
}

/// F47 under a running consumer; what is still said there is not stored over what stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_below_what_is_committed_stops_the_partition_with_an_alarm() {
    let _alone = ALONE.lock().await;
    let _ = metric("");
    let log = a_log().await;
    let store = FaultyStore::new();
    let shrinking = Arc::new(Shrinking {
        log: log.clone(),
        shrunk: AtomicBool::new(false),
        has_other_id: AtomicBool::new(false),
    });
    let running = Running::start_on(shrinking.clone(), store.clone());
    let (partition, _) = say(&log, "alice", &message(true, "alice", "1", "hello")).await;
    until_committed(&log).await;
    shrinking.shrunk.store(true, Ordering::Relaxed);
    let stopped = || {
        sum(
            "switchboard_partition_stopped",
            &[r#"group="persistence""#, &format!(r#"partition="{partition}""#)],
        )
    };
    until("the partition stops", || stopped() == 1).await;
    let why = running.health.troubles();
    assert!(why.iter().any(|(_, why)| why.contains("is not in the log")), "{why:?}");
    say(&log, "alice", &message(true, "alice", "2", "in another log")).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(store.rows.lock().entries("alice").len(), 1);
    running.stop().await;
}

/// F47, as Kafka shows it to a running consumer: the partition is lost and comes back, without a committed offset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_under_a_running_consumer_is_not_folded_under_the_old_epoch() {
    let _alone = ALONE.lock().await;
    let _ = metric("");
    let log = a_log().await;
    let store = FaultyStore::new();
    let id = log.topic(&topics().messages()).await.unwrap().unwrap().id;
    let other = Arc::new(Shrinking {
        log: log.clone(),
        shrunk: AtomicBool::new(false),
        has_other_id: AtomicBool::new(false),
    });
    let running = Running::start_with(other.clone(), store.clone(), |options| options.messages_topic_id = id);
    say(&log, "alice", &message(true, "alice", "1", "hello")).await;
    until_committed(&log).await;
    other.has_other_id.store(true, Ordering::Relaxed);
    // Somebody joins and leaves: everything is assigned anew.
    let mut passer_by = log
        .consume(
            &topics().persistence_group(),
            &[topics().messages().into()],
            Pace::AtOnce,
        )
        .await
        .unwrap();
    while !matches!(
        passer_by.events.recv().await,
        Some(ordered_log::ConsumerEvent::Assigned(_))
    ) {}
    passer_by.control.close().await;
    // Each by its name: another test of this process may have left one more stopped.
    let stopped = |partition: u32| {
        let label = format!(r#"partition="{partition}""#);
        sum("switchboard_partition_stopped", &[r#"group="persistence""#, &label]) == 1
    };
    until("every partition stops", || (0..PARTITIONS).all(stopped)).await;
    let why = running.health.troubles();
    assert!(why.iter().any(|(_, why)| why.contains("needs a new epoch")), "{why:?}");
    say(&log, "alice", &message(true, "alice", "2", "in another log")).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(store.rows.lock().entries("alice").len(), 1);
    running.stop().await;
}

/// F43: the partition nobody configured is refused, the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_was_added_is_refused_and_the_others_go_on() {
    let _alone = ALONE.lock().await;
    let log = EmbeddedLog::open_temp(Default::default()).unwrap();
    let spec = |name: String, partitions: u32| TopicSpec {
        name,
        partitions,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    let made = [
        spec(topics().messages(), PARTITIONS + 1),
        spec(topics().dead_letters(), PARTITIONS),
    ];
    log.create_topics(&made).await.unwrap();
    let store = FaultyStore::new();
    let running = Running::start(&log, store.clone());
    let stray = wire::codec::encode(&message(true, "alice", "stray", "hello"));
    put(&log, Partition(PARTITIONS), Some(key("alice").to_key()), Some(stray)).await;
    for i in 0..30 {
        let customer = format!("c{i}");
        say(&log, &customer, &message(true, &customer, "1", "hello")).await;
    }
    until_committed(&log).await;
    assert_eq!(store.rows.lock().events.len(), 30);
    let why = running.health.troubles();
    assert!(
        why.iter().any(|(_, why)| why.contains("a new epoch, never in place")),
        "{why:?}"
    );
    running.stop().await;
}
