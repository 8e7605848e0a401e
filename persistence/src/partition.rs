//! One partition's life: `Consuming → Draining → Released`. Folding the next batch overlaps the write of the last; a cut
//! (state rows, marks, sync, commit) runs beside them and waits only for the event rows it stands on.
//!
//! It has a `select!` of its own beside the driver's: partitions live in tasks of their own, so that one that loads, waits for
//! its store or panics holds up no other; the driver knows of membership only.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, iter};
use ordered_log::{Assigned, Bounds, CommitError, ConsumerControl, Log, LogError, TopicPartition};
use parking_lot::Mutex;
use process::Recorder;
use store::StoredConversation;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use wire::{ConversationKey, Offset};

use crate::core::{Core, Cut, FoldedBatch, Loaded, Place, Read};
use crate::dead_letters::DeadLetters;
use crate::error::Alarm;
use crate::inbox::Inbox;
use crate::lines::{self, Rows};
use crate::meters::{Books, Meters};
use crate::write::{Patient, Retry};
use crate::{
    FOLD_BYTES_MAX, FOLD_RECORDS_MAX, HANDOVER_MS_MAX, LOADS_IN_FLIGHT_MAX, UNCOMMITTED_RECORDS_MAX,
    WRITES_IN_FLIGHT_MAX,
};

/// What every partition of the service uses.
pub(crate) struct Shared {
    pub log: Arc<dyn Log>,
    pub patient: Patient,
    pub dead_letters: DeadLetters,
    pub meters: Arc<Meters>,
    pub commit_interval: Duration,
    /// Cuts of all partitions fall on the same moments, so that stores and logs sync once for all of them.
    pub phase: Instant,
    pub gather: Duration,
    pub resident_bytes_max: usize,
    pub recorder: Recorder,
}

impl Shared {
    /// The next moment at which all partitions cut.
    fn next_cut(&self) -> Instant {
        let interval_ms = (self.commit_interval.as_millis() as u64).max(1);
        let passed = self.phase.elapsed().as_millis() as u64 / interval_ms;
        self.phase + Duration::from_millis((passed + 1) * interval_ms)
    }
}

/// How far a partition is, for the lag.
#[derive(Default)]
pub(crate) struct Progress {
    /// The first offset not committed; `u64::MAX` until the reading began.
    pub committed: AtomicU64,
    /// Append time of the oldest record folded and not committed; 0: none.
    pub oldest_at_ms: AtomicI64,
    /// Where the log ended when that was found below what is committed: it was made anew, or cut.
    pub shrunk_to: Mutex<Option<Bounds>>,
    /// It is not ours any more: nothing is shown of it.
    pub let_go: AtomicBool,
}

/// Why a partition ended without being asked to.
pub(crate) enum Stopped {
    /// Somebody else's already.
    Fenced,
    Alarm(Alarm),
}

impl From<Alarm> for Stopped {
    fn from(alarm: Alarm) -> Self {
        Stopped::Alarm(alarm)
    }
}

/// Reads, folds and writes.
pub(crate) struct Consuming {
    shared: Arc<Shared>,
    at: TopicPartition,
    control: Arc<dyn ConsumerControl>,
    inbox: Arc<Inbox>,
    progress: Arc<Progress>,
    books: Arc<Books>,
    core: Core,
    /// Batches and dead letters on their way, by number.
    writes: FuturesUnordered<BoxFuture<'static, Result<u64, Alarm>>>,
    outstanding: BTreeSet<u64>,
    next_write: u64,
    loading: Option<BoxFuture<'static, (Read, Vec<Answer>)>>,
    flush: Flush,
    next_cut: Instant,
    /// The next batch is not taken before, unless it is full.
    next_take: Instant,
}

type Answer = (ConversationKey, Option<StoredConversation>);

