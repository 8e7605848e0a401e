//! The only loop and the only `select!`: takes what has come, gives it to the core, carries out what the core wants, and moves
//! what is queued into links that have room. Nothing in it waits for anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use delivery_core::{Action, LinkId, ProduceTo, Worker};
use futures::StreamExt;
use futures::future::FutureExt;
use ordered_log::{Consumer, ConsumerEvent, ProduceError, Reports, TailEvent, ToProduce, Topic, TopicPartition};
use process::Drain;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wire::{Offset, Partition};

use crate::clock::Clock;
use crate::error::{Alarm, Error};
use crate::handle::NewLink;
use crate::meters::Meters;
use crate::ownership::{Announced, Consuming, Owned};
use crate::ports::{Arrival, Ports, Room};
use crate::work::{Done, Reads, Tools, Work};
use crate::{
    COMMITTED_INTERVAL_MS, INPUTS_PER_TURN, LAG_INTERVAL_MS, LAST_MARKS_MS, Options, READ_BACKS_IN_FLIGHT_MAX,
    STORE_READS_IN_FLIGHT_MAX, TICK_MS,
};

/// Records folded in one wake-up before what came of them is handed out.
const RECORDS_PER_TURN: usize = 1_024;
/// How long the end waits for links to take what is queued for them.
const LAST_SENDS_MS: u64 = 500;

/// What woke the loop.
enum Input {
    Drain,
    Consumer(Option<ConsumerEvent>),
    Link(Option<NewLink>),
    Arrival(Arrival),
    Room(Room),
    Read(Done),
    ReadBack(Done),
    Work(Done),
    Owner(Option<TailEvent>),
    Tick,
}

/// Reports that are errors change nothing: what was lost is written again by the next round.
pub(crate) struct Sink;

impl Reports for Sink {
    fn report(&self, _: u64, outcome: Result<ordered_log::Appended, ProduceError>) {
        if let Err(error) = outcome {
            tracing::debug!(%error, "a record of ours was not logged; the next round repairs it");
        }
    }
}

pub(crate) struct Driver {
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    pub(crate) core: Worker,
    pub(crate) tools: Tools,
    pub(crate) consumer: Consumer,
    pub(crate) links: mpsc::Receiver<NewLink>,
    pub(crate) links_closed: bool,
    pub(crate) ports: Ports,
    pub(crate) reads: Reads,
    pub(crate) read_backs: Reads,
    pub(crate) work: Work,
    pub(crate) owned: BTreeMap<Partition, Owned>,
    pub(crate) owners: Option<mpsc::Receiver<TailEvent>>,
    /// All that stood in `owners` when we began is in `announced`.
    pub(crate) owners_heard: bool,
    pub(crate) announced: BTreeMap<Partition, Announced>,
    pub(crate) other_topic: Option<Alarm>,
    pub(crate) meters: Meters,
    pub(crate) topic: Topic,
    pub(crate) desk_topic: Topic,
    pub(crate) sink: Arc<Sink>,
    pub(crate) claims: u64,
    pub(crate) alarms: BTreeMap<Partition, String>,
    pub(crate) committed_next_ms: u64,
    pub(crate) committed_asked: bool,
    pub(crate) member_next_ms: u64,
    pub(crate) member_asked: bool,
    pub(crate) lag_next_ms: u64,
    pub(crate) lag_asked: bool,
    pub(crate) paused: BTreeSet<Partition>,
}

