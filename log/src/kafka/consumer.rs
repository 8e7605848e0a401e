//! One member of a group: a thread that polls, a thread that commits, one that watches (`watch`), and the control.
//!
//! The poll thread never waits for anybody outside a rebalance: what its owner has no room for is kept per partition, and a
//! partition with much of it is paused until it is handed over, while polling goes on (so a slow reader stays a member).
//! It sleeps until librdkafka's queue is no longer empty; that signal has been lost before (gotcha 7), so never for long.
//!
//! Commits have a thread of their own, so that the broker's answer is not waited for by records; all that gathered
//! meanwhile go in one. `rebalance` says why that is safe.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use wire::Offset;

use super::gather::Gather;
use super::reader::{Reader, ask_committed, is_passing, list};
use super::rebalance::{Context, Member};
use super::wake::Wake;
use super::{KafkaOptions, blocking, code_of, settings, unavailable};
use crate::{
    Assigned, Batch, CommitError, Consumer, ConsumerControl, ConsumerEvent, LogError, Pace, Topic, TopicPartition,
};

const EVENTS_MAX: usize = 32;
/// Full batches kept for a partition whose owner has no room; beyond it the partition is paused.
const READY_MAX: usize = 4;
/// Messages taken in one round, before anything else is looked at.
const ROUND_MESSAGES_MAX: usize = 4_096;
const IDLE: Duration = Duration::from_millis(100);
/// While something waits for room.
const BLOCKED: Duration = Duration::from_millis(2);
const COMMITS_MAX: usize = 256;
/// How soon the commit thread sees that its member has ended.
const COMMIT_LOOK: Duration = Duration::from_millis(200);
const SEEK_WITHIN: Duration = Duration::from_secs(2);
/// A start is tried this often, `IDLE` or less apart: right after an assignment librdkafka may not be ready to seek.
const START_TRIES: u32 = 40;
/// A close that takes longer goes on without its caller.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// What the poll thread knows.
#[derive(Default)]
pub(super) struct Polled {
    pub readings: Vec<Reading>,
    /// Assigned, but the owner doesn't know yet.
    pub untold: Vec<TopicPartition>,
    pub news: VecDeque<ConsumerEvent>,
    troubled: bool,
}

pub(super) struct Reading {
    pub at: TopicPartition,
    /// The next offset to come; `None`: silent.
    next: Option<Offset>,
    asked_to_pause: bool,
    /// Paused because its owner is slow.
    held: bool,
    gather: Gather,
    ready: VecDeque<Batch>,
}

/// What the control asks of the poll thread.
pub(super) enum Command {
    Start(Start),
    Pause(TopicPartition, bool),
    /// Fetch it anew from where it is: it has stood still.
    Revive(TopicPartition),
}

pub(super) struct Start {
    at: TopicPartition,
    from: Offset,
    reply: oneshot::Sender<Result<(), LogError>>,
    tried: u32,
}

struct CommitRequest {
    offsets: Vec<(TopicPartition, Offset)>,
    reply: oneshot::Sender<Result<(), CommitError>>,
}

impl Reading {
    pub fn new(at: TopicPartition) -> Self {
        Self {
            at,
            next: None,
            asked_to_pause: false,
            held: false,
            gather: Gather::default(),
            ready: VecDeque::new(),
        }
    }

    fn close_batch(&mut self) {
        if self.gather.len() > 0 {
            self.ready.push_back(Batch {
                at: self.at.clone(),
                records: self.gather.take(),
            });
        }
    }
}

