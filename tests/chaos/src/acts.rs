//! How each fault is done and undone. `begin` and `end` are quick but for servers that must start again; `step` is what repeats.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use system::Failed;

use crate::faults::{Deed, Fault, Hop};
use crate::lab::Lab;
use crate::proxy::{Order, Proxy};
use crate::{garbage, tools};

/// A process told to leave must have left within this: its drain's deadline and a little.
const LEAVES: Duration = Duration::from_secs(30);
/// A fault that was drawn, and what is known of it.
pub struct Active {
    pub fault: &'static Fault,
    /// Processes, brokers (`broker-2`), `store`, or `topics`.
    pub targets: Vec<String>,
    pub rng: ChaCha8Rng,
    pub steps: u64,
    /// How often it did something.
    pub hits: u64,
    /// What a reader of the report should know.
    pub notes: Vec<String>,
    /// Hits of its proxies when it began.
    proxied_before: u64,
    on: bool,
    helper: Option<std::process::Child>,
    /// The soft limit of descriptors it had.
    descriptors: String,
}

impl Active {
    pub fn new(fault: &'static Fault, targets: Vec<String>, rng: ChaCha8Rng) -> Self {
        Active {
            fault,
            targets,
            rng,
            steps: 0,
            hits: 0,
            notes: Vec::new(),
            proxied_before: 0,
            on: false,
            helper: None,
            descriptors: String::new(),
        }
    }

    pub fn target(&self) -> String {
        self.targets.join(" ")
    }

    fn note_in_history(&self, lab: &Lab, state: &str) {
        let hits = if state == "stop" { self.hits } else { 0 };
        let fields = json!({ "name": self.fault.name, "target": self.target(), "state": state, "hits": hits });
        lab.recorder.note("note", "fault", fields);
    }

    pub async fn begin(&mut self, lab: &mut Lab) -> Result<(), Failed> {
        self.note_in_history(lab, "start");
        match self.fault.deed {
            Deed::Kill => {
                let index = self.process(lab)?;
                lab.down.insert(index);
                self.hits += u64::from(lab.run.house.pid(index).is_some());
                lab.run.house.kill(index)?;
            }
            Deed::Term => {
                let index = self.process(lab)?;
                lab.down.insert(index);
                self.hits += u64::from(lab.run.house.pid(index).is_some());
                lab.run.house.signal(index, "TERM")?;
            }
            Deed::Sleep => {
                let index = self.process(lab)?;
                lab.run.house.signal(index, "STOP")?;
                self.hits += 1;
            }
            Deed::KillBroker | Deed::KillTwoBrokers => {
                for id in self.brokers() {
                    self.hits += u64::from(lab.brokers.kill(id).await);
                }
            }
            Deed::FreezeTwoBrokers | Deed::StutterBroker => self.toggle_brokers(lab),
            Deed::SlowDisk => self.slow_disk(lab)?,
            Deed::FullDisk => self.fill_disk(lab)?,
            Deed::SleepStore => self.hits += u64::from(lab.store.signal("STOP")),
            Deed::Proxy { .. } => {
                self.proxied_before = self.proxies(lab)?.iter().map(|p| p.hits()).sum();
                self.order(lab)?;
            }
            Deed::Loss => self.lose(lab)?,
            Deed::Skew => self.skew(lab)?,
            Deed::Descriptors => self.take_descriptors(lab)?,
            Deed::Storm => self.storm(lab)?,
            Deed::Garbage => self.hits += garbage::throw(&lab.brokers.direct(), &lab.lane, &mut self.rng).await?,
        }
        Ok(())
    }

    /// What is repeated while it lasts.
    pub async fn step(&mut self, lab: &mut Lab) -> Result<(), Failed> {
        self.steps += 1;
        match self.fault.deed {
            Deed::FreezeTwoBrokers | Deed::StutterBroker => self.toggle_brokers(lab),
            Deed::Proxy { .. } => self.order(lab)?,
            Deed::Skew => self.jump(lab)?,
            Deed::Storm => self.storm(lab)?,
            Deed::Garbage => self.hits += garbage::throw(&lab.brokers.direct(), &lab.lane, &mut self.rng).await?,
            _ => {}
        }
        Ok(())
    }