/// The cut that is under way.
enum Flush {
    None,
    /// Waits for the writes numbered below.
    Waiting(Cut, u64),
    Running(BoxFuture<'static, Result<Offset, Stopped>>),
}

/// Takes nothing new; what was folded is written and committed.
pub(crate) struct Draining(Consuming);

/// Nothing more will be written or committed for this partition by this owner.
pub(crate) struct Released {
    /// The first offset the next owner will read; `None` if the hand-over ran out of time.
    pub committed: Option<Offset>,
}

impl Consuming {
    /// Checks the committed offset against the log and starts the reading.
    pub async fn start(
        shared: Arc<Shared>,
        assigned: Assigned,
        place: Place,
        control: Arc<dyn ConsumerControl>,
        inbox: Arc<Inbox>,
        progress: Arc<Progress>,
    ) -> Result<Self, Stopped> {
        let at = assigned.at;
        let mut retry = Retry::new();
        let from = loop {
            match start_reading(&*shared.log, &*control, &at, assigned.committed).await? {
                Some(from) => break from,
                None => retry.pause().await,
            }
        };
        progress.committed.store(from.0, Ordering::Relaxed);
        tracing::info!(
            partition = at.partition.0,
            from = from.0,
            generation = assigned.generation,
            "storing a partition"
        );
        Ok(Self {
            books: Arc::new(Books::new(place.partition)),
            core: Core::new(place, from, shared.resident_bytes_max),
            at,
            control,
            inbox,
            progress,
            writes: FuturesUnordered::new(),
            outstanding: BTreeSet::new(),
            next_write: 0,
            loading: None,
            flush: Flush::None,
            next_cut: shared.next_cut(),
            next_take: Instant::now(),
            shared,
        })
    }