impl Driver {
    pub(crate) fn new(
        options: Options,
        tools: Tools,
        consumer: Consumer,
        core: Worker,
        links: mpsc::Receiver<NewLink>,
        other_topic: Option<Alarm>,
    ) -> Self {
        let work = Work::new();
        work.push(tools.tail_owners());
        options.health.set("delivery", Ok(()));
        Self {
            clock: Clock::new(),
            topic: options.lane_topics.messages().into(),
            desk_topic: options.lane_topics.desk().into(),
            meters: Meters::new(options.bytes_budget),
            options,
            core,
            tools,
            consumer,
            links,
            links_closed: false,
            ports: Ports::default(),
            reads: Reads::new(STORE_READS_IN_FLIGHT_MAX),
            read_backs: Reads::new(READ_BACKS_IN_FLIGHT_MAX),
            work,
            owned: BTreeMap::new(),
            owners: None,
            owners_heard: false,
            announced: BTreeMap::new(),
            other_topic,
            sink: Arc::new(Sink),
            claims: 0,
            alarms: BTreeMap::new(),
            committed_next_ms: 0,
            committed_asked: false,
            member_next_ms: 0,
            member_asked: false,
            lag_next_ms: 0,
            lag_asked: false,
            paused: BTreeSet::new(),
        }
    }

