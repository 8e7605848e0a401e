//! The conformance suite: every behaviour of `ordered_log::Log`, on each implementation.
//!
//! The embedded log always runs. Kafka runs when SWITCHBOARD_TEST_KAFKA names a broker (host:port); otherwise each of its
//! tests is reported as skipped, by name. Its own harness for just that: libtest cannot skip at run time.
//! Arguments that are not options are parts of names, as with libtest.

mod behaviours;
mod groups;
mod harness;
mod world;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::FutureExt;

use self::world::{World, worlds};

/// Longer than any behaviour may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    // The reason stands in the result's line.
    std::panic::set_hook(Box::new(|info| {
        println!("  at {}", info.location().map(ToString::to_string).unwrap_or_default())
    }));
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let list = std::env::args().any(|a| a == "--list");
    let (mut failed, mut passed, mut skipped) = (Vec::new(), 0, 0);
    for (implementation, world) in worlds() {
        for (behaviour, run) in behaviours::ALL.iter().chain(groups::ALL) {
            let name = format!("{implementation}::{behaviour}");
            if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
                continue;
            }
            if list {
                println!("{name}: test");
                continue;
            }
            let Ok(make) = &world else {
                println!("test {name} ... skipped (SWITCHBOARD_TEST_KAFKA is not set)");
                skipped += 1;
                continue;
            };
            let began = Instant::now();
            let ended = run_one(make, run);
            let took = began.elapsed().as_millis();
            match ended {
                Ok(()) => {
                    println!("test {name} ... ok ({took} ms)");
                    passed += 1;
                }
                Err(why) => {
                    println!("test {name} ... FAILED ({took} ms): {why}");
                    failed.push(name);
                }
            }
        }
    }
    if list {
        return ExitCode::SUCCESS;
    }
    println!(
        "\nconformance: {passed} passed; {} failed; {skipped} skipped",
        failed.len()
    );
    for name in &failed {
        println!("failed: {name}");
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

fn run_one(make: &world::Make, run: &harness::Behaviour) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let ended = runtime.block_on(async {
        let world: World = make().await;
        let run = AssertUnwindSafe(run(&world)).catch_unwind();
        let ended = tokio::time::timeout(LIMIT, run).await;
        world.close().await;
        ended
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    match ended {
        Err(_) => Err(format!("not done within {} s", LIMIT.as_secs())),
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text
                .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
                .unwrap_or_default())
        }
        Ok(Ok(())) => Ok(()),
    }
}
