//! Tests with real processes. `SWITCHBOARD_BIN` names the built binary (default: target/debug/switchboard);
//! `SWITCHBOARD_TEST_KAFKA` and `SWITCHBOARD_TEST_CQL` (host:port) the servers, `SWITCHBOARD_TEST_CQL_DIR` the directory its
//! server was started in. What a test needs and does not have is said by name: it is skipped, not passed.
//! Arguments: parts of names, to run only those; `--short`: each kind of fault once, and less talk between them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use system::Failed;
use system::config::{self, Setting};
use system::house::{House, PROCESSES};
use system::run::Run;

struct Test {
    name: &'static str,
    needs: &'static [&'static str],
    run: fn(&Path, &Path, Length) -> Result<(), Failed>,
}

/// How much of a test is run.
#[derive(Clone, Copy, PartialEq)]
enum Length {
    Short,
    Full,
}

impl Length {
    /// Of seconds to talk, or of sends that must have met a fault: a third, where it is short.
    fn of(self, full: u64) -> u64 {
        match self {
            Length::Short => full.div_ceil(3),
            Length::Full => full,
        }
    }
}

const TESTS: [Test; 6] = [
    Test {
        name: "one_process_people_talk_and_history_says_the_same",
        needs: &[],
        run: |bin, dir, length| block(one_process_smoke(bin, dir, length)),
    },
    Test {
        name: "one_process_killed_under_load_loses_and_doubles_nothing",
        needs: &[],
        run: |bin, dir, length| block(one_process_killed(bin, dir, length)),
    },
    Test {
        name: "processes_of_each_kind_killed_in_turn_under_load",
        needs: &["SWITCHBOARD_TEST_KAFKA", "SWITCHBOARD_TEST_CQL"],
        run: |bin, dir, length| block(each_kind_killed(bin, dir, length)),
    },
    Test {
        name: "a_worker_paused_past_its_session_timeout_changes_nothing_when_it_wakes",
        needs: &["SWITCHBOARD_TEST_KAFKA", "SWITCHBOARD_TEST_CQL"],
        run: |bin, dir, length| block(zombie_worker(bin, dir, length)),
    },
    Test {
        name: "a_node_paused_and_woken_serves_its_people_again",
        needs: &["SWITCHBOARD_TEST_KAFKA", "SWITCHBOARD_TEST_CQL"],
        run: |bin, dir, length| block(sleeping_node(bin, dir, length)),
    },
    Test {
        name: "the_cql_server_away_for_a_minute_holds_up_history_and_nothing_else",
        needs: &[
            "SWITCHBOARD_TEST_KAFKA",
            "SWITCHBOARD_TEST_CQL",
            "SWITCHBOARD_TEST_CQL_DIR",
        ],
        run: |bin, dir, length| block(store_away(bin, dir, length)),
    },
];

fn block(test: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new().map_err(|e| Failed::because("a runtime", e))?;
    runtime.block_on(test)
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let short = std::env::args().any(|a| a == "--short");
    let length = if short { Length::Short } else { Length::Full };
    let bin = std::env::var("SWITCHBOARD_BIN").map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/switchboard"),
        PathBuf::from,
    );
    let (mut ok, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    for test in &TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|w| test.name.contains(w.as_str())) {
            continue;
        }
        let missing: Vec<&str> = test
            .needs
            .iter()
            .copied()
            .filter(|n| std::env::var_os(n).is_none())
            .collect();
        if !bin.exists() {
            skipped.push(format!(
                "{}: there is no binary {}; build it or set SWITCHBOARD_BIN",
                test.name,
                bin.display()
            ));
        } else if !missing.is_empty() {
            skipped.push(format!("{}: {} not set", test.name, missing.join(" and ")));
        } else {
            println!("test {} …", test.name);
            let began = Instant::now();
            match in_a_directory(test, &bin, length) {
                Ok(()) => {
                    ok += 1;
                    println!("test {} ok in {:.0?}", test.name, began.elapsed());
                }
                Err(why) => {
                    println!("test {} FAILED in {:.0?}\n{why}", test.name, began.elapsed());
                    failed.push(test.name);
                }
            }
        }
    }
    for why in &skipped {
        println!("SKIPPED {why}");
    }
    println!("{ok} passed, {} failed, {} skipped", failed.len(), skipped.len());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A directory of its own, kept when the test fails.
