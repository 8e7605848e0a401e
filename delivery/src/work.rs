//! What takes time, beside the loop: loads and pages of the store, questions to the log, announcements. Each is asked again
//! until it is answered or the partition is let go; a store that is away holds up nobody but those who wait for it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use delivery_core::{Entry, Loaded, Marks, PageRow, PageToken};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, TryFutureExt};
use ordered_log::{Bounds, CommitError, ConsumerControl, Log, LogError, Producer, TailEvent, TopicPartition};
use process::metrics::Counter;
use store::{History, PageRange, StoreError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Seq};

use crate::error::Alarm;
use crate::owners::Announcer;
use crate::{READ_BACK_BYTES, READ_BACK_RECORDS, READ_TIMEOUT_MS, RETRY_MS_MAX, RETRY_MS_MIN};

/// What came of it.
pub(crate) enum Done {
    /// Announced at this offset of `owners`; to be read from `start`.
    Announced {
        at: TopicPartition,
        claim: u64,
        announced: Offset,
        start: Result<Offset, Alarm>,
    },
    AnnouncedAgain {
        at: TopicPartition,
        claim: u64,
        announced: Option<Offset>,
    },
    Started {
        at: TopicPartition,
        claim: u64,
        from: Offset,
        outcome: Result<(), LogError>,
    },
    OpenSessions {
        partition: Partition,
        claim: u64,
        keys: Vec<ConversationKey>,
    },
    Loaded {
        at: (Partition, u64),
        key: ConversationKey,
        loaded: Option<Loaded>,
    },
    Page {
        token: PageToken,
        rows: Vec<PageRow>,
    },
    ReadBack {
        token: PageToken,
        entries: Result<Vec<Entry>, Alarm>,
    },
    End {
        at: (Partition, u64),
        end: Offset,
    },
    Committed(Vec<(Partition, Option<Offset>)>),
    /// What the log held, asked after this offset was the next.
    Lag(Vec<(Partition, Offset, Bounds)>),
    /// The `owners` topic, from its start.
    Tail(mpsc::Receiver<TailEvent>),
    Membership {
        claims: Vec<(Partition, u64)>,
        outcome: Result<(), CommitError>,
    },
    /// The partition was let go meanwhile.
    Cancelled,
}

pub(crate) type Work = FuturesUnordered<BoxFuture<'static, Done>>;

/// Reads: so many at once, the others in line.
pub(crate) struct Reads {
    pub running: Work,
    line: VecDeque<BoxFuture<'static, Done>>,
    most: usize,
}

impl Reads {
    pub fn new(most: usize) -> Self {
        Self {
            running: Work::new(),
            line: VecDeque::new(),
            most,
        }
    }

    pub fn push(&mut self, read: BoxFuture<'static, Done>) {
        if self.running.len() < self.most {
            self.running.push(read);
        } else {
            self.line.push_back(read);
        }
    }

    /// One is done: the next in line begins.
    pub fn advance(&mut self) {
        while self.running.len() < self.most
            && let Some(next) = self.line.pop_front()
        {
            self.running.push(next);
        }
    }
}

/// Asks until it is answered, with growing waits between.
async fn until_answered<T, E, F>(what: &'static str, mut ask: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut wait_ms = RETRY_MS_MIN;
    loop {
        match tokio::time::timeout(Duration::from_millis(READ_TIMEOUT_MS), ask()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => tracing::debug!(what, %error, wait_ms, "asking again"),
            Err(_) => tracing::debug!(what, "no answer in time; asking again"),
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        wait_ms = (wait_ms * 2).min(RETRY_MS_MAX);
    }
}

fn unless_cancelled(
    token: CancellationToken,
    work: impl Future<Output = Done> + Send + 'static,
) -> BoxFuture<'static, Done> {
    async move { token.run_until_cancelled(work).await.unwrap_or(Done::Cancelled) }.boxed()
}

/// What work is done with; cheap to clone.
#[derive(Clone)]
pub(crate) struct Tools {
    pub log: Arc<dyn Log>,
    pub store: Arc<dyn History>,
    pub producer: Arc<dyn Producer>,
    pub control: Arc<dyn ConsumerControl>,
    pub announcer: Announcer,
    pub persistence_group: String,
    pub load_failed: Counter,
}

