//! Signals, on a real process: the first starts the drain, a second one leaves at once with a code of its own. The child is
//! this test's own binary, started again.

#![allow(clippy::unwrap_used)] // clippy does not take a test's helper for a test

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use process::{Drain, Kind, Tasks, run_until};

const CHILD: &str = "PROCESS_TEST_CHILD";

/// Not a test by itself: what the child does. "obedient" ends when the drain starts, "stubborn" never, "failing" by itself.
#[tokio::test]
async fn child() {
    let Ok(manner) = std::env::var(CHILD) else { return };
    let drain = Drain::from_signals(Duration::from_secs(if manner == "late" { 0 } else { 30 })).unwrap();
    let tasks = Tasks::new(drain.clone());
    let heard = drain.clone();
    match manner.as_str() {
        "obedient" => drop(tasks.spawn(Kind::Essential, "obedient", async move { heard.started().await })),
        "failing" => drop(tasks.spawn(Kind::Essential, "failing", async { Err::<(), _>("broken") })),
        _ => drop(tasks.spawn(Kind::Essential, "stubborn", std::future::pending::<()>())),
    }
    println!("\nup");
    let told = drain.clone();
    let telling = tokio::spawn(async move {
        told.started().await;
        println!("draining");
    });
    let exit = run_until(&tasks).await;
    let _ = telling.await;
    std::process::exit(i32::from(exit.code()));
}

struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(manner: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, manner)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Self { child, lines };
        running.wait_for("up");
        running
    }

    fn wait_for(&mut self, wanted: &str) {
        assert!(
            self.lines.any(|line| line.unwrap() == wanted),
            "the child ended before it said {wanted:?}"
        );
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn exit(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    let child = Running::start("obedient");
    child.signal("-TERM");
    assert_eq!(child.exit().code(), Some(0));
}

#[test]
fn a_second_signal_leaves_at_once() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut child = Running::start("stubborn");
        child.signal("-TERM");
        child.wait_for("draining");
        child.signal(signal);
        assert_eq!(child.exit().code(), Some(code));
    }
}

#[test]
fn a_deadline_that_passes_exits_with_1() {
    let child = Running::start("late");
    child.signal("-INT");
    assert_eq!(child.exit().code(), Some(1));
}

#[test]
fn a_failed_task_exits_with_70_without_a_signal() {
    assert_eq!(Running::start("failing").exit().code(), Some(70));
}
