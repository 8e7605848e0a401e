//! Sockets around the pairs: one light task per connection, all on the generator's one thread. A wake-up reads everything there is,
//! lets the pair answer, and writes what both sides have to say in one go each.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wire::CloseCode;

use crate::Error;
use crate::pair::{Pair, Phase, Who};
use crate::socket::{self, Heard};
use crate::stats::Stats;

/// One read takes at most this much; more waits for the next turn.
const READ_BYTES: usize = 65_536;
/// A pair is visited for acks and second tries this often.
const TICK_ROUND_MS: u64 = 300;
const TICK_MS: u64 = 5;

/// Where and when: what all connections of a run share.
pub struct World {
    pub hosts: Vec<Host>,
    pub started: Instant,
    pub stats: Mutex<Stats>,
    /// Connections that end by themselves come back with their `since`.
    pub come_back: AtomicBool,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Host {
    pub name: String,
    pub addr: SocketAddr,
    pub path: String,
}

impl World {
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A pair and its sockets.
pub struct Line {
    pub index: usize,
    pub pair: Mutex<Pair>,
    sockets: [Mutex<Option<Arc<Socket>>>; 2],
}

struct Socket {
    stream: OwnedWriteHalf,
    /// This run drops the connection.
    dropped: Notify,
    /// What the kernel did not take yet.
    unwritten: Mutex<Vec<u8>>,
}

impl Line {
    pub fn new(index: usize, pair: Pair) -> Arc<Self> {
        Arc::new(Self {
            index,
            pair: Mutex::new(pair),
            sockets: [Mutex::new(None), Mutex::new(None)],
        })
    }

    /// Writes what both sides have to say, as far as the kernel takes it.
    pub fn flush(&self, pair: &mut Pair) {
        for who in [Who::Customer, Who::Agent] {
            let side = pair.side(who);
            if side.out.is_empty() {
                continue;
            }
            let socket = self.sockets[who as usize].lock().clone();
            if let Some(socket) = socket {
                socket.write(&mut side.out);
            }
            // Without a socket it is said on the next connection, as far as it still holds.
            side.out.clear();
        }
    }

    /// Drops a connection without a word.
    pub fn drop_socket(&self, who: Who) {
        let socket = self.sockets[who as usize].lock().take();
        if let Some(socket) = socket {
            socket.dropped.notify_one();
        }
        self.pair.lock().cut(who);
    }
}

impl Socket {
    fn write(&self, out: &mut Vec<u8>) {
        let mut unwritten = self.unwritten.lock();
        if !unwritten.is_empty() {
            unwritten.append(out);
            return;
        }
        let mut at = 0;
        while at < out.len() {
            match self.stream.try_write(&out[at..]) {
                Ok(n) => at += n,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                // The reader finds out why.
                Err(_) => return,
            }
        }
        unwritten.extend_from_slice(&out[at..]);
    }

