//! Membership: which partitions are ours, and one task for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, Shared as SharedFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use ordered_log::{Assigned, Consumer, ConsumerEvent, Log, LogError, Pace, Topic, TopicPartition};
use parking_lot::Mutex;
use process::metrics::{
    PARTITION_LAG_RECORDS, PARTITION_LAG_SECONDS, PARTITION_OWNED, PARTITION_STOPPED, REBALANCES_TOTAL,
};
use process::tasks::TaskHandle;
use process::{Drain, Kind};
use store::History;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wire::Partition;

use crate::core::Place;
use crate::dead_letters::DeadLetters;
use crate::error::{Alarm, Error};
use crate::inbox::Inbox;
use crate::meters::{Away, GROUP, Meters, now_ms};
use crate::partition::{Consuming, Progress, Shared, Stopped};
use crate::write::{Patient, Retry};
use crate::{LAG_INTERVAL_MS, Options};

/// The persistence role of one process, for one lane.
pub struct Service {
    options: Options,
    log: Arc<dyn Log>,
    store: Arc<dyn History>,
}

/// One partition that is ours.
struct Owned {
    inbox: Arc<Inbox>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    /// It stopped by itself; what is still read of it is thrown away.
    stopped: Arc<AtomicBool>,
    task: TaskHandle,
}

impl Owned {
    /// Its gauges say nothing of a partition that is somebody else's: an old lag would be an alarm for ever.
    fn let_go(&self, partition: Partition) {
        self.progress.let_go.store(true, Ordering::Relaxed);
        owned_gauge(partition, 0.0);
        lag_gauges(partition, 0, 0.0);
    }
}

impl Service {
    pub fn new(options: Options, log: Arc<dyn Log>, store: Arc<dyn History>) -> Self {
        Self { options, log, store }
    }

    /// Stores until the drain begins, then hands its partitions over.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let topic: Topic = self.options.lane_topics.messages().into();
        let group = self.options.lane_topics.persistence_group();
        let shared = self.shared().await?;
        let consumer = self.log.consume(&group, &[topic], Pace::Gathered).await?;
        let alarms = Alarms {
            by_partition: Arc::default(),
            health: self.options.health.clone(),
        };
        let mut driver = Driver {
            options: self.options,
            shared,
            consumer,
            owned: HashMap::new(),
            alarms,
        };
        let end = driver.run(&drain).await;
        driver.let_go(&drain).await;
        end
    }

    async fn shared(&self) -> Result<Arc<Shared>, LogError> {
        let meters = Arc::new(Meters::new());
        let patient = Patient {
            store: Arc::clone(&self.store),
            away: Away::new(self.options.health.clone()),
            meters: Arc::clone(&meters),
        };
        let dead_letters = DeadLetters {
            producer: self.log.producer().await?,
            topic: self.options.lane_topics.dead_letters().into(),
        };
        Ok(Arc::new(Shared {
            log: Arc::clone(&self.log),
            patient,
            dead_letters,
            meters,
            commit_interval: Duration::from_millis(self.options.commit_interval_ms),
            phase: Instant::now(),
            gather: Duration::from_millis(self.options.gather_ms),
            resident_bytes_max: self.options.resident_bytes_per_partition,
            recorder: self.options.recorder.clone(),
        }))
    }
}

/// Whether the topic is still the one its epoch was recorded with; asked once for all partitions of an assignment.
type SameTopic = SharedFuture<BoxFuture<'static, Result<(), Alarm>>>;

async fn same_topic(log: Arc<dyn Log>, options: Options) -> Result<(), Alarm> {
    let recorded = options.messages_topic_id;
    if recorded.is_empty() {
        return Ok(());
    }
    let topic = options.lane_topics.messages();
    let mut retry = Retry::new();
    let found = loop {
        match log.topic(&topic).await {
            Ok(Some(found)) => break found.id,
            Ok(None) => tracing::warn!(topic, "the topic is gone; looking again"),
            Err(why) => tracing::warn!(%why, "cannot ask which topic it is; trying again"),
        }
        retry.pause().await;
    };
    if found == recorded {
        return Ok(());
    }
    Err(Alarm::OtherTopic {
        topic,
        found,
        recorded,
        epoch: options.lane_topics.epoch,
    })
}

struct Driver {
    options: Options,
    shared: Arc<Shared>,
    consumer: Consumer,
    owned: HashMap<TopicPartition, Owned>,
    alarms: Alarms,
}

