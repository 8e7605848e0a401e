//! A member of a group: what it owns and reads, the task that pumps records into its events, and its control.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use wire::Offset;
use wire::limits::BATCH_RECORDS_MAX;

use super::Shared;
use super::group::Group;
use super::partition::{PartitionLog, Portion};
use super::writer::{Commit, Op};
use crate::{
    Assigned, Batch, CommitError, ConsumerControl, ConsumerEvent, GATHER_MS, LogError, LogRecord, Pace, Topic,
    TopicPartition,
};

/// Bytes of one batch handed over; with `EVENTS_MAX` this bounds what lies unread before a member.
pub(super) const BATCH_BYTES_MAX: usize = 262_144;
pub(super) const EVENTS_MAX: usize = 32;
const READ_AGAIN: Duration = Duration::from_secs(1);
/// A member that lost its partitions is looked at this often, to see whether it takes its events again.
const LOST_LOOK: Duration = Duration::from_millis(50);

pub(super) const PORTION: Portion = Portion {
    records_max: BATCH_RECORDS_MAX,
    bytes_max: BATCH_BYTES_MAX,
};

pub(super) struct Member {
    pub id: u64,
    pub topics: Vec<Topic>,
    pace: Pace,
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// There are records in a partition that is read.
    records: Arc<Notify>,
    /// There is something that no record keeps waiting.
    news: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What goes out before any record.
    news: VecDeque<ConsumerEvent>,
    reading: Vec<Reading>,
    /// Which partition is looked at first next time, so that a busy one starves nobody.
    turn: usize,
    closed: bool,
}

struct Reading {
    part: Arc<PartitionLog>,
    /// `None`: assigned and silent.
    next: Option<Offset>,
    paused: bool,
}

enum Step {
    Send(ConsumerEvent),
    /// The records are not in memory any more.
    Fetch(Fetch),
    Idle,
    Closed,
}

/// What to read from the tree: from where, and the end as it was before the read.
struct Fetch {
    part: Arc<PartitionLog>,
    from: Offset,
    end: Offset,
}

impl Member {
    pub fn new(id: u64, topics: Vec<Topic>, pace: Pace, shared: Arc<Shared>, group: Arc<Group>) -> Self {
        Self {
            id,
            topics,
            pace,
            shared,
            group,
            records: Arc::default(),
            news: Notify::new(),
            state: Mutex::default(),
        }
    }

    pub fn assign(&self, assigned: Vec<Assigned>, shared: &Shared) {
        let mut state = self.state.lock();
        for share in &assigned {
            if let Some(part) = shared.partition(&share.at) {
                state.reading.push(Reading {
                    part,
                    next: None,
                    paused: false,
                });
            }
        }
        state.news.push_back(ConsumerEvent::Assigned(assigned));
        drop(state);
        self.news.notify_one();
    }

    /// Reading stops here, so that `Revoked` comes after the last record.
    pub fn revoke(&self, partitions: Vec<TopicPartition>, done: oneshot::Sender<()>) {
        let mut state = self.state.lock();
        self.stop_reading(&mut state);
        // After a close nobody answers: `done` is dropped, and that releases.
        if !state.closed {
            state.news.push_back(ConsumerEvent::Revoked { partitions, done });
        }
        drop(state);
        self.news.notify_one();
    }

    pub fn lose(&self, partitions: Vec<TopicPartition>) {
        let mut state = self.state.lock();
        self.stop_reading(&mut state);
        state.news.push_back(ConsumerEvent::Lost(partitions));
        drop(state);
        self.news.notify_one();
    }

    fn stop_reading(&self, state: &mut State) {
        for reading in state.reading.drain(..) {
            reading.part.unsubscribe(&self.records);
        }
    }

