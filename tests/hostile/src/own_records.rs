//! Our own log, spoilt: records nobody of ours would write, put into every topic of a process that is stopped. Started again,
//! it must put aside what cannot be read, number what can, and serve everybody within seconds (F38, F44, F51, I20).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ordered_log::embedded::{Embedded, EmbeddedOptions};
use ordered_log::{Appended, Log, LogRecord, ProduceError, Producer, Reports, ToProduce, TopicPartition};
use prost::Message;
use serde_json::json;
use tokio::sync::mpsc;
use wire::limits::RECORD_BYTES_MAX;
use wire::record::{self, DeskRecord, Kind, Mark, Marks, Notice, Owner, Record, Role, Sender, desk_record};
use wire::topics::partition_of;
use wire::{Epoch, Lane, LaneTopics, Offset, Partition, codec};

use crate::server::{Place, Server};
use crate::ws::Ws;
use crate::{Outcome, expect, same, token};

/// As configured for `switchboard dev`.
const PARTITIONS: u32 = 12;
/// One spoilt record holds its neighbours up no longer (I20).
const HELD_UP: Duration = Duration::from_secs(120);
const HEADERS: usize = 1_000;

struct Bad {
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Bytes)>,
    /// Why persistence puts it aside; `None`: it is legal, and takes a place in its conversation or changes nothing.
    reason: Option<&'static str>,
}

/// The whole table. The process's directory is `dir`.
pub fn run(bin: &Path, dir: &Path) -> Outcome {
    let mut server = Server::start(bin, dir, &[])?;
    every_step(&mut server).map_err(|why| {
        // Of its last run: who owns what, who reached whom, and what was not good.
        let told = server.last_lines_of(60, &["delivery::", "ingress::links", "process::health"]);
        format!("{why}\n{told}")
    })
}

fn every_step(server: &mut Server) -> Outcome {
    let people = people();
    for (partition, name) in &people {
        say(&server.place, name, 1).map_err(|why| format!("before, in {partition}: {why}"))?;
    }
    server.stop()?;
    let expected = spoil(&server.data.join("log"), &people)?;
    server.run().map_err(|why| format!("with a spoilt log: {why}"))?;

    let began = Instant::now();
    for (partition, name) in &people {
        say(&server.place, name, 2).map_err(|why| format!("in {partition}: {why}"))?;
    }
    let took = began.elapsed();
    expect(took < HELD_UP, || {
        format!("everybody was held up for {} ms", took.as_millis())
    })?;
    people
        .values()
        .try_for_each(|name| page_is_whole(&server.place, name))?;
    desk_serves(&server.place)?;
    accounted(&server.place, &expected)?;
    server.is_sound()?;
    server.stop()?;
    put_aside(&server.data.join("log"), &expected)?;

    // Read again from the start of what is not committed, it is the same.
    server.run().map_err(|why| format!("a second time: {why}"))?;
    for (partition, name) in &people {
        say(&server.place, name, 3).map_err(|why| format!("a second time, in {partition}: {why}"))?;
    }
    server.is_sound()?;
    server.stop()
}

/// One customer whose conversation is in each partition.
fn people() -> BTreeMap<u32, String> {
    let mut people = BTreeMap::new();
    for i in 0.. {
        let name = format!("p{i}");
        people.entry(partition_of(&key_of(&name), PARTITIONS).0).or_insert(name);
        if people.len() == PARTITIONS as usize {
            break;
        }
    }
    people
}

fn key_of(name: &str) -> Bytes {
    Bytes::from(format!("demo/{name}"))
}

/// A message goes through, and gets a place of its own.
fn say(place: &Place, name: &str, id: u64) -> Outcome {
    let mut ws = Ws::open(place)?;
    // From the beginning: what is logged before the owner knows of us would be history, and never placed here.
    ws.say(&json!({ "connect": { "token": token::of("customer", name), "since": 0 } }));
    ws.until(&["connected"])?;
    let sent = format!("m{id}");
    ws.say(&json!({ "send": { "id": sent, "body": { "text": "x" } } }));
    let seq = ws.place_of(&sent)?;
    expect(seq >= id, || format!("{sent} stands at {seq}"))
}

