//! The embedded log on a disk that is slow (F13), fails (F15) or is full (F14): every send is answered with a code, nothing
//! that was reported is lost, and it goes on when the disk is well again.
//!
//! Slow and failing disks are made with strace, full ones with a small tmpfs; where either is not to be had the test says so.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordered_log::*;
use parking_lot::Mutex;
use wire::{Offset, Partition};

const TOPIC: &str = "messages";
const CHILD: &str = "SWITCHBOARD_DISK_CHILD";

fn at() -> TopicPartition {
    TopicPartition {
        topic: TOPIC.into(),
        partition: Partition(0),
    }
}

async fn with_topic(dir: &Path, options: EmbeddedOptions) -> Arc<Embedded> {
    let log = Embedded::open(dir, options).expect("opened");
    let spec = TopicSpec {
        name: TOPIC.into(),
        partitions: 1,
        compacted: false,
        retention_ms: None,
        replication: 1,
    };
    log.create_topics(&[spec]).await.expect("made");
    log
}

fn skipped(test: &str, why: &str) {
    std::io::stderr()
        .write_all(format!("SKIPPED {test}: {why}\n").as_bytes())
        .expect("stderr");
}

/// A record's token, what its sender was told, and after how long.
type Outcome = (u64, Result<Offset, ProduceError>, Duration);

/// What a sender is told, by token.
#[derive(Default)]
struct Told {
    outcomes: Mutex<Vec<Outcome>>,
    count: AtomicU64,
    began: Mutex<Vec<Instant>>,
}

impl Reports for Told {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        let took = self.began.lock()[token as usize].elapsed();
        self.outcomes.lock().push((token, outcome.map(|a| a.offset), took));
        self.count.fetch_add(1, Ordering::Release);
    }
}

fn body(token: u64) -> Bytes {
    format!("{token}:{}", "x".repeat((token % 900) as usize)).into()
}

/// Hands `count` records over, at most `window` without report; gives what each was told, in the order of the calls.
fn send(producer: &dyn Producer, count: u64, window: u64) -> Vec<Outcome> {
    let told = Arc::new(Told::default());
    for token in 0..count {
        while token - told.count.load(Ordering::Acquire) >= window {
            std::thread::sleep(Duration::from_micros(200));
        }
        told.began.lock().push(Instant::now());
        let record = ToProduce {
            topic: TOPIC.into(),
            partition: Partition(0),
            key: None,
            value: Some(body(token)),
            headers: Vec::new(),
            token,
            reports: told.clone(),
        };
        if let Err(error) = producer.produce(record) {
            told.report(token, Err(error));
        }
    }
    while told.count.load(Ordering::Acquire) < count {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut outcomes = std::mem::take(&mut *told.outcomes.lock());
    outcomes.sort_by_key(|(token, ..)| *token);
    outcomes
}

fn code(outcome: &Result<Offset, ProduceError>) -> &'static str {
    match outcome {
        Ok(_) => "sent",
        Err(ProduceError::Unavailable(_)) => "unavailable",
        Err(ProduceError::Unknown(_)) => "unknown",
        Err(ProduceError::TooLarge) => "too_large",
    }
}

/// Sends and prints what it was told. Not a test: run under strace by others.
#[test]
#[ignore = "a child process of other tests"]
fn child_that_sends() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let mut told = told.split('|');
    let mut next = || told.next().expect("directory, count, window");
    let (dir, count, window) = (next(), next(), next());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let log = runtime.block_on(with_topic(Path::new(dir), EmbeddedOptions::default()));
    let producer = runtime.block_on(log.producer()).expect("a producer");
    let mut lines = String::from("\n");
    for (token, outcome, took) in send(
        &*producer,
        count.parse().expect("a number"),
        window.parse().expect("a number"),
    ) {
        let offset = outcome.as_ref().map_or(-1, |o| o.0 as i64);
        lines += &format!("told {token} {} {offset} {}\n", code(&outcome), took.as_millis());
    }
    std::io::stdout().write_all(lines.as_bytes()).expect("the parent reads");
}

