//! The load generator behind `switchboard load`: drives a running system over its public protocol, checks every message it sends,
//! and measures. It stands outside: it knows `wire` and `client`, and nothing of the servers.
//!
//! One thread does it all, so that it can be pinned to a core of its own and takes little from the servers. The hot path has its own
//! framing ([`socket`]) and recognises frames by their bytes ([`scan`]); the checks are exact all the same ([`pair`]).

pub mod args;
mod body;
mod corpus;
mod drive;
pub mod hurt;
mod idle;
mod pair;
mod replay;
pub mod report;
mod scan;
mod socket;
mod stats;
mod talk;
mod tls;
mod tokens;
mod usage;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub use args::Args;
pub use report::Report;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Args(String),
    #[error("no connection to {host}: {why}")]
    Connect { host: String, why: String },
    #[error("{user} was disconnected: {why}")]
    Lost { user: String, why: String },
    #[error("{what}: only {there} of {of} within the time (--patience){detail}")]
    Patience {
        what: String,
        there: usize,
        of: usize,
        detail: String,
    },
    #[error("no token: {0}")]
    Token(String),
    #[error("the dialogues: {0}")]
    Corpus(String),
    #[error(transparent)]
    Page(#[from] client::pages::PageError),
    #[error("{path}: {why}")]
    File { path: String, why: String },
    #[error("a task of the generator failed: {0}")]
    Task(String),
}

/// Runs what `args` ask for; prints progress to stderr, returns the report. `report.good()` decides the exit code.
pub async fn run(args: Args) -> Result<Report, Error> {
    let json = args.json.clone();
    // A runtime of its own with one thread: no stealing, no waking of other threads.
    let running = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map_err(|e| Error::Task(e.to_string()))?
            .block_on(run_here(args))
    });
    let report = running.await.map_err(|e| Error::Task(e.to_string()))??;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::Task(e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|e| Error::File {
            path: path.display().to_string(),
            why: e.to_string(),
        })?;
    }
    Ok(report)
}

async fn run_here(args: Args) -> Result<Report, Error> {
    let mut hosts = Vec::new();
    for url in &args.url {
        hosts.push(host_of(url, &args).await?);
    }
    let world = Arc::new(drive::World {
        hosts,
        started: Instant::now(),
        stats: parking_lot::Mutex::new(stats::Stats::default()),
        come_back: AtomicBool::new(false),
    });
    // Ids and names of each run are its own.
    let run = format!("{:08x}", rand::random::<u32>());
    if let Some(n) = args.idle {
        return idle::idle(&args, world, n, &run).await;
    }
    if let Some(dir) = &args.replay {
        return replay::replay(&args, dir, &run).await;
    }
    let pairs = args.reconnect_storm.map_or(args.pairs, |clients| clients.div_ceil(2));
    if pairs == 0 {
        return Err(Error::Args("there must be at least one pair".into()));
    }
    let talk = talk::Talk::set_up(&args, world, pairs, &run).await?;
    match (args.reconnect_storm, args.away) {
        (Some(_), _) => talk.storm().await,
        (None, Some(n)) => talk.away(n).await,
        (None, None) => talk.measure().await,
    }
}

async fn host_of(url: &str, args: &Args) -> Result<drive::Host, Error> {
    let clear = ["ws://", "http://"].iter().find_map(|s| url.strip_prefix(s));
    let over_tls = ["wss://", "https://"].iter().find_map(|s| url.strip_prefix(s));
    let rest = clear
        .or(over_tls)
        .ok_or_else(|| Error::Args(format!("{url}: write ws://host:port, or wss:// over TLS")))?;
    let (name, path) = match rest.find('/') {
        Some(at) if rest.len() > at + 1 => (&rest[..at], &rest[at..]),
        Some(at) => (&rest[..at], "/v1/connect"),
        None => (rest, "/v1/connect"),
    };
    let failed = |why: String| Error::Connect {
        host: name.to_owned(),
        why,
    };
    if over_tls.is_some() {
        let tls = tls::authorities(args.ca.as_deref())?;
        return Ok(drive::Host {
            name: name.to_owned(),
            addr: tls::relay(url, tls).await?,
            path: path.to_owned(),
        });
    }
    let mut addrs = tokio::net::lookup_host(name).await.map_err(|e| failed(e.to_string()))?;
    Ok(drive::Host {
        name: name.to_owned(),
        addr: addrs.next().ok_or_else(|| failed("no such host".into()))?,
        path: path.to_owned(),
    })
}
