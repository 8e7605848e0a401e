//! Each mode against the clients' small test server: a good server gets a good report, whatever it cuts.

#[path = "../../../client/tests/all/fake/mod.rs"]
mod fake;

use std::sync::atomic::Ordering;

use clap::Parser;
use fake::Fake;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: load::Args,
}

async fn run(more: &str, cut_every: u64) -> load::Report {
    let (fake, ws, _, _tasks) = Fake::start().await;
    fake.cut_every.store(cut_every, Ordering::Relaxed);
    let url = format!("ws://{ws}");
    let common = [
        "load",
        "--url",
        &url,
        "--pairs",
        "5",
        "--warmup",
        "100ms",
        "--duration",
        "1s",
        "--patience",
        "60s",
    ];
    let args = Cli::parse_from(common.into_iter().chain(more.split_whitespace())).args;
    let report = load::run(args).await.unwrap_or_else(|e| panic!("{more}: {e}"));
    assert!(report.good(), "{more}: {report}");
    assert_eq!(report.faults.unanswered, 0, "{more}: {report}");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_loop() {
    let report = run("--in-flight 4", 0).await;
    let measured = report.measured.expect("it measured");
    assert!(measured.delivered > 10, "{}", measured.delivered);
    assert!(measured.delivery.p99_ms > 0.0 && measured.delivery.p99_ms >= measured.delivery.p50_ms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_loop_sends_at_its_rate() {
    let measured = run("--rate 500", 0).await.measured.expect("it measured");
    // Not as fast as it can, which is thousands; what a busy machine holds up may come into the second or miss it.
    assert!((200..=800).contains(&measured.delivered), "{}", measured.delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_nothing() {
    let report = run("--in-flight 3", 50).await;
    assert!(report.reconnects > 2 && report.resent > 2, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnect_storm() {
    let storm = run("--reconnect-storm 20 --behind 3", 0).await.storm.expect("a storm");
    assert_eq!(storm.clients, 20);
    assert!(storm.all_back_ms > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_those_who_are_away_all_arrive() {
    let report = run("--away 250", 0).await;
    assert_eq!(report.delivered_in_all, 5 * 250 + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections() {
    let idle = run(&format!("--idle 50 --server-pid {}", std::process::id()), 0)
        .await
        .idle
        .expect("idle");
    assert_eq!(idle.connections, 50);
    assert!(idle.before.rss_kib > 0);
}
