//! Idle WebSockets: opens them, lets the servers settle, and reads what memory they cost.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::args::Args;
use crate::drive::{self, Host, Tasks, World};
use crate::report::{Idle, Report};
use crate::socket::{self, Heard};
use crate::tokens::Signer;
use crate::{Error, usage};

/// Connections being opened at once.
const AT_ONCE: usize = 128;
/// Local ports of one address, with room: further connections come from 127.0.0.2 and so on.
const PER_ADDRESS: usize = 20_000;
/// Servers free and grow memory for a while after the last connect.
const SETTLE: Duration = Duration::from_secs(5);

pub async fn idle(args: &Args, world: Arc<World>, n: usize, run: &str) -> Result<Report, Error> {
    let mut pids = args.server_pid.clone();
    if pids.is_empty() {
        pids = args.pid.iter().flat_map(|p| p.pids.clone()).collect();
    }
    if pids.is_empty() {
        eprintln!("load: no --server-pid: memory is not read");
    }
    let signer = Signer::new(&args.tenant, &args.dev_secret);
    let prefix = args.prefix.clone().unwrap_or_else(|| format!("load-{run}"));
    let before = usage::memory(&pids);
    let begun = Instant::now();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let connected = Arc::new(Semaphore::new(0));
    let mut tasks = Tasks::new();
    for i in 0..n {
        let user = format!("{prefix}-i{i}");
        let connect = client::frames::connect(&signer.token("customer", &user)?, None, None, None);
        let host = world.hosts[i % world.hosts.len()].clone();
        let source = source_of(&host, i);
        let permit = room
            .clone()
            .acquire_owned()
            .await
            .map_err(|e| Error::Task(e.to_string()))?;
        let count = connected.clone();
        tasks.spawn(async move {
            let mut permit = Some(permit);
            let tell = || {
                permit = None;
                count.add_permits(1);
            };
            sit(&host, source, &connect, tell).await
        });
        if i % 5_000 == 4_999 {
            eprintln!("load: {} of {n} connected …", connected.available_permits());
        }
        if let Some(ended) = tasks.try_join_next() {
            ended.map_err(|e| Error::Task(e.to_string()))??;
        }
    }
    let all = u32::try_from(n).map_err(|_| Error::Args("--idle is too large".into()))?;
    tokio::select! {
        _ = connected.acquire_many(all) => {}
        Some(ended) = tasks.join_next() => { ended.map_err(|e| Error::Task(e.to_string()))??; }
        _ = tokio::time::sleep(args.patience) => return Err(Error::Patience {
            what: "connecting".into(), there: connected.available_permits(), of: n, detail: String::new(),
        }),
    }
    let connect_s = begun.elapsed().as_secs_f64();
    eprintln!("load: all connected; idle for {:?} …", SETTLE + args.duration);
    tokio::select! {
        _ = tokio::time::sleep(SETTLE + args.duration) => {}
        Some(ended) = tasks.join_next() => { ended.map_err(|e| Error::Task(e.to_string()))??; }
    }
    let after = usage::memory(&pids);
    let each = |a: u64, b: u64| (a as f64 - b as f64) / n.max(1) as f64;
    let mut report = Report::new(args, 0, &world.stats.lock());
    report.idle = Some(Idle {
        connections: n,
        before,
        after,
        rss_kib_each: each(after.rss_kib, before.rss_kib),
        pss_kib_each: each(after.pss_kib, before.pss_kib),
        connect_s,
    });
    Ok(report)
}

fn source_of(host: &Host, i: usize) -> Option<SocketAddr> {
    let address = u8::try_from(i / PER_ADDRESS).ok()?;
    match host.addr.ip() {
        IpAddr::V4(ip) if ip.is_loopback() && address > 0 => {
            Some(SocketAddr::new(Ipv4Addr::new(127, 0, 0, 1 + address).into(), 0))
        }
        _ => None,
    }
}

/// One idle client: answers pings until the run ends.
async fn sit(host: &Host, source: Option<SocketAddr>, connect: &[u8], connected: impl FnOnce()) -> Result<(), Error> {
    let (mut stream, mut unread) = drive::open(host, source).await?;
    let lost = |why: String| Error::Lost {
        user: "an idle connection".into(),
        why,
    };
    let mut out = Vec::new();
    socket::text(&mut out, connect);
    let mut connected = Some(connected);
    loop {
        stream.write_all(&out).await.map_err(|e| lost(e.to_string()))?;
        out.clear();
        let mut read = [0u8; 512];
        let n = stream.read(&mut read).await.map_err(|e| lost(e.to_string()))?;
        if n == 0 {
            return Err(lost("the server ended it".into()));
        }
        unread.extend_from_slice(&read[..n]);
        let mut at = 0;
        while let Some((heard, used)) = socket::take(&unread[at..]).map_err(lost)? {
            match heard {
                // The first `conversation` frame follows `connected`: the route stands.
                Heard::Text(frame) if frame.starts_with(br#"{"conversation""#) => {
                    if let Some(tell) = connected.take() {
                        tell();
                    }
                }
                Heard::Text(frame) if frame.starts_with(br#"{"error""#) => {
                    return Err(lost(String::from_utf8_lossy(frame).into_owned()));
                }
                Heard::Text(_) | Heard::Pong => {}
                Heard::Ping(payload) => socket::pong(&mut out, payload),
                Heard::Close { code, reason } => return Err(lost(format!("closed {code:?} {reason}"))),
            }
            at += used;
        }
        unread.drain(..at);
        unread.shrink_to_fit();
    }
}
