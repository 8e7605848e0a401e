//! All of a run together: brokers, CQL server, the processes with a proxy on each of their hops, and people who talk through them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::history::Recorder;
use system::Failed;
use system::config::{self, Setting};
use system::house::{House, PROCESSES};
use system::people::Habits;
use system::run::{Finished, Run};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::proxy::{self, Proxies, Proxy};
use crate::servers::{BROKERS, Brokers, Store};
use crate::tools::Tools;

/// What is broken heals by itself within this, or it is a violation (L1 gives the clients 60 s).
const MENDED: Duration = Duration::from_secs(60);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub bin: PathBuf,
    /// The checkout: its deploy/ scripts and the tests' certificates.
    pub root: PathBuf,
    pub dir: PathBuf,
    /// A thousand ports from here on are ours.
    pub port_base: u16,
    pub seed: u64,
    pub idempotence: bool,
    pub customers: usize,
    pub agents: usize,
    pub habits: Habits,
}

/// A process that ended though nobody told it to.
#[derive(Clone, Debug)]
pub struct Surprise {
    pub at: Instant,
    pub process: String,
    pub how: String,
}

pub struct Lab {
    pub run: Run,
    pub brokers: Brokers,
    pub store: Store,
    pub proxies: Arc<Proxies>,
    pub recorder: Arc<Recorder>,
    pub tools: Tools,
    pub dir: PathBuf,
    pub lane: String,
    /// Processes that are down because a fault wants it.
    pub down: BTreeSet<usize>,
    pub surprises: Vec<Surprise>,
    _control: JoinSet<()>,
}

impl Lab {
    pub async fn build(plan: &Plan) -> Result<Self, Failed> {
        let began = Instant::now();
        let deploy = plan.root.join("deploy");
        let base = plan.port_base;
        let clients = u16::try_from(PROCESSES.len()).unwrap_or(u16::MAX);
        let brokers = Brokers::new(&deploy, &plan.dir.join("kafka"), base + 100, clients, base + 200);
        let store = Store::new(&deploy, &plan.dir.join("cassandra"), base + 50);
        println!(
            "starting {BROKERS} brokers and a CQL server (their logs are in {})",
            plan.dir.display()
        );
        let all: Vec<u16> = (1..=BROKERS).collect();
        tokio::try_join!(brokers.start(&all), store.start())?;
        let history = plan.dir.join("history.jsonl");
        let recorder = Recorder::append("nemesis", &history).map_err(|e| Failed::because("the history", e))?;
        println!(
            "they answer after {:.0?}; tables, topics, proxies, processes",
            began.elapsed()
        );

        let lane = config::unique_name();
        let mut house = House::new(&plan.bin, &plan.dir).on_ports(base + 300..base + 1_000);
        let file = write_config(plan, &lane, &brokers, &store)?;
        // First, so that the platform's own topic has as many copies as the others.
        house.once(&["topics", "create", "--config", &file.display().to_string()])?;
        let one_broker = format!("127.0.0.1:{}", brokers.port);
        house.make_tables(&one_broker, &store.direct(), &lane).await?;

        let mut proxies = Proxies::new();
        let mut stand = Stand {
            plan,
            recorder: &recorder,
            proxies: &mut proxies,
        };
        start_processes(&mut stand, &mut house, &file, &brokers, &store).await?;
        house.ready().await?;
        let proxies = Arc::new(proxies);
        let control = control_port(base + 10, &proxies).await?;
        println!("ready after {:.0?}; people arrive", began.elapsed());
        let run = Run::begin_with(house, plan.customers, plan.agents, plan.habits)?;
        let mut tools = Tools::look();
        tools.small_disks = brokers.small_disks;
        Ok(Lab {
            run,
            brokers,
            store,
            proxies,
            recorder,
            tools,
            dir: plan.dir.clone(),
            lane,
            down: BTreeSet::new(),
            surprises: Vec::new(),
            _control: control,
        })
    }

    /// The proxies before one process's Kafka.
    pub fn kafka_of(&self, process: &str) -> Vec<Arc<Proxy>> {
        let names = (1..=BROKERS).map(|id| format!("kafka-{id}-{process}"));
        names.filter_map(|name| self.proxies.get(&name).cloned()).collect()
    }

    pub fn proxy(&self, name: &str) -> Result<Arc<Proxy>, Failed> {
        let found = self.proxies.get(name).cloned();
        found.ok_or_else(|| Failed(format!("no proxy {name}")))
    }

    /// What a supervisor does: starts again whatever ended by itself, and writes it down.
    pub fn supervise(&mut self) -> Result<(), Failed> {
        for index in 0..self.run.house.procs.len() {
            if self.down.contains(&index) {
                continue;
            }
            if let Some(status) = self.run.house.ended(index) {
                let process = self.run.house.procs[index].name.clone();
                println!("    ! {process} ended by itself: {status}; started again");
                self.surprises.push(Surprise {
                    at: Instant::now(),
                    process,
                    how: status.to_string(),
                });
                self.run.house.start(index)?;
            }
        }
        Ok(())
    }

