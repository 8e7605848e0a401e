//! `chaos`: faults on real processes from one seed; `chaos measure`: take-over times; `chaos proxy`: the proxy alone, by hand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chaos::faults::{FAULTS, Fault};
use chaos::lab::{Lab, Plan};
use chaos::proxy::{Proxies, Proxy, serve};
use chaos::report::{Chapter, panics};
use chaos::storm::{Story, rage};
use chaos::{altered, measure, timing};
use clap::{Args, Parser, Subcommand, ValueEnum};
use system::Failed;
use system::people::Habits;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Faults on the real thing: three brokers, a CQL server, the built processes, a proxy on every hop")]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Run {
    /// Draws faults for so long; starting, quiescing and checking come on top
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Decides which faults come when (default: another each time; it is printed)
    #[arg(long)]
    seed: Option<u64>,
    /// Only these faults, by name or row of the table, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// This one alone in the first round
    #[arg(long)]
    first: Option<String>,
    /// Whether producers number their records (default: odd seeds on, even seeds off)
    #[arg(long, value_enum)]
    idempotence: Option<Switch>,
    /// Fewer sends during faults make the run void
    #[arg(long, default_value_t = 100)]
    sends_min: usize,
    /// Says what can be drawn, and leaves
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args, Clone)]
struct Place {
    /// A thousand ports from here on are used
    #[arg(long, global = true, default_value_t = 31_000)]
    port_base: u16,
    /// Keeps logs and history there (default: a directory that is removed when all is green)
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    #[arg(long, global = true, default_value_t = 8)]
    customers: usize,
    #[arg(long, global = true, default_value_t = 3)]
    agents: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Subcommand)]
enum Command {
    /// How long people wait when a worker is killed, told to leave, and when a node is killed
    Measure {
        #[arg(long, default_value_t = 10)]
        times: u64,
    },
    /// What an operator might do to topics by mistake: partitions added, offsets deleted, a topic made anew
    Altered,
    /// One proxy, hurt through its control port: NAME is `p` (`echo 'p up stall' | nc HOST PORT`)
    Proxy {
        #[arg(long)]
        listen: String,
        #[arg(long)]
        upstream: String,
        #[arg(long)]
        control: String,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.run.list {
        list();
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("chaos: no runtime: {e}");
            return ExitCode::from(2);
        }
    };
    let doing = async {
        match cli.command {
            None => run(cli.run).await,
            Some(Command::Measure { times }) => measuring(&cli.run.place, times).await,
            Some(Command::Altered) => altering(&cli.run.place).await,
            Some(Command::Proxy {
                listen,
                upstream,
                control,
                seed,
            }) => alone(&listen, &upstream, &control, seed).await,
        }
    };
    // Whoever ends the run ends its servers too: what is dropped here kills what it started.
    let done = runtime.block_on(async {
        tokio::select! {
            done = doing => done,
            () = told_to_end() => Err(Failed("told to end; its servers are stopped".into())),
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("chaos: {why}");
            ExitCode::from(2)
        }
    }
}

/// SIGINT or SIGTERM.
async fn told_to_end() {
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn list() {
    for fault in FAULTS {
        let held = format!("{}–{} s", fault.hold_s.0, fault.hold_s.1);
        println!("{:<18} {:<9} {}", fault.name, held, fault.rows.join(" "));
    }
}

fn plan(place: &Place, dir: &Path, seed: u64, idempotence: bool, habits: Habits) -> Result<Plan, Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().map_err(|e| Failed::because("the checkout", e))?;
    let bin = std::env::var("SWITCHBOARD_BIN").map_or_else(|_| root.join("target/debug/switchboard"), PathBuf::from);
    if !bin.exists() {
        return Err(Failed(format!(
            "there is no binary {}; build it or set SWITCHBOARD_BIN",
            bin.display()
        )));
    }
    Ok(Plan {
        bin,
        root,
        dir: dir.to_owned(),
        port_base: place.port_base,
        seed,
        idempotence,
        customers: place.customers,
        agents: place.agents,
        habits,
    })
}

/// Where a run happens; gone afterwards unless it is kept.
enum Dir {
    Given(PathBuf),
    Ours(tempfile::TempDir),
}

impl Dir {
    fn of(place: &Place) -> Result<Self, Failed> {
        if let Some(dir) = &place.dir {
            std::fs::create_dir_all(dir).map_err(|e| Failed::because("the directory", e))?;
            let dir = dir.canonicalize().map_err(|e| Failed::because("the directory", e))?;
            return Ok(Dir::Given(dir));
        }
        let ours = tempfile::Builder::new().prefix("switchboard-chaos-").tempdir();
        ours.map(Dir::Ours).map_err(|e| Failed::because("a directory", e))
    }