impl Tools {
    /// Says that the partition is ours, and finds where to begin: persistence's committed offset.
    pub fn claim(
        &self,
        at: TopicPartition,
        group: u64,
        claim: u64,
        token: CancellationToken,
    ) -> BoxFuture<'static, Done> {
        let tools = self.clone();
        unless_cancelled(token, async move {
            let announced = until_answered("announce", || {
                tools.announcer.announce(&*tools.producer, at.partition, group)
            })
            .await;
            let start = tools.start_of(&at).await;
            Done::Announced {
                at,
                claim,
                announced: announced.offset,
                start,
            }
        })
    }

    async fn start_of(&self, at: &TopicPartition) -> Result<Offset, Alarm> {
        let group = &self.persistence_group;
        let committed = until_answered("persistence's offset", || {
            self.log.committed(group, std::slice::from_ref(at))
        })
        .await;
        // The end is asked for afterwards: it cannot be below what was committed.
        let Bounds { start, end } = until_answered("bounds", || self.log.bounds(at)).await;
        match committed.first().copied().flatten() {
            None => Ok(start),
            Some(committed) if committed >= start && committed <= end => Ok(committed),
            Some(committed) => Err(Alarm::CommittedOutOfLog {
                partition: at.partition,
                committed,
                start,
                end,
            }),
        }
    }

    pub fn announce_again(
        &self,
        at: TopicPartition,
        group: u64,
        claim: u64,
        token: CancellationToken,
    ) -> BoxFuture<'static, Done> {
        let tools = self.clone();
        unless_cancelled(token, async move {
            let outcome = tools.announcer.announce(&*tools.producer, at.partition, group).await;
            Done::AnnouncedAgain {
                at,
                claim,
                announced: outcome.ok().map(|a| a.offset),
            }
        })
    }

    pub fn start(
        &self,
        at: TopicPartition,
        claim: u64,
        from: Offset,
        token: CancellationToken,
    ) -> BoxFuture<'static, Done> {
        let control = Arc::clone(&self.control);
        unless_cancelled(token, async move {
            let mut wait_ms = RETRY_MS_MIN;
            let outcome = loop {
                match control.start(&at, from).await {
                    Err(LogError::Unavailable(_)) => {
                        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                        wait_ms = (wait_ms * 2).min(RETRY_MS_MAX);
                    }
                    outcome => break outcome,
                }
            };
            Done::Started {
                at,
                claim,
                from,
                outcome,
            }
        })
    }

    pub fn open_sessions(
        &self,
        (lane, epoch): (Lane, Epoch),
        partition: Partition,
        claim: u64,
        token: CancellationToken,
    ) -> BoxFuture<'static, Done> {
        let store = Arc::clone(&self.store);
        unless_cancelled(token, async move {
            let open = until_answered("open sessions", || store.open_sessions(&lane, epoch, partition)).await;
            Done::OpenSessions {
                partition,
                claim,
                keys: open.into_iter().map(|o| o.key).collect(),
            }
        })
    }

    pub fn load(
        &self,
        at: (Partition, u64),
        key: ConversationKey,
        token: CancellationToken,
    ) -> BoxFuture<'static, Done> {
        let (store, failed) = (Arc::clone(&self.store), self.load_failed.clone());
        unless_cancelled(token, async move {
            let load = || store.load(&key).inspect_err(|_| failed.increment(1));
            let row = until_answered("load", load).await;
            let loaded = row.map(|row| Loaded {
                state: row.state,
                marks: Marks {
                    customer_recv: row.marks.customer_recv,
                    customer_read: row.marks.customer_read,
                    agent_recv: row.marks.agent_recv,
                    agent_read: row.marks.agent_read,
                },
            });
            Done::Loaded { at, key, loaded }
        })
    }

    pub fn page(
        &self,
        token: PageToken,
        (key, after, limit): (ConversationKey, Seq, u32),
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Done> {
        let store = Arc::clone(&self.store);
        unless_cancelled(cancel, async move {
            let page =
                until_answered::<_, StoreError, _>("page", || store.page(&key, PageRange::After(after), limit)).await;
            let rows = page.events.into_iter().map(|row| PageRow {
                seq: row.seq,
                staff_only: row.staff_only,
                at_ms: row.at_ms,
                entry: row.entry,
            });
            Done::Page {
                token,
                rows: rows.collect(),
            }
        })
    }

    pub fn end(&self, at: TopicPartition, instance: u64, token: CancellationToken) -> BoxFuture<'static, Done> {
        let log = Arc::clone(&self.log);
        unless_cancelled(token, async move {
            let bounds = until_answered("end", || log.bounds(&at)).await;
            Done::End {
                at: (at.partition, instance),
                end: bounds.end,
            }
        })
    }

    /// Persistence's committed offsets; nothing if the log does not say: it is asked again in a second.
    pub fn committed(&self, owned: Vec<TopicPartition>) -> BoxFuture<'static, Done> {
        let tools = self.clone();
        async move {
            let answer = tools.log.committed(&tools.persistence_group, &owned);
            let answer = tokio::time::timeout(Duration::from_millis(READ_TIMEOUT_MS), answer).await;
            let offsets = answer.ok().and_then(Result::ok).unwrap_or_default();
            Done::Committed(owned.iter().map(|at| at.partition).zip(offsets).collect())
        }
        .boxed()
    }

    /// Commits where we are, only to learn whether we are still a member.
    pub fn prove_membership(
        &self,
        offsets: Vec<(TopicPartition, Offset)>,
        claims: Vec<(Partition, u64)>,
    ) -> BoxFuture<'static, Done> {
        let control = Arc::clone(&self.control);
        async move {
            let in_time = Duration::from_millis(READ_TIMEOUT_MS);
            let outcome = tokio::time::timeout(in_time, control.commit(offsets)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(CommitError::Failed("no answer in time".into())));
            Done::Membership { claims, outcome }
        }
        .boxed()
    }

    pub fn tail_owners(&self) -> BoxFuture<'static, Done> {
        let tools = self.clone();
        async move { Done::Tail(until_answered("owners", || tools.log.tail(tools.announcer.topic.clone())).await) }
            .boxed()
    }

    /// Records of the log by their offsets, which rise. Those that stand close together come with one read.
    pub fn read_back(
        &self,
        at: TopicPartition,
        token: PageToken,
        offsets: Vec<Offset>,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Done> {
        let log = Arc::clone(&self.log);
        unless_cancelled(cancel, async move {
            let mut entries = Vec::with_capacity(offsets.len());
            let mut wanted = offsets.into_iter().peekable();
            while let Some(&from) = wanted.peek() {
                let read = || async {
                    match log.read(&at, from, READ_BACK_RECORDS, READ_BACK_BYTES).await {
                        Err(LogError::OutOfRange { start, .. }) => Ok(Err(start)),
                        other => other.map(Ok),
                    }
                };
                let records = match until_answered("read back", read).await {
                    Ok(records) => records,
                    Err(start) => {
                        let partition = at.partition;
                        let entries = Err(Alarm::TailCut { partition, from, start });
                        return Done::ReadBack { token, entries };
                    }
                };
                for record in records {
                    while wanted.next_if(|w| *w < record.offset).is_some() {}
                    if wanted.next_if(|w| *w == record.offset).is_some() {
                        entries.push(Entry {
                            offset: record.offset,
                            at_ms: record.at_ms,
                            key: record.key,
                            value: record.value,
                        });
                    }
                }
            }
            Done::ReadBack {
                token,
                entries: Ok(entries),
            }
        })
    }

    /// `owned`: each with the offset that is read next.
    pub fn lag(&self, owned: Vec<(TopicPartition, Offset)>) -> BoxFuture<'static, Done> {
        let log = Arc::clone(&self.log);
        async move {
            let mut found = Vec::with_capacity(owned.len());
            for (at, next) in owned {
                let answer = tokio::time::timeout(Duration::from_millis(READ_TIMEOUT_MS), log.bounds(&at)).await;
                if let Ok(Ok(bounds)) = answer {
                    found.push((at.partition, next, bounds));
                }
            }
            Done::Lag(found)
        }
        .boxed()
    }
}
