//! The pairs' modes: closed loop, open loop, reconnect storm, away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::args::Args;
use crate::body::Sample;
use crate::drive::{self, Line, Tasks, World};
use crate::pair::{Pair, Phase, Who};
use crate::report::{Report, Storm};
use crate::tokens::Signer;
use crate::{Error, usage};

/// Connections being set up at once.
const SETUP_AT_ONCE: usize = 64;
/// How long closing every conversation may take, in the end.
const CLOSING: Duration = Duration::from_secs(10);

pub struct Talk {
    args: Args,
    world: Arc<World>,
    lines: Vec<Arc<Line>>,
    tasks: Tasks,
}

impl Talk {
    /// Connects all pairs and has every customer assigned to its own agent.
    pub async fn set_up(args: &Args, world: Arc<World>, pairs: usize, run: &str) -> Result<Self, Error> {
        if args.body_bytes < Sample::BYTES_MIN || args.body_bytes > wire::limits::BODY_BYTES_MAX {
            let (min, max) = (Sample::BYTES_MIN, wire::limits::BODY_BYTES_MAX);
            return Err(Error::Args(format!("--body-bytes must be {min} to {max}")));
        }
        let signer = Signer::new(&args.tenant, &args.dev_secret);
        let prefix = args.prefix.clone().unwrap_or_else(|| format!("load-{run}"));
        let mut lines = Vec::with_capacity(pairs);
        for i in 0..pairs {
            let (customer, agent) = (format!("{prefix}-c{i}"), format!("{prefix}-a{i}"));
            let tokens = [signer.token("customer", &customer)?, signer.token("agent", &agent)?];
            let ids = format!("{run}-{i}");
            lines.push(Line::new(
                i,
                Pair::new(&customer, &agent, tokens, &ids, args.body_bytes),
            ));
        }
        let mut talk = Self {
            args: args.clone(),
            world,
            lines,
            tasks: Tasks::new(),
        };
        eprintln!("load: connecting {pairs} agents …");
        talk.connect_slowly(Who::Agent).await?;
        for line in &talk.lines {
            let mut pair = line.pair.lock();
            pair.available();
            line.flush(&mut pair);
        }
        eprintln!("load: connecting {pairs} customers …");
        talk.connect_slowly(Who::Customer).await?;
        for line in &talk.lines {
            let mut pair = line.pair.lock();
            pair.request(&format!("{run}-request-{}", line.index));
            line.flush(&mut pair);
        }
        talk.tasks.spawn(drive::ticks(talk.world.clone(), talk.lines.clone()));
        let patience = talk.args.patience;
        drive::until("assigning", patience, &talk.lines, &mut talk.tasks, |p| p.active()).await?;
        eprintln!("load: {pairs} pairs talk to each other");
        Ok(talk)
    }

    async fn connect_slowly(&mut self, who: Who) -> Result<(), Error> {
        let lines = self.lines.clone();
        for some in lines.chunks(SETUP_AT_ONCE) {
            self.connect(some, who, 0);
            let up = |p: &mut Pair| p.side(who).phase >= Phase::Connected;
            drive::until("connecting", self.args.patience, some, &mut self.tasks, up).await?;
        }
        Ok(())
    }

    fn connect(&mut self, lines: &[Arc<Line>], who: Who, behind: u64) {
        for line in lines {
            self.tasks
                .spawn(drive::live(self.world.clone(), line.clone(), who, behind));
        }
    }