impl Driver {
    async fn run(&mut self, drain: &Drain) -> Result<(), Error> {
        let mut lag_ticks = interval(Duration::from_millis(LAG_INTERVAL_MS));
        lag_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lag: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut handovers: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = drain.started() => return Ok(()),
                event = self.consumer.events.recv() => match event {
                    Some(event) => handovers.extend(self.on_event(event)),
                    None if drain.is_started() => return Ok(()),
                    None => return Err(Error::ConsumerEnded),
                },
                Some(()) = handovers.next(), if !handovers.is_empty() => {}
                Some(()) = lag.next(), if !lag.is_empty() => {}
                _ = lag_ticks.tick(), if lag.is_empty() => lag.push(self.measure_lag()),
            }
        }
    }

    /// A revocation's hand-over runs on beside the reading of the partitions that stay.
    fn on_event(&mut self, event: ConsumerEvent) -> Option<BoxFuture<'static, ()>> {
        match event {
            ConsumerEvent::Assigned(partitions) => {
                rebalanced("assigned");
                // Asked at each assignment: a topic made anew under a running consumer comes back as one, at its start.
                let same_topic = same_topic(Arc::clone(&self.shared.log), self.options.clone())
                    .boxed()
                    .shared();
                partitions
                    .into_iter()
                    .for_each(|assigned| self.own(assigned, same_topic.clone()));
            }
            ConsumerEvent::Records(batch) => {
                if let Some(owned) = self.owned.get(&batch.at)
                    && !owned.stopped.load(Ordering::Relaxed)
                {
                    owned.inbox.put(batch.records);
                }
            }
            ConsumerEvent::Revoked { partitions, done } => {
                rebalanced("revoked");
                let ends = self.stop(&partitions);
                return Some(Box::pin(async move {
                    ends.await;
                    // The log may have given the hand-over up already.
                    let _ = done.send(());
                }));
            }
            ConsumerEvent::Lost(partitions) => {
                rebalanced("lost");
                for at in &partitions {
                    self.alarms.clear(at.partition);
                    if let Some(owned) = self.owned.remove(at) {
                        owned.task.abort();
                        owned.let_go(at.partition);
                    }
                }
            }
            ConsumerEvent::Trouble(trouble) => {
                let condition = trouble.map_or(Ok(()), |why| Err(format!("`messages` cannot be read: {why}")));
                self.options.health.set("persistence-log", condition);
            }
        }
        None
    }

    fn own(&mut self, assigned: Assigned, same_topic: SameTopic) {
        let at = assigned.at.clone();
        if let Some(before) = self.owned.remove(&at) {
            before.task.abort();
        }
        let configured = self.options.lane_topics.partitions;
        if at.partition.0 >= configured {
            self.alarms.raise(
                at.partition,
                &Alarm::MorePartitions {
                    partition: at.partition,
                    configured,
                },
            );
            return;
        }
        let control = Arc::clone(&self.consumer.control);
        let inbox = Arc::new(Inbox::new(at.clone(), Arc::clone(&control)));
        let progress = Arc::new(Progress {
            committed: AtomicU64::new(u64::MAX),
            ..Progress::default()
        });
        let stop = CancellationToken::new();
        let stopped = Arc::new(AtomicBool::new(false));
        let topics = &self.options.lane_topics;
        let place = Place {
            lane: topics.lane.clone(),
            epoch: topics.epoch,
            partition: at.partition,
            partitions: topics.partitions,
        };
        let life = Life {
            shared: Arc::clone(&self.shared),
            alarms: self.alarms.clone(),
            same_topic,
            stop: stop.clone(),
            stopped: Arc::clone(&stopped),
            at: at.clone(),
        };
        let (their_inbox, their_progress) = (Arc::clone(&inbox), Arc::clone(&progress));
        let task = self
            .options
            .tasks
            .spawn(Kind::Worker, "persistence-partition", async move {
                life.live(assigned, place, control, their_inbox, their_progress).await;
            });
        owned_gauge(at.partition, 1.0);
        self.alarms.clear(at.partition);
        self.owned.insert(
            at,
            Owned {
                inbox,
                progress,
                stop,
                stopped,
                task,
            },
        );
    }

    /// Asks these partitions to finish; the future ends when they have.
    fn stop(&mut self, partitions: &[TopicPartition]) -> impl Future<Output = ()> + Send + 'static {
        let mut ends = Vec::new();
        for at in partitions {
            self.alarms.clear(at.partition);
            if let Some(owned) = self.owned.remove(at) {
                owned.stop.cancel();
                owned.let_go(at.partition);
                ends.push(owned.task.ended());
            }
        }
        async move {
            join_all(ends).await;
        }
    }

    /// Hands everything over and leaves the group.
    async fn let_go(&mut self, drain: &Drain) {
        let all: Vec<TopicPartition> = self.owned.keys().cloned().collect();
        let ends = self.stop(&all);
        if tokio::time::timeout(drain.remaining(), ends).await.is_err() {
            tracing::warn!("leaving before every partition was handed over; their next owners fold the rest again");
        }
        self.consumer.control.close().await;
    }

    fn measure_lag(&self) -> BoxFuture<'static, ()> {
        let partitions: Vec<_> = self
            .owned
            .iter()
            .map(|(at, owned)| (at.clone(), Arc::clone(&owned.progress), Arc::clone(&owned.inbox)))
            .collect();
        let log = Arc::clone(&self.shared.log);
        Box::pin(async move {
            for (at, progress, inbox) in partitions {
                let committed = progress.committed.load(Ordering::Relaxed);
                let Ok(bounds) = log.bounds(&at).await else { continue };
                if committed == u64::MAX {
                    continue;
                }
                // The end was asked after the commit was made, so it cannot be below it in the same log.
                if bounds.end.0 < committed {
                    *progress.shrunk_to.lock() = Some(bounds);
                }
                let records = bounds.end.0.saturating_sub(committed);
                let oldest = Some(progress.oldest_at_ms.load(Ordering::Relaxed)).filter(|at_ms| *at_ms > 0);
                let oldest = oldest.or_else(|| inbox.oldest_at_ms()).filter(|_| records > 0);
                let seconds = oldest.map_or(0.0, |at_ms| (now_ms() - at_ms).max(0) as f64 / 1000.0);
                if !progress.let_go.load(Ordering::Relaxed) {
                    lag_gauges(at.partition, records, seconds);
                }
            }
        })
    }
}