struct Line {
    token: u64,
    code: String,
    offset: i64,
    took_ms: u64,
}

/// The child under strace with this injection; `None` where there is no strace.
fn traced(dir: &Path, inject: &str, count: u64, window: u64) -> Option<Vec<Line>> {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"])
        .arg(format!("inject=fdatasync:{inject}"))
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "disk::child_that_sends", "--ignored", "--nocapture"])
        .env(CHILD, format!("{}|{count}|{window}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace starts");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let parse = |line: String| {
        let mut words = line.strip_prefix("told ")?.split(' ');
        Some(Line {
            token: words.next()?.parse().ok()?,
            code: words.next()?.to_owned(),
            offset: words.next()?.parse().ok()?,
            took_ms: words.next()?.parse().ok()?,
        })
    };
    let lines: Vec<Line> = lines.map_while(Result::ok).filter_map(parse).collect();
    child.wait().expect("gone");
    assert_eq!(lines.len() as u64, count, "every record is answered");
    Some(lines)
}

/// Everything the directory holds, opened again.
fn contents(dir: &Path) -> Vec<Bytes> {
    // A runtime of its own, whoever asks.
    std::thread::scope(|scope| scope.spawn(|| contents_of(dir)).join().expect("read"))
}

fn contents_of(dir: &Path) -> Vec<Bytes> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let log = with_topic(dir, EmbeddedOptions::default()).await;
        let end = log.bounds(&at()).await.expect("bounds").end;
        let mut all = Vec::new();
        while (all.len() as u64) < end.0 {
            let some = log
                .read(&at(), Offset(all.len() as u64), 1_000, 1 << 20)
                .await
                .expect("read");
            assert!(!some.is_empty(), "a hole");
            all.extend(some.into_iter().map(|r| r.value.expect("a value")));
        }
        log.close();
        all
    })
}

fn all_sent_are_there(dir: &Path, lines: &[Line]) -> usize {
    let held = contents(dir);
    let sent: Vec<&Line> = lines.iter().filter(|line| line.code == "sent").collect();
    for line in &sent {
        assert_eq!(
            held.get(line.offset as usize),
            Some(&body(line.token)),
            "token {} was sent",
            line.token
        );
    }
    sent.len()
}

#[test]
fn a_slow_disk_makes_sends_slow_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let began = Instant::now();
    let Some(lines) = traced(dir.path(), "delay_enter=200000", 400, 100) else {
        return skipped("a_slow_disk_makes_sends_slow_and_nothing_else", "strace cannot be run");
    };
    assert_eq!(all_sent_are_there(dir.path(), &lines), 400);
    let slowest = lines.iter().map(|line| line.took_ms).max().unwrap_or(0);
    println!("400 sent in {:?}, the slowest in {slowest} ms", began.elapsed());
    assert!(slowest >= 200, "the fault took effect");
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "syncs are shared, a batch each: of a record each they would take 80 s"
    );
}

/// A sync of 3 s and more records than may wait: those beyond are refused at once, none of the others is lost.
#[test]
fn a_disk_slower_than_its_load_refuses_what_it_cannot_hold() {
    let dir = tempfile::tempdir().expect("a directory");
    let count = wire::limits::PRODUCE_IN_FLIGHT_MAX as u64 + 4_000;
    let Some(lines) = traced(dir.path(), "delay_enter=3000000", count, count) else {
        return skipped(
            "a_disk_slower_than_its_load_refuses_what_it_cannot_hold",
            "strace cannot be run",
        );
    };
    let refused: Vec<&Line> = lines.iter().filter(|line| line.code == "unavailable").collect();
    let mut took: Vec<u64> = refused.iter().map(|line| line.took_ms).collect();
    took.sort_unstable();
    // One of them may have met a busy machine.
    let typical = took.get(took.len() / 2).copied().unwrap_or(0);
    let sent = all_sent_are_there(dir.path(), &lines);
    println!("{sent} sent, {} refused, a refusal took {typical} ms", refused.len());
    assert!(!refused.is_empty() && typical < 1_500);
    assert_eq!(sent + refused.len(), count as usize);
}