/// History is JSON and has no hole; of the two legal records of later builds the one is there, and of the other, whose audience
/// this build does not know, its customer sees the place alone.
fn page_is_whole(place: &Place, name: &str) -> Outcome {
    let bearer = token::of("customer", name);
    let get = format!(
        "GET /v1/conversations/{name}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nConnection: close\r\n\r\n"
    );
    let mut last = String::new();
    for _ in 0..1_200 {
        let answer = crate::socket::request(place.http, get.as_bytes())?;
        let page = answer.json();
        let events: Vec<_> = page["events"].as_array().cloned().unwrap_or_default();
        let of = |id: &str| events.iter().filter(|e| e["id"] == id).count();
        if of("m2") == 1 {
            let rising = events.iter().zip(1..).all(|(event, seq)| event["seq"] == seq);
            let with = |member: &str| events.iter().filter(|e| e.get(member).is_some()).count();
            let right = rising && of("m1") == 1 && with("message") == 3 && with("hidden") == 1;
            return expect(right && !answer.body.contains("secret"), || {
                format!("shown to its customer: {}", answer.body)
            });
        }
        last = answer.body;
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("the page of {name} is {last}"))
}

/// A customer still finds an agent.
fn desk_serves(place: &Place) -> Outcome {
    let (customer, agent) = (token::somebody("customer"), token::somebody("agent"));
    let mut bo = Ws::connected(place, "agent", &agent)?;
    bo.say(&json!({ "status": { "id": "s", "state": "away", "capacity": 3 } }));
    bo.until(&["done"])?;
    let mut alice = Ws::customer(place, &customer)?;
    alice.say(&json!({ "act": { "id": "r", "request": { "agent": agent, "only": true } } }));
    alice.until(&["done"])?;
    bo.say(&json!({ "act": { "id": "a", "conversation": customer, "accept": {} } }));
    bo.until(&["done"]).map(|_| ())
}

/// Every record is counted, and every one put aside is counted by its reason.
fn accounted(place: &Place, expected: &[(Partition, Offset, &'static str)]) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(120);
    let count = |reason: &str| place.metric("switchboard_dead_letters_total", &[&format!("reason=\"{reason}\"")]);
    let wanted = |label: &str| {
        let of = |reason: &str| match reason {
            "wrong_partition" => "wrong_partition",
            "too_large" => "too_large",
            _ => "decode",
        };
        expected.iter().filter(|(_, _, reason)| of(reason) == label).count() as u64
    };
    for label in ["decode", "wrong_partition", "too_large"] {
        while count(label)? < wanted(label) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        same(&format!("dead letters, {label}"), &count(label)?, &wanted(label))?;
    }
    same(
        "stopped partitions",
        &place.metric("switchboard_partition_stopped", &[])?,
        &0,
    )
}

// ---- the log, opened while nobody else has it ----

fn topics() -> Result<LaneTopics, String> {
    Ok(LaneTopics {
        lane: Lane::new("standard").map_err(|e| e.to_string())?,
        epoch: Epoch(1),
        partitions: PARTITIONS,
    })
}

fn with_log<T>(
    dir: &Path,
    options: EmbeddedOptions,
    work: impl AsyncFnOnce(&Embedded) -> Result<T, String>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let log = Embedded::open(dir, options).map_err(|e| e.to_string())?;
        let outcome = work(&log).await;
        log.close();
        outcome
    })
}

struct Heard(mpsc::Sender<Result<Appended, ProduceError>>);

impl Reports for Heard {
    fn report(&self, _: u64, outcome: Result<Appended, ProduceError>) {
        // The appender waits for it: there is room.
        let _ = self.0.try_send(outcome);
    }
}

async fn append(producer: &dyn Producer, topic: &str, partition: Partition, bad: &Bad) -> Result<Offset, String> {
    let (sender, mut heard) = mpsc::channel(1);
    let record = ToProduce {
        topic: topic.into(),
        partition,
        key: bad.key.clone(),
        value: bad.value.clone(),
        headers: bad.headers.clone(),
        token: 0,
        reports: Arc::new(Heard(sender)),
    };
    producer.produce(record).map_err(|e| e.to_string())?;
    let outcome = heard.recv().await.ok_or("no report")?;
    outcome.map(|a| a.offset).map_err(|e| e.to_string())
}

