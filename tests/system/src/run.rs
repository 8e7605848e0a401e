//! One run: people talk, faults come and go, then quiesce, the final read and the verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::history::{Recorder, Who};
use client::pages::Pages;
use serde_json::json;
use sim::checker::history::{Entry, read_lines};
use sim::checker::{Report, Shown, Verdict, VoidLimits, check};

use crate::Failed;
use crate::house::House;
use crate::people::{Habits, People, Person};

/// After heal every pending send ends within this or never (L1 says 10 s, which the simulation decides).
const SENDS_END: Duration = Duration::from_secs(120);
/// All clients are back within this or never.
const BACK: Duration = Duration::from_secs(180);
/// The history holds everything within this or never.
const STORED: Duration = Duration::from_secs(180);

/// What only the servers' own lines decide: a run without them would be green for want of evidence.
const SERVERS_DECIDE: [&str; 5] = ["I11", "I12", "I13", "I16", "I20"];

/// A kill counts as over this long after the process is ready again.
const AFTERMATH: Duration = Duration::from_secs(2);

pub struct Run {
    pub house: House,
    pub people: People,
    recorder: Arc<Recorder>,
    history: PathBuf,
    faults: usize,
}

/// What a run left, and what the checker says of it.
pub struct Finished {
    pub house: House,
    pub entries: Vec<Entry>,
    pub report: Report,
    pub history: PathBuf,
    pub sent: usize,
    pub heard: usize,
}

impl Run {
    pub fn begin(house: House, customers: usize, agents: usize) -> Result<Self, Failed> {
        Self::begin_with(house, customers, agents, Habits::default())
    }

    pub fn begin_with(house: House, customers: usize, agents: usize, habits: Habits) -> Result<Self, Failed> {
        let history = house.dir.join("history.jsonl");
        let recorder = Recorder::append("people", &history).map_err(|e| Failed::because("the history", e))?;
        let people = People::arrive(&house, Arc::clone(&recorder), customers, agents, habits)?;
        Ok(Run {
            house,
            people,
            recorder,
            history,
            faults: 0,
        })
    }

