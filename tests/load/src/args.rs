//! What `switchboard load` can be asked to do.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args as ClapArgs};

/// Drives a running system over its public protocol, checks every message, and measures.
///
/// Without a mode flag: pairs of a customer and an agent talk in a closed loop, `--in-flight` messages per user; a slot frees
/// when a message is acknowledged (`sent`) and delivered to the other side. The exit code is not 0 if any message was lost,
/// repeated, changed or out of order.
#[derive(Debug, Clone, ClapArgs)]
#[command(group(ArgGroup::new("mode").args(["rate", "idle", "reconnect_storm", "away", "replay"])))]
pub struct Args {
    /// A node's WebSocket address; several times for several nodes.
    #[arg(long, default_value = "ws://127.0.0.1:8080", value_name = "URL")]
    pub url: Vec<String>,
    /// Authorities to believe of wss:// addresses, PEM; without it the system's. TLS is spoken by a relay inside the generator.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Tenant of the tokens.
    #[arg(long, default_value = "demo")]
    pub tenant: String,
    /// Secret that signs the tokens (HS256, key id `dev`).
    #[arg(
        long,
        default_value = "switchboard-dev",
        env = "SWITCHBOARD_DEV_SECRET",
        hide_env_values = true
    )]
    pub dev_secret: String,
    /// Begins every user's name; without it each run has users of its own.
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,

    /// Pairs of one customer and one agent.
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub pairs: usize,
    /// Bytes of a message's body.
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    pub body_bytes: usize,
    /// Closed loop: messages each user has under way.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub in_flight: usize,
    /// How long to measure: 10, 10s, 5m, 1h.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub duration: Duration,
    /// How long to run before measuring.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration)]
    pub warmup: Duration,
    /// How long the setting up, and at the end the last deliveries, may take.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = duration)]
    pub patience: Duration,

    /// Open loop: this many messages per second in all; latency counts from the time a message was meant to be sent.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Opens N idle WebSockets and measures the servers' memory for each.
    #[arg(long, value_name = "N")]
    pub idle: Option<usize>,
    /// Cuts N clients at once and measures until all are back and caught up.
    #[arg(long, value_name = "N")]
    pub reconnect_storm: Option<usize>,
    /// With --reconnect-storm: how many events each client says it has missed.
    #[arg(long, default_value_t = 1, value_name = "EVENTS")]
    pub behind: u64,
    /// Sends N messages to every pair's receiver while it is away; all must arrive, in order, once.
    #[arg(long, value_name = "N")]
    pub away: Option<usize>,
    /// Plays real dialogues (the directory `deploy/corpus-fetch` prints) and compares the whole history byte for byte.
    #[arg(long, value_name = "DIR")]
    pub replay: Option<PathBuf>,

    /// Processes whose CPU time is told apart: LABEL=PID,PID; several times.
    #[arg(long, value_name = "LABEL=PIDS")]
    pub pid: Vec<Pids>,
    /// Processes whose memory is read, with --idle; without it those of --pid.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub server_pid: Vec<u32>,
    /// Writes the report as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `LABEL=PID,PID`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pids {
    pub label: String,
    pub pids: Vec<u32>,
}

impl FromStr for Pids {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (label, pids) = s
            .split_once('=')
            .ok_or_else(|| format!("{s:?}: write LABEL=PID,PID, e.g. ours=123,124"))?;
        let pids: Result<Vec<u32>, _> = pids.split(',').map(|p| p.trim().parse()).collect();
        Ok(Self {
            label: label.to_owned(),
            pids: pids.map_err(|_| format!("{s:?}: a process id is a number"))?,
        })
    }
}

fn duration(s: &str) -> Result<Duration, String> {
    let (number, unit) = s.split_at(s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len()));
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{s:?} is no time; write 10s, 5m or 1h"))?;
    let unit_s = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time; write ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * unit_s).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_process_lists_are_read() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("soon").is_err() && duration("5 days").is_err());
        assert_eq!("ours=1,2".parse::<Pids>().unwrap().pids, [1, 2]);
        assert!("1,2".parse::<Pids>().is_err());
    }
}