/// Joins the group. Blocking, briefly.
pub(super) fn start(
    options: KafkaOptions,
    reader: Arc<Reader>,
    (group, pace): (&str, Pace),
    topics: &[Topic],
) -> Result<Consumer, LogError> {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let config = settings::member(&options, group, pace);
    let member = Arc::new(Member {
        options,
        group: group.to_owned(),
        events: RwLock::new(Some(sender)),
        commands: Mutex::default(),
        wake: Wake::default(),
        closing: false.into(),
        owned: Mutex::default(),
        polled: Mutex::default(),
    });
    let mut consumer: BaseConsumer<Context> = config
        .create_with_context(Context(member.clone()))
        .map_err(unavailable)?;
    let rung = member.clone();
    consumer.set_nonempty_callback(move || rung.wake.ring());
    let names: Vec<&str> = topics.iter().map(|t| &**t).collect();
    consumer.subscribe(&names).map_err(unavailable)?;
    let consumer = Arc::new(consumer);
    let (commits, requests) = sync_channel(COMMITS_MAX);
    let (ended, end) = tokio::sync::watch::channel(());
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    let failed = |e: std::io::Error| LogError::Failed(e.to_string());
    let (committing, committed_by) = (member.clone(), consumer.clone());
    let committer = thread("kafka-commit")
        .spawn(move || commit_thread(&committing, &committed_by, &requests))
        .map_err(failed)?;
    let (watching, asked) = (member.clone(), reader.clone());
    thread("kafka-watch")
        .spawn(move || super::watch::run(&watching, &asked))
        .map_err(failed)?;
    let polling = member.clone();
    thread("kafka-consumer")
        .spawn(move || {
            poll_thread(&polling, consumer, committer);
            drop(ended);
        })
        .map_err(failed)?;
    Ok(Consumer {
        events,
        control: Arc::new(Control {
            member,
            reader,
            commits: Mutex::new(Some(commits)),
            end,
        }),
    })
}

fn poll_thread(member: &Arc<Member>, consumer: Arc<BaseConsumer<Context>>, committer: JoinHandle<()>) {
    while !member.closing.load(Ordering::Acquire) && !member.is_deserted() {
        if let Some(before_poll) = &member.options.before_poll {
            before_poll();
        }
        member.run_commands(&consumer);
        member.tell_assigned(&consumer);
        member.poll_round(&consumer);
        let blocked = !member.hand_over(&consumer);
        let waiting = blocked || !member.polled.lock().untold.is_empty() || !member.commands.lock().is_empty();
        member.wake.sleep(if waiting { BLOCKED } else { IDLE });
    }
    member.closing.store(true, Ordering::Release);
    member.owned.lock().clear();
    member.commands.lock().clear();
    member.events.write().take();
    // Whoever drops the client last leaves the group: that is us, or a process that ends now might not leave at all, and its
    // partitions would wait for the session's end.
    let _ = committer.join();
    // This can hang (gotcha 9), so nobody joins this thread.
    drop(consumer);
}

