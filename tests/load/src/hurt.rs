//! Clients that hurt: readers that read nothing, floods of sockets, fragments without end, a user or a tenant that sends far beyond its
//! share. None of them is measured; `tests/load/hurt` measures the others meanwhile.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Error;
use crate::drive::{self, Host, Tasks};
use crate::socket::{self, Heard};
use crate::tokens::Signer;

/// Sockets being opened at once.
const OPENING: usize = 64;
/// A reading device acks after so many events.
const ACK_EVERY: u64 = 1;
/// How long a sleeper may take to read, in the end, what was sent to it and why it was cut off.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Whom to hurt, and for how long.
pub struct Target {
    host: Host,
    signer: Signer,
    /// Of the users' names: each run has users of its own.
    prefix: String,
    for_so_long: Duration,
}

impl Target {
    pub fn new(to: SocketAddr, tenant: &str, dev_secret: &str, for_so_long: Duration) -> Self {
        Self {
            host: Host {
                name: to.to_string(),
                addr: to,
                path: "/v1/connect".into(),
            },
            signer: Signer::new(tenant, dev_secret),
            prefix: format!("hurt-{:08x}", rand::random::<u32>()),
            for_so_long,
        }
    }
}

/// Customers who send to themselves: each has one device that sends and others that get the echo.
pub struct Talkers {
    pub users: usize,
    /// Besides the one that sends.
    pub devices: usize,
    /// The other devices connect and never read.
    pub asleep: bool,
    /// Sends per user and second.
    pub rate: f64,
    pub body_bytes: usize,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    sends: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
    events: AtomicU64,
    opened: AtomicU64,
    not_opened: AtomicU64,
    fragments: AtomicU64,
    /// Connections by how they ended.
    ends: Mutex<std::collections::BTreeMap<String, u64>>,
}

impl Outcome {
    fn count(what: &AtomicU64) {
        what.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, how: String) {
        *self.ends.lock().entry(how).or_default() += 1;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = [
            ("sends", &self.sends),
            ("taken", &self.taken),
            ("refused", &self.refused),
            ("events read", &self.events),
            ("sockets opened", &self.opened),
            ("sockets refused", &self.not_opened),
            ("fragments", &self.fragments),
        ];
        let mut said = Vec::new();
        for (name, n) in told {
            let n = n.load(Ordering::Relaxed);
            if n > 0 {
                said.push(format!("{n} {name}"));
            }
        }
        for (how, n) in &*self.ends.lock() {
            said.push(format!("{n} ended: {how}"));
        }
        f.write_str(&said.join(", "))
    }
}

/// Users who talk to themselves, until the time is up.
pub async fn talk(target: Arc<Target>, talkers: Talkers) -> Result<Arc<Outcome>, Error> {
    let outcome = Arc::new(Outcome::default());
    let talkers = Arc::new(talkers);
    let until = Instant::now() + target.for_so_long;
    let mut tasks = Tasks::new();
    for i in 0..talkers.users {
        for device in 0..=talkers.devices {
            let (target, talkers, outcome) = (target.clone(), talkers.clone(), outcome.clone());
            tasks.spawn(async move { one_device(&target, &talkers, &outcome, i, device, until).await });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Error::Task(e.to_string()))??;
    }
    Ok(outcome)
}

async fn one_device(
    target: &Target,
    talkers: &Talkers,
    outcome: &Outcome,
    user: usize,
    device: usize,
    until: Instant,
) -> Result<(), Error> {
    let name = format!("{}-{user}", target.prefix);
    let mut line = Line::connect(target, &name, &format!("d{device}")).await?;
    Outcome::count(&outcome.opened);
    if device == 0 {
        talk_on(&mut line, talkers, outcome, &name, until).await
    } else if talkers.asleep {
        tokio::time::sleep_until(until).await;
        outcome.ended(line.last_words().await);
        Ok(())
    } else {
        loop {
            let ended = match timeout_at(until, line.read(outcome)).await {
                Err(_) => return Ok(()),
                Ok(heard) => line.answer(heard).await,
            };
            if let Some(end) = ended {
                outcome.ended(end);
                return Ok(());
            }
        }
    }
}

