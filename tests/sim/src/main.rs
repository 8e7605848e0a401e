//! `sim run`: many seeds, or one with its trace. `sim bugs`: is every seeded bug found? `sim check`: decides a recorded history.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};
use sim::checker::history::read_lines;
use sim::checker::{Deadlines, Shown, VoidLimits, check, check_in_time};
use sim::runner::{broken, decide, find_bugs, minimise, replay_command, run_seeds};
use sim::world::bugs::Bug;
use sim::world::{CLIENTS, Options, Outcome, Tracing};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "The seeded simulation of Switchboard's cores, and the checker")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seeds; stops at the first that breaks an invariant, makes it small, and prints the command that replays it.
    Run {
        /// FROM..TO, both included.
        #[arg(long, default_value = "1..1000", value_parser = seeds)]
        seeds: (u64, u64),
        /// Only this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Of the faults drawn only these, by number: 0,3 or none.
        #[arg(long, requires = "seed", value_parser = numbers)]
        faults: Option<Numbers>,
        /// Of the clients only these, by number.
        #[arg(long, requires = "seed", value_parser = numbers)]
        clients: Option<Numbers>,
        /// Prints every event and every line of the history.
        #[arg(long, requires = "seed")]
        trace: bool,
        /// Writes the history of the run.
        #[arg(long, value_name = "FILE", requires = "seed")]
        history: Option<PathBuf>,
        /// Puts a bug in, to see whether it is found.
        #[arg(long)]
        bug: Option<Bug>,
        /// Goes on after a broken seed.
        #[arg(long)]
        keep_going: bool,
        /// Half of the machine unless told otherwise.
        #[arg(long)]
        threads: Option<usize>,
        /// Prints faults × invariants.
        #[arg(long)]
        coverage: bool,
    },
    /// Puts every seeded bug in, one after the other, and prints which seed finds it and what went red.
    Bugs {
        /// Gives a bug up after so many seeds.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        #[arg(long)]
        threads: Option<usize>,
        /// Only these.
        bugs: Vec<Bug>,
    },
    /// Decides a history of JSON lines; several files are one run, merged by time.
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Fewer sends during faults make the run void; 0: a run without faults.
        #[arg(long, default_value_t = 10)]
        sends_during_faults_min: usize,
        /// Holds L1 to its times: 10 s, 30 s, 60 s.
        #[arg(long)]
        in_time: bool,
    },
}

type Numbers = std::sync::Arc<[usize]>;

fn numbers(text: &str) -> Result<Numbers, String> {
    if text == "none" {
        return Ok(Numbers::from([]));
    }
    let number = |s: &str| s.parse().map_err(|e| format!("{s:?} is not a number: {e}"));
    text.split(',').map(number).collect()
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("write FROM..TO, as in 1..1000")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?} is not a number: {e}"));
    let range = (number(from)?, number(to)?);
    if range.0 > range.1 {
        return Err("the first seed is above the last".into());
    }
    Ok(range)
}

/// Half of what there is, so that a machine with other work stays usable.
fn polite(threads: Option<usize>) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    threads.unwrap_or((all / 2).max(1))
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run {
            seeds,
            seed,
            faults,
            clients,
            trace,
            history,
            bug,
            keep_going,
            threads,
            coverage,
        } => {
            let options = Options {
                bug,
                trace: match (trace, seed) {
                    (true, _) => Tracing::Shown,
                    (false, Some(_)) => Tracing::Hashed,
                    (false, None) => Tracing::Off,
                },
                faults: faults.map(|f| f.to_vec()),
                clients: clients.map(|c| c.to_vec()),
            };
            match seed {
                Some(seed) => one(seed, &options, history.as_deref()),
                None => many(seeds, polite(threads), &options, keep_going, coverage),
            }
        }
        Command::Bugs { seeds, threads, bugs } => bugs_found(&bugs, seeds, polite(threads)),
        Command::Check {
            files,
            sends_during_faults_min,
            in_time,
        } => {
            let limits = VoidLimits {
                sends_during_faults_min,
            };
            judge(&files, limits, in_time)
        }
    }
}