impl Member {
    fn poll_round(&self, consumer: &BaseConsumer<Context>) {
        let mut empty = 0;
        for _ in 0..ROUND_MESSAGES_MAX {
            match consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    empty = 0;
                    self.polled.lock().accept(&message);
                }
                Some(Err(error)) => self.polled.lock().trouble(&error),
                // Once may have been an event that was carried out, with more behind it.
                None if empty == 1 => return,
                None => empty += 1,
            }
        }
        // There may be more, and no signal comes for it.
        self.wake.ring();
    }

    /// Tells of new partitions once their committed offsets are known.
    fn tell_assigned(&self, consumer: &BaseConsumer<Context>) {
        let untold = self.polled.lock().untold.clone();
        if untold.is_empty() {
            return;
        }
        let timeout = Duration::from_millis(self.options.ask_timeout_ms.min(1_000));
        let found = ask_committed(consumer, &untold, timeout);
        let mut polled = self.polled.lock();
        match found {
            Ok(committed) => {
                polled.untold.clear();
                polled.mended();
                let shares = untold.into_iter().zip(committed);
                let shares = shares
                    .map(|(at, committed)| Assigned {
                        at,
                        generation: 0,
                        committed,
                    })
                    .collect();
                polled.news.push_back(ConsumerEvent::Assigned(shares));
            }
            Err(error) => polled.note(Some(error.to_string())),
        }
    }

    fn run_commands(&self, consumer: &BaseConsumer<Context>) {
        // What could not be done yet.
        let mut again = Vec::new();
        loop {
            let Some(command) = self.commands.lock().pop_front() else {
                self.commands.lock().extend(again);
                return;
            };
            match command {
                Command::Start(mut start) => match self.start(consumer, &start) {
                    Err(LogError::Unavailable(_)) if start.tried < START_TRIES => {
                        start.tried += 1;
                        again.push(Command::Start(start));
                    }
                    result => {
                        let _ = start.reply.send(result);
                    }
                },
                Command::Revive(at) => {
                    let mut polled = self.polled.lock();
                    if let Err(error) = polled.revive(consumer, &at) {
                        polled.note(Some(error.to_string()));
                    }
                }
                Command::Pause(at, pause) => {
                    let mut polled = self.polled.lock();
                    let Some(reading) = polled.readings.iter_mut().find(|r| r.at == at) else {
                        continue;
                    };
                    if reading.asked_to_pause == pause {
                        continue;
                    }
                    reading.asked_to_pause = pause;
                    let Some(next) = reading.next else { continue };
                    let result = match pause {
                        true => hold(consumer, &at),
                        false if reading.held => Ok(()),
                        false => go_on(consumer, &at, next),
                    };
                    if let Err(error) = result {
                        polled.note(Some(error.to_string()));
                    }
                }
            }
        }
    }

    fn start(&self, consumer: &BaseConsumer<Context>, start: &Start) -> Result<(), LogError> {
        let Start { at, from, tried, .. } = start;
        let mut polled = self.polled.lock();
        let untold = polled.untold.contains(at);
        if untold || !polled.readings.iter().any(|r| r.at == *at) {
            let what = format!("{} {} is not assigned to this member", at.topic, at.partition);
            return Err(LogError::Failed(what));
        }
        if *tried == START_TRIES / 2 {
            // librdkafka gives a partition up after an offset out of range; only a new assignment revives it.
            assign_again(consumer, &polled.readings)?;
        }
        // What an earlier start had fetched.
        hold(consumer, at)?;
        go_on(consumer, at, *from)?;
        if let Some(reading) = polled.readings.iter_mut().find(|r| r.at == *at) {
            *reading = Reading {
                next: Some(*from),
                ..Reading::new(at.clone())
            };
        }
        Ok(())
    }

    /// Hands over what there is room for; false if something is left.
    fn hand_over(&self, consumer: &BaseConsumer<Context>) -> bool {
        if !self.tell_news() {
            return false;
        }
        let mut all = true;
        let mut polled = self.polled.lock();
        let mut failed = None;
        for reading in &mut polled.readings {
            reading.close_batch();
            while let Some(batch) = reading.ready.pop_front() {
                if let Err(TrySendError::Full(ConsumerEvent::Records(batch))) = self.send(ConsumerEvent::Records(batch))
                {
                    reading.ready.push_front(batch);
                    all = false;
                    break;
                }
            }
            let Some(next) = reading.next.filter(|_| !reading.asked_to_pause) else {
                continue;
            };
            let result = if !reading.held && reading.ready.len() >= READY_MAX {
                reading.held = true;
                hold(consumer, &reading.at)
            } else if reading.held && reading.ready.is_empty() {
                reading.held = false;
                go_on(consumer, &reading.at, next)
            } else {
                Ok(())
            };
            failed = result.err().or(failed);
        }
        if let Some(error) = failed {
            polled.note(Some(error.to_string()));
        }
        all
    }
}

