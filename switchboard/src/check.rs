//! `switchboard config check`: what a process would say of a configuration, before it is started.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use process::{Config, Exit};

use crate::Failed;

#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Read file, environment and flags as `serve` does; exit code 78 if it could not start with them
    Check {
        /// The configuration file
        file: Option<PathBuf>,
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::serve::parse_override)]
        overrides: Vec<(String, String)>,
    },
    /// List every key
    Keys,
}

pub fn run(args: ConfigArgs) -> Result<Exit, Failed> {
    match args.what {
        What::Check { file, overrides } => {
            let config = Config::load(file.as_deref(), std::env::vars(), &overrides)
                .and_then(|config| config.validate().map(|()| config))
                .map_err(|e| Failed::new(Exit::Config, e))?;
            let roles: Vec<String> = config.roles.iter().map(|r| format!("{r:?}").to_lowercase()).collect();
            println!(
                "good: lane {}, roles {}, {} partitions, log {:?}, store {:?}, {} tenants",
                config.lane,
                roles.join(" "),
                config.partitions,
                config.log.kind,
                config.store.kind,
                config.tenants.len()
            );
        }
        What::Keys => Config::keys().iter().for_each(|key| println!("{key}")),
    }
    Ok(Exit::Ok)
}