    /// Until told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<Draining, Stopped> {
        let inbox = Arc::clone(&self.inbox);
        let mut ticks = interval_at(self.next_cut, self.shared.commit_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            if self.cut_is_due() {
                self.begin_cut();
            }
            self.advance_flush();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Draining(self)),
                Some(done) = self.writes.next(), if !self.writes.is_empty() => self.written(done?),
                done = running(&mut self.flush), if self.flush.is_running() => self.flushed(done?),
                (read, answers) = pending(&mut self.loading), if self.loading.is_some() => {
                    self.loading = None;
                    self.loaded(answers).await?;
                    self.fold(read);
                }
                () = inbox.ready(self.next_take), if self.takes_more() => self.take(),
                _ = ticks.tick() => self.log_still_holds_us()?,
            }
        }
    }

    fn log_still_holds_us(&self) -> Result<(), Alarm> {
        let Some(Bounds { start, end }) = *self.progress.shrunk_to.lock() else {
            return Ok(());
        };
        Err(Alarm::CommittedOutOfLog {
            partition: self.core.place().partition,
            committed: Offset(self.progress.committed.load(Ordering::Relaxed)),
            start,
            end,
        })
    }

    fn takes_more(&self) -> bool {
        self.loading.is_none() && self.outstanding.len() < WRITES_IN_FLIGHT_MAX
    }

    fn take(&mut self) {
        let records = self.inbox.take(FOLD_RECORDS_MAX, FOLD_BYTES_MAX);
        self.next_take = Instant::now() + self.shared.gather;
        if let (0, Some(first)) = (self.progress.oldest_at_ms.load(Ordering::Relaxed), records.first()) {
            self.progress.oldest_at_ms.store(first.at_ms, Ordering::Relaxed);
        }
        let mut read = self.core.read(records);
        self.books.read(read.records());
        if read.missing.is_empty() {
            return self.fold(read);
        }
        let patient = self.shared.patient.clone();
        let missing = std::mem::take(&mut read.missing);
        self.loading = Some(Box::pin(async move {
            let load = |key: ConversationKey| {
                let patient = patient.clone();
                async move {
                    let stored = patient.load(&key).await;
                    (key, stored)
                }
            };
            let answers = iter(missing.into_iter().map(load))
                .buffer_unordered(LOADS_IN_FLIGHT_MAX)
                .collect()
                .await;
            (read, answers)
        }));
    }

    /// Takes the loaded states in. One that is ahead of our reading is right only if the log holds its record.
    async fn loaded(&mut self, answers: Vec<Answer>) -> Result<(), Stopped> {
        let mut ahead = None;
        for (key, stored) in answers {
            if let Loaded::AheadOfReading(applied) = self.core.loaded(key.clone(), stored)? {
                ahead = ahead.max(Some((applied, key)));
            }
        }
        let Some((applied, key)) = ahead else { return Ok(()) };
        let mut retry = Retry::new();
        let end = loop {
            match self.shared.log.bounds(&self.at).await {
                Ok(bounds) => break bounds.end,
                Err(why) => {
                    tracing::warn!(%why, "cannot ask where the log ends; trying again");
                    retry.pause().await;
                }
            }
        };
        let place = self.core.place();
        if applied.epoch != place.epoch || applied.offset >= end {
            return Err(Alarm::StoreAheadOfLog {
                key,
                applied,
                partition: place.partition,
                end,
            }
            .into());
        }
        Ok(())
    }

    fn fold(&mut self, read: Read) {
        let folded = self.core.fold(read);
        let rows = Rows::folded(&self.shared.recorder, &self.core, &folded);
        let FoldedBatch {
            write,
            dead_letters,
            counts,
            received_at_ms,
            ..
        } = folded;
        self.shared.meters.count(&counts, &dead_letters);
        self.books.folded(&counts);
        for letter in dead_letters {
            let (letters, at) = (self.shared.dead_letters.clone(), self.at.clone());
            let books = Arc::clone(&self.books);
            let (recorder, offset) = (self.shared.recorder.clone(), letter.record.offset);
            self.start_write(Box::pin(async move {
                letters.put(&at, letter).await;
                books.put_aside();
                lines::dead_letter(&recorder, &at, offset);
                Ok(())
            }));
        }
        if write.conversations.is_empty() {
            return;
        }
        let (patient, meters) = (self.shared.patient.clone(), Arc::clone(&self.shared.meters));
        let books = Arc::clone(&self.books);
        self.start_write(Box::pin(async move {
            patient.write(write).await?;
            books.stored(&counts);
            rows.can_be_read();
            meters.stored(counts.rows, &received_at_ms);
            Ok(())
        }));
    }

    fn start_write(&mut self, write: BoxFuture<'static, Result<(), Alarm>>) {
        let number = self.next_write;
        self.next_write += 1;
        self.outstanding.insert(number);
        self.writes.push(Box::pin(async move { write.await.map(|()| number) }));
    }

    fn written(&mut self, number: u64) {
        self.outstanding.remove(&number);
    }

    fn cut_is_due(&self) -> bool {
        self.core.uncut() > 0
            && matches!(self.flush, Flush::None)
            && (Instant::now() >= self.next_cut
                || self.core.uncut() >= UNCOMMITTED_RECORDS_MAX
                || self.core.over_budget())
    }

    fn begin_cut(&mut self) {
        self.next_cut = self.shared.next_cut();
        if let Some(cut) = self.core.cut() {
            self.flush = Flush::Waiting(cut, self.next_write);
        }
    }

    /// A cut whose event rows all stand is written and committed.
    fn advance_flush(&mut self) {
        let Flush::Waiting(_, below) = &self.flush else { return };
        if self.outstanding.first().is_some_and(|first| first < below) {
            return;
        }
        let Flush::Waiting(cut, _) = std::mem::replace(&mut self.flush, Flush::None) else {
            return;
        };
        let (patient, control) = (self.shared.patient.clone(), Arc::clone(&self.control));
        let (meters, at) = (Arc::clone(&self.shared.meters), self.at.clone());
        let recorder = self.shared.recorder.clone();
        self.flush = Flush::Running(Box::pin(async move {
            let through = cut.through;
            write_cut(&patient, &meters, cut).await?;
            let committed = commit(&*control, &meters, &at, through).await;
            lines::committed(&recorder, at.partition, through, committed.is_ok());
            committed?;
            Ok(through)
        }));
    }

    fn flushed(&mut self, through: Offset) {
        self.flush = Flush::None;
        self.core.cut_done();
        self.progress.committed.store(through.0, Ordering::Relaxed);
        let oldest = if self.core.uncut() == 0 {
            0
        } else {
            crate::meters::now_ms()
        };
        self.progress.oldest_at_ms.store(oldest, Ordering::Relaxed);
    }
}