/// One sync fails: what it covered is `unknown`, what follows is refused, what came before is there.
#[test]
fn a_sync_that_fails_ends_the_log_and_loses_nothing_it_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(lines) = traced(dir.path(), "error=EIO:when=30", 2_000, 10) else {
        return skipped(
            "a_sync_that_fails_ends_the_log_and_loses_nothing_it_reported",
            "strace cannot be run",
        );
    };
    let count = |code: &str| lines.iter().filter(|line| line.code == code).count();
    let (sent, unknown, unavailable) = (count("sent"), count("unknown"), count("unavailable"));
    println!("{sent} sent, {unknown} unknown, {unavailable} unavailable");
    assert!(sent > 20 && (1..=10).contains(&unknown) && unavailable > 100);
    let after = lines.iter().skip_while(|line| line.code != "unknown");
    assert_eq!(
        after.filter(|line| line.code == "sent").count(),
        0,
        "nothing is taken after it"
    );
    all_sent_are_there(dir.path(), &lines);
}

/// A small disk of its own; `None` where mounting is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mounted(mebibytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Self(dir))
    }

    /// Takes room, as another program might; what there is at most.
    fn fill(&self, mebibytes: u32) {
        let mut file = std::fs::File::create(self.0.path().join("stranger")).expect("made");
        let block = vec![1u8; 1 << 20];
        for _ in 0..mebibytes {
            if file.write_all(&block).is_err() {
                break;
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("stranger")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_refuses_sends_until_there_is_room_again() {
    let Some(disk) = SmallDisk::mounted(400) else {
        return skipped(
            "a_disk_that_fills_up_refuses_sends_until_there_is_room_again",
            "nothing can be mounted",
        );
    };
    let dir = disk.0.path().join("log");
    let log = with_topic(&dir, EmbeddedOptions::default()).await;
    let mut consumer = log.consume("g", &[TOPIC.into()], Pace::AtOnce).await.expect("a member");
    let Some(ConsumerEvent::Assigned(_)) = consumer.events.recv().await else {
        panic!("assigned")
    };
    let producer = log.producer().await.expect("a producer");
    let all = |code_wanted: &str, outcomes: &[Outcome]| {
        assert!(
            outcomes.iter().all(|(_, o, _)| code(o) == code_wanted),
            "{:?}",
            outcomes[0].1
        );
    };
    all("sent", &send(&*producer, 200, 50));
    disk.fill(300);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = send(&*producer, 200, 50);
    all("unavailable", &refused);
    assert!(
        refused[0]
            .1
            .as_ref()
            .is_err_and(|e| e.to_string().contains("nearly full"))
    );
    let at_once = refused
        .iter()
        .filter(|(.., took)| *took < Duration::from_secs(1))
        .count();
    assert!(at_once > 100, "{at_once} of 200 were refused at once");
    // What is there can be read, and consumers go on committing.
    assert_eq!(
        log.read(&at(), Offset(150), 100, 1 << 20).await.expect("read").len(),
        50
    );
    consumer
        .control
        .commit(vec![(at(), Offset(200))])
        .await
        .expect("committed");
    disk.make_room();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = send(&*producer, 200, 50);
    all("sent", &after);
    assert_eq!(after[0].1, Ok(Offset(200)), "no offset was lost to a refusal");
    log.close();
    assert_eq!(contents(&dir).len(), 400);
}

/// Somebody took the reserve too: a write fails in the middle. The consumers end, and so does the process that has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_for_want_of_room_ends_the_consumers_and_a_new_open_has_all_that_was_reported() {
    let test = "a_write_that_fails_for_want_of_room_ends_the_consumers_and_a_new_open_has_all_that_was_reported";
    let Some(disk) = SmallDisk::mounted(120) else {
        return skipped(test, "nothing can be mounted");
    };
    let dir = disk.0.path().join("log");
    let careless = EmbeddedOptions {
        free_bytes_kept: 0,
        ..EmbeddedOptions::default()
    };
    let log = with_topic(&dir, careless).await;
    let mut consumer = log.consume("g", &[TOPIC.into()], Pace::AtOnce).await.expect("a member");
    let Some(ConsumerEvent::Assigned(_)) = consumer.events.recv().await else {
        panic!("assigned")
    };
    let producer = log.producer().await.expect("a producer");
    disk.fill(u32::MAX);
    let outcomes = send(&*producer, 3_000, 50);
    let count = |wanted: &str| outcomes.iter().filter(|(_, o, _)| code(o) == wanted).count();
    println!(
        "{} sent, {} unknown, {} unavailable",
        count("sent"),
        count("unknown"),
        count("unavailable")
    );
    assert!(count("unknown") > 0 && count("unavailable") > 0);
    let ended = async { while consumer.events.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .expect("the consumer ends");
    log.close();
    disk.make_room();
    let held = contents(&dir);
    for (token, outcome, _) in &outcomes {
        if let Ok(offset) = outcome {
            assert_eq!(
                held.get(offset.0 as usize),
                Some(&body(*token)),
                "token {token} was sent"
            );
        }
    }
    assert!(held.len() >= count("sent"));
}

/// Bytes on the disk, not lengths: fjall makes room for its journals beforehand.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            // Dropped meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// Much more is written than is kept. SWITCHBOARD_TEST_ROUNDS makes the run longer: 8 MiB each, of which two are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_takes_leaves_the_disk() {
    let rounds: u64 = std::env::var("SWITCHBOARD_TEST_ROUNDS").map_or(64, |r| r.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(std::sync::atomic::AtomicI64::new(1_000_000));
    let now = clock.clone();
    let options = EmbeddedOptions {
        now_ms: Arc::new(move || now.load(Ordering::Relaxed)),
        ..EmbeddedOptions::default()
    };
    let log = Embedded::open(dir.path(), options).expect("opened");
    let spec = TopicSpec {
        name: TOPIC.into(),
        partitions: 1,
        compacted: false,
        retention_ms: Some(2_000),
        replication: 1,
    };
    log.create_topics(&[spec]).await.expect("made");
    let producer = log.producer().await.expect("a producer");
    let sink = Arc::new(Told::default());
    let (mut most, mut told) = (0, 0);
    let mut noise = 1u64;
    for round in 0..rounds {
        for _ in 0..8_192 {
            // Nothing a compression could shrink.
            let mut value = Vec::with_capacity(1_024);
            while value.len() < 1_024 {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                value.extend_from_slice(&noise.to_le_bytes());
            }
            sink.began.lock().push(Instant::now());
            let record = ToProduce {
                topic: TOPIC.into(),
                partition: Partition(0),
                key: None,
                value: Some(value.into()),
                headers: Vec::new(),
                token: told,
                reports: sink.clone(),
            };
            producer.produce(record).expect("taken");
            told += 1;
        }
        producer.flush(60_000).await;
        clock.fetch_add(1_000, Ordering::Relaxed);
        let upkeep = log.clone();
        tokio::task::spawn_blocking(move || upkeep.upkeep())
            .await
            .expect("no panic")
            .expect("upkeep");
        let (bytes, bounds) = (disk_bytes(dir.path()), log.bounds(&at()).await.expect("bounds"));
        most = most.max(bytes);
        if round % 8 == 7 {
            let kept = (bounds.end.0 - bounds.start.0) >> 10;
            println!(
                "{} MiB written, {kept} kept, {} on the disk",
                (round + 1) * 8,
                bytes >> 20
            );
        }
    }
    assert!(sink.outcomes.lock().iter().all(|(_, o, _)| o.is_ok()));
    // 307 MiB were the most in 1,600 written: journals (128), memtables, and blob files until a compaction drops them.
    assert!(most < 400 << 20, "{} MiB on the disk", most >> 20);
}
