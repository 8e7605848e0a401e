//! Membership, and the one loop that carries everything out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use desk_core::Counts;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use ordered_log::{
    Assigned, Bounds, Consumer, ConsumerEvent, Log, LogError, Pace, Producer, ToProduce, Topic, TopicPartition,
};
use process::Drain;
use tokio::time::{MissedTickBehavior, interval};
use wire::codec::RECORD_VERSION;
use wire::record::desk_record::Input;
use wire::record::{DeskRecord, Tick};
use wire::{LaneTopics, Offset, Tenant};

use crate::answering::Answering;
use crate::cut::{CutEnd, Writing};
use crate::error::{Alarm, Error};
use crate::meters::{self, Meters, now_ms};
use crate::outbox::Parcel;
use crate::reports::{ReportBox, Unreported};
use crate::takeover::{Taken, snapshots_of, take_over};
use crate::{LAST_CUT_MS, LAST_REPEAT_MS, LOOK_INTERVAL_MS, OUTBOX_RECORDS_MAX, Options, REPEAT_INTERVAL_MS};

/// The desk role of one process, for one lane.
pub struct Service {
    options: Options,
    log: Arc<dyn Log>,
}

impl Service {
    pub fn new(options: Options, log: Arc<dyn Log>) -> Self {
        Self { options, log }
    }

    /// Answers until the drain begins, saves its desks and leaves the group. The next owner repeats what may not have got out.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let topics = &self.options.lane_topics;
        let consumer = self
            .log
            .consume(&topics.desk_group(), &[topics.desk().into()], Pace::AtOnce)
            .await?;
        let mut driver = Driver {
            producer: self.log.producer().await?,
            log: self.log,
            messages: topics.messages().into(),
            snapshots: topics.desk_snapshots().into(),
            consumer,
            reports: Arc::default(),
            meters: Meters::new(),
            owned: HashMap::new(),
            alarms: HashMap::new(),
            ownerships: 0,
            takeovers: FuturesUnordered::new(),
            cuts: FuturesUnordered::new(),
            looks: FuturesUnordered::new(),
            options: self.options,
        };
        let end = driver.run(&drain).await;
        if end.is_ok() {
            let most = drain.remaining().min(Duration::from_millis(LAST_CUT_MS));
            if tokio::time::timeout(most, driver.last_cuts()).await.is_err() {
                tracing::info!("leaving before every desk was saved; the next owner repeats what happened since");
            }
        }
        driver.consumer.control.close().await;
        end
    }
}

/// Which of this process's ownerships: reports and futures of an ended one are nobody's.
type Ownership = u32;

/// What runs beside the loop, for an ownership of a partition.
type Underway<T> = FuturesUnordered<BoxFuture<'static, (TopicPartition, Ownership, T)>>;

struct Driver {
    options: Options,
    log: Arc<dyn Log>,
    producer: Arc<dyn Producer>,
    messages: Topic,
    snapshots: Topic,
    consumer: Consumer,
    reports: Arc<ReportBox>,
    meters: Meters,
    owned: HashMap<TopicPartition, Owned>,
    /// Why partitions stopped.
    alarms: HashMap<TopicPartition, String>,
    ownerships: Ownership,
    takeovers: Underway<Result<Taken, Alarm>>,
    cuts: Underway<CutEnd>,
    /// What had been read, and what the log held when asked after that.
    looks: Underway<(Offset, Result<Bounds, LogError>)>,
}

struct Owned {
    ownership: Ownership,
    stage: Stage,
}

enum Stage {
    TakingOver,
    Answering(Box<Answering>),
    /// An alarm: nothing is read until an operator has looked.
    Stopped,
}

impl Owned {
    fn is_saved(&self) -> bool {
        match &self.stage {
            Stage::Answering(answering) => answering.is_saved(),
            Stage::TakingOver | Stage::Stopped => true,
        }
    }
}

