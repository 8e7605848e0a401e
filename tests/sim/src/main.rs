//! `sim run`: many seeds, or one with its trace. `sim check`: decides a recorded history.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use sim::checker::history::read_lines;
use sim::checker::{Report, Shown, VoidLimits, check};
use sim::world::bugs::Bug;
use sim::world::{Options, Outcome, run};

#[derive(Parser)]
#[command(about = "The seeded simulation of Switchboard's cores, and the checker")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seeds; stops at the first that breaks an invariant and prints the command that replays it.
    Run {
        /// FROM..TO, both included.
        #[arg(long, default_value = "1..1000", value_parser = seeds)]
        seeds: (u64, u64),
        /// Only this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Prints every event and every line of the history.
        #[arg(long, requires = "seed")]
        trace: bool,
        /// Writes the history of the (last) run.
        #[arg(long, value_name = "FILE")]
        history: Option<PathBuf>,
        /// Puts a bug in, to see whether it is found.
        #[arg(long)]
        bug: Option<Bug>,
        /// Goes on after a broken seed.
        #[arg(long)]
        keep_going: bool,
    },
    /// Decides a history of JSON lines.
    Check {
        file: PathBuf,
        /// Fewer sends during faults make the run void; 0: a run without faults.
        #[arg(long, default_value_t = 10)]
        sends_during_faults_min: usize,
    },
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

/// Fewer sends than this while faults are on prove nothing.
const LIMITS: VoidLimits = VoidLimits {
    sends_during_faults_min: 10,
};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run {
            seeds,
            seed,
            trace,
            history,
            bug,
            keep_going,
        } => {
            let seeds = seed.map_or(seeds, |seed| (seed, seed));
            let options = Options { bug, trace };
            run_seeds(seeds, options, history, keep_going)
        }
        Command::Check {
            file,
            sends_during_faults_min,
        } => decide(&file, sends_during_faults_min),
    }
}

fn run_seeds(seeds: (u64, u64), options: Options, history: Option<PathBuf>, keep_going: bool) -> ExitCode {
    let began = Instant::now();
    let (mut done, mut void, mut broken, mut events) = (0_u64, 0, 0, 0);
    for seed in seeds.0..=seeds.1 {
        let outcome = run(seed, options);
        let report = check(&outcome.history, LIMITS);
        done += 1;
        events += outcome.events;
        if report.void.is_some() {
            void += 1;
        }
        if let Some(file) = &history
            && let Err(e) = write_history(file, &outcome)
        {
            eprintln!("{}: {e}", file.display());
            return ExitCode::from(2);
        }
        if report.broken().next().is_some() || !outcome.alarms.is_empty() {
            broken += 1;
            tell(seed, options, &outcome, &report);
            if !keep_going {
                break;
            }
        } else if seeds.0 == seeds.1 {
            println!("{}trace {:016x}", Shown(&report, &outcome.history), outcome.trace_hash);
        }
        if done % 100 == 0 {
            eprintln!(
                "{done} seeds, {broken} broken, {void} void, {events} events, {:.1?}",
                began.elapsed()
            );
        }
    }
    println!(
        "{done} seeds, {broken} broken, {void} void, {events} events in {:.1?}",
        began.elapsed()
    );
    // Everything void is a broken simulation, not a good system.
    if broken > 0 || void == done {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn tell(seed: u64, options: Options, outcome: &Outcome, report: &Report) {
    println!("seed {seed} is broken:");
    for alarm in &outcome.alarms {
        println!("  alarm {alarm}");
    }
    print!("{}", Shown(report, &outcome.history));
    let bug = options.bug.map_or(String::new(), |bug| {
        use clap::ValueEnum;
        bug.to_possible_value()
            .map_or(String::new(), |v| format!(" --bug {}", v.get_name()))
    });
    println!("replay: cargo run -p sim -- run --seed {seed} --trace{bug}");
}

fn write_history(file: &PathBuf, outcome: &Outcome) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    for entry in &outcome.history {
        serde_json::to_writer(&mut out, entry)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn decide(file: &PathBuf, sends_during_faults_min: usize) -> ExitCode {
    let entries = match std::fs::read_to_string(file)
        .map_err(|e| e.to_string())
        .and_then(|t| read_lines(&t).map_err(|e| e.to_string()))
    {
        Ok(entries) => entries,
        Err(why) => {
            eprintln!("{}: {why}", file.display());
            return ExitCode::from(2);
        }
    };
    let limits = VoidLimits {
        sends_during_faults_min,
    };
    let report = check(&entries, limits);
    print!("{}", Shown(&report, &entries));
    if report.is_green() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
