//! What the driver does about its partitions: claims, hand-overs and losses, alarms, contested announcements, and what comes
//! back from work under way.

use std::sync::Arc;

use delivery_core::Entry;
use futures::FutureExt;
use ordered_log::{Assigned, Batch, Bounds, CommitError, ConsumerEvent, TailEvent};
use process::metrics::REBALANCES_TOTAL;
use serde_json::json;
use wire::{Generation, Offset, Partition};

use crate::driver::Driver;
use crate::error::Alarm;
use crate::owners::heard;
use crate::ownership::{Announced, Claimed, Draining, Owned, Said};
use crate::work::Done;
use crate::{GROUP, LAST_MARKS_MS};

impl Driver {
    /// The number of records it brought.
    pub(crate) fn consumer_event(&mut self, now_ms: u64, event: ConsumerEvent) -> usize {
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

    pub(crate) fn records(&mut self, now_ms: u64, batch: Batch) -> usize {
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

    pub(crate) fn claim(&mut self, now_ms: u64, assigned: Assigned) {
        let partition = assigned.at.partition;
        self.lose(now_ms, partition);
        self.claims += 1;
        let claimed = Claimed::new(assigned.at, assigned.generation, self.claims);
        self.owned.insert(partition, Owned::Claimed(claimed));
        self.core.handle_claimed(partition);
        self.meters.of(partition).owned.set(1.0);
        if self.owners_heard {
            self.announce(partition);
        }
    }

    /// Only once all that was said of it is heard: an announcement takes the one before out of the compacted topic, and nodes
    /// that had heard a higher one would hear us no more.
    fn announce(&mut self, partition: Partition) {
        let over = self.announced_of(partition);
        if let Some(Owned::Claimed(claimed)) = self.owned.get_mut(&partition) {
            let group = claimed.announce(&over);
            self.work.push(
                self.tools
                    .claim(claimed.at.clone(), group, claimed.claim, claimed.token()),
            );
        }
    }

    /// Last watermarks, and nodes hear it; nothing of ours is done for it from here on.
    pub(crate) fn hand_over(&mut self, now_ms: u64, partition: Partition) -> Option<Draining> {
        let owned = self.owned.remove(&partition)?;
        self.core.handle_revoked(now_ms, partition);
        self.gone(partition);
        match owned {
            Owned::Consuming(consuming) => Some(consuming.drain()),
            Owned::Claimed(_) => None,
        }
    }

    /// It is somebody else's already.
    pub(crate) fn lose(&mut self, now_ms: u64, partition: Partition) {
        if self.owned.remove(&partition).is_some() {
            self.core.handle_lost(now_ms, partition);
            self.gone(partition);
        }
    }

    pub(crate) fn gone(&mut self, partition: Partition) {
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
    pub(crate) fn alarm(&mut self, now_ms: u64, alarm: Alarm, partition: Partition) {
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

    pub(crate) fn tell_paused(&self) {
        self.meters.paused.set(if self.paused.is_empty() { 0.0 } else { 1.0 });
    }

    pub(crate) fn tell_health(&self) {
        let why = self.alarms.values().next().cloned();
        self.options.health.set("delivery", why.map_or(Ok(()), Err));
    }

    pub(crate) fn owner_event(&mut self, now_ms: u64, event: Option<TailEvent>) {
        match event {
            None => {
                self.owners = None;
                self.work.push(self.tools.tail_owners());
            }
            Some(TailEvent::CaughtUp) => {
                if !std::mem::replace(&mut self.owners_heard, true) {
                    let claimed: Vec<Partition> = self.owned.keys().copied().collect();
                    claimed.into_iter().for_each(|partition| self.announce(partition));
                }
            }
            Some(TailEvent::Record(record)) => {
                let partitions = self.options.lane_topics.partitions;
                let Some(said) = heard(&record).filter(|said| said.partition.0 < partitions) else {
                    return;
                };
                let all = self.announced.entry(said.partition).or_default();
                all.hear(&said);
                let Some(owned) = self.owned.get_mut(&said.partition) else {
                    return;
                };
                match owned.heard(&said, all, self.tools.announcer.worker) {
                    Said::Nothing => {}
                    Said::Ours(generation) => {
                        tracing::info!(partition = %said.partition, %generation, "our announcement landed again");
                        self.owns(said.partition, generation);
                        self.core.handle_announced_again(now_ms, said.partition, generation);
                    }
                    // A commit decides: fenced, and it is theirs; accepted, and we say again that it is ours.
                    Said::Contested => self.member_next_ms = now_ms,
                }
            }
        }
    }

    pub(crate) fn done(&mut self, now_ms: u64, done: Done) {
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
                if consuming.contested(&self.announced_of(partition)) {
                    self.member_next_ms = now_ms;
                }
                self.owned.insert(partition, Owned::Consuming(consuming));
                let start = match (self.other_topic.clone(), start) {
                    (Some(alarm), _) | (None, Err(alarm)) => return self.alarm(now_ms, alarm, partition),
                    (None, Ok(start)) => start,
                };
                tracing::info!(%partition, %generation, %start, "ours");
                self.owns(partition, generation);
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
                consuming.announced_again(announced);
                if announced.is_some() {
                    let generation = consuming.generation;
                    tracing::info!(partition = %at.partition, %generation, "announced again");
                    self.owns(at.partition, generation);
                    self.core.handle_announced_again(now_ms, at.partition, generation);
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
            Done::ReadBack { token, entries } => match entries {
                Ok(entries) => self.core.handle_read_back(now_ms, token, entries),
                Err(alarm) => self.alarm(now_ms, alarm, token.partition),
            },
            Done::End { at, end } => self.core.handle_end(now_ms, at, end),
            Done::Committed(offsets) => {
                self.committed_asked = false;
                for (partition, offset) in offsets {
                    if let Some(offset) = offset {
                        self.core.handle_committed(now_ms, partition, offset);
                    }
                }
            }
            Done::Lag(found) => self.lag(now_ms, found),
            Done::Membership { claims, outcome } => self.membership(now_ms, claims, outcome),
            Done::Tail(owners) => self.owners = Some(owners),
            Done::Cancelled => {}
        }
    }

    fn announced_of(&self, partition: Partition) -> Announced {
        self.announced.get(&partition).copied().unwrap_or_default()
    }

    fn owns(&self, partition: Partition, generation: Generation) {
        self.options.recorder.ok("own", || {
            json!({
                "worker": self.options.name,
                "partition": partition.0,
                "generation": { "group": generation.group, "announced": generation.announced },
            })
        });
    }

    pub(crate) fn membership(&mut self, now_ms: u64, claims: Vec<(Partition, u64)>, outcome: Result<(), CommitError>) {
        self.member_asked = false;
        match outcome {
            Ok(()) => {
                self.meters.commits_ok.increment(1);
                for (partition, claim) in claims {
                    let (tools, announced) = (self.tools.clone(), self.announced_of(partition));
                    let Some(consuming) = self.consuming(partition, claim) else {
                        continue;
                    };
                    if let Some(group) = consuming.announce_again(&announced) {
                        let (at, token) = (consuming.at.clone(), consuming.token());
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

    pub(crate) fn lag(&mut self, now_ms: u64, found: Vec<(Partition, Offset, Bounds)>) {
        self.lag_asked = false;
        for (partition, next, Bounds { start, end }) in found {
            let Some(Owned::Consuming(consuming)) = self.owned.get(&partition) else {
                continue;
            };
            // What was read once lies below the end for ever. Another log's records must not be taken for this one's.
            if end < next {
                if !consuming.stopped {
                    let alarm = Alarm::LogCut {
                        partition,
                        next,
                        start,
                        end,
                    };
                    self.alarm(now_ms, alarm, partition);
                }
                continue;
            }
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
}

fn rebalanced(kind: &str) {
    REBALANCES_TOTAL.with(&[("group", GROUP), ("kind", kind)]).increment(1);
}
