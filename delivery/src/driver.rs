//! The only loop and the only `select!`: takes what has come, gives it to the core, carries out what the core wants, and moves
//! what is queued into links that have room. Nothing in it waits for anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use delivery_core::{Action, Entry, LinkId, ProduceTo, Worker};
use futures::{FutureExt, StreamExt};
use ordered_log::{
    Assigned, Batch, CommitError, Consumer, ConsumerEvent, Log, ProduceError, Reports, TailEvent, ToProduce, Topic,
    TopicPartition,
};
use process::metrics::{LOADS_TOTAL, REBALANCES_TOTAL};
use process::{Drain, Kind};
use store::History;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wire::{Partition, WorkerId};

use crate::clock::Clock;
use crate::error::{Alarm, Error};
use crate::handle::{Handle, NewLink};
use crate::link_server::{LinkTls, serve};
use crate::meters::Meters;
use crate::owners::{Announcer, heard};
use crate::ownership::{Claimed, Consuming, Owned};
use crate::ports::{Arrival, Ports, Room};
use crate::work::{Done, StoreReads, Tools, Work};
use crate::{COMMITTED_INTERVAL_MS, GROUP, INPUTS_PER_TURN, LAG_INTERVAL_MS, LAST_MARKS_MS, Options, TICK_MS};

/// Links that wait to be taken by the driver.
const NEW_LINKS: usize = 256;
/// Records folded in one wake-up before what came of them is handed out.
const RECORDS_PER_TURN: usize = 1_024;
/// How long the end waits for links to take what is queued for them.
const LAST_SENDS_MS: u64 = 500;

/// The delivery role of one process, for one lane.
pub struct Service {
    options: Options,
    log: Arc<dyn Log>,
    store: Arc<dyn History>,
    handle: Handle,
    links: mpsc::Receiver<NewLink>,
    server: Option<(TcpListener, Option<LinkTls>)>,
}

impl Service {
    pub fn new(options: Options, log: Arc<dyn Log>, store: Arc<dyn History>) -> Self {
        // Drawn afresh: a restarted worker is a stranger.
        let mut random = std::hash::RandomState::new().build_hasher();
        random.write_u64(Clock::new().now_ms());
        let worker = WorkerId(random.finish().max(1));
        let (sender, links) = mpsc::channel(NEW_LINKS);
        let handle = Handle { worker, links: sender };
        Self {
            options,
            log,
            store,
            handle,
            links,
            server: None,
        }
    }

    /// For nodes of this process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes links of other processes' nodes too, on a listener bound already.
    pub fn with_link_server(mut self, listener: TcpListener, tls: Option<LinkTls>) -> Self {
        self.server = Some((listener, tls));
        self
    }

    /// Delivers until the drain begins, then hands its partitions over.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let topics = &self.options.lane_topics;
        let topic: Topic = topics.messages().into();
        let other_topic = self.other_topic(&topic).await?;
        let producer = self.log.producer().await?;
        let consumer = self.log.consume(&topics.delivery_group(), &[topic]).await?;
        let tools = Tools {
            log: self.log,
            store: self.store,
            producer,
            control: Arc::clone(&consumer.control),
            announcer: Announcer {
                topic: topics.owners().into(),
                worker: self.handle.worker,
                name: self.options.name.clone(),
                link_address: self.options.link_advertise.clone().unwrap_or_default(),
            },
            persistence_group: topics.persistence_group(),
            load_failed: LOADS_TOTAL.with(&[("outcome", "failed")]),
        };
        if let Some((listener, tls)) = self.server {
            let serving = serve(listener, tls, self.handle.clone(), self.options.tasks.clone());
            self.options.tasks.spawn(Kind::Essential, "link-server", serving);
        }
        let core = Worker::new(delivery_core::Options {
            worker: self.handle.worker,
            name: self.options.name.clone(),
            topics: topics.clone(),
            bytes_budget: self.options.bytes_budget,
        });
        // The driver keeps no sender of its own links: only handles outside do.
        drop(self.handle);
        let mut driver = Driver::new(self.options, tools, consumer, core, self.links, other_topic);
        let end = driver.run(&drain).await;
        driver.let_go_of_all().await;
        end
    }

    /// The alarm of a topic that was re-made under its epoch.
    async fn other_topic(&self, topic: &Topic) -> Result<Option<Alarm>, Error> {
        let recorded = &self.options.messages_topic_id;
        if recorded.is_empty() {
            return Ok(None);
        }
        let found = self.log.topic(topic).await?;
        let found = found
            .ok_or_else(|| ordered_log::LogError::NoTopic(topic.to_string()))?
            .id;
        Ok((found != *recorded).then(|| Alarm::OtherTopic {
            topic: topic.to_string(),
            found,
            recorded: recorded.clone(),
            epoch: self.options.lane_topics.epoch,
        }))
    }
}

