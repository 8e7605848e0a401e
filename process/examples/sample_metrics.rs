//! Serves every metric with a sample value on an ops port, for `dashboards/check` without the platform running:
//! `cargo run -p process --example sample_metrics -- 127.0.0.1:9099`. Counters rise, so that rates are not all 0.

use std::time::Duration;

use process::metrics::{ALL, BUILD_INFO, CounterName, Description, GaugeName, HistogramName, MetricKind, Stages};
use process::{Drain, Health, Tasks, metrics, ops};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .ok_or("give an address to listen on, for example 127.0.0.1:9099")?;
    let prometheus = metrics::install_recorder("standard", "sample")?;
    let drain = Drain::from_signals(Duration::from_secs(1))?;
    let health = Health::new();
    health.set("log", Ok(()));
    let listener = tokio::net::TcpListener::bind(&address).await?;
    ops::start(listener, health, prometheus, Tasks::new(drain.clone()));
    println!("serving sample metrics on http://{}/metrics", address);
    let stages = Stages::new();
    while !drain.is_started() {
        for group in ["delivery", "persistence"] {
            ALL.iter()
                .filter(|m| m.name != BUILD_INFO.name())
                .for_each(|metric| step(metric, group));
        }
        for (stage, seconds) in [
            (&stages.logged, 0.002),
            (&stages.folded, 0.003),
            (&stages.pushed, 0.004),
        ] {
            stage.record(seconds);
        }
        stages.acked.record(0.02);
        stages.stored.record(0.05);
        drain
            .unless_started(tokio::time::sleep(Duration::from_millis(200)))
            .await;
    }
    Ok(())
}

/// One more of everything, under one value of each label.
fn step(metric: &Description, group: &str) {
    let labels: Vec<(&'static str, &str)> = metric
        .labels
        .iter()
        .map(|label| (*label, if *label == "group" { group } else { sample_value(label) }))
        .collect();
    match metric.kind {
        MetricKind::Counter => CounterName::described(metric).with(&labels).increment(1),
        MetricKind::Gauge => GaugeName::described(metric).with(&labels).set(1.0),
        MetricKind::Histogram if metric.name != metrics::STAGE_SECONDS.name() => {
            HistogramName::described(metric)
                .with(&labels)
                .record(metric.buckets[metric.buckets.len() / 2]);
        }
        MetricKind::Histogram => {}
    }
}

fn sample_value(label: &str) -> &'static str {
    match label {
        "transport" => "ws",
        "outcome" => "ok",
        "kind" => "send",
        "code" => "rate_limited",
        "reason" => "decode",
        "side" => "node",
        "partition" => "0",
        "state" => "available",
        "op" => "write",
        "feature" => "typing",
        _ => "sample",
    }
}
