//! The table of faults that are drawn: what each is called, which rows of RELIABILITY's table it is, whom it may hit, and for how long.
//! How each is done stands in `acts`.

use crate::tools::Tools;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Kill,
    Term,
    /// SIGSTOP and SIGCONT, once.
    Sleep,
    KillBroker,
    KillTwoBrokers,
    /// Two brokers asleep for longer than the delivery timeout, awake as long, and again.
    FreezeTwoBrokers,
    /// Asleep for 300 ms, awake for 300 ms, and so on.
    StutterBroker,
    SlowDisk,
    FullDisk,
    SleepStore,
    /// Proxies of one hop of the target get these orders; `flap`: they come and go with every step.
    Proxy {
        hop: Hop,
        orders: &'static [&'static str],
        flap: bool,
        one_in: u64,
    },
    Loss,
    Skew,
    Descriptors,
    /// Workers come and go every two seconds.
    Storm,
    Garbage,
}

/// A kind of connection that has proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Clients to a node.
    Front,
    /// Nodes to a worker.
    Link,
    Kafka,
    Cql,
}

/// Whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One of the processes whose name begins with one of these.
    Process(&'static [&'static str]),
    Brokers,
    Store,
    Workers,
    /// The topics: nobody's process is touched.
    Topics,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub name: &'static str,
    /// Rows of RELIABILITY's table.
    pub rows: &'static [&'static str],
    pub deed: Deed,
    pub whom: Whom,
    /// At least, at most.
    pub hold_s: (u64, u64),
    pub step_ms: u64,
    /// How often it is drawn, against the others; 0: only when asked for by name.
    pub weight: u32,
}

const ANY: Whom = Whom::Process(&["node", "worker", "persistence", "desk"]);
const NODE: Whom = Whom::Process(&["node"]);
const WORKER: Whom = Whom::Process(&["worker"]);
const READERS_OF_CQL: Whom = Whom::Process(&["worker", "persistence", "node"]);

const fn fault(
    name: &'static str,
    rows: &'static [&'static str],
    deed: Deed,
    whom: Whom,
    hold_s: (u64, u64),
    weight: u32,
) -> Fault {
    Fault {
        name,
        rows,
        deed,
        whom,
        hold_s,
        step_ms: 0,
        weight,
    }
}

const fn stepping(mut fault: Fault, step_ms: u64) -> Fault {
    fault.step_ms = step_ms;
    fault
}

const fn on(hop: Hop, orders: &'static [&'static str]) -> Deed {
    Deed::Proxy {
        hop,
        orders,
        flap: false,
        one_in: 0,
    }
}

const fn on_some(hop: Hop, orders: &'static [&'static str], one_in: u64) -> Deed {
    Deed::Proxy {
        hop,
        orders,
        flap: false,
        one_in,
    }
}

const fn flapping(hop: Hop, orders: &'static [&'static str]) -> Deed {
    Deed::Proxy {
        hop,
        orders,
        flap: true,
        one_in: 0,
    }
}