    /// Closed loop, or open loop with `--rate`.
    pub async fn measure(mut self) -> Result<Report, Error> {
        self.world.come_back.store(true, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let begun_ns = self.world.now_ns();
        let from_ns = begun_ns + ns(self.args.warmup);
        let until_ns = from_ns + ns(self.args.duration);
        {
            let mut stats = self.world.stats.lock();
            (stats.from_ns, stats.until_ns) = (from_ns, until_ns);
        }
        match self.args.rate {
            None => {
                for line in &self.lines {
                    let mut pair = line.pair.lock();
                    pair.in_flight = self.args.in_flight.clamp(1, crate::pair::OPEN_MAX);
                    pair.pump(self.world.now_ns());
                    line.flush(&mut pair);
                }
            }
            Some(rate) if rate > 0.0 => {
                let (world, lines, stop) = (self.world.clone(), self.lines.clone(), stop.clone());
                self.tasks.spawn_blocking(move || {
                    pace(&world, &lines, rate, until_ns, &stop);
                    Ok(())
                });
            }
            Some(_) => return Err(Error::Args("--rate must be above 0".into())),
        }
        eprintln!("load: warming up for {:?} …", self.args.warmup);
        self.sleep_until(from_ns).await?;
        let before = (usage::cpu_s(&self.args.pid), usage::own_cpu_s());
        eprintln!("load: measuring for {:?} …", self.args.duration);
        self.sleep_until(until_ns).await?;
        let after = (usage::cpu_s(&self.args.pid), usage::own_cpu_s());
        stop.store(true, Ordering::Relaxed);
        for line in &self.lines {
            line.pair.lock().in_flight = 0;
        }
        let mut report = self.finish().await;
        let cpu_s: BTreeMap<_, _> = after.0.iter().map(|(k, v)| (k.clone(), v - before.0[k])).collect();
        report.measured(&self.world.stats.lock(), self.args.duration, cpu_s, after.1 - before.1);
        Ok(report)
    }

    /// Cuts everybody at once; the time until all are back and caught up.
    pub async fn storm(mut self) -> Result<Report, Error> {
        self.send_each(Who::Customer, 10).await?;
        self.send_each(Who::Agent, 10).await?;
        let clients = self.lines.len() * 2;
        eprintln!("load: cutting {clients} clients …");
        self.drop_all(&[Who::Customer, Who::Agent]).await?;
        // The nodes shall have noticed: what is measured is coming back, not taking over.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let behind = self.args.behind;
        let before = usage::cpu_s(&self.args.pid);
        let begun_ns = self.world.now_ns();
        self.world.come_back.store(true, Ordering::Relaxed);
        let lines = self.lines.clone();
        self.connect(&lines, Who::Customer, behind);
        self.connect(&lines, Who::Agent, behind);
        let all = |p: &mut Pair| p.sides.iter().all(|s| s.phase == Phase::CaughtUp);
        drive::until("coming back", self.args.patience, &lines, &mut self.tasks, all).await?;
        let mut back_ms: Vec<f64> = Vec::new();
        for line in &lines {
            let pair = line.pair.lock();
            let at = pair.sides.iter().filter_map(|s| s.caught_up_ns);
            back_ms.extend(at.map(|at| at.saturating_sub(begun_ns) as f64 / 1e6));
        }
        back_ms.sort_by(f64::total_cmp);
        let after = usage::cpu_s(&self.args.pid);
        // And they still talk.
        self.send_each(Who::Customer, 1).await?;
        let mut report = self.finish().await;
        report.storm = Some(Storm {
            clients,
            behind,
            half_back_ms: back_ms.get(back_ms.len() / 2).copied().unwrap_or(0.0),
            all_back_ms: back_ms.last().copied().unwrap_or(0.0),
            cpu_s: after.iter().map(|(k, v)| (k.clone(), v - before[k])).collect(),
        });
        Ok(report)
    }

    /// Every pair's receiver is away while `n` messages are sent to it: customers of even pairs, agents of odd ones.
    pub async fn away(mut self, n: usize) -> Result<Report, Error> {
        self.send_each(Who::Customer, 1).await?;
        self.send_each(Who::Agent, 1).await?;
        let (even, odd): (Vec<_>, Vec<_>) = self.lines.clone().into_iter().partition(|l| l.index % 2 == 0);
        eprintln!("load: the receivers go away …");
        self.drop_some(&even, Who::Customer).await?;
        self.drop_some(&odd, Who::Agent).await?;
        eprintln!("load: sending {n} messages to each …");
        for (lines, sender) in [(&even, Who::Agent), (&odd, Who::Customer)] {
            for line in lines {
                let mut pair = line.pair.lock();
                let now_ns = self.world.now_ns();
                pair.side(sender).intended.extend(std::iter::repeat_n(now_ns, n));
            }
        }
        let world = self.world.clone();
        let lines = self.lines.clone();
        let pumped = |p: &mut Pair| {
            p.pump(world.now_ns());
            p.sides.iter().all(|s| s.all_sent())
        };
        let nudge = |lines: &[Arc<Line>]| {
            for line in lines {
                line.flush(&mut line.pair.lock());
            }
        };
        let begun_ns = self.world.now_ns();
        loop {
            let done = lines.iter().filter(|l| pumped(&mut l.pair.lock())).count();
            nudge(&lines);
            if done == lines.len() {
                break;
            }
            if self.world.now_ns() - begun_ns > ns(self.args.patience) {
                return Err(Error::Patience {
                    what: "sending to those who are away".into(),
                    there: done,
                    of: lines.len(),
                    detail: String::new(),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        eprintln!("load: the receivers come back …");
        let begun_ns = self.world.now_ns();
        self.connect(&even, Who::Customer, 0);
        self.connect(&odd, Who::Agent, 0);
        let all = |p: &mut Pair| p.sides.iter().all(|s| s.phase == Phase::CaughtUp) && p.quiet();
        let came = drive::until("catching up", self.args.patience, &lines, &mut self.tasks, all).await;
        let took_ms = (self.world.now_ns() - begun_ns) as f64 / 1e6;
        if let Err(error) = came {
            eprintln!("load: {error}");
        }
        let mut report = self.finish().await;
        report.away = Some(crate::report::Away {
            pairs: lines.len(),
            messages_each: n,
            caught_up_ms: took_ms,
        });
        Ok(report)
    }

    /// Each sends `n` messages and all arrive.
    async fn send_each(&mut self, who: Who, n: usize) -> Result<(), Error> {
        for line in &self.lines {
            let mut pair = line.pair.lock();
            let now_ns = self.world.now_ns();
            pair.side(who).intended.extend(std::iter::repeat_n(now_ns, n));
            pair.pump(now_ns);
            line.flush(&mut pair);
        }
        let lines = self.lines.clone();
        drive::until("talking", self.args.patience, &lines, &mut self.tasks, |p| p.quiet()).await?;
        // `placed` of the last ones may still be on its way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    async fn drop_all(&mut self, whose: &[Who]) -> Result<(), Error> {
        let lines = self.lines.clone();
        for who in whose {
            self.drop_some(&lines, *who).await?;
        }
        Ok(())
    }

    async fn drop_some(&mut self, lines: &[Arc<Line>], who: Who) -> Result<(), Error> {
        for line in lines {
            line.drop_socket(who);
        }
        // Their tasks end now, and the nodes hear of it.
        tokio::time::sleep(Duration::from_millis(400)).await;
        Ok(())
    }

    async fn sleep_until(&mut self, at_ns: u64) -> Result<(), Error> {
        loop {
            let now_ns = self.world.now_ns();
            if now_ns >= at_ns {
                return Ok(());
            }
            tokio::select! {
                _ = tokio::time::sleep(Duration::from_nanos(at_ns - now_ns)) => {}
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(error),
                    Err(panic) => return Err(Error::Task(panic.to_string())),
                },
            }
        }
    }

    /// Waits for what is under way, then counts what never came.
    async fn finish(&mut self) -> Report {
        let lines = self.lines.clone();
        let last = drive::until(
            "the last deliveries",
            self.args.patience,
            &lines,
            &mut self.tasks,
            |p| p.quiet(),
        )
        .await;
        if let Err(error) = last {
            eprintln!("load: {error}");
        }
        let report = {
            let mut stats = self.world.stats.lock();
            for line in &lines {
                line.pair.lock().settle(&mut stats);
            }
            Report::new(&self.args, lines.len(), &stats)
        };
        self.close().await;
        report
    }

    /// Leaves nobody in line behind: the next run would wait for those to be told their places. What is measured is over.
    async fn close(&mut self) {
        for line in &self.lines {
            let mut pair = line.pair.lock();
            pair.close(&format!("close-{}", line.index));
            line.flush(&mut pair);
        }
        let lines = self.lines.clone();
        if let Err(error) = drive::until("closing", CLOSING, &lines, &mut self.tasks, |p| p.closed()).await {
            eprintln!("load: {error}");
        }
    }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The open loop's clock, on a thread of its own: message k is meant for k / rate, whoever is late.
fn pace(world: &World, lines: &[Arc<Line>], rate: f64, until_ns: u64, stop: &AtomicBool) {
    let begun_ns = world.now_ns();
    let gap_ns = 1e9 / rate;
    let senders = lines.len() as u64 * 2;
    let mut k: u64 = 0;
    loop {
        let intended_ns = begun_ns + (k as f64 * gap_ns) as u64;
        if intended_ns >= until_ns || stop.load(Ordering::Relaxed) {
            return;
        }
        let now_ns = world.now_ns();
        if now_ns < intended_ns {
            std::thread::sleep(Duration::from_nanos(intended_ns - now_ns));
            continue;
        }
        // Customers and agents by turns, over all pairs.
        let sender = k % senders;
        let line = &lines[(sender / 2) as usize];
        let who = if sender.is_multiple_of(2) {
            Who::Customer
        } else {
            Who::Agent
        };
        let mut pair = line.pair.lock();
        pair.side(who).intended.push_back(intended_ns);
        pair.pump(now_ns);
        line.flush(&mut pair);
        drop(pair);
        let mut stats = world.stats.lock();
        if intended_ns >= stats.from_ns {
            stats
                .lateness_us
                .saturating_record(((now_ns - intended_ns) / 1_000).max(1));
        }
        k += 1;
    }
}