    /// Writes what was left.
    fn write_rest(&self) {
        let mut rest = std::mem::take(&mut *self.unwritten.lock());
        self.write(&mut rest);
    }
}

/// Opens a WebSocket; returns it with what the server said right behind its upgrade.
pub async fn open(host: &Host, source: Option<SocketAddr>) -> Result<(TcpStream, Vec<u8>), Error> {
    let failed = |why: String| Error::Connect {
        host: host.name.clone(),
        why,
    };
    let opening = async {
        let io = |e: std::io::Error| failed(hint(&e));
        let socket = if host.addr.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .map_err(io)?;
        if let Some(source) = source {
            socket.bind(source).map_err(io)?;
        }
        let mut stream = socket.connect(host.addr).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        stream
            .write_all(&socket::upgrade(&host.name, &host.path))
            .await
            .map_err(io)?;
        let mut answer = Vec::with_capacity(512);
        loop {
            if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = answer.split_off(end + 4);
                let status = answer.get(9..12).unwrap_or_default();
                if status != b"101" {
                    let line = String::from_utf8_lossy(&answer);
                    return Err(failed(format!(
                        "the upgrade was answered {}",
                        line.lines().next().unwrap_or("")
                    )));
                }
                return Ok((stream, rest));
            }
            if stream.read_buf(&mut answer).await.map_err(io)? == 0 {
                return Err(failed("closed during the upgrade".into()));
            }
            if answer.len() > 16_384 {
                return Err(failed("the upgrade's answer does not end".into()));
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(15), opening).await {
        Ok(opened) => opened,
        Err(_) => Err(failed("no upgrade within 15 s".into())),
    }
}

fn hint(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(24) => "too many open files: raise the limit (ulimit -n) before".into(),
        Some(99) => "no free local port: fewer connections, or more addresses (--url)".into(),
        _ => error.to_string(),
    }
}

/// Connects one side and keeps reading until the connection ends; comes back if the run says so.
pub async fn live(world: Arc<World>, line: Arc<Line>, who: Who, behind: u64) -> Result<(), Error> {
    let mut behind = behind;
    let mut failures = 0u32;
    loop {
        let host = &world.hosts[(line.index + failures as usize) % world.hosts.len()];
        let ended = once(&world, &line, who, host, behind).await;
        let come_back = world.come_back.load(Ordering::Relaxed);
        let was_up = {
            let mut pair = line.pair.lock();
            let side = pair.side(who);
            let was_up = side.phase >= Phase::Connected;
            let final_code = matches!(side.closed, Some((Some(3500..=3999), _)));
            // Told to wait, as by a node that takes so many handshakes a second: every client waits and comes again.
            let told_to_wait = Some(CloseCode::RateLimited.number());
            let come_back = come_back || side.closed.as_ref().is_some_and(|(code, _)| *code == told_to_wait);
            if !come_back || final_code || !matches!(ended, Ended::Lost(_)) {
                let told = side.closed.clone();
                pair.cut(who);
                return match ended {
                    Ended::Dropped => Ok(()),
                    Ended::Lost(why) => Err(Error::Lost {
                        user: pair.side(who).name.clone(),
                        why: told.map_or(why, |(code, reason)| format!("closed {code:?} {reason}")),
                    }),
                };
            }
            pair.cut(who);
            was_up
        };
        *line.sockets[who as usize].lock() = None;
        behind = 0;
        failures = if was_up { 0 } else { failures + 1 };
        world.stats.lock().reconnects += 1;
        let bound_ms = (100u64 << failures.min(6)).min(5_000);
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=bound_ms))).await;
    }
}

enum Ended {
    /// This run dropped it.
    Dropped,
    Lost(String),
}

async fn once(world: &World, line: &Line, who: Who, host: &Host, behind: u64) -> Ended {
    let (stream, rest) = match open(host, None).await {
        Ok(opened) => opened,
        Err(error) => return Ended::Lost(error.to_string()),
    };
    let (mut reader, writer) = stream.into_split();
    let socket = Arc::new(Socket {
        stream: writer,
        dropped: Notify::new(),
        unwritten: Mutex::new(Vec::new()),
    });
    *line.sockets[who as usize].lock() = Some(socket.clone());
    {
        let mut pair = line.pair.lock();
        pair.connect(who, behind);
        line.flush(&mut pair);
    }
    let mut unread = Vec::new();
    if let Err(why) = heard(world, line, who, &rest, &mut unread) {
        return Ended::Lost(why);
    }
    loop {
        let wants_write = !socket.unwritten.lock().is_empty();
        tokio::select! {
            read = poll_fn(|cx| poll_read(cx, &mut reader, |bytes| heard(world, line, who, bytes, &mut unread))) => match read {
                Ok(true) => {}
                Ok(false) => return Ended::Lost("the server ended the connection".into()),
                Err(why) => return Ended::Lost(why),
            },
            _ = socket.stream.writable(), if wants_write => socket.write_rest(),
            _ = socket.dropped.notified() => return Ended::Dropped,
        }
    }
}

thread_local! {
    /// One read buffer for all connections of the thread.
    static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_BYTES]);
}