/// Appends everything; where each record to be put aside stands, and why.
fn spoil(dir: &Path, people: &BTreeMap<u32, String>) -> Result<Vec<(Partition, Offset, &'static str)>, String> {
    // The clock stands before 1970 at first, and at the end of time for the last partition.
    let now_ms = Arc::new(AtomicI64::new(-1));
    let clock = Arc::clone(&now_ms);
    let options = EmbeddedOptions {
        now_ms: Arc::new(move || clock.load(Ordering::Relaxed)),
        ..EmbeddedOptions::default()
    };
    with_log(dir, options, async |log| {
        let (topics, producer) = (topics()?, log.producer().await.map_err(|e| e.to_string())?);
        let mut expected = Vec::new();
        for (partition, name) in people {
            if *partition == PARTITIONS - 1 {
                now_ms.store(i64::MAX, Ordering::Relaxed);
            }
            let partition = Partition(*partition);
            for bad in bad_messages(name, partition) {
                let offset = append(&*producer, &topics.messages(), partition, &bad).await?;
                if let Some(reason) = bad.reason {
                    expected.push((partition, offset, reason));
                }
            }
            for bad in bad_desk_records(name) {
                append(&*producer, &topics.desk(), partition, &bad).await?;
            }
            for bad in garbage() {
                append(&*producer, &topics.dead_letters(), partition, &bad).await?;
            }
            for key in [
                "De mo",
                "",
                "\u{fffd}",
                "nobody",
                "demo",
                "demo/1.x",
                "demo/01.5",
                "demo/1.5/x",
            ] {
                let bad = bad(Some(Bytes::from(key)), &b"garbage"[..], None);
                append(&*producer, &topics.desk_snapshots(), partition, &bad).await?;
            }
        }
        for bad in bad_owners() {
            append(&*producer, &topics.owners(), Partition(0), &bad).await?;
        }
        for bad in bad_controls() {
            append(&*producer, wire::topics::CONTROL, Partition(0), &bad).await?;
        }
        Ok(expected)
    })
}

fn bad(key: Option<Bytes>, value: impl Into<Option<&'static [u8]>>, reason: Option<&'static str>) -> Bad {
    Bad {
        key,
        value: value.into().map(Bytes::from_static),
        headers: Vec::new(),
        reason,
    }
}

fn garbage() -> Vec<Bad> {
    vec![
        bad(None, None, None),
        bad(Some(Bytes::new()), &b""[..], None),
        bad(None, &b"\xff\xfe\xfd"[..], None),
    ]
}

/// A compacted topic takes nothing without a key.
fn keyed_garbage() -> Vec<Bad> {
    garbage().into_iter().filter(|bad| bad.key.is_some()).collect()
}