    pub async fn talk(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// Writes the run's history; for what hurts the house from outside.
    pub fn recorder(&self) -> Arc<Recorder> {
        Arc::clone(&self.recorder)
    }

    // ---- faults ----

    fn fault(&mut self, name: &str, target: &str, start: bool) {
        let state = if start { "start" } else { "stop" };
        let hits = u64::from(!start);
        self.faults += usize::from(start);
        self.recorder.note(
            "note",
            "fault",
            json!({ "name": name, "target": target, "state": state, "hits": hits }),
        );
        println!("    {name} {target} {state}");
    }

    /// kill -9, dead for a while, started again.
    pub async fn kill(&mut self, index: usize, dead: Duration) -> Result<(), Failed> {
        let name = self.house.procs[index].name.clone();
        self.fault("kill", &name, true);
        self.house.kill(index)?;
        tokio::time::sleep(dead).await;
        self.house.start(index)?;
        self.house.ready().await?;
        // What it had under way is being sent again.
        tokio::time::sleep(AFTERMATH).await;
        self.fault("kill", &name, false);
        Ok(())
    }

    /// SIGSTOP, asleep for a while, SIGCONT.
    pub async fn pause(&mut self, index: usize, asleep: Duration) -> Result<(), Failed> {
        let name = self.house.procs[index].name.clone();
        self.fault("pause", &name, true);
        self.house.signal(index, "STOP")?;
        tokio::time::sleep(asleep).await;
        self.house.signal(index, "CONT")?;
        self.fault("pause", &name, false);
        Ok(())
    }

    /// The same for a process that is not ours, by its number.
    pub async fn pause_pid(&mut self, name: &str, pid: u32, asleep: Duration) -> Result<(), Failed> {
        self.fault("pause", name, true);
        crate::house::signal(pid, "STOP")?;
        tokio::time::sleep(asleep).await;
        crate::house::signal(pid, "CONT")?;
        self.fault("pause", name, false);
        Ok(())
    }

    // ---- the end ----

    fn phase(&self, phase: &str) {
        self.recorder.note("note", "phase", json!({ "phase": phase }));
    }

    async fn wait_for(&self, most: Duration, what: impl Fn(&People) -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < most {
            if what(&self.people) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        what(&self.people)
    }

    /// [`Run::finish`], and an error unless everything held and what servers decide was decided. `sends_min`: fewer sends during faults make the run void.
    pub async fn decide(self, sends_min: usize) -> Result<(), Failed> {
        let faults = self.faults;
        let done = self.finish(sends_min).await?;
        println!("    {} sent, {} heard, {faults} faults", done.sent, done.heard);
        let undecided = |id: &&str| matches!(done.report.verdict(id), Some(Verdict::Undecided(_)));
        let blind: Vec<&str> = SERVERS_DECIDE.into_iter().filter(undecided).collect();
        if done.report.is_green() && blind.is_empty() {
            return Ok(());
        }
        if !blind.is_empty() {
            println!("    not decided: {}", blind.join(", "));
        }
        Err(Failed(format!(
            "{}decide it again: cargo run -p sim -- check {}\n{}",
            Shown(&done.report, &done.entries),
            done.history.display(),
            done.house.last_words()
        )))
    }

    /// Quiesce, reconnect, read everything, check.
    pub async fn finish(self, sends_min: usize) -> Result<Finished, Failed> {
        let mood = Arc::clone(&self.people.mood);
        self.phase("healed");
        mood.talking.store(false, Ordering::SeqCst);
        // Whatever does not end in time stays pending in the history: L1 goes red, not this wait.
        self.wait_for(SENDS_END, |p| p.mood.pending.load(Ordering::SeqCst) == 0)
            .await;
        self.quiet(Duration::from_secs(3), SENDS_END).await;
        self.phase("settled");
        mood.cuts.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let all = self.people.count();
        self.wait_for(BACK, |p| p.mood.up.load(Ordering::SeqCst) == all).await;
        self.quiet(Duration::from_secs(3), SENDS_END).await;
        self.phase("reconnected");
        let read = self.final_read().await;
        let (sent, heard) = (mood.sent.load(Ordering::SeqCst), mood.heard.load(Ordering::SeqCst));
        let (house, history) = (self.house, self.history);
        self.people.leave().await;
        read.map_err(|e| Failed(format!("{e}\n{}", house.last_words())))?;
        let mut text = std::fs::read_to_string(&history).map_err(|e| Failed::because("the history", e))?;
        text.push_str(&house.histories()?);
        let history = house.dir.join("all.jsonl");
        std::fs::write(&history, &text).map_err(|e| Failed::because("the history", e))?;
        let entries = read_lines(&text).map_err(|e| Failed::because("the history", e))?;
        let limits = VoidLimits {
            sends_during_faults_min: sends_min,
        };
        let report = check(&entries, limits);
        Ok(Finished {
            house,
            entries,
            report,
            history,
            sent,
            heard,
        })
    }

    /// Waits until nothing new was heard for a while.
    async fn quiet(&self, still: Duration, most: Duration) {
        let began = Instant::now();
        let heard = || self.people.mood.heard.load(Ordering::SeqCst);
        let (mut last, mut since) = (heard(), Instant::now());
        while since.elapsed() < still && began.elapsed() < most {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if heard() != last {
                (last, since) = (heard(), Instant::now());
            }
        }
    }

    /// Every conversation, by its customer and by an agent, once the store has stopped growing.
    async fn final_read(&self) -> Result<(), Failed> {
        let urls = self.house.urls();
        let url = urls
            .first()
            .ok_or_else(|| Failed("no node to read history from".into()))?;
        let pages = Pages::new(url).map_err(|e| Failed::because("history", e))?;
        let agent = self.people.persons.iter().find(|p| p.who.role == "agent").cloned();
        let mut done: Vec<Who> = Vec::new();
        let mut reads = Vec::new();
        for person in self.people.persons.iter().filter(|p| p.who.role == "customer") {
            if done.contains(&person.who) {
                continue;
            }
            done.push(person.who.clone());
            reads.extend(
                agent
                    .iter()
                    .chain([person])
                    .map(|reader| (reader.clone(), person.who.user.clone())),
            );
        }
        self.stored(&pages, &reads).await?;
        for (reader, conversation) in &reads {
            self.read_all(&pages, reader, conversation).await?;
        }
        Ok(())
    }

    /// Waits until all of them were answered alike twice, two seconds apart: what was to be stored is stored.
    async fn stored(&self, pages: &Pages, reads: &[(Person, String)]) -> Result<(), Failed> {
        let began = Instant::now();
        let mut last = None;
        loop {
            let mut now = Vec::new();
            let mut failed = None;
            for (reader, conversation) in reads {
                match pages.after(&reader.token, conversation, 0, 1).await {
                    Ok(page) => now.push(page.last_seq),
                    Err(e) => failed = Some(e),
                }
            }
            match failed {
                Some(e) if began.elapsed() > STORED => return Err(Failed::because("the final read", e)),
                Some(_) => last = None,
                None if last.as_ref() == Some(&now) => return Ok(()),
                None => last = Some(now),
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    async fn read_all(&self, pages: &Pages, reader: &Person, conversation: &str) -> Result<(), Failed> {
        let mut after = 0;
        loop {
            let page = pages
                .after(&reader.token, conversation, after, wire::limits::PAGE_EVENTS_MAX)
                .await;
            let page = page.map_err(|e| Failed::because("the final read", e))?;
            let Some(highest) = page.events.last().map(|e| e.seq) else {
                return Ok(());
            };
            self.recorder.page(&reader.who, conversation, &page, true);
            after = highest;
        }
    }
}