impl Driver {
    async fn run(&mut self, drain: &Drain) -> Result<(), Error> {
        let reports = Arc::clone(&self.reports);
        let mut ticks = interval(Duration::from_millis(self.options.tick_interval_ms));
        let mut repeats = interval(Duration::from_millis(REPEAT_INTERVAL_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        repeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(Duration::from_millis(LOOK_INTERVAL_MS));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let every = Duration::from_millis(self.options.snapshot_interval_ms);
        loop {
            tokio::select! {
                () = drain.started() => return Ok(()),
                event = self.consumer.events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None if drain.is_started() => return Ok(()),
                    None => return Err(Error::ConsumerEnded),
                },
                Some((at, ownership, taken)) = self.takeovers.next(), if !self.takeovers.is_empty() => {
                    self.on_taken(at, ownership, taken).await;
                }
                arrived = reports.arrived() => self.on_reports(arrived),
                Some((at, ownership, end)) = self.cuts.next(), if !self.cuts.is_empty() => {
                    self.on_cut(&at, ownership, end);
                }
                _ = repeats.tick() => self.repeat_and_cut(every),
                _ = ticks.tick() => self.tick(),
                Some((at, ownership, (next, bounds))) = self.looks.next(), if !self.looks.is_empty() => {
                    self.on_look(&at, ownership, next, bounds);
                }
                _ = looks.tick(), if self.looks.is_empty() => self.look(),
            }
        }
    }

    /// Nothing new is applied: what was is put out, saved and committed, so that the next owner has nothing to repeat.
    async fn last_cuts(&mut self) {
        self.owned.keys().for_each(|at| self.consumer.control.pause(at));
        let reports = Arc::clone(&self.reports);
        let mut repeats = interval(Duration::from_millis(LAST_REPEAT_MS));
        while self.owned.values().any(|o| !o.is_saved()) {
            self.repeat_and_cut(Duration::ZERO);
            tokio::select! {
                event = self.consumer.events.recv() => match event {
                    Some(ConsumerEvent::Records(_)) => {}
                    Some(event) => self.on_event(event),
                    None => return,
                },
                arrived = reports.arrived() => self.on_reports(arrived),
                Some((at, ownership, end)) = self.cuts.next(), if !self.cuts.is_empty() => {
                    self.on_cut(&at, ownership, end);
                }
                _ = repeats.tick() => {}
            }
        }
    }

    fn on_event(&mut self, event: ConsumerEvent) {
        match event {
            ConsumerEvent::Assigned(partitions) => {
                meters::rebalanced("assigned");
                partitions
                    .into_iter()
                    .for_each(|assigned| self.take(assigned, Duration::ZERO));
            }
            ConsumerEvent::Records(batch) => {
                let Some(owned) = self.owned.get_mut(&batch.at) else {
                    return;
                };
                let Stage::Answering(answering) = &mut owned.stage else {
                    return;
                };
                let parcels = answering.apply(&batch.records, now_ms(), &self.meters);
                if !answering.paused && answering.outbox.len() > OUTBOX_RECORDS_MAX {
                    answering.paused = true;
                    self.consumer.control.pause(&batch.at);
                }
                let ownership = owned.ownership;
                parcels
                    .into_iter()
                    .for_each(|parcel| self.produce(&batch.at, ownership, parcel));
            }
            ConsumerEvent::Revoked { partitions, done } => {
                meters::rebalanced("revoked");
                partitions.iter().for_each(|at| self.let_go(at));
                // The log may have given the hand-over up already.
                let _ = done.send(());
            }
            ConsumerEvent::Lost(partitions) => {
                meters::rebalanced("lost");
                partitions.iter().for_each(|at| self.let_go(at));
            }
            ConsumerEvent::Trouble(trouble) => {
                let condition = trouble.map_or(Ok(()), |why| Err(format!("`desk` cannot be read: {why}")));
                self.options.health.set("desk-log", condition);
            }
        }
    }

    fn take(&mut self, assigned: Assigned, after: Duration) {
        self.ownerships += 1;
        let ownership = self.ownerships;
        let at = assigned.at.clone();
        meters::owned(at.partition, true);
        meters::stopped(at.partition, false);
        self.alarms.remove(&at);
        self.show_alarms();
        self.owned.insert(
            at.clone(),
            Owned {
                ownership,
                stage: Stage::TakingOver,
            },
        );
        let log = Arc::clone(&self.log);
        let snapshots = snapshots_of(&self.snapshots, at.partition);
        let epoch = self.options.lane_topics.epoch;
        self.takeovers.push(Box::pin(async move {
            tokio::time::sleep(after).await;
            let taken = take_over(&*log, &assigned, &snapshots, epoch).await;
            (at, ownership, taken)
        }));
    }

    fn let_go(&mut self, at: &TopicPartition) {
        if self.owned.remove(at).is_some() {
            meters::owned(at.partition, false);
        }
        if self.alarms.remove(at).is_some() {
            meters::stopped(at.partition, false);
            self.show_alarms();
        }
    }

    fn show_alarms(&self) {
        let first = self.alarms.values().next().cloned();
        self.options.health.set("desk", first.map_or(Ok(()), Err));
    }

    /// The stage before the first record: it is set before the reading starts, so that none is missed.
    async fn on_taken(&mut self, at: TopicPartition, ownership: Ownership, taken: Result<Taken, Alarm>) {
        let Some(owned) = self.owned.get_mut(&at).filter(|o| o.ownership == ownership) else {
            return;
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err(alarm) => return self.stop(&at, &alarm),
        };
        let LaneTopics { epoch, partitions, .. } = self.options.lane_topics;
        let from = taken.from;
        tracing::info!(
            partition = at.partition.0,
            from = from.0,
            tenants = taken.desks.len(),
            "a desk's partition taken over"
        );
        let recorder = self.options.recorder.clone();
        let answering = Answering::new(epoch, at.partition, partitions, taken, recorder);
        owned.stage = Stage::Answering(Box::new(answering));
        match self.consumer.control.start(&at, from).await {
            Ok(()) => {}
            Err(LogError::OutOfRange { start, end, .. }) => {
                self.stop(
                    &at,
                    &Alarm::CommittedOutOfLog {
                        committed: from,
                        start,
                        end,
                    },
                );
            }
            Err(why) => {
                tracing::warn!(%why, partition = at.partition.0, "a desk's reading cannot start; taking over again");
                let again = Assigned {
                    at,
                    generation: 0,
                    committed: Some(from),
                };
                self.take(again, Duration::from_millis(500));
            }
        }
    }

    fn stop(&mut self, at: &TopicPartition, alarm: &Alarm) {
        self.consumer.control.pause(at);
        meters::stopped(at.partition, true);
        let partition = at.partition;
        self.alarms
            .insert(at.clone(), format!("partition {partition} of `desk` stopped: {alarm}"));
        self.show_alarms();
        tracing::error!(%partition, %alarm, "the desk's partition is stopped until an operator has looked");
        if let Some(owned) = self.owned.get_mut(at) {
            owned.stage = Stage::Stopped;
        }
    }

    fn produce(&mut self, at: &TopicPartition, ownership: Ownership, parcel: Parcel) {
        let number = parcel.number;
        let raw_key = parcel.key.to_key();
        let produced = self.producer.produce(ToProduce {
            topic: self.messages.clone(),
            partition: self.options.lane_topics.partition_of(&parcel.key),
            key: Some(raw_key),
            value: Some(parcel.value),
            headers: Vec::new(),
            token: u64::from(ownership) << 32 | (number & u64::from(u32::MAX)),
            reports: Arc::clone(&self.reports) as Arc<dyn ordered_log::Reports>,
        });
        if let Err(why) = produced {
            self.meters.failed.increment(1);
            tracing::warn!(%why, "the log takes no desk's record now; it is repeated");
            if let Some(answering) = self.answering(at, ownership) {
                answering.outbox.failed(number);
            }
        }
    }

    fn answering(&mut self, at: &TopicPartition, ownership: Ownership) -> Option<&mut Answering> {
        match self.owned.get_mut(at) {
            Some(Owned {
                ownership: o,
                stage: Stage::Answering(answering),
            }) if *o == ownership => Some(answering),
            _ => None,
        }
    }

    fn on_reports(&mut self, arrived: Vec<(u64, bool)>) {
        for (token, logged) in arrived {
            let ownership = (token >> 32) as Ownership;
            let Some(at) = self
                .owned
                .iter()
                .find(|(_, o)| o.ownership == ownership)
                .map(|(at, _)| at.clone())
            else {
                continue;
            };
            let Some(answering) = self.answering(&at, ownership) else {
                continue;
            };
            // Numbers are compared by their low half; a partition never has 2^32 records on their way.
            let number = full_number(token, answering.outbox.next());
            let next = if logged {
                answering.outbox.logged(number)
            } else {
                answering.outbox.failed(number);
                None
            };
            let goes_on = answering.paused && answering.outbox.len() <= OUTBOX_RECORDS_MAX / 4;
            answering.paused &= !goes_on;
            if goes_on {
                self.consumer.control.resume(&at);
            }
            if logged {
                &self.meters.logged
            } else {
                &self.meters.failed
            }
            .increment(1);
            if let Some(parcel) = next {
                self.produce(&at, ownership, parcel);
            }
        }
    }

    /// What failed goes out again; cuts whose effects are all in the log are written.
    fn repeat_and_cut(&mut self, every: Duration) {
        let mut again = Vec::new();
        for (at, owned) in &mut self.owned {
            let Stage::Answering(answering) = &mut owned.stage else {
                continue;
            };
            if answering.outbox.has_failed() {
                again.extend(
                    answering
                        .outbox
                        .repeat()
                        .into_iter()
                        .map(|p| (at.clone(), owned.ownership, p)),
                );
            }
            if let Some(cut) = answering.cut(every) {
                let (at, ownership) = (at.clone(), owned.ownership);
                let writing = Writing {
                    producer: Arc::clone(&self.producer),
                    control: Arc::clone(&self.consumer.control),
                    snapshots: snapshots_of(&self.snapshots, at.partition),
                };
                self.cuts.push(Box::pin(async move {
                    let end = writing.write(&at, cut).await;
                    (at, ownership, end)
                }));
            }
        }
        for (at, ownership, parcel) in again {
            self.meters.repeated.increment(1);
            self.produce(&at, ownership, parcel);
        }
    }

    fn on_cut(&mut self, at: &TopicPartition, ownership: Ownership, end: CutEnd) {
        let Some(answering) = self.answering(at, ownership) else {
            return;
        };
        match end {
            CutEnd::Done(written) => {
                answering.cut_done(written);
                meters::committed("ok");
            }
            CutEnd::Failed(why) => {
                answering.cut_failed();
                meters::committed("failed");
                tracing::warn!(
                    why,
                    partition = at.partition.0,
                    "a desk's snapshot could not be written; trying again"
                );
            }
            CutEnd::Fenced => {
                meters::committed("fenced");
                tracing::warn!(
                    partition = at.partition.0,
                    "the desk's partition is another member's already; let go of it"
                );
                self.consumer.control.pause(at);
                self.let_go(at);
            }
        }
    }

    /// Asks what the log holds: a topic that is made anew under a running desk is silent, and later has other records at the
    /// same offsets.
    fn look(&mut self) {
        for (at, owned) in &self.owned {
            let Stage::Answering(answering) = &owned.stage else {
                continue;
            };
            let (log, at, ownership, next) = (Arc::clone(&self.log), at.clone(), owned.ownership, answering.next());
            self.looks.push(Box::pin(async move {
                let bounds = log.bounds(&at).await;
                (at, ownership, (next, bounds))
            }));
        }
    }

    fn on_look(&mut self, at: &TopicPartition, ownership: Ownership, next: Offset, bounds: Result<Bounds, LogError>) {
        // A log that does not answer now is asked again.
        let Ok(Bounds { start, end }) = bounds else { return };
        // What was read once lies below the end for ever.
        if end < next && self.answering(at, ownership).is_some() {
            self.stop(at, &Alarm::LogCut { next, start, end });
        }
    }

    /// Time's records, and the gauges.
    fn tick(&mut self) {
        let mut all = Counts::default();
        let mut due: Vec<(TopicPartition, Tenant)> = Vec::new();
        for (at, owned) in &mut self.owned {
            if let Stage::Answering(answering) = &mut owned.stage {
                due.extend(answering.due_ticks().into_iter().map(|tenant| (at.clone(), tenant)));
                let counts = answering.counts();
                all.waiting += counts.waiting;
                all.assigned += counts.assigned;
                all.available += counts.available;
                all.busy += counts.busy;
                all.away += counts.away;
                all.gone += counts.gone;
            }
        }
        self.meters.show(all);
        let tick = DeskRecord {
            version: RECORD_VERSION,
            input: Some(Input::Tick(Tick {})),
        };
        let value = Bytes::from(prost::Message::encode_to_vec(&tick));
        for (at, tenant) in due {
            let produced = self.producer.produce(ToProduce {
                topic: at.topic.clone(),
                partition: at.partition,
                key: Some(Bytes::copy_from_slice(tenant.as_str().as_bytes())),
                value: Some(value.clone()),
                headers: Vec::new(),
                token: 0,
                reports: Arc::new(Unreported),
            });
            if let Err(why) = produced {
                tracing::debug!(%why, "the log takes no tick now; the next one follows");
            }
        }
    }
}

/// The number whose low half the token carries: the highest one below `next`.
fn full_number(token: u64, next: u64) -> u64 {
    let low = token & u64::from(u32::MAX);
    let candidate = (next & !u64::from(u32::MAX)) | low;
    if candidate >= next {
        candidate.wrapping_sub(1 << 32)
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_from_its_low_half() {
        for (number, next) in [
            (0, 1),
            (5, 9),
            ((1 << 32) - 1, (1 << 32) + 5),
            ((1 << 32) + 2, (1 << 32) + 5),
        ] {
            let token = 7u64 << 32 | (number & 0xffff_ffff);
            assert_eq!(full_number(token, next), number);
        }
    }
}