fn in_a_directory(test: &Test, bin: &Path, length: Length) -> Result<(), Failed> {
    let dir = tempfile::Builder::new()
        .prefix("switchboard-system-")
        .tempdir()
        .map_err(|e| Failed::because("a directory", e))?;
    (test.run)(bin, dir.path(), length).map_err(|why| {
        let kept = dir.keep();
        Failed(format!("{why}\nlogs and history are in {}", kept.display()))
    })
}

// ---- one process, embedded ----

async fn one_process_smoke(bin: &Path, dir: &Path, length: Length) -> Result<(), Failed> {
    let mut house = House::new(bin, dir);
    house.dev()?;
    house.ready().await?;
    let run = Run::begin(house, 3, 2)?;
    run.talk(length.of(8)).await;
    run.decide(0).await
}

async fn one_process_killed(bin: &Path, dir: &Path, length: Length) -> Result<(), Failed> {
    let mut house = House::new(bin, dir);
    let dev = house.dev()?;
    house.ready().await?;
    let mut run = Run::begin(house, 4, 2)?;
    run.talk(length.of(4)).await;
    for _ in 0..length.of(3) {
        run.kill(dev, Duration::from_millis(300)).await?;
        run.talk(length.of(5)).await;
    }
    run.decide(length.of(20) as usize).await
}

// ---- several processes, Kafka and CQL ----

/// Two nodes, two workers, two persistences, one desk, on a lane and keyspace of their own.
async fn several(bin: &Path, dir: &Path) -> Result<House, Failed> {
    let env = |name: &str| std::env::var(name).map_err(|e| Failed::because(name, e));
    let (kafka, cql) = (env("SWITCHBOARD_TEST_KAFKA")?, env("SWITCHBOARD_TEST_CQL")?);
    let name = config::unique_name();
    let setting = Setting {
        name: &name,
        kafka: &kafka,
        cql: &cql,
        replication: 1,
        more: "",
    };
    let file = config::write(dir, &setting)?;
    let mut house = House::new(bin, dir);
    let path = file.display().to_string();
    house.make_tables(&kafka, &cql, &name).await?;
    house.once(&["topics", "create", "--config", &path])?;
    for (name, roles) in PROCESSES {
        house.serve(name, roles, &file)?;
    }
    house.ready().await?;
    Ok(house)
}

async fn each_kind_killed(bin: &Path, dir: &Path, length: Length) -> Result<(), Failed> {
    let mut run = Run::begin(several(bin, dir).await?, 6, 3)?;
    run.talk(length.of(5)).await;
    let kinds = ["node-0", "worker-0", "persistence-0", "desk-0"];
    let others = ["worker-1", "node-1", "persistence-1"];
    for name in kinds.iter().chain(others.iter().filter(|_| length == Length::Full)) {
        let index = run.house.index(name)?;
        run.kill(index, Duration::from_secs(2)).await?;
        run.talk(length.of(8)).await;
    }
    run.decide(length.of(100) as usize).await
}

async fn zombie_worker(bin: &Path, dir: &Path, length: Length) -> Result<(), Failed> {
    let mut run = Run::begin(several(bin, dir).await?, 6, 3)?;
    run.talk(length.of(5)).await;
    for name in ["worker-0", "worker-1"] {
        let index = run.house.index(name)?;
        run.pause(index, Duration::from_secs(15)).await?;
        run.talk(length.of(10)).await;
    }
    run.decide(length.of(50) as usize).await
}

async fn sleeping_node(bin: &Path, dir: &Path, length: Length) -> Result<(), Failed> {
    let mut run = Run::begin(several(bin, dir).await?, 6, 3)?;
    run.talk(length.of(5)).await;
    for name in ["node-0", "desk-0", "persistence-0"] {
        let index = run.house.index(name)?;
        run.pause(index, Duration::from_secs(9)).await?;
        run.talk(length.of(6)).await;
    }
    run.decide(length.of(50) as usize).await
}

async fn store_away(bin: &Path, dir: &Path, length: Length) -> Result<(), Failed> {
    let name = "SWITCHBOARD_TEST_CQL_DIR";
    let cql_dir = std::env::var(name).map_err(|e| Failed::because(name, e))?;
    let pid =
        std::fs::read_to_string(Path::new(&cql_dir).join("pid")).map_err(|e| Failed::because("the server's pid", e))?;
    let pid: u32 = pid.trim().parse().map_err(|e| Failed::because("the server's pid", e))?;
    let mut run = Run::begin(several(bin, dir).await?, 6, 3)?;
    run.talk(length.of(5)).await;
    run.pause_pid("cql", pid, Duration::from_secs(length.of(60))).await?;
    run.talk(length.of(10)).await;
    run.decide(length.of(100) as usize).await
}