    pub(crate) async fn run(&mut self, drain: &Drain) -> Result<(), Error> {
        let mut ticks = interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                () = drain.started() => Input::Drain,
                event = self.consumer.events.recv() => Input::Consumer(event),
                link = self.links.recv(), if !self.links_closed => Input::Link(link),
                Some(arrival) = self.ports.arrivals.next(), if !self.ports.arrivals.is_empty() => Input::Arrival(arrival),
                Some(room) = self.ports.rooms.next(), if !self.ports.rooms.is_empty() => Input::Room(room),
                Some(done) = self.reads.running.next(), if !self.reads.running.is_empty() => Input::Read(done),
                Some(done) = self.read_backs.running.next(), if !self.read_backs.running.is_empty() => Input::ReadBack(done),
                Some(done) = self.work.next(), if !self.work.is_empty() => Input::Work(done),
                event = next_owner(&mut self.owners), if self.owners.is_some() => Input::Owner(event),
                _ = ticks.tick() => Input::Tick,
            };
            let now_ms = self.clock.now_ms();
            match input {
                Input::Drain => return Ok(()),
                Input::Consumer(None) if drain.is_started() => return Ok(()),
                Input::Consumer(None) => return Err(Error::ConsumerEnded),
                other => self.take(now_ms, other),
            }
            self.take_what_is_there(now_ms);
            self.turn(now_ms);
        }
    }

    fn take(&mut self, now_ms: u64, input: Input) {
        match input {
            Input::Consumer(Some(event)) => {
                self.consumer_event(now_ms, event);
            }
            Input::Link(Some(link)) => {
                let id = self.ports.open(now_ms, link);
                self.core.handle_link_up(id);
                self.meters.link_up.set(self.ports.len() as f64);
            }
            Input::Link(None) => self.links_closed = true,
            Input::Arrival(arrival) => self.arrival(now_ms, arrival),
            Input::Room(room) => {
                let link = room.0;
                if !self.ports.has_room(now_ms, &mut self.core, room) {
                    self.meters.link_closed.increment(1);
                    self.link_down(now_ms, link);
                }
            }
            Input::Read(done) => {
                self.reads.advance();
                self.done(now_ms, done);
            }
            Input::ReadBack(done) => {
                self.read_backs.advance();
                self.done(now_ms, done);
            }
            Input::Work(done) => self.done(now_ms, done),
            Input::Owner(event) => self.owner_event(now_ms, event),
            Input::Tick => self.tick(now_ms),
            Input::Drain | Input::Consumer(None) => {}
        }
    }

    /// What else is there already, so that it is pushed together; of each source only so much.
    fn take_what_is_there(&mut self, now_ms: u64) {
        let mut records = 0;
        while records < RECORDS_PER_TURN
            && let Ok(event) = self.consumer.events.try_recv()
        {
            records += 1 + self.consumer_event(now_ms, event);
        }
        for _ in 0..INPUTS_PER_TURN {
            let Some(Some(arrival)) = self.ports.arrivals.next().now_or_never() else {
                break;
            };
            self.arrival(now_ms, arrival);
        }
        for _ in 0..INPUTS_PER_TURN {
            let Some(Some(done)) = self.reads.running.next().now_or_never() else {
                break;
            };
            self.reads.advance();
            self.done(now_ms, done);
        }
    }

    /// Carries out what the core wants and moves what it has queued, until neither gives anything new.
    pub(crate) fn turn(&mut self, now_ms: u64) {
        loop {
            let mut any = false;
            while let Some(action) = self.core.poll_action() {
                any = true;
                self.carry_out(now_ms, action);
            }
            for link in self.ports.flush(now_ms, &mut self.core) {
                any = true;
                self.meters.link_closed.increment(1);
                self.link_down(now_ms, link);
            }
            if !any {
                break;
            }
        }
        self.meters.count(&self.core.take_stats());
    }

    fn carry_out(&mut self, now_ms: u64, action: Action) {
        match action {
            Action::Load {
                partition,
                instance,
                key,
            } => {
                if let Some(token) = self.token(partition) {
                    self.reads.push(self.tools.load((partition, instance), key, token));
                }
            }
            Action::ReadPage {
                token,
                key,
                after,
                limit,
            } => {
                if let Some(cancel) = self.token(token.partition) {
                    self.reads.push(self.tools.page(token, (key, after, limit), cancel));
                }
            }
            Action::ReadBack { token, offsets } => {
                if let Some(cancel) = self.token(token.partition) {
                    let at = self.at(token.partition);
                    self.read_backs.push(self.tools.read_back(at, token, offsets, cancel));
                }
            }
            Action::AskEnd { partition, instance } => {
                if let Some(token) = self.token(partition) {
                    self.work.push(self.tools.end(self.at(partition), instance, token));
                }
            }
            Action::Produce {
                to,
                partition,
                key,
                value,
            } => {
                let record = ToProduce {
                    topic: match to {
                        ProduceTo::Messages => self.topic.clone(),
                        ProduceTo::Desk => self.desk_topic.clone(),
                    },
                    partition,
                    key,
                    value: Some(value),
                    headers: Vec::new(),
                    token: 0,
                    reports: Arc::clone(&self.sink) as Arc<dyn Reports>,
                };
                if let Err(error) = self.tools.producer.produce(record) {
                    tracing::debug!(%error, "the log takes no record now; the next round repairs it");
                }
            }
            Action::Pause { partition } => {
                self.tools.control.pause(&self.at(partition));
                self.paused.insert(partition);
                self.tell_paused();
                tracing::warn!(%partition, "the memory budget is spent: reading waits for persistence");
            }
            Action::Resume { partition } => {
                self.tools.control.resume(&self.at(partition));
                self.paused.remove(&partition);
                self.tell_paused();
            }
            Action::CloseLink { link, why } => {
                tracing::warn!(link = link.0, why, "a link is dropped");
                self.meters.link_error.increment(1);
                self.link_down(now_ms, link);
            }
            Action::Stop { partition, why } => self.alarm(now_ms, Alarm::Core { partition, why }, partition),
        }
    }

    pub(crate) fn at(&self, partition: Partition) -> TopicPartition {
        TopicPartition {
            topic: self.topic.clone(),
            partition,
        }
    }

    /// Cancelled when the partition is let go; `None` if it is already.
    pub(crate) fn token(&self, partition: Partition) -> Option<CancellationToken> {
        self.owned.get(&partition).map(|owned| match owned {
            Owned::Claimed(c) => c.token(),
            Owned::Consuming(c) => c.token(),
        })
    }

    pub(crate) fn consuming(&mut self, partition: Partition, claim: u64) -> Option<&mut Consuming> {
        match self.owned.get_mut(&partition) {
            Some(Owned::Consuming(c)) if c.claim == claim => Some(c),
            _ => None,
        }
    }

    // ---- links

    fn arrival(&mut self, now_ms: u64, (link, message): Arrival) {
        match message {
            Some(message) if self.ports.heard(now_ms, link) => {
                for item in message.items {
                    self.core.handle_from_node(now_ms, link, item);
                }
            }
            Some(_) => {}
            None => {
                if self.link_down(now_ms, link) {
                    self.meters.link_closed.increment(1);
                }
            }
        }
    }

    fn link_down(&mut self, now_ms: u64, link: LinkId) -> bool {
        self.core.handle_link_down(now_ms, link);
        let was_open = self.ports.close(link);
        self.meters.link_up.set(self.ports.len() as f64);
        was_open
    }

    // ---- time

    fn tick(&mut self, now_ms: u64) {
        self.core.handle_tick(now_ms);
        for link in self.ports.beat(now_ms) {
            self.meters.link_timeout.increment(1);
            tracing::warn!(
                link = link.0,
                "a node has been silent for too long: its link is dropped"
            );
            self.link_down(now_ms, link);
        }
        let (count, bytes) = self.core.residents();
        self.meters.residents.set(count as f64);
        self.meters.resident_bytes.set(bytes as f64);
        self.meters.routes.set(self.core.routes() as f64);
        self.meters.parked.set(self.core.parked() as f64);
        self.meters.link_queue_items.set(self.core.queued_items() as f64);
        let reading: Vec<&Consuming> = self
            .owned
            .values()
            .filter_map(|o| match o {
                Owned::Consuming(c) if !c.stopped => Some(c),
                _ => None,
            })
            .collect();
        if reading.is_empty() {
            return;
        }
        let at: Vec<TopicPartition> = reading.iter().map(|c| c.at.clone()).collect();
        if !self.committed_asked && now_ms >= self.committed_next_ms {
            self.committed_asked = true;
            self.committed_next_ms = now_ms + COMMITTED_INTERVAL_MS;
            self.work.push(self.tools.committed(at.clone()));
        }
        if !self.member_asked && now_ms >= self.member_next_ms {
            self.member_asked = true;
            self.member_next_ms = now_ms + COMMITTED_INTERVAL_MS;
            let claims = reading.iter().map(|c| (c.at.partition, c.claim)).collect();
            self.work.push(self.tools.prove_membership(self.next_of(&at), claims));
        }
        if !self.lag_asked && now_ms >= self.lag_next_ms {
            self.lag_asked = true;
            self.lag_next_ms = now_ms + LAG_INTERVAL_MS;
            self.work.push(self.tools.lag(self.next_of(&at)));
        }
    }

    /// The offsets that are read next.
    fn next_of(&self, at: &[TopicPartition]) -> Vec<(TopicPartition, Offset)> {
        at.iter()
            .filter_map(|at| Some((at.clone(), self.core.position(at.partition)?)))
            .collect()
    }

    /// The end: every partition is handed over, what is queued leaves while links take it, and the group is left.
    pub(crate) async fn let_go_of_all(&mut self) {
        let now_ms = self.clock.now_ms();
        let partitions: Vec<Partition> = self.owned.keys().copied().collect();
        let draining: Vec<_> = partitions
            .into_iter()
            .filter_map(|p| self.hand_over(now_ms, p))
            .collect();
        let sends = async {
            self.turn(self.clock.now_ms());
            while let Some(room) = self.ports.rooms.next().await {
                self.ports.has_room(self.clock.now_ms(), &mut self.core, room);
                self.turn(self.clock.now_ms());
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(LAST_SENDS_MS), sends).await;
        self.tools.producer.flush(LAST_MARKS_MS).await;
        let released: Vec<Partition> = draining.into_iter().map(|d| d.released().0).collect();
        self.tools.control.close().await;
        tracing::info!(?released, "delivery has handed its partitions over");
    }
}

async fn next_owner(owners: &mut Option<mpsc::Receiver<TailEvent>>) -> Option<TailEvent> {
    match owners {
        Some(owners) => owners.recv().await,
        None => None,
    }
}