    fn path(&self) -> &Path {
        match self {
            Dir::Given(path) => path,
            Dir::Ours(dir) => dir.path(),
        }
    }

    fn keep(self) -> PathBuf {
        match self {
            Dir::Given(path) => path,
            Dir::Ours(dir) => dir.keep(),
        }
    }
}

async fn run(args: Run) -> Result<bool, Failed> {
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    if let Some(name) = args.first.as_ref().filter(|name| Fault::named(name).is_none()) {
        return Err(Failed(format!("no fault is called {name}: see --list")));
    }
    let idempotence = args.idempotence.map_or(!seed.is_multiple_of(2), |s| s == Switch::On);
    let switch = if idempotence { "on" } else { "off" };
    let only = if args.only.is_empty() {
        String::new()
    } else {
        format!(" --only {}", args.only.join(","))
    };
    let again = format!(
        "./chaos --minutes {} --seed {seed} --idempotence {switch}{only}",
        args.minutes
    );
    println!("{again}");
    let dir = Dir::of(&args.place)?;
    let habits = Habits { cuts: 4, closes: 10 };
    let began = Instant::now();
    let told = async {
        let mut lab = Lab::build(&plan(&args.place, dir.path(), seed, idempotence, habits)?).await?;
        let lasts = Duration::from_secs_f64(args.minutes * 60.0);
        let story: Story = rage(&mut lab, seed, lasts, args.first.as_deref(), &args.only).await?;
        println!("everything is healed; what is under way ends, everybody comes again, all history is read");
        let ended = lab.finish(args.sends_min).await?;
        let panics = panics(&ended.finished);
        let chapter = Chapter {
            seed,
            idempotence,
            story: &story,
            finished: &ended.finished,
            surprises: &ended.surprises,
            panics: &panics,
            lasted: began.elapsed(),
        };
        println!("{}", chapter.text());
        Ok(chapter.is_green())
    };
    let told: Result<bool, Failed> = told.await;
    if !matches!(told, Ok(true)) {
        let kept = dir.keep();
        println!("logs and history are in {}", kept.display());
        // Once the run was decided there is what people and servers wrote, together; before, only what people saw.
        let (all, people) = (kept.join("all.jsonl"), kept.join("history.jsonl"));
        let history = if all.exists() { all } else { people };
        println!("decide it again:  cargo run -p sim -- check {}", history.display());
        println!("do it again:      {again}");
    }
    told
}

async fn measuring(place: &Place, times: u64) -> Result<bool, Failed> {
    let dir = Dir::of(place)?;
    let mut lab = Lab::build(&plan(place, dir.path(), 1, true, Habits::default())?).await?;
    measure::all(&mut lab, times).await?;
    let ended = lab.finish(10).await?;
    let finished = &ended.finished;
    println!("{}", measure::text(&finished.entries));
    for at in timing::begun(&finished.entries, "term", "worker") {
        let waits = timing::waits(&finished.entries, at, Duration::from_secs(30));
        println!("  {at}: {waits:?}");
    }
    let green = finished.report.is_green();
    if !green {
        println!("{}", sim::checker::Shown(&finished.report, &finished.entries));
        println!("logs and history are in {}", dir.keep().display());
    }
    Ok(green)
}

async fn altering(place: &Place) -> Result<bool, Failed> {
    let dir = Dir::of(place)?;
    let mut lab = Lab::build(&plan(place, dir.path(), 1, true, Habits::default())?).await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    println!("F46: {}", altered::offsets_lost(&mut lab).await?);
    // From here on no process starts any more: that is refused.
    println!("F43: {}", altered::partition_count(&mut lab).await?);
    // What is stored until here is read before the next one, which nobody can go on from.
    let mut ended = lab.finish(0).await?;
    let green = ended.finished.report.is_green();
    println!(
        "{}",
        sim::checker::Shown(&ended.finished.report, &ended.finished.entries)
    );
    println!("F47: {}", altered::topics_made_anew(&mut ended).await?);
    Ok(green)
}

async fn alone(listen: &str, upstream: &str, control: &str, seed: u64) -> Result<bool, Failed> {
    let proxy = Proxy::start("p", listen, upstream, seed, None).await;
    let proxy = Arc::new(proxy.map_err(|e| Failed::because(listen, e))?);
    println!("{} → {upstream}, orders on {control}", proxy.address);
    let listener = tokio::net::TcpListener::bind(control).await;
    let listener = listener.map_err(|e| Failed::because(control, e))?;
    serve(listener, Arc::new(Proxies::from([("p".to_owned(), proxy)]))).await;
    Ok(true)
}
