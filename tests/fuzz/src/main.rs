//! `fuzz [TARGET …] [--seconds N] [--seed S]`: mutates the corpora until the time is over. Prints what it ran; an input that
//! makes a target panic is written to `corpus/TARGET/`, where the tests find it.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fuzz::mutate::Mutator;
use fuzz::{Target, corpus, targets};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let given = args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
        given.and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let (seconds, seed) = (number("--seconds", 10), number("--seed", 1));
    let all = targets();
    let wanted: Vec<&Target> = all.iter().filter(|t| args.iter().any(|a| a == t.name)).collect();
    let wanted = if wanted.is_empty() {
        all.iter().collect()
    } else {
        wanted
    };
    let found: usize = wanted
        .iter()
        .map(|target| usize::from(!run(target, Duration::from_secs(seconds), seed)))
        .sum();
    ExitCode::from(u8::from(found > 0))
}

/// False: it panicked.
fn run(target: &Target, time: Duration, seed: u64) -> bool {
    let inputs: Vec<Vec<u8>> = corpus(target.name).into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(seed, &inputs, target.words);
    let (began, mut runs) = (Instant::now(), 0u64);
    while began.elapsed() < time {
        let input = mutator.input();
        runs += 1;
        let call = target.run;
        let given = input.clone();
        if catch_unwind(move || call(&given)).is_err() {
            let path = format!(
                "{}/corpus/{}/found-{seed}-{runs}",
                env!("CARGO_MANIFEST_DIR"),
                target.name
            );
            let written = std::fs::write(&path, &input).is_ok();
            println!(
                "{}: PANIC after {runs} runs with seed {seed}; {} {path}",
                target.name,
                if written { "see" } else { "could not write" }
            );
            return false;
        }
    }
    println!(
        "{}: {runs} runs in {} s with seed {seed}, nothing found",
        target.name,
        time.as_secs()
    );
    true
}
