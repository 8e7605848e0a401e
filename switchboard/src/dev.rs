//! `switchboard dev`: everything in one process, with a demo tenant.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::Args;
use process::config::{KeyAlgorithm, LogKind, Secret, StoreKind, TenantConfig, TenantKey};
use process::{Config, Exit};
use wire::Tenant;

use crate::token::{DEFAULT_SECRET, KID};
use crate::{Failed, demo, roles};

/// Starts everything in one process: embedded log and store, tenant `demo`, the demo page.
#[derive(Args, Debug)]
pub struct DevArgs {
    /// Where clients and the demo page reach it
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// Raw TCP frames (empty: not at all)
    #[arg(long, default_value = "")]
    tcp_listen: String,
    /// /metrics, /livez, /readyz
    #[arg(long, default_value = "127.0.0.1:9090")]
    ops_listen: String,
    /// Where messages are kept; what is there is gone on with
    #[arg(long, default_value = "data/dev")]
    data_dir: PathBuf,
    /// Signs the demo tenant's tokens (HS256, kid `dev`)
    #[arg(long, env = "SWITCHBOARD_DEV_SECRET", default_value = DEFAULT_SECRET, hide_env_values = true)]
    dev_secret: String,
    /// A Kafka broker, host:port, instead of the embedded log
    #[arg(long)]
    kafka: Option<String>,
    /// A CQL server, host:port, instead of the embedded store
    #[arg(long)]
    cql: Option<String>,
    /// Another configuration to begin with
    #[arg(long)]
    config: Option<PathBuf>,
    /// One key of the configuration, as section.key=value; may be given often
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::serve::parse_override)]
    overrides: Vec<(String, String)>,
    /// Worker threads (default: one per core)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
}

pub fn run(args: DevArgs) -> Result<Exit, Failed> {
    refuse_strangers(&args)?;
    let config = config(&args)?;
    let routes = demo::routes(args.dev_secret.clone());
    let listen = args.listen.clone();
    let ops = args.ops_listen.clone();
    let extras = roles::Extras {
        routes: Some(routes),
        create: true,
        ready: Some(Box::new(move |bound| {
            greet(
                bound.ws_http.map_or(listen, |a| a.to_string()),
                bound.ops.map_or(ops, |a| a.to_string()),
            )
        })),
    };
    crate::runtime(args.threads)?.block_on(roles::run(config, extras))
}

/// Anybody can make tokens with the default secret: with it, only this machine may come.
fn refuse_strangers(args: &DevArgs) -> Result<(), Failed> {
    if args.dev_secret != DEFAULT_SECRET {
        return Ok(());
    }
    for listen in [&args.listen, &args.tcp_listen, &args.ops_listen] {
        if listen.is_empty() {
            continue;
        }
        let addresses: Vec<SocketAddr> = listen
            .to_socket_addrs()
            .map_err(|e| Failed::new(Exit::Usage, format!("{listen} is not an address to listen on: {e}")))?
            .collect();
        if addresses.iter().any(|a| !a.ip().is_loopback()) {
            return Err(Failed::new(
                Exit::Usage,
                format!(
                    "{listen} can be reached from other machines, and everybody knows the default secret: give --dev-secret one of your own"
                ),
            ));
        }
    }
    Ok(())
}

fn config(args: &DevArgs) -> Result<Config, Failed> {
    let mut config = Config::load(args.config.as_deref(), std::env::vars(), &args.overrides)
        .map_err(|e| Failed::new(Exit::Config, e))?;
    config.dev = true;
    config.http.demo_page = true;
    config.replication = 1;
    config.store.replication = 1;
    config.listen.ws_http.clone_from(&args.listen);
    config.listen.tcp.clone_from(&args.tcp_listen);
    config.listen.ops.clone_from(&args.ops_listen);
    if config.node.name.is_empty() {
        config.node.name = "dev".into();
    }
    config.log.dir = args.data_dir.join("log").display().to_string();
    config.store.dir = args.data_dir.join("store").display().to_string();
    if let Some(broker) = &args.kafka {
        config.log.kind = LogKind::Kafka;
        config.log.brokers = vec![broker.clone()];
    }
    if let Some(server) = &args.cql {
        config.store.kind = StoreKind::Cql;
        config.store.nodes = vec![server.clone()];
    }
    // One tenant has the whole machine here.
    config.limits.tenant_sends_per_s = config.limits.tenant_sends_per_s.max(1_000_000);
    config.limits.tenant_sends_burst = config.limits.tenant_sends_burst.max(1_000_000);
    let demo = Tenant::new("demo").map_err(|e| Failed::new(Exit::Software, e))?;
    config.tenants.insert(demo, demo_tenant(&args.dev_secret));
    config.validate().map_err(|e| Failed::new(Exit::Config, e))?;
    Ok(config)
}

fn demo_tenant(secret: &str) -> TenantConfig {
    TenantConfig {
        keys: vec![TenantKey {
            kid: KID.into(),
            alg: KeyAlgorithm::HS256,
            secret: Secret::new(secret),
            ..TenantKey::default()
        }],
        origins: vec!["*".into()],
        ..TenantConfig::default()
    }
}

fn greet(listen: String, ops: String) {
    let server = match listen.as_str() {
        "127.0.0.1:8080" => String::new(),
        other => format!(" --url http://{other}"),
    };
    println!(
        "\n  Switchboard is running, with the tenant `demo`.\n\n  \
         demo page   http://{listen}/          a customer and an agent, side by side\n  \
         metrics     http://{ops}/metrics   also /livez and /readyz\n\n  \
         in two more terminals:\n    \
         {0} chat --role agent --user bo{server}\n    \
         {0} chat --role customer --user alice{server}\n\n  \
         a token for your own client:\n    \
         {0} token --tenant demo --role customer --user alice\n\n  \
         Ctrl-C stops it; what was said stays.\n",
        std::env::args().next().unwrap_or_else(|| "switchboard".into()),
    );
}