/// What woke the loop.
enum Input {
    Drain,
    Consumer(Option<ConsumerEvent>),
    Link(Option<NewLink>),
    Arrival(Arrival),
    Room(Room),
    Read(Done),
    Work(Done),
    Owner(Option<TailEvent>),
    Tick,
}

/// Counts reports that are errors; what was lost is written again by the next round.
struct Sink;

impl Reports for Sink {
    fn report(&self, _: u64, outcome: Result<ordered_log::Appended, ProduceError>) {
        if let Err(error) = outcome {
            tracing::debug!(%error, "a record of ours was not logged; the next round repairs it");
        }
    }
}

struct Driver {
    options: Options,
    clock: Clock,
    core: Worker,
    tools: Tools,
    consumer: Consumer,
    links: mpsc::Receiver<NewLink>,
    links_closed: bool,
    ports: Ports,
    reads: StoreReads,
    work: Work,
    owned: BTreeMap<Partition, Owned>,
    owners: Option<mpsc::Receiver<TailEvent>>,
    other_topic: Option<Alarm>,
    meters: Meters,
    topic: Topic,
    desk_topic: Topic,
    sink: Arc<Sink>,
    claims: u64,
    alarms: BTreeMap<Partition, String>,
    committed_next_ms: u64,
    committed_asked: bool,
    member_next_ms: u64,
    member_asked: bool,
    lag_next_ms: u64,
    lag_asked: bool,
    paused: BTreeSet<Partition>,
}

