//! A seeded TCP proxy that hurts what passes through it: delays, cuts, swallows, splits and falsifies, one way or both, switched while
//! connections run. One stands on every hop of the chaos tests. The same seed and the same bytes give the same delays and flips.

mod control;
mod pump;
mod verbs;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::history::Recorder;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use control::{Proxies, serve};
use pump::{Pump, Reset};
pub use verbs::{BadOrder, Order, Shape, Verb, Way};

/// What holds now, for all connections of one proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rules {
    /// Raised by every change, so that a connection sees even those that leave the rest as it was.
    version: u64,
    up: Shape,
    down: Shape,
    refuse: bool,
    resets: u64,
    fins_up: u64,
    fins_down: u64,
    /// Of so many connections one is concerned; 0: all.
    one_in: u64,
}

impl Rules {
    fn concerns(&self, conn: u64) -> bool {
        self.one_in == 0 || conn.is_multiple_of(self.one_in)
    }
}

/// Listens, dials its server for every connection, and passes bytes on as it was told.
pub struct Proxy {
    pub name: String,
    pub address: SocketAddr,
    rules: Arc<watch::Sender<Rules>>,
    hits: Arc<AtomicU64>,
    recorder: Option<Arc<Recorder>>,
    /// Orders that hold, and the hits there were when they were given.
    standing: Mutex<Vec<(Order, u64)>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// `upstream` is dialled afresh for each connection. With a recorder every order stands in the history.
    pub async fn start(
        name: &str,
        listen: &str,
        upstream: &str,
        seed: u64,
        recorder: Option<Arc<Recorder>>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let rules = Arc::new(watch::Sender::new(Rules::default()));
        let hits = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let carrying = accept(
            listener,
            upstream.to_owned(),
            seed,
            Arc::clone(&rules),
            Arc::clone(&hits),
        );
        tasks.spawn(carrying);
        Ok(Self {
            name: name.to_owned(),
            address,
            rules,
            hits,
            recorder,
            standing: Mutex::new(Vec::new()),
            _tasks: tasks,
        })
    }

    /// Adds an order to those that hold.
    pub fn order(&self, order: Order) {
        self.order_one_in(order, 0);
    }

    /// The same for one of so many connections only (0: all). The last one given holds for all orders.
    pub fn order_one_in(&self, order: Order, one_in: u64) {
        self.note(order, "start", 0);
        let before = self.hits();
        self.rules.send_modify(|rules| {
            rules.version += 1;
            rules.one_in = one_in;
            match order.verb {
                Verb::Rst => rules.resets += 1,
                Verb::Refuse => (rules.refuse, rules.resets) = (true, rules.resets + 1),
                Verb::Fin => {
                    rules.fins_up += u64::from(order.way.is_up());
                    rules.fins_down += u64::from(order.way.is_down());
                }
                shape => {
                    if order.way.is_up() {
                        rules.up.add(shape);
                    }
                    if order.way.is_down() {
                        rules.down.add(shape);
                    }
                }
            }
        });
        self.standing.lock().push((order, before));
    }

    /// Passes everything on again. Connections that lost bytes are reset.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| {
            rules.version += 1;
            (rules.up, rules.down, rules.refuse) = (Shape::default(), Shape::default(), false);
        });
        let hits = self.hits();
        for (order, before) in self.standing.lock().drain(..) {
            self.note(order, "stop", hits - before);
        }
    }

    /// How often an order did something since the proxy began.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    fn note(&self, order: Order, state: &str, hits: u64) {
        if let Some(recorder) = &self.recorder {
            let name = format!("proxy {order}");
            let fields = json!({ "name": name, "target": self.name, "state": state, "hits": hits });
            recorder.note("note", "fault", fields);
        }
    }
}

async fn accept(
    listener: TcpListener,
    upstream: String,
    seed: u64,
    rules: Arc<watch::Sender<Rules>>,
    hits: Arc<AtomicU64>,
) {
    let mut conns = JoinSet::new();
    for conn in 0.. {
        // What has ended is forgotten, so that the set does not grow.
        while conns.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors or the like: not at once again.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let now = *rules.borrow();
        if now.refuse && now.concerns(conn) {
            hits.fetch_add(1, Ordering::Relaxed);
            let _ = client.set_zero_linger();
            continue;
        }
        let carry = Carry {
            conn,
            seed,
            rules: rules.subscribe(),
            before: now,
            hits: Arc::clone(&hits),
        };
        let upstream = upstream.clone();
        conns.spawn(async move { carry.run(client, &upstream).await });
    }
}

/// One connection.
struct Carry {
    conn: u64,
    seed: u64,
    rules: watch::Receiver<Rules>,
    before: Rules,
    hits: Arc<AtomicU64>,
}

impl Carry {
    async fn run(&self, mut client: TcpStream, upstream: &str) {
        let Ok(mut server) = TcpStream::connect(upstream).await else {
            // As if the proxy were the server: nobody listens.
            let _ = client.set_zero_linger();
            return;
        };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let ended = {
            let (client_reads, client_writes) = client.split();
            let (server_reads, server_writes) = server.split();
            let pump = |up, from, to| Pump {
                up,
                conn: self.conn,
                from,
                to,
                rules: self.rules.clone(),
                before: self.before,
                hits: &self.hits,
                seed: self.seed,
            };
            let up = pump(true, client_reads, server_writes);
            let down = pump(false, server_reads, client_writes);
            tokio::try_join!(up.run(), down.run())
        };
        if let Err(Reset) = ended {
            let _ = client.set_zero_linger();
            let _ = server.set_zero_linger();
        }
    }
}