/// Assigns what is assigned, each partition where it is.
fn assign_again(consumer: &BaseConsumer<Context>, readings: &[Reading]) -> Result<(), LogError> {
    let mut all = TopicPartitionList::with_capacity(readings.len());
    for Reading { at, next, .. } in readings {
        let place = KafkaOffset::Offset(next.unwrap_or(Offset::ZERO).0 as i64);
        let added = all.add_partition_offset(&at.topic, at.partition.0 as i32, place);
        added.map_err(unavailable)?;
    }
    consumer.assign(&all).map_err(unavailable)?;
    for reading in readings
        .iter()
        .filter(|r| r.next.is_none() || r.asked_to_pause || r.held)
    {
        hold(consumer, &reading.at)?;
    }
    Ok(())
}

fn hold(consumer: &BaseConsumer<Context>, at: &TopicPartition) -> Result<(), LogError> {
    consumer.pause(&list(at, KafkaOffset::Invalid)?).map_err(unavailable)
}

/// Fetches from `next` on. The seek is waited for: after it nothing older is in librdkafka's queue.
fn go_on(consumer: &BaseConsumer<Context>, at: &TopicPartition, next: Offset) -> Result<(), LogError> {
    let place = list(at, KafkaOffset::Offset(next.0 as i64))?;
    let sought = consumer.seek_partitions(place, SEEK_WITHIN).map_err(unavailable)?;
    for element in sought.elements() {
        element.error().map_err(unavailable)?;
    }
    consumer.resume(&list(at, KafkaOffset::Invalid)?).map_err(unavailable)
}

impl Polled {
    /// What is read and wants records, with the next offset to come; not what its owner has paused or is slow to take.
    pub fn wanting(&self) -> Vec<(TopicPartition, Offset)> {
        let wants = |r: &&Reading| !r.asked_to_pause && !r.held && r.ready.is_empty();
        let place = |r: &Reading| Some((r.at.clone(), r.next?));
        self.readings.iter().filter(wants).filter_map(place).collect()
    }

    /// librdkafka may have given the partition up, or have lost its queue (gotcha 7): only a new assignment revives it.
    fn revive(&mut self, consumer: &BaseConsumer<Context>, at: &TopicPartition) -> Result<(), LogError> {
        let reading = self.readings.iter().find(|r| r.at == *at);
        let Some(next) = reading.and_then(|r| r.next.filter(|_| !r.asked_to_pause && !r.held)) else {
            return Ok(());
        };
        assign_again(consumer, &self.readings)?;
        hold(consumer, at)?;
        go_on(consumer, at, next)
    }

    fn accept(&mut self, message: &BorrowedMessage<'_>) {
        let is_its =
            |r: &&mut Reading| r.at.partition.0 as i32 == message.partition() && *r.at.topic == *message.topic();
        let Some(reading) = self.readings.iter_mut().find(is_its) else {
            return;
        };
        let offset = Offset(message.offset().unsigned_abs());
        // Silent, or fetched before a seek.
        if reading.next.is_none_or(|next| offset < next) {
            return;
        }
        reading.next = Some(offset.next());
        reading.gather.push(message);
        if reading.gather.is_full() {
            reading.close_batch();
        }
        self.mended();
    }

    /// A broker answered. Not only records say so: a partition nobody talks in would stay in trouble for ever.
    fn mended(&mut self) {
        if std::mem::take(&mut self.troubled) {
            self.news.push_back(ConsumerEvent::Trouble(None));
        }
    }

    fn trouble(&mut self, error: &KafkaError) {
        if is_passing(error) && code_of(error) != Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        self.note(Some(error.to_string()));
    }

    /// Once until records come again.
    pub fn note(&mut self, what: Option<String>) {
        if !std::mem::replace(&mut self.troubled, true) {
            self.news.push_back(ConsumerEvent::Trouble(what));
        }
    }
}