/// Reads once into the shared buffer and hands the bytes on; false at the end of the stream.
fn poll_read(
    cx: &mut Context<'_>,
    reader: &mut OwnedReadHalf,
    heard: impl FnOnce(&[u8]) -> Result<(), String>,
) -> Poll<Result<bool, String>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        match Pin::new(reader).poll_read(cx, &mut buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(())) => Poll::Ready(heard(buf.filled()).map(|()| true)),
        }
    })
}

/// Acts on every whole frame; keeps the beginning of the next.
fn heard(world: &World, line: &Line, who: Who, read: &[u8], unread: &mut Vec<u8>) -> Result<(), String> {
    let now_ns = world.now_ns();
    let mut pair = line.pair.lock();
    {
        let mut stats = world.stats.lock();
        if unread.is_empty() {
            let used = frames(&mut pair, who, read, now_ns, &mut stats)?;
            unread.extend_from_slice(&read[used..]);
        } else {
            unread.extend_from_slice(read);
            let used = frames(&mut pair, who, unread, now_ns, &mut stats)?;
            unread.drain(..used);
        }
    }
    pair.pump(now_ns);
    line.flush(&mut pair);
    Ok(())
}

fn frames(pair: &mut Pair, who: Who, bytes: &[u8], now_ns: u64, stats: &mut Stats) -> Result<usize, String> {
    let mut at = 0;
    while let Some((heard, used)) = socket::take(&bytes[at..])? {
        match heard {
            Heard::Text(frame) => pair.heard(who, frame, now_ns, stats),
            Heard::Ping(payload) => socket::pong(&mut pair.side(who).out, payload),
            Heard::Pong => {}
            Heard::Close { code, reason } => {
                let side = pair.side(who);
                side.closed = Some((code, reason));
                let code = code.map_or("no code".to_owned(), |c| format!("code {c}"));
                *stats.errors.entry(format!("closed with {code}")).or_insert(0) += 1;
            }
        }
        at += used;
    }
    Ok(at)
}

/// Visits every pair for acks and second tries, spread over the round so that they never come all at once.
pub async fn ticks(world: Arc<World>, lines: Vec<Arc<Line>>) -> Result<(), Error> {
    let mut every = tokio::time::interval(Duration::from_millis(TICK_MS));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let slices = (TICK_ROUND_MS / TICK_MS) as usize;
    let mut slice = 0;
    loop {
        every.tick().await;
        for line in lines.iter().skip(slice).step_by(slices) {
            let mut pair = line.pair.lock();
            let now_ns = world.now_ns();
            pair.tick(now_ns, &mut world.stats.lock());
            line.flush(&mut pair);
        }
        slice = (slice + 1) % slices;
    }
}

/// The connections of a run.
pub type Tasks = JoinSet<Result<(), Error>>;

/// Waits until `all` holds for every pair, telling how far it is; an ended connection or lost patience is an error.
pub async fn until(
    what: &str,
    patience: Duration,
    lines: &[Arc<Line>],
    tasks: &mut Tasks,
    all: impl Fn(&mut Pair) -> bool,
) -> Result<(), Error> {
    let started = Instant::now();
    let mut told = Instant::now();
    loop {
        let there = lines.iter().filter(|l| all(&mut l.pair.lock())).count();
        if there == lines.len() {
            return Ok(());
        }
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            eprintln!("load: {what}: {there} of {} …", lines.len());
        }
        if started.elapsed() > patience {
            let first = lines.iter().find(|l| !all(&mut l.pair.lock()));
            let detail = first.map_or(String::new(), |l| {
                let pair = l.pair.lock();
                let side = |i: usize| {
                    let s = &pair.sides[i];
                    format!("{} {:?} {:?} {:?}", s.name, s.phase, s.state, s.refused)
                };
                format!("; the first that is not: {} / {}", side(0), side(1))
            });
            return Err(Error::Patience {
                what: what.to_owned(),
                there,
                of: lines.len(),
                detail,
            });
        }
        tokio::select! {
            _ = tokio::time::sleep(Duration::from_millis(10)) => {}
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(panic) => return Err(Error::Task(panic.to_string())),
            },
        }
    }
}