    pub async fn end(&mut self, lab: &mut Lab) -> Result<(), Failed> {
        match self.fault.deed {
            Deed::Kill => self.up_again(lab)?,
            Deed::Term => {
                self.wait_for_leave(lab).await?;
                self.up_again(lab)?;
            }
            Deed::Sleep => {
                let index = self.process(lab)?;
                lab.run.house.signal(index, "CONT")?;
            }
            Deed::KillBroker | Deed::KillTwoBrokers => lab.brokers.start(&self.brokers()).await?,
            Deed::FreezeTwoBrokers | Deed::StutterBroker => {
                if self.on {
                    self.toggle_brokers(lab);
                }
            }
            Deed::SlowDisk => {
                // strace lets go of the process when it is told to leave.
                if let Some(mut helper) = self.helper.take() {
                    let _ = system::house::signal(helper.id(), "INT");
                    let _ = helper.wait();
                }
            }
            Deed::FullDisk => self.make_room(lab).await?,
            Deed::SleepStore => {
                lab.store.signal("CONT");
            }
            Deed::Proxy { .. } => {
                let proxies = self.proxies(lab)?;
                for proxy in &proxies {
                    proxy.heal();
                }
                let now: u64 = proxies.iter().map(|p| p.hits()).sum();
                self.hits = now - self.proxied_before;
            }
            Deed::Loss => self.find()?,
            Deed::Skew => {
                let index = self.process(lab)?;
                lab.run.house.kill(index)?;
                lab.run.house.procs[index].env.clear();
                self.up_again(lab)?;
            }
            Deed::Descriptors => {
                if let Some(pid) = lab.run.house.pid(self.process(lab)?) {
                    limit_descriptors(pid, &self.descriptors)?;
                }
            }
            Deed::Storm => {
                for target in self.targets.clone() {
                    let index = lab.run.house.index(&target)?;
                    if lab.down.contains(&index) {
                        lab.run.house.kill(index)?;
                        lab.down.remove(&index);
                        lab.run.house.start(index)?;
                    }
                }
            }
            Deed::Garbage => {}
        }
        self.note_in_history(lab, "stop");
        Ok(())
    }

    // ---- processes ----

    fn process(&self, lab: &Lab) -> Result<usize, Failed> {
        let name = self
            .targets
            .first()
            .ok_or_else(|| Failed("a fault without a target".into()))?;
        lab.run.house.index(name)
    }

    fn up_again(&self, lab: &mut Lab) -> Result<(), Failed> {
        let index = self.process(lab)?;
        lab.down.remove(&index);
        lab.run.house.start(index)
    }

