//! The embedded log: durable, one process, one directory. The same notions as Kafka's, so that nothing above knows which
//! of the two it has.
//!
//! `queue` → `writer` (one batch, one fdatasync, then reports) → `partition` (recent records in memory) → `member`
//! (events of a consumer). `store` is the directory, `chunk` the bytes in it, `group` who owns what, `upkeep` what is
//! thrown away.
//!
//! A disk that is nearly full is noticed before it is: appends are refused until there is room again. After a write that
//! failed nothing more is taken: what is on the disk is not known until the directory is opened again, and the consumers
//! end so that this happens.

mod chunk;
mod group;
mod journal;
mod member;
mod partition;
mod queue;
mod store;
mod tail;
mod upkeep;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use process::disk::Room;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use wire::limits::{PRODUCE_IN_FLIGHT_BYTES_MAX, PRODUCE_IN_FLIGHT_MAX};
use wire::{Offset, Partition};

use self::group::Group;
use self::member::{Control, EVENTS_MAX, Member};
use self::partition::{PartitionLog, Portion, RingBudget, TopicState};
use self::queue::{Queue, Refused};
use self::store::{Store, TopicRow};
use self::writer::{Append, Op, Writer};
use crate::record::{bytes_of, count_errors};
use crate::{
    Bounds, Consumer, Log, LogError, LogRecord, Pace, ProduceError, Producer, TailEvent, ToProduce, Topic, TopicInfo,
    TopicPartition, TopicSpec,
};

/// Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Recent records kept in memory per partition, and for all partitions together.
    pub ring_bytes_per_partition_max: usize,
    pub ring_bytes_max: usize,
    /// Retention and compaction run this often.
    pub upkeep_interval_ms: u64,
    /// A member that has not let go of its partitions after this long loses them.
    pub release_timeout_ms: u64,
    /// A compacted topic's deletion markers are kept this long, for readers that are behind.
    pub tombstones_kept_ms: u64,
    /// With less room on the disk nothing is appended: it covers what is under way (64 MiB), memtables and journals. 0: the
    /// disk is not looked at.
    pub free_bytes_kept: u64,
    pub now_ms: Clock,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            ring_bytes_per_partition_max: 8 << 20,
            ring_bytes_max: 64 << 20,
            upkeep_interval_ms: 60_000,
            release_timeout_ms: 10_000,
            tombstones_kept_ms: 86_400_000,
            free_bytes_kept: 256 << 20,
            now_ms: Arc::new(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }),
        }
    }
}

/// The log's handle. `close` it to be sure the directory is free; a drop closes too.
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    upkeep: Mutex<Option<upkeep::Upkeep>>,
    /// Coordinators, pumps and tails; they end with the log.
    tasks: Mutex<JoinSet<()>>,
    creating: tokio::sync::Mutex<()>,
    /// Of `open_temp`: goes after everything else.
    temporary: Option<std::path::PathBuf>,
}

struct Shared {
    options: EmbeddedOptions,
    room: Room,
    queue: Queue<Op>,
    rings: RingBudget,
    /// Counts the opens of the directory.
    generation: u64,
    store: RwLock<Option<Arc<Store>>>,
    topics: RwLock<HashMap<Topic, Arc<TopicState>>>,
    partitions: AtomicUsize,
    groups: Mutex<HashMap<String, Arc<Group>>>,
    committed: Mutex<HashMap<String, HashMap<TopicPartition, Offset>>>,
    members: AtomicU64,
    failed: RwLock<Option<String>>,
}

impl Shared {
    fn topic(&self, name: &str) -> Option<Arc<TopicState>> {
        self.topics.read().get(name).cloned()
    }

    fn partition(&self, at: &TopicPartition) -> Option<Arc<PartitionLog>> {
        let topics = self.topics.read();
        topics.get(&at.topic)?.partitions.get(at.partition.0 as usize).cloned()
    }

    fn must(&self, at: &TopicPartition) -> Result<Arc<PartitionLog>, LogError> {
        self.partition(at)
            .ok_or_else(|| LogError::NoTopic(format!("{} (partition {})", at.topic, at.partition)))
    }