/// The partitions that stopped, and why: a gauge each, and one health condition for all.
#[derive(Clone)]
struct Alarms {
    by_partition: Arc<Mutex<BTreeMap<Partition, String>>>,
    health: process::Health,
}

impl Alarms {
    fn raise(&self, partition: Partition, alarm: &Alarm) {
        tracing::error!(%partition, %alarm, "the partition is stopped until an operator has looked");
        PARTITION_STOPPED
            .with(&partition_labels(&partition.to_string()))
            .set(1.0);
        self.by_partition
            .lock()
            .insert(partition, format!("partition {partition} stopped: {alarm}"));
        self.show();
    }

    /// Assigned anew, or somebody else's: what was wrong is looked at again.
    fn clear(&self, partition: Partition) {
        PARTITION_STOPPED
            .with(&partition_labels(&partition.to_string()))
            .set(0.0);
        if self.by_partition.lock().remove(&partition).is_some() {
            self.show();
        }
    }

    fn show(&self) {
        let first = self.by_partition.lock().values().next().cloned();
        self.health.set("persistence", first.map_or(Ok(()), Err));
    }
}

/// What a partition's task needs to live and to end loudly.
struct Life {
    shared: Arc<Shared>,
    alarms: Alarms,
    same_topic: SameTopic,
    stop: CancellationToken,
    stopped: Arc<AtomicBool>,
    at: TopicPartition,
}

impl Life {
    async fn live(
        self,
        assigned: Assigned,
        place: Place,
        control: Arc<dyn ordered_log::ConsumerControl>,
        inbox: Arc<Inbox>,
        progress: Arc<Progress>,
    ) {
        let reading = Arc::clone(&control);
        let whole = async {
            let starting = async {
                self.same_topic.clone().await?;
                Consuming::start(Arc::clone(&self.shared), assigned, place, control, inbox, progress).await
            };
            let Some(consuming) = self.stop.run_until_cancelled(starting).await else {
                return Ok(None);
            };
            let draining = consuming?.run(self.stop.clone()).await?;
            draining.finish().await.map(|released| released.committed)
        };
        let partition = self.at.partition;
        match whole.await {
            Ok(committed) => {
                tracing::info!(%partition, committed = committed.map(|o| o.0), "handed a partition over");
            }
            Err(Stopped::Fenced) => {
                self.stopped.store(true, Ordering::Relaxed);
                reading.pause(&self.at);
                tracing::warn!(%partition, "the partition is another member's already; let go of it");
            }
            Err(Stopped::Alarm(alarm)) => {
                self.stopped.store(true, Ordering::Relaxed);
                reading.pause(&self.at);
                self.alarms.raise(partition, &alarm);
            }
        }
    }
}

fn partition_labels(partition: &str) -> [(&'static str, &str); 2] {
    [("group", GROUP), ("partition", partition)]
}

fn owned_gauge(partition: Partition, value: f64) {
    PARTITION_OWNED
        .with(&partition_labels(&partition.to_string()))
        .set(value);
}

fn lag_gauges(partition: Partition, records: u64, seconds: f64) {
    let partition = partition.to_string();
    let labels = partition_labels(&partition);
    PARTITION_LAG_RECORDS.with(&labels).set(records as f64);
    PARTITION_LAG_SECONDS.with(&labels).set(seconds);
}

fn rebalanced(kind: &'static str) {
    REBALANCES_TOTAL.with(&[("group", GROUP), ("kind", kind)]).increment(1);
}
