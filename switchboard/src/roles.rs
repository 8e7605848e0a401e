//! One process: opens the log and the store, binds, starts the roles it was given, and leaves when told to.
//!
//! Order: everything is built and bound before anything is started; what is started first is what others need.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ingress::LocalDialer;
use ordered_log::Log;
use process::config::{Role, StoreKind};
use process::{Config, ControlView, Drain, Exit, Health, Kind, Recorder, Tasks, run_until};
use store::History;
use tokio::net::TcpListener;
use wire::LaneTopics;

use crate::{Failed, control, open, topics};

/// A CQL batch holds one conversation's rows, so fuller ones pay: in a busy partition rows wait this long for company.
const CQL_GATHER_MS: u64 = 100;
/// A state row is a statement of its own, as an event's is: of a conversation that goes on, one in this time is enough.
const CQL_COMMIT_INTERVAL_MS: u64 = 2_000;

/// What `dev` adds to a configured process.
#[derive(Default)]
pub struct Extras {
    /// Answered beside the protocol: the demo page.
    pub routes: Option<axum::Router>,
    /// Makes missing topics and tables.
    pub create: bool,
    /// Called once, when everything is bound.
    pub ready: Option<Box<dyn FnOnce(Bound) + Send>>,
}

/// Where the process listens.
#[derive(Clone, Copy, Default)]
pub struct Bound {
    pub ws_http: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
    pub ops: Option<SocketAddr>,
}

/// What every role of the process is given.
struct Process {
    config: Arc<Config>,
    name: String,
    topics: LaneTopics,
    log: Arc<dyn Log>,
    store: Arc<dyn History>,
    messages_topic_id: String,
    control: ControlView,
    health: Health,
    tasks: Tasks,
    drain: Drain,
    recorder: Recorder,
}

/// Runs until a signal, or until a part fails.
pub async fn run(config: Config, extras: Extras) -> Result<Exit, Failed> {
    process::logging::init(config.logging.format, &config.logging.filter).map_err(|e| Failed::new(Exit::Config, e))?;
    let name = config.node_name();
    let prometheus =
        process::metrics::install_recorder(config.lane.as_str(), &name).map_err(|e| Failed::new(Exit::Software, e))?;
    let drain = Drain::from_signals(Duration::from_millis(config.drain.deadline_ms))
        .map_err(|e| Failed::new(Exit::Software, e))?;
    let tasks = Tasks::new(drain.clone());
    let health = Health::new();
    // Not ready before every role has said that it is.
    health.set("start", Err("starting".into()));
    let mut bound = Bound::default();
    if !config.listen.ops.is_empty() {
        let listener = bind(&config.listen.ops).await?;
        bound.ops = listener.local_addr().ok();
        process::ops::start(listener, health.clone(), prometheus, tasks.clone());
    }
    let Some(process) = drain
        .unless_started(open_process(config, name, extras.create, &tasks, &health, &drain))
        .await
    else {
        return Ok(Exit::Ok);
    };
    let process = process?;
    let started = start_roles(&process, extras.routes).await;
    match started {
        Ok(addresses) => {
            bound.ws_http = addresses.ws_http;
            bound.tcp = addresses.tcp;
        }
        Err(failed) => {
            drain.start("a role could not start");
            run_until(&tasks).await;
            return Err(failed);
        }
    }
    health.set("start", Ok(()));
    tracing::info!(name = process.name, roles = ?process.config.roles, "running");
    if let Some(ready) = extras.ready {
        ready(bound);
    }
    Ok(run_until(&tasks).await)
}

async fn open_process(
    config: Config,
    name: String,
    create: bool,
    tasks: &Tasks,
    health: &Health,
    drain: &Drain,
) -> Result<Process, Failed> {
    let recorder = open::recorder(&config, &name)?;
    let topics = open::lane_topics(&config);
    let log = open::log(&config).await?;
    let log_failed = |e: ordered_log::LogError| Failed::new(Exit::Unavailable, e);
    // An embedded log belongs to this process alone: nobody else could make its topics.
    if create || config.log.kind == process::config::LogKind::Embedded {
        topics::create(log.as_ref(), &topics, &config)
            .await
            .map_err(log_failed)?;
    }
    let wrong = topics::differences(log.as_ref(), &topics, &config)
        .await
        .map_err(log_failed)?;
    if !wrong.is_empty() {
        let text = format!(
            "the lane's topics are not as configured (switchboard topics create makes missing ones):\n{}",
            wrong.join("\n")
        );
        return Err(Failed::new(Exit::Unavailable, text));
    }
    let control = ControlView::new();
    control::follow(&log, &control, &recorder, tasks, drain)
        .await
        .map_err(log_failed)?;
    let messages_topic_id = control::same_lane(&log, &control, &recorder, &topics).await?;
    let store = open::store(&config, create).await?;
    Ok(Process {
        config: Arc::new(config),
        name,
        topics,
        log,
        store,
        messages_topic_id,
        control,
        health: health.clone(),
        tasks: tasks.clone(),
        drain: drain.clone(),
        recorder,
    })
}