/// Records of `messages` in this partition, to which `name` belongs.
fn bad_messages(name: &str, partition: Partition) -> Vec<Bad> {
    let key = key_of(name);
    let good = || Record {
        version: 1,
        kind: Kind::Message.into(),
        numbered: true,
        from: Some(Sender {
            role: Role::Customer.into(),
            user: name.to_owned(),
        }),
        member: Bytes::from_static(b"\"message\":{\"text\":\"x\"}"),
        ..Record::default()
    };
    let of = |key: Option<Bytes>, value: Option<Bytes>, reason| Bad {
        key,
        value,
        headers: Vec::new(),
        reason,
    };
    let changed = |reason, change: &dyn Fn(&mut Record)| {
        let mut record = good();
        change(&mut record);
        of(Some(key.clone()), Some(codec::encode(&record)), reason)
    };
    let keyed = |key: &[u8], reason| {
        of(
            Some(Bytes::copy_from_slice(key)),
            Some(codec::encode(&good())),
            Some(reason),
        )
    };
    let raw = |value: Vec<u8>, reason| of(Some(key.clone()), Some(value.into()), Some(reason));
    let stranger = (0..)
        .map(|i| key_of(&format!("stranger{i}")))
        .find(|k| partition_of(k, PARTITIONS) != partition)
        .unwrap_or_default();
    let half = codec::encode(&good()).slice(..9).to_vec();
    let mark = |agent_recv| Mark {
        tenant: "demo".into(),
        customer: name.to_owned(),
        agent_recv,
        ..Mark::default()
    };
    let marks = |partition: u32, recv: u64, numbered: bool| {
        codec::encode(&Record {
            version: 1,
            kind: Kind::Marks.into(),
            numbered,
            marks: Some(Marks {
                partition,
                marks: vec![mark(recv)],
            }),
            ..Record::default()
        })
    };
    let headers = (0..HEADERS)
        .map(|i| (format!("h{i}"), Bytes::from(vec![b'x'; 200])))
        .collect();
    vec![
        of(None, Some(codec::encode(&good())), Some("bad_key")),
        keyed(b"", "bad_key"),
        keyed(b"\xff\xfe/x", "bad_key"),
        keyed(b"no-slash", "bad_key"),
        keyed(b"De mo/x", "bad_key"),
        keyed(b"demo/", "bad_key"),
        keyed(b"demo/a\nb", "bad_key"),
        keyed(&stranger, "wrong_partition"),
        of(Some(key.clone()), None, Some("no_value")),
        raw(Vec::new(), "no_version"),
        raw(vec![0xff; 64], "not_a_record"),
        raw(half, "not_a_record"),
        raw(br#"{"send":{"id":"1","body":{"text":"x"}}}"#.to_vec(), "not_a_record"),
        raw(vec![b'x'; 900 * 1024], "too_large"),
        raw(vec![0; RECORD_BYTES_MAX + 1], "too_large"),
        changed(Some("no_version"), &|r| r.version = 0),
        changed(Some("incomplete"), &|r| r.from = None),
        changed(Some("incomplete"), &|r| r.member = Bytes::new()),
        changed(Some("not_json"), &|r| {
            r.member = Bytes::from_static(b"\"message\":{\"text\":\"x\"")
        }),
        changed(Some("not_json"), &|r| {
            r.member = Bytes::from_static(b"\"message\":\"\xff\"")
        }),
        changed(Some("incomplete"), &|r| r.kind = Kind::Effect.into()),
        changed(Some("incomplete"), &|r| r.kind = Kind::Notice.into()),
        changed(Some("not_json"), &|r| {
            *r = Record {
                version: 1,
                kind: Kind::Notice.into(),
                notice: Some(Notice {
                    frame: Bytes::from_static(b"\xff"),
                    to_customer: true,
                }),
                ..Record::default()
            }
        }),
        of(None, Some(marks(partition.0 + 1, 1, false)), Some("incomplete")),
        of(None, Some(marks(partition.0, 1, true)), Some("incomplete")),
        of(None, Some(marks(partition.0, u64::MAX, false)), Some("mark_too_high")),
        Bad {
            headers,
            ..raw(vec![0xff; 3], "not_a_record")
        },
        // Legal, and of later builds: an unknown version and kind, and an audience that is narrower than everyone.
        changed(None, &|r| (r.version, r.kind) = (9, 77)),
        changed(None, &|r| {
            (r.version, r.audience) = (9, 5);
            r.member = Bytes::from_static(b"\"secret\":{}");
        }),
    ]
}

fn bad_desk_records(name: &str) -> Vec<Bad> {
    use desk_record::Input;
    let key = Bytes::from_static(b"demo");
    let of = |input: Option<Input>| Bad {
        key: Some(key.clone()),
        value: Some(DeskRecord { version: 1, input }.encode_to_vec().into()),
        headers: Vec::new(),
        reason: None,
    };
    let act = |change: &dyn Fn(&mut record::Act)| {
        let mut act = record::Act {
            from: Some(Sender {
                role: Role::Agent.into(),
                user: "ghost".into(),
            }),
            id: "x".into(),
            customer: name.to_owned(),
            deed: Bytes::from_static(b"{\"close\":{}}"),
            ..record::Act::default()
        };
        change(&mut act);
        of(Some(Input::Act(act)))
    };
    let mut all = garbage();
    all.extend([
        bad(Some(key.clone()), None, None),
        bad(Some(key.clone()), &b""[..], None),
        bad(Some(key.clone()), &b"\xff\xff"[..], None),
        bad(Some(Bytes::from_static(b"De mo")), &b"\x08\x01"[..], None),
        of(None),
        act(&|a| a.from = None),
        act(&|a| a.deed = Bytes::from_static(b"\xff")),
        act(&|a| a.deed = Bytes::from_static(b"{\"dance\":{}}")),
        act(&|a| a.customer = "a\nb".into()),
        act(&|a| a.customer = String::new()),
        act(&|a| (a.seen_seq, a.priority) = (u64::MAX, u32::MAX)),
        act(&|a| a.deed = Bytes::from_static(b"{\"status\":{\"state\":\"available\",\"capacity\":4294967295}}")),
        of(Some(Input::Presence(record::Presence::default()))),
        of(Some(Input::Alive(record::Alive {
            node: u64::MAX,
            connections: vec![record::AgentConnection::default(); 3],
        }))),
        of(Some(Input::Wanted(record::Wanted {
            customer: "a\nb".into(),
            last_seq: u64::MAX,
            priority: u32::MAX,
        }))),
        of(Some(Input::Activity(record::Activity {
            customer: name.to_owned(),
            last_seq: u64::MAX,
            ..record::Activity::default()
        }))),
        of(Some(Input::Settings(record::Settings {
            json: Bytes::from_static(b"{\"capacity\":-1}"),
        }))),
        of(Some(Input::Settings(record::Settings {
            json: Bytes::from_static(b"\xff"),
        }))),
    ]);
    all
}

fn bad_owners() -> Vec<Bad> {
    let owner = |partition: u32, group: u64, address: &str| Owner {
        partition,
        worker: "ghost".into(),
        link_address: address.into(),
        worker_incarnation: 42 + group % 7,
        group_generation: group,
    };
    let of = |key: &str, owner: Owner| Bad {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(owner.encode_to_vec().into()),
        headers: Vec::new(),
        reason: None,
    };
    let mut all = keyed_garbage();
    all.extend([
        bad(Some(Bytes::from_static(b"0")), &b"\xff"[..], None),
        bad(Some(Bytes::from_static(b"1")), None, None),
        of("2", owner(3, u64::MAX, "")),
        of("-1", owner(0, 1, "")),
        of("999", owner(999, u64::MAX, "127.0.0.1:9")),
        of("4294967295", owner(u32::MAX, u64::MAX, "")),
        // Dead workers that claim to be the newest.
        of("4", owner(4, u64::MAX, "")),
        of("5", owner(5, u64::MAX - 1, "not an address")),
        of("6", owner(6, u64::MAX, "127.0.0.1:9")),
        of("7", owner(7, 0, "127.0.0.1:9")),
    ]);
    all
}

fn bad_controls() -> Vec<Bad> {
    let of = |key: &'static str, value: &'static [u8]| bad(Some(Bytes::from_static(key.as_bytes())), value, None);
    let mut all = keyed_garbage();
    all.extend([
        of("lane/standard", b"\xff"),
        of("lane/standard", b""),
        of("lane/../x", b"\x08\x01"),
        of("revoke/demo", b"\x08\x01"),
        of("switch/standard/demo/nonsense", b"\x08\x01"),
        of("nonsense", b"\x08\x01"),
        bad(Some(Bytes::from_static(b"lane/standard")), None, None),
    ]);
    all
}

// ---- what was put aside ----

/// Each letter names topic, partition, offset and reason, and holds what was there.
fn put_aside(dir: &Path, expected: &[(Partition, Offset, &'static str)]) -> Outcome {
    with_log(dir, EmbeddedOptions::default(), async |log| {
        let topics = topics()?;
        let mut found = Vec::new();
        for partition in (0..PARTITIONS).map(Partition) {
            let at = TopicPartition {
                topic: topics.dead_letters().into(),
                partition,
            };
            let mut from = log.bounds(&at).await.map_err(|e| e.to_string())?.start;
            loop {
                let records = log.read(&at, from, 100, 8 << 20).await.map_err(|e| e.to_string())?;
                let Some(last) = records.last() else { break };
                from = last.offset.next();
                found.extend(records.iter().filter_map(|r| letter(r, &topics.messages())));
            }
        }
        for (partition, offset, reason) in expected {
            let letters: Vec<_> = found.iter().filter(|l| (l.0, l.1) == (*partition, *offset)).collect();
            let named = letters.iter().all(|l| l.2 == *reason);
            expect(named && !letters.is_empty(), || {
                format!(
                    "of the record at {partition}:{offset} there is {letters:?} where one letter, {reason}, is right"
                )
            })?;
        }
        Ok(())
    })
}

/// (partition, offset, reason) as its headers say.
fn letter(record: &LogRecord, topic: &str) -> Option<(Partition, Offset, String)> {
    let header = |name: &str| {
        let (_, value) = record.headers.iter().find(|(n, _)| n == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    (header("topic")? == topic).then_some(())?;
    let partition = Partition(header("partition")?.parse().ok()?);
    Some((partition, Offset(header("offset")?.parse().ok()?), header("reason")?))
}
