//! `fuzz [TARGET …] [--seconds N] [--seed S]`: mutates the corpora until the time is over. Prints what it ran; an input that
//! makes a target panic is written to `corpus/TARGET/`, where the tests find it.
//!
//! Only a panic can be caught. For a stack overflow, an abort or a hang, each input is written to `fuzz-TARGET-last` in
//! the directory for temporary files (`$TMPDIR`, else `/tmp`) before the target is given it, and is still there when
//! the process is gone. Take it from there before the next run, which writes over it. A run that ends by itself
//! removes it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use clap::Parser;
use clap::builder::PossibleValuesParser;
use fuzz::mutate::Mutator;
use fuzz::{Target, corpus};

#[derive(Parser)]
#[command(about = "Mutated inputs for Switchboard's decoders and cores, until the time is over")]
struct Cli {
    /// Only these; all of them if none is named.
    #[arg(value_name = "TARGET", value_parser = names())]
    targets: Vec<String>,
    /// For each target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The same seed makes the same inputs of the same corpus.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(fuzz::targets().into_iter().map(|t| t.name))
}

/// 1: something was found; 2: it could not run.
fn main() -> ExitCode {
    let cli = Cli::parse();
    let wanted = |target: &Target| cli.targets.is_empty() || cli.targets.iter().any(|name| name == target.name);
    let mut found = false;
    for target in fuzz::targets().iter().filter(|t| wanted(t)) {
        match run(target, Duration::from_secs(cli.seconds), cli.seed) {
            Ok(nothing_found) => found |= !nothing_found,
            Err(why) => {
                eprintln!("{}: {why}", target.name);
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::from(u8::from(found))
}

/// False: it panicked.
fn run(target: &Target, time: Duration, seed: u64) -> io::Result<bool> {
    let name = target.name;
    let inputs: Vec<Vec<u8>> = corpus(name)?.into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(seed, &inputs, target.words);
    let last = env::temp_dir().join(format!("fuzz-{name}-last"));
    // One file that stays open: what aborts the process leaves its input there, and no run waits for a disk.
    let file = File::create(&last).map_err(|e| at(&last, e))?;
    let (began, mut runs, mut through) = (Instant::now(), 0u64, 0u64);
    while began.elapsed() < time {
        let input = mutator.input();
        runs += 1;
        file.set_len(input.len() as u64)
            .and_then(|()| file.write_all_at(&input, 0))
            .map_err(|e| at(&last, e))?;
        let call = target.run;
        let given = input.clone();
        match catch_unwind(move || call(&given)) {
            Ok(got_through) => through += u64::from(got_through),
            Err(_) => {
                let path = format!("{}/corpus/{name}/found-{seed}-{runs}", env!("CARGO_MANIFEST_DIR"));
                match fs::write(&path, &input).map_err(|e| at(Path::new(&path), e)) {
                    Ok(()) => {
                        remove(&last);
                        println!("{name}: PANIC after {runs} runs with seed {seed}; see {path}");
                    }
                    Err(why) => println!(
                        "{name}: PANIC after {runs} runs with seed {seed}; see {}: {why}",
                        last.display()
                    ),
                }
                return Ok(false);
            }
        }
    }
    remove(&last);
    println!(
        "{name}: {runs} runs in {} s with seed {seed}, {through} of them past the door, nothing found",
        time.as_secs()
    );
    Ok(true)
}

fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()))
}

/// There is none after no run at all; and one that cannot be removed is no reason to say less.
fn remove(last: &Path) {
    let _ = fs::remove_file(last);
}
