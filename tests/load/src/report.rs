//! What a run found, as a table for people and as JSON for the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::args::Args;
use crate::stats::{Faults, Stats};
use crate::usage::Memory;

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub mode: String,
    pub pairs: usize,
    pub body_bytes: usize,
    pub delivered_in_all: u64,
    pub resent: u64,
    pub reconnects: u64,
    /// Refusals and closes, by code.
    pub errors: BTreeMap<String, u64>,
    pub faults: Faults,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub seconds: f64,
    pub delivered: u64,
    pub delivered_per_s: f64,
    pub acked_per_s: f64,
    pub delivery: Latency,
    pub sent: Latency,
    /// Open loop: how late the generator itself was. It is part of the latencies above.
    pub generator_lateness: Latency,
    /// CPU seconds by label, and µs per delivered message.
    pub cpu_s: BTreeMap<String, f64>,
    pub cpu_us_per_message: BTreeMap<String, f64>,
    pub generator_cpu_s: f64,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p99_9_ms: f64,
    pub max_ms: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    pub connections: usize,
    pub before: Memory,
    pub after: Memory,
    pub rss_kib_each: f64,
    pub pss_kib_each: f64,
    pub connect_s: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Storm {
    pub clients: usize,
    pub behind: u64,
    pub half_back_ms: f64,
    pub all_back_ms: f64,
    pub cpu_s: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Away {
    pub pairs: usize,
    pub messages_each: usize,
    pub caught_up_ms: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Replay {
    pub languages: BTreeMap<String, Language>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Language {
    pub dialogues: u64,
    pub texts: u64,
    pub bytes: u64,
    /// Read back from history, in order, byte for byte.
    pub equal: u64,
    pub different: u64,
}

pub(crate) fn latency(h: &Histogram<u64>) -> Latency {
    let ms = |us: u64| us as f64 / 1_000.0;
    Latency {
        count: h.len(),
        p50_ms: ms(h.value_at_quantile(0.5)),
        p99_ms: ms(h.value_at_quantile(0.99)),
        p99_9_ms: ms(h.value_at_quantile(0.999)),
        max_ms: ms(h.max()),
    }
}

impl Report {
    pub(crate) fn new(args: &Args, pairs: usize, stats: &Stats) -> Self {
        let mode = if let Some(rate) = args.rate {
            format!("open loop, {rate}/s")
        } else if args.idle.is_some() {
            "idle connections".into()
        } else if args.reconnect_storm.is_some() {
            "reconnect storm".into()
        } else if args.away.is_some() {
            "away".into()
        } else if args.replay.is_some() {
            "replay".into()
        } else {
            format!("closed loop, {} in flight", args.in_flight)
        };
        Self {
            mode,
            pairs,
            body_bytes: args.body_bytes,
            delivered_in_all: stats.delivered_all,
            resent: stats.resent,
            reconnects: stats.reconnects,
            errors: stats.errors.clone(),
            faults: stats.faults.clone(),
            measured: None,
            idle: None,
            storm: None,
            away: None,
            replay: None,
        }
    }

    pub(crate) fn measured(&mut self, stats: &Stats, span: Duration, cpu_s: BTreeMap<String, f64>, own_cpu_s: f64) {
        let seconds = span.as_secs_f64();
        let each = stats.delivered.max(1) as f64;
        self.measured = Some(Measured {
            seconds,
            delivered: stats.delivered,
            delivered_per_s: stats.delivered as f64 / seconds,
            acked_per_s: stats.acked as f64 / seconds,
            delivery: latency(&stats.delivery_us),
            sent: latency(&stats.sent_us),
            generator_lateness: latency(&stats.lateness_us),
            cpu_us_per_message: cpu_s.iter().map(|(k, v)| (k.clone(), v * 1e6 / each)).collect(),
            cpu_s,
            generator_cpu_s: own_cpu_s,
        });
    }

    /// Whether every promise was kept.
    pub fn good(&self) -> bool {
        let different = self
            .replay
            .iter()
            .flat_map(|r| r.languages.values())
            .map(|l| l.different);
        !self.faults.any() && different.sum::<u64>() == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<28} {value}");
        writeln!(f, "{}", self.mode)?;
        if self.pairs > 0 {
            row(f, "pairs, body bytes", format!("{}, {}", self.pairs, self.body_bytes))?;
        }
        if let Some(m) = &self.measured {
            row(f, "delivered per second", format!("{:.0}", m.delivered_per_s))?;
            row(f, "acknowledged per second", format!("{:.0}", m.acked_per_s))?;
            row(f, "delivery, ms", latency_text(&m.delivery))?;
            row(f, "sent, ms", latency_text(&m.sent))?;
            if m.generator_lateness.count > 0 {
                row(f, "generator's lateness, ms", latency_text(&m.generator_lateness))?;
            }
            for (label, s) in &m.cpu_s {
                let each = m.cpu_us_per_message.get(label).copied().unwrap_or(0.0);
                row(
                    f,
                    &format!("CPU of {label}"),
                    format!("{s:.2} s, {each:.1} µs per delivered message"),
                )?;
            }
            row(
                f,
                "CPU of the generator",
                format!("{:.2} s of {:.0} s", m.generator_cpu_s, m.seconds),
            )?;
        }
        if let Some(i) = &self.idle {
            row(
                f,
                "idle connections",
                format!("{}, opened in {:.1} s", i.connections, i.connect_s),
            )?;
            let memory = |m: &Memory| format!("RSS {} KiB, PSS {} KiB", m.rss_kib, m.pss_kib);
            row(f, "memory before", memory(&i.before))?;
            row(f, "memory with them", memory(&i.after))?;
            row(
                f,
                "per connection",
                format!("RSS {:.2} KiB, PSS {:.2} KiB", i.rss_kib_each, i.pss_kib_each),
            )?;
        }
        if let Some(s) = &self.storm {
            row(f, "clients, events behind", format!("{}, {}", s.clients, s.behind))?;
            row(f, "half back and caught up", format!("{:.0} ms", s.half_back_ms))?;
            row(f, "all back and caught up", format!("{:.0} ms", s.all_back_ms))?;
            for (label, cpu_s) in &s.cpu_s {
                row(f, &format!("CPU of {label}"), format!("{cpu_s:.2} s"))?;
            }
        }
        if let Some(a) = &self.away {
            row(f, "messages to each receiver", a.messages_each.to_string())?;
            row(f, "all came back and had all in", format!("{:.0} ms", a.caught_up_ms))?;
        }
        if let Some(r) = &self.replay {
            writeln!(
                f,
                "  {:<20} {:>9} {:>7} {:>9} {:>7} {:>9}",
                "language", "dialogues", "texts", "bytes", "equal", "different"
            )?;
            let mut sum = Language::default();
            let line = |f: &mut fmt::Formatter<'_>, name: &str, l: &Language| {
                writeln!(
                    f,
                    "  {name:<20} {:>9} {:>7} {:>9} {:>7} {:>9}",
                    l.dialogues, l.texts, l.bytes, l.equal, l.different
                )
            };
            for (name, l) in &r.languages {
                line(f, name, l)?;
                sum.dialogues += l.dialogues;
                sum.texts += l.texts;
                sum.bytes += l.bytes;
                sum.equal += l.equal;
                sum.different += l.different;
            }
            line(f, "all", &sum)?;
        }
        if self.delivered_in_all > 0 {
            row(f, "delivered in the whole run", self.delivered_in_all.to_string())?;
        }
        if self.resent + self.reconnects > 0 {
            row(
                f,
                "sent again, reconnects",
                format!("{}, {}", self.resent, self.reconnects),
            )?;
        }
        for (code, n) in &self.errors {
            row(f, &format!("answered {code}"), n.to_string())?;
        }
        let x = &self.faults;
        row(
            f,
            "lost, repeated, disordered",
            format!("{}, {}, {}", x.lost, x.repeated, x.out_of_order),
        )?;
        row(
            f,
            "holes, changed, unanswered",
            format!("{}, {}, {}", x.holes, x.changed, x.unanswered),
        )?;
        for case in &x.cases {
            writeln!(f, "    {case}")?;
        }
        write!(
            f,
            "{}",
            if self.good() {
                "every promise kept"
            } else {
                "PROMISES BROKEN"
            }
        )
    }
}

fn latency_text(l: &Latency) -> String {
    format!(
        "p50 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}  (of {})",
        l.p50_ms, l.p99_ms, l.p99_9_ms, l.max_ms, l.count
    )
}
