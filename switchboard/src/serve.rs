//! `switchboard serve`: any mix of roles, as configured.

use std::path::PathBuf;

use clap::Args;
use process::{Config, Exit};

use crate::{Failed, roles};

/// Runs roles until it is told to stop (SIGTERM drains, a second one leaves at once).
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The configuration; see deploy/switchboard.toml for every key
    #[arg(long)]
    config: Option<PathBuf>,
    /// ingress, delivery, desk, persistence: any of them, separated by commas (default: as configured)
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,
    /// One key of the configuration, as section.key=value; wins over file and environment; may be given often
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_override)]
    overrides: Vec<(String, String)>,
    /// Worker threads (default: one per core)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
}

pub fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write section.key=value".into()),
    }
}

pub fn run(args: ServeArgs) -> Result<Exit, Failed> {
    let mut overrides = args.overrides;
    if !args.roles.is_empty() {
        overrides.push(("roles".into(), args.roles.join(",")));
    }
    let config = Config::load(args.config.as_deref(), std::env::vars(), &overrides)
        .and_then(|config| config.validate().map(|()| config))
        .map_err(|e| Failed::new(Exit::Config, e))?;
    crate::runtime(args.threads)?.block_on(roles::run(config, roles::Extras::default()))
}
