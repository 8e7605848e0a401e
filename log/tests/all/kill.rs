//! The embedded log under kill -9, a torn journal and a damaged one: what was reported is there, there are no holes, and what
//! cannot be read is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ordered_log::*;
use rand::Rng;
use wire::{Offset, Partition};

const TOPIC: &str = "messages";
const PARTITIONS: u32 = 3;
const CHILD: &str = "SWITCHBOARD_KILL_CHILD";

fn at(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: TOPIC.into(),
        partition: Partition(partition),
    }
}

fn spec() -> TopicSpec {
    TopicSpec {
        name: TOPIC.into(),
        partitions: PARTITIONS,
        compacted: false,
        retention_ms: None,
        replication: 1,
    }
}

/// A value says its token and fills a length that follows from it, so that torn or mixed bytes are seen.
fn value(token: u64) -> Bytes {
    let mut value = format!("{token}:").into_bytes();
    let fill = (token % 1_500) as usize;
    value.extend(std::iter::repeat_n((token % 251) as u8, fill));
    value.into()
}

fn token_of(value: &[u8]) -> u64 {
    let colon = value.iter().position(|b| *b == b':').expect("a token");
    let token = std::str::from_utf8(&value[..colon])
        .expect("digits")
        .parse()
        .expect("a number");
    assert_eq!(self::value(token), value, "the bytes are those that were appended");
    token
}

/// Prints each report as a line.
struct Printer {
    partition_of: fn(u64) -> u32,
    reported: AtomicU64,
}

impl Reports for Printer {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        let offset = outcome.expect("appended").offset;
        let line = format!("{} {offset} {token}\n", (self.partition_of)(token));
        std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
        self.reported.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&self) {
        std::io::stdout().flush().expect("the parent reads");
    }
}

/// Appends until it is killed. Not a test: run by `a_killed_process_loses_nothing_it_reported`.
#[test]
#[ignore = "a child process of another test"]
fn child_that_appends() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (dir, first) = dir.split_once('|').expect("directory and first token");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let log = Embedded::open(Path::new(dir), EmbeddedOptions::default()).expect("opened");
        log.create_topics(&[spec()]).await.expect("made");
        let printer = Arc::new(Printer {
            partition_of: |t| (t % 3) as u32,
            reported: AtomicU64::new(0),
        });
        let producer = log.producer().await.expect("a producer");
        let first: u64 = first.parse().expect("a number");
        for token in first.. {
            while token - first > printer.reported.load(Ordering::Relaxed) + 300 {
                std::thread::sleep(Duration::from_micros(100));
            }
            let record = ToProduce {
                topic: TOPIC.into(),
                partition: Partition((token % 3) as u32),
                key: Some(Bytes::from_static(b"k")),
                value: Some(value(token)),
                headers: Vec::new(),
                token,
                reports: printer.clone(),
            };
            producer.produce(record).expect("handed over");
        }
    });
}

/// All records of a partition by offset, checked for holes.
fn contents(dir: &Path) -> Vec<Vec<u64>> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let log = Embedded::open(dir, EmbeddedOptions::default()).expect("opens after a kill");
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            let Ok(end) = log.bounds(&at(partition)).await.map(|b| b.end) else {
                all.push(Vec::new());
                continue;
            };
            let mut tokens = Vec::new();
            while (tokens.len() as u64) < end.0 {
                let from = Offset(tokens.len() as u64);
                let records = log.read(&at(partition), from, 1_000, 1 << 20).await.expect("read");
                assert!(!records.is_empty(), "a hole at {partition} {from} before {end}");
                for record in records {
                    assert_eq!(record.offset.0, tokens.len() as u64, "no holes");
                    tokens.push(token_of(&record.value.expect("a value")));
                }
            }
            all.push(tokens);
        }
        log.close();
        all
    })
}