    async fn wait_for_leave(&mut self, lab: &mut Lab) -> Result<(), Failed> {
        let index = self.process(lab)?;
        let began = Instant::now();
        loop {
            if let Some(status) = lab.run.house.ended(index) {
                self.notes.push(format!("left with {}", status.code().unwrap_or(-1)));
                return Ok(());
            }
            if began.elapsed() > LEAVES {
                lab.run.house.kill(index)?;
                return Err(Failed(format!(
                    "{} was told to leave and did not in {LEAVES:?}",
                    self.target()
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One of the workers is killed or told to leave, or one that is down comes back.
    fn storm(&mut self, lab: &mut Lab) -> Result<(), Failed> {
        let which = self.rng.random_range(0..self.targets.len());
        let index = lab.run.house.index(&self.targets[which])?;
        if lab.down.remove(&index) {
            lab.run.house.kill(index)?;
            lab.run.house.start(index)?;
        } else {
            lab.down.insert(index);
            if self.rng.random() {
                lab.run.house.kill(index)?;
            } else {
                lab.run.house.signal(index, "TERM")?;
            }
        }
        self.hits += 1;
        Ok(())
    }

    fn take_descriptors(&mut self, lab: &mut Lab) -> Result<(), Failed> {
        let index = self.process(lab)?;
        let Some(pid) = lab.run.house.pid(index) else {
            return Ok(());
        };
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let now = tools::run(
            "prlimit",
            &["--pid", &pid.to_string(), "--nofile", "--output=SOFT", "--noheadings"],
        )?;
        now.trim().clone_into(&mut self.descriptors);
        limit_descriptors(pid, &open.to_string())?;
        self.hits += 1;
        self.notes.push(format!("no more than {open} descriptors"));
        // Everybody comes anew, and finds no room.
        let front = lab.proxy(&format!("front-{}", self.target()))?;
        front.order(one("rst")?);
        front.heal();
        Ok(())
    }

    fn clock(&self, lab: &Lab) -> PathBuf {
        lab.dir.join(format!("clock-of-{}", self.target()))
    }

    /// Started again with another clock.
    fn skew(&mut self, lab: &mut Lab) -> Result<(), Failed> {
        let index = self.process(lab)?;
        self.jump(lab)?;
        let library = lab.tools.faketime.clone().unwrap_or_default();
        let env = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.clock(lab).display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ];
        lab.run.house.kill(index)?;
        lab.run.house.procs[index].env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        lab.run.house.start(index)?;
        self.hits += 1;
        Ok(())
    }

    /// The process's wall clock is put somewhere else.
    fn jump(&mut self, lab: &Lab) -> Result<(), Failed> {
        const CLOCKS: [&str; 5] = ["+300", "-7200", "+0", "+0 x10", "-60"];
        let clock = CLOCKS[self.rng.random_range(0..CLOCKS.len())];
        self.notes.push(clock.to_owned());
        std::fs::write(self.clock(lab), format!("{clock}\n")).map_err(|e| Failed::because("a clock's file", e))
    }

    // ---- brokers ----

    fn brokers(&self) -> Vec<u16> {
        let ids = self.targets.iter().filter_map(|t| t.strip_prefix("broker-"));
        ids.filter_map(|id| id.parse().ok()).collect()
    }

    fn toggle_brokers(&mut self, lab: &Lab) {
        self.on = !self.on;
        for id in self.brokers() {
            let done = lab.brokers.signal(id, if self.on { "STOP" } else { "CONT" });
            self.hits += u64::from(done && self.on);
        }
    }

    /// Every sync of the broker's records takes 0.4 s (the lab's brokers sync each append).
    fn slow_disk(&mut self, lab: &Lab) -> Result<(), Failed> {
        let Some(pid) = self.brokers().first().and_then(|id| lab.brokers.pid(*id)) else {
            return Ok(());
        };
        let out = lab.dir.join("strace.log");
        let log = std::fs::File::create(&out).map_err(|e| Failed::because("strace's log", e))?;
        let helper = std::process::Command::new("strace")
            .args(["-f", "-q", "-p", &pid.to_string(), "-e", "trace=fsync,fdatasync"])
            .args(["-e", "inject=fsync,fdatasync:delay_enter=400000", "-o", "/dev/null"])
            .stdin(std::process::Stdio::null())
            .stderr(log)
            .spawn();
        self.helper = Some(helper.map_err(|e| Failed::because("strace", e))?);
        self.hits += 1;
        Ok(())
    }

    fn fill_disk(&mut self, lab: &Lab) -> Result<(), Failed> {
        for id in self.brokers() {
            let file = filler(lab, id);
            // It fails when nothing is left; that is what it is for.
            let _ = tools::run("dd", &["if=/dev/zero", &format!("of={}", file.display()), "bs=64k"]);
            self.hits += u64::from(std::fs::metadata(&file).is_ok_and(|m| m.len() > 0));
        }
        Ok(())
    }

    async fn make_room(&mut self, lab: &Lab) -> Result<(), Failed> {
        for id in self.brokers() {
            let _ = std::fs::remove_file(filler(lab, id));
            if lab.brokers.pid(id).is_some() {
                continue;
            }
            self.notes.push("the broker had left, and was started again".into());
            if lab.brokers.start(&[id]).await.is_ok() {
                continue;
            }
            // Its own files are torn, as Kafka leaves them on a full disk; an operator gives it an empty disk, and it copies the others.
            self.notes.push("on an empty disk".into());
            let _ = std::fs::remove_dir_all(lab.brokers.disk(id).join("data"));
            lab.brokers.start(&[id]).await?;
        }
        Ok(())
    }

    // ---- the network ----

    fn proxies(&self, lab: &Lab) -> Result<Vec<Arc<Proxy>>, Failed> {
        let Deed::Proxy { hop, .. } = self.fault.deed else {
            return Ok(Vec::new());
        };
        let mut proxies = Vec::new();
        for target in &self.targets {
            match hop {
                Hop::Kafka => proxies.extend(lab.kafka_of(target)),
                Hop::Front => proxies.push(lab.proxy(&format!("front-{target}"))?),
                Hop::Link => proxies.push(lab.proxy(&format!("link-{target}"))?),
                Hop::Cql => proxies.push(lab.proxy(&format!("cql-{target}"))?),
            }
        }
        Ok(proxies)
    }

    /// Gives the orders; what flaps is healed with every other step.
    fn order(&mut self, lab: &Lab) -> Result<(), Failed> {
        let Deed::Proxy {
            orders, flap, one_in, ..
        } = self.fault.deed
        else {
            return Ok(());
        };
        let proxies = self.proxies(lab)?;
        self.on = !(flap && self.on);
        for proxy in proxies {
            if !self.on {
                proxy.heal();
                continue;
            }
            for order in orders {
                proxy.order_one_in(one(order)?, one_in);
            }
        }
        Ok(())
    }

    fn table(&self) -> String {
        format!("switchboard_chaos_{}", std::process::id())
    }

    /// A fifth of the packets to the target's Kafka and link ports is dropped by the kernel.
    fn lose(&mut self, lab: &Lab) -> Result<(), Failed> {
        let table = self.table();
        let mut rules = format!("table inet {table} {{\n chain input {{\n  type filter hook input priority 0;\n");
        for target in &self.targets {
            let mut proxies = lab.kafka_of(target);
            proxies.extend(lab.proxy(&format!("link-{target}")).ok());
            for proxy in proxies {
                let port = proxy.address.port();
                for side in ["dport", "sport"] {
                    rules.push_str(&format!(
                        "  tcp {side} {port} numgen random mod 100 < 20 counter drop\n"
                    ));
                }
            }
        }
        rules.push_str(" }\n}\n");
        let file = lab.dir.join("loss.nft");
        std::fs::write(&file, rules).map_err(|e| Failed::because("nft's rules", e))?;
        tools::run("nft", &["-f", &file.display().to_string()]).map(|_| ())
    }

    fn find(&mut self) -> Result<(), Failed> {
        let table = self.table();
        let listed = tools::run("nft", &["list", "table", "inet", &table])?;
        let mut words = listed.split_whitespace();
        while let Some(word) = words.next() {
            if word == "packets" {
                self.hits += words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        tools::run("nft", &["delete", "table", "inet", &table]).map(|_| ())
    }
}

fn one(order: &str) -> Result<Order, Failed> {
    order.parse().map_err(|e| Failed::because("a proxy's order", e))
}

fn filler(lab: &Lab, id: u16) -> PathBuf {
    lab.brokers.disk(id).join("filler")
}

fn limit_descriptors(pid: u32, most: &str) -> Result<(), Failed> {
    // The soft limit only, so that it can be raised again.
    tools::run("prlimit", &["--pid", &pid.to_string(), &format!("--nofile={most}:")]).map(|_| ())
}