fn commit_thread(member: &Member, consumer: &BaseConsumer<Context>, requests: &Receiver<CommitRequest>) {
    while !member.closing.load(Ordering::Acquire) {
        let first = match requests.recv_timeout(COMMIT_LOOK) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let owned = member.owned.lock();
        let lost = consumer.assignment_lost();
        let (mut wanted, mut replies) = (HashMap::new(), Vec::new());
        for request in std::iter::once(first).chain(requests.try_iter().take(COMMITS_MAX)) {
            if lost || request.offsets.iter().any(|(at, _)| !owned.contains(at)) {
                let _ = request.reply.send(Err(CommitError::Fenced));
                continue;
            }
            wanted.extend(request.offsets);
            replies.push(request.reply);
        }
        let result = commit(consumer, &wanted);
        drop(owned);
        for reply in replies {
            let _ = reply.send(result.clone());
        }
    }
}

fn commit(consumer: &BaseConsumer<Context>, wanted: &HashMap<TopicPartition, Offset>) -> Result<(), CommitError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut offsets = TopicPartitionList::with_capacity(wanted.len());
    for (at, offset) in wanted {
        let added =
            offsets.add_partition_offset(&at.topic, at.partition.0 as i32, KafkaOffset::Offset(offset.0 as i64));
        added.map_err(|e| CommitError::Failed(e.to_string()))?;
    }
    consumer
        .commit(&offsets, CommitMode::Sync)
        .map_err(|error| match code_of(&error) {
            // RebalanceInProgress is answered between a join and its assignment: of that generation nothing is ours yet.
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::StaleMemberEpoch
                | RDKafkaErrorCode::AssignmentLost,
            ) => CommitError::Fenced,
            _ => CommitError::Failed(error.to_string()),
        })
}

struct Control {
    member: Arc<Member>,
    reader: Arc<Reader>,
    commits: Mutex<Option<SyncSender<CommitRequest>>>,
    /// Changes (ends) when the poll thread is through.
    end: tokio::sync::watch::Receiver<()>,
}

impl Control {
    fn command(&self, command: Command) {
        self.member.commands.lock().push_back(command);
        self.member.wake.ring();
    }
}

#[async_trait]
impl ConsumerControl for Control {
    async fn start(&self, at: &TopicPartition, from: Offset) -> Result<(), LogError> {
        // Asked here and not on the poll thread, which would wait for the broker's answer.
        let (reader, asked) = (self.reader.clone(), at.clone());
        blocking(move || reader.in_range(&asked, from)).await?;
        let (reply, answer) = oneshot::channel();
        self.command(Command::Start(Start {
            at: at.clone(),
            from,
            reply,
            tried: 0,
        }));
        answer
            .await
            .map_err(|_| LogError::Unavailable("the member has left its group".into()))?
    }

    fn pause(&self, at: &TopicPartition) {
        self.command(Command::Pause(at.clone(), true));
    }

    fn resume(&self, at: &TopicPartition) {
        self.command(Command::Pause(at.clone(), false));
    }

    async fn commit(&self, offsets: Vec<(TopicPartition, Offset)>) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        let sent = match &*self.commits.lock() {
            Some(commits) => commits.try_send(CommitRequest { offsets, reply }).is_ok(),
            None => return Err(CommitError::Fenced),
        };
        if !sent {
            return Err(CommitError::Failed("too many commits wait for the broker".into()));
        }
        answer
            .await
            .unwrap_or_else(|_| Err(CommitError::Failed("the member has left its group".into())))
    }

    async fn close(&self) {
        self.member.closing.store(true, Ordering::Release);
        // The commit thread ends with its channel, and lets go of the client.
        self.commits.lock().take();
        self.member.wake.ring();
        let mut end = self.end.clone();
        let ended = async { while end.changed().await.is_ok() {} };
        if tokio::time::timeout(CLOSE_WITHIN, ended).await.is_err() {
            tracing::warn!(
                group = self.member.group,
                "leaving the group takes long; not waited for"
            );
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.commits.lock().take();
        self.member.wake.ring();
    }
}