impl Driver {
    fn new(
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
            reads: StoreReads::default(),
            work,
            owned: BTreeMap::new(),
            owners: None,
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

    async fn run(&mut self, drain: &Drain) -> Result<(), Error> {
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
    fn turn(&mut self, now_ms: u64) {
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

    fn at(&self, partition: Partition) -> TopicPartition {
        TopicPartition {
            topic: self.topic.clone(),
            partition,
        }
    }

    /// Cancelled when the partition is let go; `None` if it is already.
    fn token(&self, partition: Partition) -> Option<CancellationToken> {
        self.owned.get(&partition).map(|owned| match owned {
            Owned::Claimed(c) => c.token(),
            Owned::Consuming(c) => c.token(),
        })
    }

    fn consuming(&mut self, partition: Partition, claim: u64) -> Option<&mut Consuming> {
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

    // ---- the log

    /// The number of records it brought.
    fn consumer_event(&mut self, now_ms: u64, event: ConsumerEvent) -> usize {
        match event {
            ConsumerEvent::Assigned(assigned) => {
                rebalanced("assigned");
                assigned.into_iter().for_each(|a| self.claim(now_ms, a));
            }
            ConsumerEvent::Records(batch) => return self.records(now_ms, batch),
            ConsumerEvent::Revoked { partitions, done } => {
                rebalanced("revoked");
                let draining: Vec<_> = partitions
                    .iter()
                    .filter_map(|at| self.hand_over(now_ms, at.partition))
                    .collect();
                self.turn(now_ms);
                let producer = Arc::clone(&self.tools.producer);
                self.work.push(
                    async move {
                        producer.flush(LAST_MARKS_MS).await;
                        for released in draining.into_iter().map(|d| d.released()) {
                            tracing::info!(partition = %released.0, "released");
                        }
                        let _ = done.send(());
                        Done::Cancelled
                    }
                    .boxed(),
                );
            }
            ConsumerEvent::Lost(partitions) => {
                rebalanced("lost");
                for at in partitions {
                    self.lose(now_ms, at.partition);
                }
            }
            ConsumerEvent::Trouble(trouble) => {
                self.options.health.set("delivery_log", trouble.map_or(Ok(()), Err));
            }
        }
        0
    }

    fn records(&mut self, now_ms: u64, batch: Batch) -> usize {
        let partition = batch.at.partition;
        let Some(Owned::Consuming(consuming)) = self.owned.get_mut(&partition) else {
            return 0;
        };
        if consuming.stopped {
            return 0;
        }
        let count = batch.records.len();
        consuming.last_at_ms = batch.records.last().map_or(consuming.last_at_ms, |r| r.at_ms);
        let entries = batch.records.into_iter().map(|r| Entry {
            offset: r.offset,
            at_ms: r.at_ms,
            key: r.key,
            value: r.value,
        });
        self.core.handle_records(now_ms, partition, entries);
        count
    }

    fn claim(&mut self, now_ms: u64, assigned: Assigned) {
        let partition = assigned.at.partition;
        self.lose(now_ms, partition);
        self.claims += 1;
        let claimed = Claimed::new(assigned.at, assigned.generation, self.claims);
        self.work.push(
            self.tools
                .claim(claimed.at.clone(), claimed.group, claimed.claim, claimed.token()),
        );
        self.owned.insert(partition, Owned::Claimed(claimed));
        self.meters.of(partition).owned.set(1.0);
    }

    /// Last watermarks, and nodes hear it; nothing of ours is done for it from here on.
    fn hand_over(&mut self, now_ms: u64, partition: Partition) -> Option<crate::ownership::Draining> {
        let owned = self.owned.remove(&partition)?;
        self.core.handle_revoked(now_ms, partition);
        self.gone(partition);
        match owned {
            Owned::Consuming(consuming) => Some(consuming.drain()),
            Owned::Claimed(_) => None,
        }
    }

    /// It is somebody else's already.
    fn lose(&mut self, now_ms: u64, partition: Partition) {
        if self.owned.remove(&partition).is_some() {
            self.core.handle_lost(now_ms, partition);
            self.gone(partition);
        }
    }

    fn gone(&mut self, partition: Partition) {
        let meters = self.meters.of(partition).clone();
        meters.owned.set(0.0);
        meters.stopped.set(0.0);
        meters.lag_records.set(0.0);
        meters.lag_seconds.set(0.0);
        self.alarms.remove(&partition);
        self.paused.remove(&partition);
        self.tell_paused();
        self.tell_health();
    }

    /// The partition stops until an operator has looked; the others go on.
    fn alarm(&mut self, now_ms: u64, alarm: Alarm, partition: Partition) {
        tracing::error!(%partition, %alarm, "the partition is stopped");
        self.core.handle_lost(now_ms, partition);
        let at = self.at(partition);
        self.tools.control.pause(&at);
        if let Some(Owned::Consuming(consuming)) = self.owned.get_mut(&partition) {
            consuming.stopped = true;
        }
        self.meters.of(partition).stopped.set(1.0);
        self.alarms.insert(partition, alarm.to_string());
        self.tell_health();
    }

    fn tell_paused(&self) {
        self.meters.paused.set(if self.paused.is_empty() { 0.0 } else { 1.0 });
    }

    fn tell_health(&self) {
        let why = self.alarms.values().next().cloned();
        self.options.health.set("delivery", why.map_or(Ok(()), Err));
    }

    fn owner_event(&mut self, now_ms: u64, event: Option<TailEvent>) {
        match event {
            None => {
                self.owners = None;
                self.work.push(self.tools.tail_owners());
            }
            Some(TailEvent::CaughtUp) => {}
            Some(TailEvent::Record(record)) => {
                let Some(said) = heard(&record) else { return };
                if said.worker == self.tools.announcer.worker {
                    return;
                }
                if let Some(Owned::Consuming(consuming)) = self.owned.get_mut(&said.partition)
                    && said.offset.0 > consuming.generation.announced
                {
                    // A commit decides: fenced, and it is theirs; accepted, and we say again that it is ours.
                    consuming.contested = true;
                    self.member_next_ms = now_ms;
                }
            }
        }
    }

    // ---- what was under way

    fn done(&mut self, now_ms: u64, done: Done) {
        match done {
            Done::Announced {
                at,
                claim,
                announced,
                start,
            } => {
                let partition = at.partition;
                if self.owned.get(&partition).is_none_or(|o| o.claim() != claim) {
                    return;
                }
                let Some(Owned::Claimed(claimed)) = self.owned.remove(&partition) else {
                    return;
                };
                let consuming = claimed.announced(announced);
                let (generation, token) = (consuming.generation, consuming.token());
                self.owned.insert(partition, Owned::Consuming(consuming));
                let start = match (self.other_topic.clone(), start) {
                    (Some(alarm), _) | (None, Err(alarm)) => return self.alarm(now_ms, alarm, partition),
                    (None, Ok(start)) => start,
                };
                tracing::info!(%partition, %generation, %start, "ours");
                self.core.handle_assigned(now_ms, partition, generation, start);
                let lane = (self.options.lane_topics.lane.clone(), self.options.lane_topics.epoch);
                self.work
                    .push(self.tools.open_sessions(lane, partition, claim, token.clone()));
                self.work.push(self.tools.start(at, claim, start, token));
            }
            Done::AnnouncedAgain { at, claim, announced } => {
                let Some(consuming) = self.consuming(at.partition, claim) else {
                    return;
                };
                consuming.announcing = false;
                if let Some(announced) = announced {
                    consuming.contested = false;
                    consuming.announced_again(announced);
                    let generation = consuming.generation;
                    tracing::info!(partition = %at.partition, %generation, "announced again");
                    self.core.handle_announced_again(at.partition, generation);
                }
            }
            Done::Started {
                at,
                claim,
                from,
                outcome,
            } => {
                if let Err(why) = outcome
                    && self.consuming(at.partition, claim).is_some()
                {
                    let partition = at.partition;
                    self.alarm(now_ms, Alarm::CannotStart { partition, from, why }, partition);
                }
            }
            Done::OpenSessions { partition, claim, keys } => {
                if self.consuming(partition, claim).is_some() {
                    self.core.handle_open_sessions(now_ms, partition, keys);
                }
            }
            Done::Loaded { at, key, loaded } => {
                let counter = if loaded.is_some() {
                    &self.meters.loads_ok
                } else {
                    &self.meters.loads_missing
                };
                counter.increment(1);
                self.core.handle_loaded(now_ms, at, &key, loaded.unwrap_or_default());
            }
            Done::Page { token, rows } => self.core.handle_page(now_ms, token, &rows),
            Done::End { at, end } => self.core.handle_end(now_ms, at, end),
            Done::Committed(offsets) => {
                self.committed_asked = false;
                for (partition, offset) in offsets {
                    if let Some(offset) = offset {
                        self.core.handle_committed(now_ms, partition, offset);
                    }
                }
            }
            Done::Lag(ends) => self.lag(now_ms, ends),
            Done::Membership { claims, outcome } => self.membership(now_ms, claims, outcome),
            Done::Tail(owners) => self.owners = Some(owners),
            Done::Cancelled => {}
        }
    }

    fn membership(&mut self, now_ms: u64, claims: Vec<(Partition, u64)>, outcome: Result<(), CommitError>) {
        self.member_asked = false;
        match outcome {
            Ok(()) => {
                self.meters.commits_ok.increment(1);
                for (partition, claim) in claims {
                    let tools = self.tools.clone();
                    let Some(consuming) = self.consuming(partition, claim) else {
                        continue;
                    };
                    if consuming.contested && !consuming.announcing && !consuming.stopped {
                        consuming.announcing = true;
                        let (at, group, token) = (consuming.at.clone(), consuming.generation.group, consuming.token());
                        self.work.push(tools.announce_again(at, group, claim, token));
                    }
                }
            }
            Err(CommitError::Fenced) => {
                self.meters.commits_fenced.increment(1);
                for (partition, claim) in claims {
                    if self.consuming(partition, claim).is_some() {
                        tracing::warn!(%partition, "a commit was refused: the partition is somebody else's");
                        self.lose(now_ms, partition);
                    }
                }
            }
            Err(CommitError::Failed(why)) => {
                self.meters.commits_failed.increment(1);
                tracing::debug!(why, "a commit failed; membership is not known");
            }
        }
    }

    fn lag(&mut self, now_ms: u64, ends: Vec<(Partition, wire::Offset)>) {
        self.lag_asked = false;
        for (partition, end) in ends {
            let Some(Owned::Consuming(consuming)) = self.owned.get(&partition) else {
                continue;
            };
            let last_at_ms = consuming.last_at_ms;
            let next = self.core.position(partition).map_or(0, |o| o.0);
            let behind = end.0.saturating_sub(next);
            let age_ms = if behind > 0 && last_at_ms > 0 {
                now_ms.saturating_sub(last_at_ms as u64)
            } else {
                0
            };
            let meters = self.meters.of(partition);
            meters.lag_records.set(behind as f64);
            meters.lag_seconds.set(age_ms as f64 / 1000.0);
        }
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
            let offsets = at
                .iter()
                .filter_map(|at| Some((at.clone(), self.core.position(at.partition)?)))
                .collect();
            self.work.push(self.tools.prove_membership(offsets, claims));
        }
        if !self.lag_asked && now_ms >= self.lag_next_ms {
            self.lag_asked = true;
            self.lag_next_ms = now_ms + LAG_INTERVAL_MS;
            self.work.push(self.tools.lag(at));
        }
    }

    /// The end: every partition is handed over, what is queued leaves while links take it, and the group is left.
    async fn let_go_of_all(&mut self) {
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
        let released = draining.into_iter().map(|d| d.released()).count();
        self.tools.control.close().await;
        tracing::info!(released, "delivery has handed its partitions over");
    }
}

async fn next_owner(owners: &mut Option<mpsc::Receiver<TailEvent>>) -> Option<TailEvent> {
    match owners {
        Some(owners) => owners.recv().await,
        None => None,
    }
}

fn rebalanced(kind: &str) {
    REBALANCES_TOTAL.with(&[("group", GROUP), ("kind", kind)]).increment(1);
}