    fn failed(&self) -> Option<String> {
        self.failed.read().clone()
    }

    /// Ends every consumer, and with them the roles and the process: whoever started it starts it again, and the directory
    /// is opened afresh.
    fn fail(&self, why: String) {
        *self.failed.write() = Some(why);
        let groups: Vec<Arc<Group>> = self.groups.lock().values().cloned().collect();
        for group in groups {
            group.end();
        }
    }

    fn committed(&self, group: &str, offsets: &[(TopicPartition, Offset)]) {
        let mut committed = self.committed.lock();
        if !committed.contains_key(group) {
            committed.insert(group.to_owned(), HashMap::new());
        }
        if let Some(of_group) = committed.get_mut(group) {
            of_group.extend(offsets.iter().cloned());
        }
    }

    fn committed_of(&self, group: &str, at: &TopicPartition) -> Option<Offset> {
        self.committed.lock().get(group)?.get(at).copied()
    }

    fn store(&self) -> Result<Arc<Store>, LogError> {
        self.store
            .read()
            .clone()
            .ok_or_else(|| LogError::Unavailable("the embedded log was closed".into()))
    }

    /// Reads from memory if it can, else from the tree on a blocking thread.
    async fn fetch(
        &self,
        part: &Arc<PartitionLog>,
        from: Offset,
        portion: Portion,
    ) -> Result<Vec<LogRecord>, LogError> {
        in_range(part, from)?;
        if let Some(records) = part.recent(from, portion) {
            return Ok(records);
        }
        let (store, part) = (self.store()?, part.clone());
        let read = tokio::task::spawn_blocking(move || {
            let records = store.read(part.topic_number, part.at.partition, from, portion)?;
            // Trimmed while it was read: there might be a hole before the first record.
            in_range(&part, from).map(|()| records)
        });
        read.await.map_err(store::failed)?
    }

    fn open_topic(&self, store: &Store, name: &str, row: &TopicRow) -> Result<(), LogError> {
        let topic: Topic = name.into();
        let mut partitions = Vec::new();
        for number in 0..row.partitions {
            let at = TopicPartition {
                topic: topic.clone(),
                partition: Partition(number),
            };
            let found = store.find(row, at.partition)?;
            let index = self.partitions.fetch_add(1, Ordering::Relaxed);
            partitions.push(Arc::new(PartitionLog::new(at, row.number, row.compacted, index, found)));
        }
        let state = TopicState {
            number: row.number,
            id: row.id.clone(),
            retention_ms: row.retention_ms,
            compacted: row.compacted,
            partitions,
        };
        self.topics.write().insert(topic, Arc::new(state));
        Ok(())
    }

    /// Blocking: the rows are on the disk before a topic can be seen.
    fn create(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        let store = self.store()?;
        let mut number = self.topics.read().values().map(|t| t.number + 1).max().unwrap_or(0);
        let mut rows: Vec<(&str, TopicRow)> = Vec::new();
        for spec in specs {
            if spec.partitions == 0 || spec.name.contains('\0') {
                return Err(LogError::Failed(format!(
                    "topic {:?} needs a plain name and partitions",
                    spec.name
                )));
            }
            let there = self.topic(&spec.name).map(|t| t.partitions.len() as u32);
            let asked_before = rows
                .iter()
                .find(|(name, _)| *name == spec.name)
                .map(|(_, row)| row.partitions);
            match there.or(asked_before) {
                Some(found) if found == spec.partitions => continue,
                Some(found) => {
                    return Err(LogError::PartitionCount {
                        topic: spec.name.clone(),
                        found,
                        wanted: spec.partitions,
                    });
                }
                None => {}
            }
            let row = TopicRow {
                number,
                id: uuid::Uuid::new_v4().to_string(),
                partitions: spec.partitions,
                compacted: spec.compacted,
                retention_ms: spec.retention_ms,
            };
            rows.push((&spec.name, row));
            number += 1;
        }
        let mut batch = store.batch(rows.len());
        for (name, row) in &rows {
            store.put_topic(&mut batch, name, row);
        }
        batch.commit().map_err(store::failed)?;
        rows.iter()
            .try_for_each(|(name, row)| self.open_topic(&store, name, row))
    }
}