async fn start_roles(process: &Process, routes: Option<axum::Router>) -> Result<ingress::Addresses, Failed> {
    let has = |role: Role| process.config.roles.contains(&role);
    let worker = if has(Role::Delivery) {
        Some(start_delivery(process).await?)
    } else {
        None
    };
    if has(Role::Persistence) {
        start_persistence(process);
    }
    if has(Role::Desk) {
        start_desk(process);
    }
    if has(Role::Ingress) {
        return start_ingress(process, worker, routes).await;
    }
    Ok(ingress::Addresses {
        ws_http: None,
        tcp: None,
    })
}

async fn start_delivery(process: &Process) -> Result<delivery::Handle, Failed> {
    let link = &process.config.link;
    let mut options = delivery::Options::new(
        process.topics.clone(),
        process.name.clone(),
        process.tasks.clone(),
        process.health.clone(),
    );
    options.messages_topic_id.clone_from(&process.messages_topic_id);
    options.bytes_budget = process.config.limits.worker_bytes_budget;
    options.recorder = process.recorder.clone();
    let listener = if link.listen.is_empty() {
        None
    } else {
        Some(bind(&link.listen).await?)
    };
    if let Some(listener) = &listener {
        let at = listener
            .local_addr()
            .map(|a| a.to_string())
            .unwrap_or_else(|_| link.listen.clone());
        options.link_advertise = Some(if link.advertise.is_empty() {
            at
        } else {
            link.advertise.clone()
        });
    }
    let mut service = delivery::Service::new(options, Arc::clone(&process.log), Arc::clone(&process.store));
    let handle = service.handle();
    if let Some(listener) = listener {
        let tls = delivery::LinkTls::load(&link.tls).map_err(|e| Failed::new(Exit::Config, e))?;
        service = service.with_link_server(listener, tls);
    }
    let drain = process.drain.clone();
    process.tasks.spawn(Kind::Essential, "delivery", service.run(drain));
    Ok(handle)
}

fn start_persistence(process: &Process) {
    let mut options = persistence::Options::new(process.topics.clone(), process.tasks.clone(), process.health.clone());
    options.messages_topic_id.clone_from(&process.messages_topic_id);
    options.recorder = process.recorder.clone();
    if process.config.store.kind == StoreKind::Cql {
        options.gather_ms = CQL_GATHER_MS;
        options.commit_interval_ms = CQL_COMMIT_INTERVAL_MS;
    }
    let service = persistence::Service::new(options, Arc::clone(&process.log), Arc::clone(&process.store));
    let drain = process.drain.clone();
    process.tasks.spawn(Kind::Essential, "persistence", service.run(drain));
}

fn start_desk(process: &Process) {
    let mut options = desk::Options::new(process.topics.clone(), process.health.clone());
    options.recorder = process.recorder.clone();
    let service = desk::Service::new(options, Arc::clone(&process.log));
    let drain = process.drain.clone();
    process.tasks.spawn(Kind::Essential, "desk", service.run(drain));
}

async fn start_ingress(
    process: &Process,
    worker: Option<delivery::Handle>,
    routes: Option<axum::Router>,
) -> Result<ingress::Addresses, Failed> {
    let mut options = ingress::Options::new(Arc::clone(&process.config));
    options.name.clone_from(&process.name);
    options.extra_routes = routes;
    options.recorder = process.recorder.clone();
    let deps = ingress::Deps {
        log: Arc::clone(&process.log),
        history: Arc::clone(&process.store),
        control: process.control.clone(),
        health: process.health.clone(),
        tasks: process.tasks.clone(),
        local_dialer: worker.map(local_dialer),
    };
    let service = ingress::Service::bind(options, deps)
        .await
        .map_err(|e| Failed::new(Exit::Unavailable, e))?;
    let handle = service.handle();
    let addresses = handle.addresses;
    let drain = process.drain.clone();
    process
        .health
        .set("links", Err("looking for the partitions' owners".into()));
    process.tasks.spawn(Kind::Essential, "ingress", service.run(drain));
    process.tasks.spawn(
        Kind::Background,
        "first-links",
        first_links(handle, process.health.clone(), process.drain.clone()),
    );
    Ok(addresses)
}

/// A node that has just started is ready when it has found the owner of every partition, or has looked for long enough:
/// without workers, sends are still taken.
async fn first_links(node: ingress::Handle, health: Health, drain: Drain) {
    for _ in 0..FIRST_LINKS_MS_MAX / FIRST_LINKS_LOOK_MS {
        if node.links_complete() || drain.is_started() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(FIRST_LINKS_LOOK_MS)).await;
    }
    health.set("links", Ok(()));
}

const FIRST_LINKS_MS_MAX: u64 = 30_000;
const FIRST_LINKS_LOOK_MS: u64 = 50;

/// Reaches the worker of this process without a socket.
fn local_dialer(worker: delivery::Handle) -> LocalDialer {
    Arc::new(move |owner| (owner.worker_incarnation == worker.worker().0).then(|| worker.attach()))
}

async fn bind(address: &str) -> Result<TcpListener, Failed> {
    TcpListener::bind(address)
        .await
        .map_err(|e| Failed::new(Exit::Unavailable, format!("{address} cannot be listened on: {e}")))
}