async fn talk_on(
    line: &mut Line,
    talkers: &Talkers,
    outcome: &Outcome,
    name: &str,
    until: Instant,
) -> Result<(), Error> {
    let text = "x".repeat(talkers.body_bytes.saturating_sub(r#"{"text":""}"#.len()));
    let body = RawValue::from_string(format!(r#"{{"text":"{text}"}}"#)).map_err(|e| Error::Args(e.to_string()))?;
    // People do not speak in step.
    let pause = 1.0 / talkers.rate;
    let first = Instant::now() + Duration::from_secs_f64(pause * rand::random::<f64>());
    let mut ticks = tokio::time::interval_at(first, Duration::from_secs_f64(pause));
    let mut n = 0u64;
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep_until(until) => return Ok(()),
            _ = ticks.tick() => {
                n += 1;
                Outcome::count(&outcome.sends);
                line.write(&client::frames::send(&format!("{name}-{n}"), None, &body)).await.err()
            }
            heard = line.read(outcome) => line.answer(heard).await,
        };
        if let Some(end) = ended {
            outcome.ended(format!("one that sends: {end}"));
            return Ok(());
        }
    }
}

/// Sockets that are opened as fast as they can be and say nothing; the oldest are dropped beyond `at_once`.
pub async fn flood(target: Arc<Target>, from: SocketAddr, at_once: usize) -> Result<Arc<Outcome>, Error> {
    let outcome = Arc::new(Outcome::default());
    let until = Instant::now() + target.for_so_long;
    let held = Arc::new(Mutex::new(std::collections::VecDeque::<TcpStream>::new()));
    let mut tasks = Tasks::new();
    for _ in 0..OPENING {
        let (target, outcome, held) = (target.clone(), outcome.clone(), held.clone());
        tasks.spawn(async move {
            while Instant::now() < until {
                match timeout(Duration::from_secs(1), drive::open(&target.host, Some(from))).await {
                    Ok(Ok((stream, _))) => {
                        Outcome::count(&outcome.opened);
                        let mut held = held.lock();
                        held.push_back(stream);
                        if held.len() > at_once {
                            held.pop_front();
                        }
                    }
                    Ok(Err(_)) | Err(_) => Outcome::count(&outcome.not_opened),
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Error::Task(e.to_string()))??;
    }
    Ok(outcome)
}

/// Connections that each begin one text message and go on with it in fragments of `bytes`, as fast as they are taken.
pub async fn fragments(
    target: Arc<Target>,
    connections: usize,
    each: u64,
    bytes: usize,
) -> Result<Arc<Outcome>, Error> {
    let outcome = Arc::new(Outcome::default());
    let until = Instant::now() + target.for_so_long;
    let mut tasks = Tasks::new();
    for i in 0..connections {
        let (target, outcome) = (target.clone(), outcome.clone());
        tasks.spawn(async move {
            let user = format!("{}-{i}", target.prefix);
            let many = fragment(false, bytes).repeat(1_000);
            // Cut off, it comes again.
            while Instant::now() < until {
                let mut line = Line::connect(&target, &user, "d").await?;
                Outcome::count(&outcome.opened);
                let mut sent = 0;
                let mut going = line.stream.write_all(&fragment(true, bytes)).await.is_ok();
                while going && sent < each {
                    going = matches!(timeout_at(until, line.stream.write_all(&many)).await, Ok(Ok(())));
                    if going {
                        sent += 1_000;
                        outcome.fragments.fetch_add(1_000, Ordering::Relaxed);
                    }
                }
                outcome.ended(line.last_words().await);
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Error::Task(e.to_string()))??;
    }
    Ok(outcome)
}

/// A fragment of a text message that is not its last; masked with the key 0.
fn fragment(first: bool, bytes: usize) -> Vec<u8> {
    let mut out = vec![u8::from(first), 0x80 | bytes.min(125) as u8, 0, 0, 0, 0];
    out.extend(std::iter::repeat_n(b'x', bytes.min(125)));
    out
}

/// A connection of the demo protocol that is past its `connected`.
struct Line {
    stream: TcpStream,
    unread: Vec<u8>,
    at: usize,
    since_ack: u64,
}

impl Line {
    async fn connect(target: &Target, user: &str, device: &str) -> Result<Self, Error> {
        let (stream, unread) = drive::open(&target.host, None).await?;
        let mut line = Self {
            stream,
            unread,
            at: 0,
            since_ack: 0,
        };
        let token = target.signer.token("customer", user)?;
        let connect = client::frames::connect(&token, Some(device), None, None);
        line.write(&connect).await.map_err(|why| Error::Lost {
            user: user.to_owned(),
            why,
        })?;
        Ok(line)
    }

    async fn write(&mut self, frame: &[u8]) -> Result<(), String> {
        let mut out = Vec::with_capacity(frame.len() + 16);
        socket::text(&mut out, frame);
        self.stream.write_all(&out).await.map_err(|e| e.to_string())
    }

    /// One read, and all whole frames in it: what is to be written back, and how the connection ended. Safe to drop while it waits.
    async fn read(&mut self, outcome: &Outcome) -> Result<(Vec<u8>, Option<String>), String> {
        self.unread.drain(..std::mem::take(&mut self.at));
        let n = self
            .stream
            .read_buf(&mut self.unread)
            .await
            .map_err(|e| e.to_string())?;
        if n == 0 {
            return Err("closed without a word".into());
        }
        let (mut out, mut ended) = (Vec::new(), None);
        while let Some((heard, used)) = socket::take(&self.unread[self.at..])? {
            self.at += used;
            match heard {
                Heard::Text(frame) => {
                    if let Some(seq) = hear(frame, outcome) {
                        self.since_ack += 1;
                        if self.since_ack >= ACK_EVERY {
                            self.since_ack = 0;
                            socket::text(&mut out, &client::frames::ack(None, seq, 0));
                        }
                    }
                }
                Heard::Ping(payload) => socket::pong(&mut out, payload),
                Heard::Pong => {}
                Heard::Close { code, reason } => ended = Some(closed(code, &reason)),
            }
        }
        Ok((out, ended))
    }

    /// Writes back; how the connection ended, if it did.
    async fn answer(&mut self, heard: Result<(Vec<u8>, Option<String>), String>) -> Option<String> {
        match heard {
            Ok((out, None)) => self.stream.write_all(&out).await.err().map(|e| e.to_string()),
            Ok((_, ended)) => ended,
            Err(why) => Some(why),
        }
    }

    /// Reads all that is left: why it was cut off, if it was.
    async fn last_words(&mut self) -> String {
        let reading = async {
            loop {
                self.unread.drain(..std::mem::take(&mut self.at));
                match self.stream.read_buf(&mut self.unread).await {
                    Ok(0) => return "closed without a word".to_owned(),
                    Err(error) => return error.to_string(),
                    Ok(_) => {}
                }
                loop {
                    match socket::take(&self.unread[self.at..]) {
                        Ok(Some((Heard::Close { code, reason }, _))) => return closed(code, &reason),
                        Ok(Some((_, used))) => self.at += used,
                        Ok(None) => break,
                        Err(why) => return why,
                    }
                }
            }
        };
        match timeout(LAST_WORDS, reading).await {
            Ok(how) => how,
            Err(_) => "not at all: still open".to_owned(),
        }
    }
}

fn closed(code: Option<u16>, reason: &str) -> String {
    match code {
        Some(code) => format!("{code} {reason}").trim_end().to_owned(),
        None => "closed without a code".to_owned(),
    }
}

/// Counts a frame; the seq of what is to be acked.
fn hear(frame: &[u8], outcome: &Outcome) -> Option<u64> {
    let frame: Value = serde_json::from_slice(frame).ok()?;
    if frame.get("sent").is_some() {
        Outcome::count(&outcome.taken);
    } else if frame.get("error").is_some() {
        Outcome::count(&outcome.refused);
    }
    let placed = frame.get("event").or_else(|| frame.get("placed"))?;
    Outcome::count(&outcome.events);
    placed.get("seq")?.as_u64()
}