/// `from` may be the end: there is nothing yet, but there will be.
fn in_range(part: &PartitionLog, from: Offset) -> Result<(), LogError> {
    let Bounds { start, end } = part.bounds();
    if from < start || from > end {
        return Err(LogError::OutOfRange {
            wanted: from,
            start,
            end,
        });
    }
    Ok(())
}

impl Embedded {
    /// Opens or makes the log in `dir`. Blocking. `Locked` if another process (or handle) has it.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Arc<Self>, LogError> {
        Self::open_in(dir, options, None)
    }

    /// A log in a directory of its own that goes away with it. For tests; as durable as any other.
    pub fn open_temp(options: EmbeddedOptions) -> Result<Arc<Self>, LogError> {
        let dir = std::env::temp_dir().join(format!("switchboard-log-{}", uuid::Uuid::new_v4()));
        Self::open_in(&dir, options, Some(dir.clone()))
    }

    fn open_in(
        dir: &Path,
        options: EmbeddedOptions,
        temporary: Option<std::path::PathBuf>,
    ) -> Result<Arc<Self>, LogError> {
        let store = Arc::new(Store::open(dir)?);
        let shared = Arc::new(Shared {
            queue: Queue::new(PRODUCE_IN_FLIGHT_MAX, PRODUCE_IN_FLIGHT_BYTES_MAX),
            rings: RingBudget {
                partition_bytes_max: options.ring_bytes_per_partition_max,
                total_bytes_max: options.ring_bytes_max,
                total_bytes: AtomicUsize::new(0),
            },
            room: Room::new(dir, options.free_bytes_kept),
            options,
            generation: store.generation,
            topics: RwLock::default(),
            partitions: AtomicUsize::new(0),
            groups: Mutex::default(),
            committed: Mutex::new(store.committed()?),
            members: AtomicU64::new(1),
            failed: RwLock::new(None),
            store: RwLock::new(Some(store.clone())),
        });
        for (name, row) in store.topics()? {
            shared.open_topic(&store, &name, &row)?;
        }
        let upkeep = upkeep::Upkeep::start(shared.clone()).map_err(store::failed)?;
        let writer = Writer::new(shared.clone(), store);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run());
        Ok(Arc::new(Self {
            shared,
            writer: Mutex::new(Some(thread.map_err(store::failed)?)),
            upkeep: Mutex::new(Some(upkeep)),
            tasks: Mutex::new(JoinSet::new()),
            creating: tokio::sync::Mutex::new(()),
            temporary,
        }))
    }

    /// How often this directory was opened, this time included; synced at each open.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Runs retention and compaction now. Blocking.
    pub fn upkeep(&self) -> Result<(), LogError> {
        upkeep::run(&self.shared)
    }

    /// Writes and reports what is queued, ends every consumer, and frees the directory. Blocking, as long as one batch takes.
    pub fn close(&self) {
        self.tasks.lock().abort_all();
        self.shared.queue.close();
        if let Some(upkeep) = self.upkeep.lock().take() {
            upkeep.stop();
        }
        let writer = self.writer.lock().take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the embedded log's writer had panicked");
        }
        *self.shared.store.write() = None;
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn group(&self, name: &str) -> Arc<Group> {
        let mut groups = self.shared.groups.lock();
        if let Some(group) = groups.get(name) {
            return group.clone();
        }
        let patience = Duration::from_millis(self.shared.options.release_timeout_ms);
        let group = Arc::new(Group::new(name.to_owned(), patience));
        groups.insert(name.to_owned(), group.clone());
        drop(groups);
        self.spawn(group.clone().run(self.shared.clone()));
        group
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
        if let Some(dir) = &self.temporary {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

#[async_trait]
impl Log for Embedded {
    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        let _one_at_a_time = self.creating.lock().await;
        let (shared, specs) = (self.shared.clone(), topics.to_vec());
        tokio::task::spawn_blocking(move || shared.create(&specs))
            .await
            .map_err(store::failed)?
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError> {
        Ok(self.shared.topic(name).map(|topic| TopicInfo {
            id: topic.id.clone(),
            partitions: topic.partitions.len() as u32,
        }))
    }

    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        Ok(Arc::new(EmbeddedProducer {
            shared: self.shared.clone(),
        }))
    }

    async fn consume(&self, group: &str, topics: &[Topic], pace: Pace) -> Result<Consumer, LogError> {
        if let Some(missing) = topics.iter().find(|t| self.shared.topic(t).is_none()) {
            return Err(LogError::NoTopic(missing.to_string()));
        }
        let group = self.group(group);
        let id = self.shared.members.fetch_add(1, Ordering::Relaxed);
        let member = Arc::new(Member::new(
            id,
            topics.to_vec(),
            pace,
            self.shared.clone(),
            group.clone(),
        ));
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        self.spawn(member.clone().pump(sender));
        group.join(member.clone());
        Ok(Consumer {
            events,
            control: Arc::new(Control(member)),
        })
    }

    async fn read(
        &self,
        at: &TopicPartition,
        from: Offset,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let part = self.shared.must(at)?;
        self.shared.fetch(&part, from, Portion { records_max, bytes_max }).await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        Ok(self.shared.must(at)?.bounds())
    }

    async fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        Ok(at.iter().map(|at| self.shared.committed_of(group, at)).collect())
    }

    async fn tail(&self, topic: Topic) -> Result<mpsc::Receiver<TailEvent>, LogError> {
        let at = TopicPartition {
            topic,
            partition: Partition(0),
        };
        let part = self.shared.must(&at)?;
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        self.spawn(tail::run(self.shared.clone(), part, sender));
        Ok(receiver)
    }
}