fn one(seed: u64, options: &Options, history: Option<&Path>) -> ExitCode {
    let (outcome, report) = decide(seed, options);
    if let Some(file) = history
        && let Err(e) = write_history(file, &outcome)
    {
        eprintln!("{}: {e}", file.display());
        return ExitCode::from(2);
    }
    for (number, name, hits) in &outcome.faults {
        println!("fault {number} {name}: took effect {hits} times");
    }
    for alarm in &outcome.alarms {
        println!("alarm {alarm}");
    }
    println!(
        "{}{} events, trace {:016x}",
        Shown(&report, &outcome.history),
        outcome.events,
        outcome.trace_hash.unwrap_or_default()
    );
    if broken(&outcome, &report).is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn many(seeds: (u64, u64), threads: usize, options: &Options, keep_going: bool, coverage: bool) -> ExitCode {
    let began = Instant::now();
    let totals = run_seeds(seeds, threads, options, keep_going);
    let took = began.elapsed();
    if coverage {
        print!("{}", totals.coverage);
    }
    println!("{}", totals.told(took));
    if let Some((seed, what)) = totals.broken.first_key_value() {
        tell(*seed, options, what[0]);
        return ExitCode::FAILURE;
    }
    // Everything void is a broken simulation, not a good system.
    if totals.void * 2 > totals.done {
        println!("more than half of the runs prove nothing");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The smallest form of a broken seed.
fn tell(seed: u64, options: &Options, what: &str) {
    let least = minimise(seed, options, what);
    let (outcome, report) = decide(seed, &least);
    println!("seed {seed} breaks {what}; with as little as it takes:");
    for alarm in &outcome.alarms {
        println!("  alarm {alarm}");
    }
    let faults: Vec<&str> = outcome.faults.iter().map(|f| f.1).collect();
    let clients = least.clients.as_ref().map_or(CLIENTS, Vec::len);
    println!("  {} faults {faults:?}, {clients} clients", faults.len());
    print!("{}", Shown(&report, &outcome.history));
    println!("replay: {} --trace", replay_command(seed, &least));
}

fn bugs_found(bugs: &[Bug], seeds: u64, threads: usize) -> ExitCode {
    let all = Bug::value_variants();
    let bugs = if bugs.is_empty() { all } else { bugs };
    let began = Instant::now();
    let found = find_bugs(bugs, seeds, threads);
    println!("{:<28}{:>6}  red", "bug", "seed");
    for (bug, first) in &found {
        match first {
            Some((seed, red)) => println!("{:<28}{seed:>6}  {}", bug.name(), red.join(" ")),
            None => println!("{:<28}{:>6}  NOT FOUND in {seeds} seeds", bug.name(), "-"),
        }
    }
    let missed = found.iter().filter(|(_, first)| first.is_none()).count();
    println!(
        "{} of {} bugs found in {:.1?}",
        found.len() - missed,
        found.len(),
        began.elapsed()
    );
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn write_history(file: &Path, outcome: &Outcome) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    for entry in &outcome.history {
        serde_json::to_writer(&mut out, entry)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn judge(files: &[PathBuf], limits: VoidLimits, in_time: bool) -> ExitCode {
    let mut text = String::new();
    for file in files {
        match std::fs::read_to_string(file) {
            Ok(lines) => text += &(lines + "\n"),
            Err(e) => {
                eprintln!("{}: {e}", file.display());
                return ExitCode::from(2);
            }
        }
    }
    let entries = match read_lines(&text) {
        Ok(entries) => entries,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let report = if in_time {
        check_in_time(&entries, limits, Deadlines::SPECIFIED)
    } else {
        check(&entries, limits)
    };
    print!("{}", Shown(&report, &entries));
    if report.is_green() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
