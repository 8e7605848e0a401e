//! The one binary: subcommands pick what a process does. No logic of the platform's own here, only putting parts together.

mod chat;
mod check;
mod control;
mod demo;
mod dev;
mod open;
mod operate;
mod roles;
mod schema;
mod serve;
mod token;
mod topics;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use process::Exit;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Customer-service messaging on Kafka and ScyllaDB, or on one machine with nothing installed.
#[derive(Parser)]
#[command(name = "switchboard", version, max_term_width = 110, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done or drained in time; 1 the drain's deadline passed, or a load run found a fault; \
2 usage; 65 bad data; 69 something needed cannot be had, try again; 70 a part failed; 74 a file cannot be read or \
written; 78 the configuration is wrong; 130 or 143 a second signal."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything in one process, with a demo tenant and a demo page
    Dev(dev::DevArgs),
    /// Any mix of roles, as configured
    Serve(serve::ServeArgs),
    /// Print a development token
    Token(token::TokenArgs),
    /// Talk in the terminal, as a customer or an agent
    Chat(chat::ChatArgs),
    /// Put load on a running system, and check every message
    Load(load::Args),
    /// Create or check the lane's topics
    Topics(topics::TopicsArgs),
    /// Decide while it runs: switch a feature off, revoke a user; or show what was decided
    Control(operate::ControlArgs),
    /// Print a schema: cql, frames (JSON Schema), asyncapi, openapi
    Schema(schema::SchemaArgs),
    /// Check a configuration without starting anything
    Config(check::ConfigArgs),
}

/// A command that could not do what was asked: what to tell, and how to leave.
pub struct Failed {
    pub exit: Exit,
    pub text: String,
}

impl Failed {
    pub fn new(exit: Exit, text: impl ToString) -> Self {
        Self {
            exit,
            text: text.to_string(),
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Dev(args) => dev::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Token(args) => args
            .token()
            .map(|token| println!("{token}"))
            .map_err(|e| Failed::new(Exit::Usage, e))
            .map(|()| Exit::Ok),
        Command::Chat(args) => chat::run(args),
        Command::Load(args) => run_load(args),
        Command::Topics(args) => topics::run(args),
        Command::Control(args) => operate::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Config(args) => check::run(args),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failed) => {
            eprintln!("switchboard: {}", failed.text);
            failed.exit.into()
        }
    }
}

/// A runtime for commands and servers alike; `threads` 0 means as many as there are cores.
pub fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failed> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .thread_name("switchboard")
        .build()
        .map_err(|e| Failed::new(Exit::Software, format!("no runtime: {e}")))
}

fn run_load(args: load::Args) -> Result<Exit, Failed> {
    let report = runtime(1)?
        .block_on(load::run(args))
        .map_err(|e| Failed::new(Exit::Unavailable, e))?;
    println!("{report}");
    Ok(if report.good() { Exit::Ok } else { Exit::DrainDeadline })
}