struct EmbeddedProducer {
    shared: Arc<Shared>,
}

impl EmbeddedProducer {
    fn queue(&self, record: ToProduce) -> Result<(), ProduceError> {
        bytes_of(&record)?;
        let ToProduce {
            topic,
            partition,
            key,
            value,
            headers,
            token,
            reports,
        } = record;
        let unavailable = |why: String| Err(ProduceError::Unavailable(why));
        let at = TopicPartition { topic, partition };
        let Some(part) = self.shared.partition(&at) else {
            return unavailable(format!("there is no topic {} with partition {partition}", at.topic));
        };
        if part.compacted && key.is_none() {
            return unavailable(format!("a record of the compacted topic {} needs a key", at.topic));
        }
        if let Some(why) = self.shared.failed.read().as_ref() {
            return unavailable(why.clone());
        }
        if let Some(why) = self.shared.room.is_short() {
            return unavailable(why);
        }
        let bytes = chunk::encoded_len(key.as_ref(), value.as_ref(), &headers);
        let append = Append {
            part,
            key,
            value,
            headers,
            token,
            reports,
            bytes,
            handed_over: Instant::now(),
        };
        match self.shared.queue.push(Op::Append(append), bytes) {
            Ok(()) => Ok(()),
            Err((Refused::Full, _)) => unavailable("too many records wait to be written".into()),
            Err((Refused::Closed, _)) => unavailable("the embedded log was closed".into()),
        }
    }
}

#[async_trait]
impl Producer for EmbeddedProducer {
    fn produce(&self, record: ToProduce) -> Result<(), ProduceError> {
        self.queue(record)
            .inspect_err(|error| count_errors("embedded", error, 1))
    }

    async fn flush(&self, deadline_ms: u64) {
        let (sender, done) = oneshot::channel();
        if self.shared.queue.push(Op::Barrier(sender), 0).is_ok() {
            let _ = tokio::time::timeout(Duration::from_millis(deadline_ms), done).await;
        }
    }
}