    /// Waits until everything is ready, with no help but a supervisor's; how long that took.
    pub async fn mended(&mut self) -> Result<Duration, Failed> {
        let began = Instant::now();
        loop {
            self.supervise()?;
            let left = MENDED.saturating_sub(began.elapsed());
            match tokio::time::timeout(left, self.run.house.ready()).await {
                Ok(Ok(())) => return Ok(began.elapsed()),
                // It ended between two looks: the supervisor's turn.
                Ok(Err(_)) if began.elapsed() < MENDED => {}
                Ok(Err(why)) => return Err(why),
                Err(_) => {
                    let words = self.run.house.last_words();
                    return Err(Failed(format!(
                        "L1: not everything is ready {MENDED:.0?} after heal\n{words}"
                    )));
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Heals every proxy, quiesces, reads and checks. The servers and processes still run, until what is given back is dropped.
    pub async fn finish(self, sends_min: usize) -> Result<Ended, Failed> {
        for proxy in self.proxies.values() {
            proxy.heal();
        }
        let finished = self.run.finish(sends_min).await?;
        Ok(Ended {
            finished,
            surprises: self.surprises,
            brokers: self.brokers,
            lane: self.lane,
            dir: self.dir,
            _store: self.store,
            _proxies: self.proxies,
        })
    }
}

/// A lab whose people have left.
pub struct Ended {
    pub finished: Finished,
    pub surprises: Vec<Surprise>,
    pub brokers: Brokers,
    pub lane: String,
    pub dir: PathBuf,
    _store: Store,
    _proxies: Arc<Proxies>,
}

fn write_config(plan: &Plan, lane: &str, brokers: &Brokers, store: &Store) -> Result<PathBuf, Failed> {
    let certificates = plan.root.join("ingress/tests/certificates");
    let pem = |name: &str| certificates.join(name).display().to_string();
    // The link is encrypted, so that a falsified bit is seen. Kafka's producers number their records or don't.
    let more = format!(
        "[link.tls]\ncert_file = {:?}\nkey_file = {:?}\nca_file = {:?}\nserver_name = \"localhost\"\n",
        pem("localhost.pem"),
        pem("localhost.key"),
        pem("ca.pem"),
    );
    let setting = Setting {
        name: lane,
        kafka: &brokers.direct().replace(',', "\", \""),
        cql: &store.direct(),
        replication: BROKERS,
        more: &more,
    };
    config::write(&plan.dir, &setting)
}

/// Puts proxies up.
struct Stand<'a> {
    plan: &'a Plan,
    recorder: &'a Arc<Recorder>,
    proxies: &'a mut Proxies,
}

impl Stand<'_> {
    async fn up(&mut self, name: &str, port: u16, upstream: u16) -> Result<(), Failed> {
        let (listen, upstream) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{upstream}"));
        // Each its own luck, the same for the same seed.
        let seed = self
            .plan
            .seed
            .wrapping_mul(1_000)
            .wrapping_add(u64::from(port - self.plan.port_base));
        let recorder = Some(Arc::clone(self.recorder));
        let proxy = Proxy::start(name, &listen, &upstream, seed, recorder).await;
        let proxy = proxy.map_err(|e| Failed::because(&format!("proxy {name} on {listen}"), e))?;
        self.proxies.insert(name.to_owned(), Arc::new(proxy));
        Ok(())
    }
}

async fn start_processes(
    stand: &mut Stand<'_>,
    house: &mut House,
    file: &Path,
    brokers: &Brokers,
    store: &Store,
) -> Result<(), Failed> {
    let base = stand.plan.port_base;
    for (client, (name, roles)) in (0_u16..).zip(PROCESSES) {
        let mut bootstrap = Vec::new();
        for id in 1..=BROKERS {
            let port = brokers.proxy_port(client, id);
            stand
                .up(&format!("kafka-{id}-{name}"), port, brokers.client_port(client, id))
                .await?;
            bootstrap.push(format!("127.0.0.1:{port}"));
        }
        let cql = base + 240 + client;
        stand.up(&format!("cql-{name}"), cql, store.port).await?;
        let mut own = vec![
            ("log.brokers", bootstrap.join(",")),
            ("log.idempotence", stand.plan.idempotence.to_string()),
            ("store.nodes", format!("127.0.0.1:{cql}")),
        ];
        if roles == "delivery" {
            let (listen, advertise) = (house.port()?, base + 260 + client);
            stand.up(&format!("link-{name}"), advertise, listen).await?;
            own.push(("link.listen", format!("127.0.0.1:{listen}")));
            own.push(("link.advertise", format!("127.0.0.1:{advertise}")));
        }
        let index = house.serve_with(name, roles, file, &own)?;
        if let Some(port) = house.procs[index].ws_port {
            let front = base + 270 + client;
            stand.up(&format!("front-{name}"), front, port).await?;
            house.procs[index].front_port = Some(front);
        }
    }
    Ok(())
}

async fn control_port(port: u16, proxies: &Arc<Proxies>) -> Result<JoinSet<()>, Failed> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|e| Failed::because("the proxies' control port", e))?;
    println!("proxies listen to orders on 127.0.0.1:{port} (try: echo list | nc 127.0.0.1 {port})");
    let mut tasks = JoinSet::new();
    tasks.spawn(proxy::serve(listener, Arc::clone(proxies)));
    Ok(tasks)
}