impl Draining {
    /// Writes and commits everything folded, in the time a hand-over has.
    pub async fn finish(self) -> Result<Released, Stopped> {
        let at = self.0.at.clone();
        match tokio::time::timeout(Duration::from_millis(HANDOVER_MS_MAX), self.settle()).await {
            Ok(done) => done,
            Err(_) => {
                tracing::warn!(
                    partition = at.partition.0,
                    "the hand-over ran out of time; the next owner folds the rest again"
                );
                Ok(Released { committed: None })
            }
        }
    }

    async fn settle(self) -> Result<Released, Stopped> {
        let mut partition = self.0;
        // Read but not folded: the next owner's.
        partition.loading = None;
        loop {
            if matches!(partition.flush, Flush::None) {
                partition.begin_cut();
            }
            partition.advance_flush();
            if matches!(partition.flush, Flush::None) && partition.writes.is_empty() {
                return Ok(Released {
                    committed: Some(partition.core.next()),
                });
            }
            tokio::select! {
                Some(done) = partition.writes.next(), if !partition.writes.is_empty() => partition.written(done?),
                done = running(&mut partition.flush), if partition.flush.is_running() => partition.flushed(done?),
            }
        }
    }
}

impl Flush {
    fn is_running(&self) -> bool {
        matches!(self, Flush::Running(_))
    }
}

/// The running cut; never ready if none runs.
async fn running(flush: &mut Flush) -> Result<Offset, Stopped> {
    match flush {
        Flush::Running(future) => future.await,
        _ => std::future::pending().await,
    }
}

/// The future in the option; never ready if there is none.
async fn pending<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    match slot {
        Some(future) => Pin::new(future).await,
        None => std::future::pending().await,
    }
}

/// `None`: the log is away, try again.
async fn start_reading(
    log: &dyn Log,
    control: &dyn ConsumerControl,
    at: &TopicPartition,
    committed: Option<Offset>,
) -> Result<Option<Offset>, Alarm> {
    let bounds = match log.bounds(at).await {
        Ok(bounds) => bounds,
        Err(why) => {
            tracing::warn!(%why, partition = at.partition.0, "cannot ask what the log holds; trying again");
            return Ok(None);
        }
    };
    // A group that never committed starts at the log's start, never at its end: what stands already is skipped.
    let from = committed.unwrap_or(bounds.start);
    let out = |start, end| Alarm::CommittedOutOfLog {
        partition: at.partition,
        committed: from,
        start,
        end,
    };
    if from < bounds.start || from > bounds.end {
        return Err(out(bounds.start, bounds.end));
    }
    match control.start(at, from).await {
        Ok(()) => Ok(Some(from)),
        Err(LogError::OutOfRange { start, end, .. }) => Err(out(start, end)),
        Err(why) => {
            tracing::warn!(%why, partition = at.partition.0, "cannot start the reading; trying again");
            Ok(None)
        }
    }
}

/// State rows and watermarks, then everything made to last.
async fn write_cut(patient: &Patient, meters: &Meters, cut: Cut) -> Result<(), Alarm> {
    let (states, marks) = (cut.write.conversations.len() as u64, cut.write.marks.len() as u64);
    if states + marks > 0 {
        patient.write(cut.write).await?;
    }
    patient.sync().await;
    meters.state_rows.increment(states);
    meters.marks_rows.increment(marks);
    Ok(())
}

async fn commit(
    control: &dyn ConsumerControl,
    meters: &Meters,
    at: &TopicPartition,
    through: Offset,
) -> Result<(), Stopped> {
    let mut retry = Retry::new();
    loop {
        match control.commit(vec![(at.clone(), through)]).await {
            Ok(()) => {
                meters.commits_ok.increment(1);
                return Ok(());
            }
            Err(CommitError::Fenced) => {
                meters.commits_fenced.increment(1);
                return Err(Stopped::Fenced);
            }
            Err(why) => {
                meters.commits_failed.increment(1);
                tracing::warn!(%why, partition = at.partition.0, "the commit failed; trying again");
                retry.pause().await;
            }
        }
    }
}
