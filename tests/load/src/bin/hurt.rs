//! Hurts a server on purpose; `tests/load/hurt` runs it beside a load that is measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use load::hurt::{self, Talkers, Target};

/// Clients that hurt a server on purpose, to see what the others notice of it
#[derive(Parser)]
struct Args {
    /// The node, host:port
    #[arg(long, default_value = "127.0.0.1:8080")]
    to: SocketAddr,
    /// For how long
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Tenant of the tokens
    #[arg(long, default_value = "demo")]
    tenant: String,
    /// Secret that signs the tokens (HS256, key id `dev`)
    #[arg(long, default_value = "switchboard-dev")]
    dev_secret: String,
    #[command(subcommand)]
    how: How,
}

#[derive(Subcommand)]
enum How {
    /// Customers who send without pause, each with other devices that get the echo
    Talk {
        #[arg(long, default_value_t = 50)]
        users: usize,
        /// Devices besides the one that sends
        #[arg(long, default_value_t = 1)]
        devices: usize,
        /// The other devices connect and never read
        #[arg(long)]
        asleep: bool,
        /// Sends per user and second
        #[arg(long, default_value_t = 10.0)]
        rate: f64,
        #[arg(long, default_value_t = 200)]
        body_bytes: usize,
    },
    /// Sockets opened as fast as they can be, which say nothing
    Flood {
        /// Sockets held open; the oldest are dropped beyond it
        #[arg(long, default_value_t = 5_000)]
        at_once: usize,
        /// Where they come from
        #[arg(long, default_value = "127.0.0.2")]
        from: Ipv4Addr,
    },
    /// One text message per connection in fragments without end
    Fragments {
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Fragments of each connection
        #[arg(long, default_value_t = 1_000_000)]
        each: u64,
        /// Bytes in a fragment, 0 to 125
        #[arg(long, default_value_t = 0)]
        bytes: usize,
    },
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ran = runtime
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(run(args)).map_err(|e| e.to_string()));
    match ran {
        Ok(outcome) => println!("{outcome}"),
        Err(why) => {
            eprintln!("hurt: {why}");
            std::process::exit(1);
        }
    }
}

async fn run(args: Args) -> Result<Arc<hurt::Outcome>, load::Error> {
    let target = Arc::new(Target::new(
        args.to,
        &args.tenant,
        &args.dev_secret,
        Duration::from_secs(args.seconds),
    ));
    match args.how {
        How::Talk {
            users,
            devices,
            asleep,
            rate,
            body_bytes,
        } => {
            let talkers = Talkers {
                users,
                devices,
                asleep,
                rate,
                body_bytes,
            };
            hurt::talk(target, talkers).await
        }
        How::Flood { at_once, from } => hurt::flood(target, SocketAddr::new(from.into(), 0), at_once).await,
        How::Fragments {
            connections,
            each,
            bytes,
        } => hurt::fragments(target, connections, each, bytes).await,
    }
}