#[test]
fn a_killed_process_loses_nothing_it_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut reported: HashMap<(u32, u64), u64> = HashMap::new();
    let mut first = 0;
    // SWITCHBOARD_TEST_KILLS: more of them.
    let rounds = std::env::var("SWITCHBOARD_TEST_KILLS").map_or(8, |n| n.parse().expect("a number"));
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "kill::child_that_appends", "--ignored", "--nocapture"])
            .env(CHILD, format!("{}|{first}", dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        // From the first report on; sometimes at once, sometimes after some memtables.
        let pause = Duration::from_micros(rand::rng().random_range(0..400_000));
        let reader = std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|line| {
                    let mut numbers = line.split(' ').map(str::parse::<u64>);
                    let (partition, offset, token) =
                        (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
                    Some(((partition as u32, offset), token))
                })
                .collect::<Vec<_>>()
        });
        std::thread::sleep(Duration::from_millis(30) + pause);
        child.kill().expect("killed");
        child.wait().expect("gone");
        for (place, token) in reader.join().expect("read") {
            assert_eq!(reported.insert(place, token), None, "an offset is reported once");
            first = first.max(token + 1_000);
        }
        let contents = contents(dir.path());
        for ((partition, offset), token) in &reported {
            let found = contents[*partition as usize].get(*offset as usize);
            assert_eq!(
                found,
                Some(token),
                "round {round}: partition {partition} offset {offset} was reported"
            );
        }
    }
    assert!(
        reported.len() > 100,
        "the children got to report {} records only",
        reported.len()
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copied");
        }
    }
}

/// A log with so many records, each a batch of its own, closed.
fn filled(dir: &Path, count: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let log = Embedded::open(dir, EmbeddedOptions::default()).expect("opened");
        log.create_topics(&[spec()]).await.expect("made");
        let producer = log.producer().await.expect("a producer");
        for token in 0..count {
            let key = Some(Bytes::from_static(b"k"));
            let partition = Partition((token % 3) as u32);
            append(&*producer, TOPIC.into(), partition, key, Some(value(token)))
                .await
                .expect("appended");
        }
        log.close();
    });
}

fn journals(dir: &Path) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(dir.join("db"))
        .expect("listed")
        .map(|e| e.expect("listed").path());
    all.filter(|p| p.extension().is_some_and(|e| e == "jnl")).collect()
}

/// The journal of a new log with so many records, its bytes, and where what was written ends.
fn journal_of(dir: &Path, records: u64) -> (std::path::PathBuf, Vec<u8>, usize) {
    filled(dir, records);
    let journal = journals(dir).pop().expect("a journal");
    let bytes = std::fs::read(&journal).expect("read");
    let written = bytes.iter().rposition(|b| *b != 0).expect("not empty") + 1;
    (journal, bytes, written)
}

/// A power cut may leave any prefix of what was not yet synced: the log then ends earlier, and has no holes.
#[test]
fn a_journal_cut_at_any_byte_loses_only_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let whole = dir.path().join("whole");
    let (journal, bytes, written) = journal_of(&whole, 60);
    let full: usize = contents(&whole).iter().map(Vec::len).sum();
    assert_eq!(full, 60);
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..24 {
        let cut = if i == 0 {
            written - 1
        } else {
            rand::rng().random_range(written / 4..written)
        };
        let torn = dir.path().join(format!("torn-{i}"));
        copy(&whole, &torn);
        let mut left = bytes[..cut].to_vec();
        // Cut off, or the file's length kept and the rest never written.
        if i % 2 == 0 {
            left.resize(bytes.len(), 0);
        }
        let name = journal.file_name().expect("named");
        std::fs::write(torn.join("db").join(name), left).expect("written");
        // fjall asserts in debug builds what a cut inside a length breaks; without the assertion it is a torn end like any other.
        let opened = std::panic::catch_unwind(|| contents(&torn));
        let tokens = match opened {
            Ok(tokens) => tokens,
            Err(_) if cfg!(debug_assertions) && i % 2 == 0 => continue,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let count: usize = tokens.iter().map(Vec::len).sum();
        let mut all: Vec<u64> = tokens.into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(
            all,
            (0..count as u64).collect::<Vec<_>>(),
            "cut at {cut} of {written}: a prefix"
        );
        seen.insert(count);
        std::fs::remove_dir_all(torn).expect("removed");
    }
    assert!(seen.len() > 3, "the cuts made a difference: {seen:?}");
}