/// All of them. Names are what `--only` takes.
pub const FAULTS: &[Fault] = &[
    // Processes.
    fault("kill", &["F1", "F3", "F6", "F7", "F45"], Deed::Kill, ANY, (1, 12), 6),
    fault("term", &["F2"], Deed::Term, ANY, (1, 4), 4),
    fault("nap", &["F5"], Deed::Sleep, ANY, (2, 4), 3),
    fault("zombie", &["F4", "F41"], Deed::Sleep, ANY, (8, 16), 5),
    stepping(fault("storm", &["F40"], Deed::Storm, Whom::Workers, (20, 40), 2), 2_000),
    fault("descriptors", &["F25"], Deed::Descriptors, NODE, (5, 15), 2),
    stepping(fault("skew", &["F31", "F32"], Deed::Skew, ANY, (10, 20), 2), 5_000),
    // The log.
    fault(
        "broker-killed",
        &["F8", "F11", "F12"],
        Deed::KillBroker,
        Whom::Brokers,
        (3, 15),
        4,
    ),
    fault(
        "brokers-killed",
        &["F9"],
        Deed::KillTwoBrokers,
        Whom::Brokers,
        (5, 15),
        2,
    ),
    stepping(
        fault("frozen", &["F10"], Deed::FreezeTwoBrokers, Whom::Brokers, (38, 52), 2),
        13_000,
    ),
    stepping(
        fault(
            "stutter",
            &["F13", "F27"],
            Deed::StutterBroker,
            Whom::Brokers,
            (8, 20),
            2,
        ),
        300,
    ),
    fault("slow-disk", &["F13"], Deed::SlowDisk, Whom::Brokers, (8, 15), 1),
    fault("full-disk", &["F14", "F15"], Deed::FullDisk, Whom::Brokers, (5, 12), 2),
    fault("kafka-cut", &["F16"], on(Hop::Kafka, &["stall"]), ANY, (4, 20), 3),
    fault("kafka-deaf", &["F17"], on(Hop::Kafka, &["down stall"]), ANY, (4, 20), 3),
    fault("kafka-mute", &["F17"], on(Hop::Kafka, &["up stall"]), ANY, (4, 20), 2),
    fault(
        "kafka-half-open",
        &["F16", "F21"],
        on(Hop::Kafka, &["blackhole"]),
        ANY,
        (4, 20),
        2,
    ),
    stepping(
        fault(
            "kafka-flapping",
            &["F19"],
            flapping(Hop::Kafka, &["refuse"]),
            ANY,
            (8, 20),
            2,
        ),
        300,
    ),
    fault(
        "kafka-late",
        &["F27"],
        on(Hop::Kafka, &["delay 50..350"]),
        ANY,
        (8, 20),
        2,
    ),
    fault(
        "kafka-thin",
        &["F28"],
        on(Hop::Kafka, &["up rate 4000"]),
        NODE,
        (8, 20),
        2,
    ),
    fault("loss", &["F26"], Deed::Loss, ANY, (8, 15), 2),
    stepping(
        fault(
            "garbage",
            &["F38", "F44", "F51"],
            Deed::Garbage,
            Whom::Topics,
            (5, 10),
            3,
        ),
        1_000,
    ),
    // The store.
    fault(
        "store-asleep",
        &["F48", "F49"],
        Deed::SleepStore,
        Whom::Store,
        (6, 30),
        3,
    ),
    fault(
        "cql-unanswered",
        &["F50"],
        on(Hop::Cql, &["down blackhole"]),
        READERS_OF_CQL,
        (4, 15),
        3,
    ),
    fault(
        "cql-refused",
        &["F49"],
        on(Hop::Cql, &["refuse"]),
        READERS_OF_CQL,
        (4, 20),
        2,
    ),
    stepping(
        fault(
            "cql-flapping",
            &["F19", "F50"],
            flapping(Hop::Cql, &["rst"]),
            READERS_OF_CQL,
            (5, 12),
            2,
        ),
        500,
    ),
    // The link.
    fault("link-cut", &["F18"], on(Hop::Link, &["stall"]), WORKER, (2, 15), 3),
    fault(
        "link-mute",
        &["F17", "F18"],
        on(Hop::Link, &["up stall"]),
        WORKER,
        (2, 15),
        2,
    ),
    fault(
        "link-deaf",
        &["F17", "F18"],
        on(Hop::Link, &["down stall"]),
        WORKER,
        (2, 15),
        2,
    ),
    stepping(
        fault(
            "link-flapping",
            &["F19"],
            flapping(Hop::Link, &["refuse"]),
            WORKER,
            (8, 20),
            3,
        ),
        300,
    ),
    stepping(
        fault(
            "link-flipped",
            &["F30"],
            flapping(Hop::Link, &["flip 200"]),
            WORKER,
            (5, 12),
            2,
        ),
        700,
    ),
    fault("link-split", &["F29"], on(Hop::Link, &["split 1"]), WORKER, (5, 15), 1),
    // Clients.
    fault(
        "client-cut",
        &["F20", "F21"],
        on_some(Hop::Front, &["stall"], 2),
        NODE,
        (3, 20),
        3,
    ),
    fault(
        "client-half-open",
        &["F20", "F21"],
        on_some(Hop::Front, &["blackhole"], 2),
        NODE,
        (5, 60),
        3,
    ),
    fault(
        "client-deaf",
        &["F22"],
        on_some(Hop::Front, &["down stall"], 3),
        NODE,
        (10, 40),
        2,
    ),
    fault(
        "client-slow",
        &["F22"],
        on_some(Hop::Front, &["down rate 300"], 3),
        NODE,
        (10, 40),
        2,
    ),
    stepping(
        fault(
            "client-flapping",
            &["F19", "F35"],
            flapping(Hop::Front, &["rst"]),
            NODE,
            (5, 15),
            2,
        ),
        700,
    ),
    fault("client-split", &["F29"], on(Hop::Front, &["split 1"]), NODE, (5, 15), 2),
    fault(
        "client-coalesced",
        &["F29"],
        on(Hop::Front, &["coalesce 80"]),
        NODE,
        (5, 15),
        2,
    ),
    fault(
        "client-torn",
        &["F29"],
        on(Hop::Front, &["down cut 900"]),
        NODE,
        (4, 10),
        2,
    ),
];

impl Fault {
    pub fn named(name: &str) -> Option<&'static Fault> {
        FAULTS.iter().find(|fault| fault.name == name)
    }

    /// The tool it lacks here, if it lacks one.
    pub fn lacks(&self, tools: &Tools) -> Option<&'static str> {
        let (there, what) = match self.deed {
            Deed::SlowDisk => (tools.strace, "strace"),
            Deed::FullDisk => (tools.small_disks, "the right to mount a tmpfs"),
            Deed::Loss => (tools.nft, "nft, and the right to use it"),
            Deed::Skew => (tools.faketime.is_some(), "libfaketime"),
            Deed::Descriptors => (tools.prlimit, "prlimit"),
            _ => (true, ""),
        };
        (!there).then_some(what)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::proxy::Order;

    #[test]
    fn names_are_unique_and_orders_are_orders() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), FAULTS.len());
        for fault in FAULTS {
            assert!(fault.hold_s.0 <= fault.hold_s.1, "{}", fault.name);
            if let Deed::Proxy { orders, flap, .. } = fault.deed {
                assert!(orders.iter().all(|o| o.parse::<Order>().is_ok()), "{}", fault.name);
                assert_eq!(flap, fault.step_ms > 0, "{}", fault.name);
            }
        }
    }

    #[test]
    fn every_row_that_is_named_is_a_row() {
        for row in FAULTS.iter().flat_map(|f| f.rows) {
            let number: u32 = row.strip_prefix('F').unwrap().parse().unwrap();
            assert!((1..=55).contains(&number), "{row}");
        }
    }
}