    /// Its events end.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        // Dropping a waiting `Revoked` releases it.
        state.news.clear();
        self.stop_reading(&mut state);
        drop(state);
        self.group.leave(self.id);
        self.news.notify_one();
    }

    fn step(&self) -> Step {
        let mut state = self.state.lock();
        if state.closed {
            return Step::Closed;
        }
        if let Some(news) = state.news.pop_front() {
            return Step::Send(news);
        }
        let count = state.reading.len();
        for i in 0..count {
            let at = (state.turn + i) % count;
            let reading = &mut state.reading[at];
            let Some(next) = reading
                .next
                .filter(|next| !reading.paused && *next < reading.part.end())
            else {
                continue;
            };
            let Some(records) = reading.part.recent(next, PORTION) else {
                return Step::Fetch(Fetch {
                    part: reading.part.clone(),
                    from: next,
                    end: reading.part.end(),
                });
            };
            if let Some(batch) = reading.hand_over(records) {
                state.turn = (at + 1) % count;
                return Step::Send(ConsumerEvent::Records(batch));
            }
        }
        Step::Idle
    }

    /// Records that were fetched from `from` count only if the partition is still read there.
    fn fetched(&self, asked: &Fetch, fetched: Result<Vec<LogRecord>, LogError>) -> Option<ConsumerEvent> {
        let Fetch { part, from, end } = asked;
        let mut state = self.state.lock();
        let same = |r: &Reading| Arc::ptr_eq(&r.part, part) && r.next == Some(*from);
        let at = state.reading.iter().position(same)?;
        // One that is far behind reads a portion in its turn, like everybody.
        state.turn = (at + 1) % state.reading.len();
        let reading = &mut state.reading[at];
        match fetched {
            Ok(records) => {
                if records.is_empty() {
                    // Everything up to the end was compacted away.
                    reading.next = Some(*end);
                }
                reading.hand_over(records).map(ConsumerEvent::Records)
            }
            Err(LogError::OutOfRange { .. }) => {
                reading.next = None;
                let what = format!(
                    "{} {}: offset {from} was trimmed before it was read",
                    part.at.topic, part.at.partition
                );
                Some(ConsumerEvent::Trouble(Some(what)))
            }
            Err(error) => Some(ConsumerEvent::Trouble(Some(error.to_string()))),
        }
    }

    /// Moves what there is to read into `events`, until closed, dropped or aborted.
    pub async fn pump(self: Arc<Self>, events: mpsc::Sender<ConsumerEvent>) {
        while let Ok(permit) = events.reserve().await {
            let Some(event) = self.next(&events).await else { break };
            let lost = matches!(event, ConsumerEvent::Lost(_));
            permit.send(event);
            if lost {
                while events.capacity() < EVENTS_MAX && !events.is_closed() {
                    tokio::time::sleep(LOST_LOOK).await;
                }
                self.group.join(self.clone());
            }
        }
        self.close();
    }

    async fn next(&self, events: &mpsc::Sender<ConsumerEvent>) -> Option<ConsumerEvent> {
        loop {
            match self.step() {
                Step::Send(event) => return Some(event),
                Step::Fetch(asked) => {
                    let fetched = self.shared.fetch(&asked.part, asked.from, PORTION).await;
                    let failed = matches!(&fetched, Err(e) if !matches!(e, LogError::OutOfRange { .. }));
                    if failed {
                        tokio::time::sleep(READ_AGAIN).await;
                    }
                    if let Some(event) = self.fetched(&asked, fetched) {
                        return Some(event);
                    }
                }
                Step::Idle => tokio::select! {
                    () = self.woken() => {}
                    () = events.closed() => return None,
                },
                Step::Closed => return None,
            }
        }
    }
}

impl Member {
    /// Something changed. Where only records came, more of them are waited for, if that is the member's pace.
    async fn woken(&self) {
        tokio::select! {
            biased;
            () = self.news.notified() => return,
            () = self.records.notified() => {}
        }
        if self.pace == Pace::Gathered {
            let _ = tokio::time::timeout(Duration::from_millis(GATHER_MS), self.news.notified()).await;
        }
    }
}

impl Reading {
    fn hand_over(&mut self, records: Vec<LogRecord>) -> Option<Batch> {
        self.next = Some(records.last()?.offset.next());
        Some(Batch {
            at: self.part.at.clone(),
            records,
        })
    }
}

/// What the owner of the member may ask for.
pub(super) struct Control(pub Arc<Member>);

impl Control {
    fn with_reading(&self, at: &TopicPartition, change: impl FnOnce(&mut Reading)) -> bool {
        let mut state = self.0.state.lock();
        let reading = state.reading.iter_mut().find(|r| r.part.at == *at);
        let found = reading.map(change).is_some();
        drop(state);
        self.0.news.notify_one();
        found
    }
}

#[async_trait]
impl ConsumerControl for Control {
    async fn start(&self, at: &TopicPartition, from: Offset) -> Result<(), LogError> {
        let part = self
            .0
            .shared
            .partition(at)
            .ok_or_else(|| LogError::NoTopic(at.topic.to_string()))?;
        super::in_range(&part, from)?;
        let started = self.with_reading(at, |reading| {
            reading.part.subscribe(&self.0.records);
            reading.next = Some(from);
            reading.paused = false;
        });
        if started {
            Ok(())
        } else {
            Err(LogError::Failed(format!(
                "{} {} is not assigned to this member",
                at.topic, at.partition
            )))
        }
    }

    fn pause(&self, at: &TopicPartition) {
        self.with_reading(at, |reading| reading.paused = true);
    }

    fn resume(&self, at: &TopicPartition) {
        self.with_reading(at, |reading| reading.paused = false);
    }

    async fn commit(&self, offsets: Vec<(TopicPartition, Offset)>) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        let op = Op::Commit(Commit {
            group: self.0.group.clone(),
            member: self.0.id,
            offsets,
            reply,
        });
        if self.0.shared.queue.push(op, 0).is_err() {
            return Err(CommitError::Failed("the embedded log takes nothing now".into()));
        }
        let closed = || CommitError::Failed("the embedded log was closed".into());
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn close(&self) {
        self.0.close();
    }
}