/// A byte that changes on the disk, in any batch but the last: told at the open, never a silent loss or another text.
#[test]
fn a_changed_byte_in_the_journal_is_told_and_what_lies_behind_it_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let whole = dir.path().join("whole");
    let (journal, bytes, written) = journal_of(&whole, 60);
    // Without the room behind it, which would be copied each time.
    let bytes = bytes[..written].to_vec();
    std::fs::write(&journal, &bytes).expect("written");
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for i in 0..24 {
        let place = rand::rng().random_range(written / 8..written / 2);
        let flipped = dir.path().join(format!("flipped-{i}"));
        copy(&whole, &flipped);
        let mut changed = bytes.clone();
        changed[place] ^= 1 << rand::rng().random_range(0..8);
        std::fs::write(flipped.join("db").join(journal.file_name().expect("named")), changed).expect("written");
        // fjall asserts in debug builds what a changed length breaks.
        let opened =
            std::panic::catch_unwind(|| Embedded::open(&flipped, EmbeddedOptions::default()).map(|log| log.close()));
        let became = match opened {
            Err(_) if cfg!(debug_assertions) => "an assertion of fjall",
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(Err(LogError::Failed(why))) if why.contains("is damaged at byte") => {
                let kept = std::fs::read_dir(&flipped).expect("listed").filter_map(Result::ok);
                let kept = kept
                    .filter(|e| e.file_name().to_string_lossy().starts_with("damaged-"))
                    .count();
                assert_eq!(kept, 1, "what was cut off is kept");
                // The next start goes on, with a prefix.
                let tokens: Vec<u64> = contents(&flipped).into_iter().flatten().collect();
                assert!(tokens.len() < 60);
                "damage, told; the next start goes on"
            }
            Ok(Err(_)) => "refused by fjall",
            Ok(Ok(())) => {
                let count: usize = contents(&flipped).iter().map(Vec::len).sum();
                assert_eq!(count, 60, "byte {place} of {written} changed: a silent loss");
                "nothing lost"
            }
        };
        *seen.entry(became).or_default() += 1;
        std::fs::remove_dir_all(flipped).expect("removed");
    }
    println!("{seen:?}");
    let told: usize = seen
        .iter()
        .filter(|(what, _)| **what != "nothing lost")
        .map(|(_, n)| n)
        .sum();
    assert!(told > 12, "{seen:?}");
}

#[tokio::test]
async fn a_directory_has_one_owner_and_remembers_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Embedded::open(dir.path(), EmbeddedOptions::default()).expect("opened");
    let refused = Embedded::open(dir.path(), EmbeddedOptions::default());
    assert!(matches!(refused, Err(LogError::Locked(_))));
    let generation = log.generation();
    let compacted = TopicSpec {
        name: "c".into(),
        compacted: true,
        ..spec()
    };
    log.create_topics(&[spec(), compacted]).await.expect("made");
    let id = log.topic(TOPIC).await.expect("asked").expect("there").id;
    let producer = log.producer().await.expect("a producer");
    for i in 0..10 {
        let (key, text) = (Bytes::from(vec![b'0' + i % 2]), Bytes::from(vec![i]));
        append(&*producer, "c".into(), Partition(0), Some(key), Some(text))
            .await
            .expect("appended");
    }
    let mut consumer = log.consume("g", &[TOPIC.into()], Pace::AtOnce).await.expect("a member");
    let Some(ConsumerEvent::Assigned(shares)) = consumer.events.recv().await else {
        panic!("assigned first")
    };
    append(&*producer, TOPIC.into(), Partition(0), None, None)
        .await
        .expect("appended");
    consumer
        .control
        .commit(vec![(at(0), Offset(1))])
        .await
        .expect("committed");
    log.close();
    let closed = append(&*producer, TOPIC.into(), Partition(0), None, None).await;
    assert!(matches!(closed, Err(ProduceError::Unavailable(_))));

    let log = Embedded::open(dir.path(), EmbeddedOptions::default()).expect("opens again");
    assert_eq!(log.generation(), generation + 1);
    assert_eq!(log.topic(TOPIC).await.expect("asked").expect("there").id, id);
    assert_eq!(
        log.committed("g", &[at(0), at(1)]).await.expect("asked"),
        [Some(Offset(1)), None]
    );
    let c = TopicPartition {
        topic: "c".into(),
        partition: Partition(0),
    };
    let left = log.read(&c, Offset::ZERO, 100, 1 << 20).await.expect("read");
    assert_eq!(
        left.iter().map(|r| r.offset.0).collect::<Vec<_>>(),
        [8, 9],
        "the newest of each key, at its offset"
    );
    assert_eq!(log.bounds(&c).await.expect("bounds").end, Offset(10));
    let mut consumer = log.consume("g", &[TOPIC.into()], Pace::AtOnce).await.expect("a member");
    let Some(ConsumerEvent::Assigned(again)) = consumer.events.recv().await else {
        panic!("assigned first")
    };
    assert!(
        again[0].generation > shares[0].generation,
        "generations rise over restarts"
    );
}
