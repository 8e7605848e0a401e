//! An embedded log and store, a little persistence, and a node that speaks the link by hand.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

pub mod cut;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use conversation::{Folded, State};
use delivery::{Options, Service};
use ordered_log::embedded::{Embedded as EmbeddedLog, EmbeddedOptions};
use ordered_log::{ConsumerEvent, Log, Pace, TopicPartition, TopicSpec, append};
use process::{Drain, Health, Kind, Tasks};
use prost::Message;
use store::embedded::Embedded as EmbeddedStore;
use store::{
    ClosedSession, ConversationWrite, EventRow, History, OpenSession, Page, PageRange, PartitionWrite, StoreError,
    StoredConversation,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::event::entry_of;
use wire::link::from_node::Item as In;
use wire::link::from_worker::Item;
use wire::link::{FromNode, Heartbeat, NodeHello, Register, ToNode, ToWorker};
use wire::record::{Origin, Owner, Record, Role, Sender};
use wire::{ConversationKey, Epoch, Generation, Lane, LaneTopics, Offset, Partition, Position, Tenant, User};

pub const PARTITIONS: u32 = 2;
pub const SOON: Duration = Duration::from_secs(60);

pub fn topics() -> LaneTopics {
    LaneTopics {
        lane: Lane::new("core").unwrap(),
        epoch: Epoch(1),
        partitions: PARTITIONS,
    }
}

pub fn key(customer: &str) -> ConversationKey {
    ConversationKey::new(Tenant::new("demo").unwrap(), User::new(customer).unwrap())
}

pub fn partition(customer: &str) -> Partition {
    topics().partition_of(&key(customer))
}

/// A store that can be sent away.
pub struct AwayStore {
    pub inner: Arc<dyn History>,
    pub away: AtomicBool,
}

impl AwayStore {
    fn check(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("sent away by the test".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl History for AwayStore {
    async fn load(&self, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
        self.check()?;
        self.inner.load(key).await
    }

    async fn page(&self, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError> {
        self.check()?;
        self.inner.page(key, range, limit).await
    }

    async fn open_sessions(
        &self,
        lane: &Lane,
        epoch: Epoch,
        partition: Partition,
    ) -> Result<Vec<OpenSession>, StoreError> {
        self.check()?;
        self.inner.open_sessions(lane, epoch, partition).await
    }

    async fn write(&self, batch: PartitionWrite) -> Result<(), StoreError> {
        self.inner.write(batch).await
    }

    async fn sessions_of_agent(
        &self,
        tenant: &Tenant,
        agent: &str,
        limit: u32,
    ) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
        self.inner.sessions_of_agent(tenant, agent, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check()
    }
}

pub struct World {
    pub log: Arc<EmbeddedLog>,
    pub store: Arc<AwayStore>,
    pub health: Health,
    dir: tempfile::TempDir,
}

pub struct Running {
    pub tasks: Tasks,
    pub handle: delivery::Handle,
}

impl Running {
    pub async fn stop(self) {
        self.tasks.drain().start("test");
        assert_eq!(self.tasks.join(SOON).await, process::tasks::Joined::All);
        assert_eq!(self.tasks.failure(), None);
    }
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open_temp(EmbeddedOptions::default()).unwrap();
        let spec = |name: String, partitions, compacted| TopicSpec {
            name,
            partitions,
            compacted,
            retention_ms: None,
            replication: 1,
        };
        log.create_topics(&[
            spec(topics().messages(), PARTITIONS, false),
            spec(topics().desk(), PARTITIONS, false),
            spec(topics().owners(), 1, true),
        ])
        .await
        .unwrap();
        let inner: Arc<dyn History> = EmbeddedStore::open(dir.path()).unwrap();
        let store = Arc::new(AwayStore {
            inner,
            away: AtomicBool::new(false),
        });
        World {
            log,
            store,
            health: Health::new(),
            dir,
        }
    }

    pub fn start(&self, name: &str) -> Running {
        self.start_with(name, |service| service)
    }

    pub fn start_with(&self, name: &str, also: impl FnOnce(Service) -> Service) -> Running {
        self.start_on(Arc::clone(&self.log) as Arc<dyn Log>, name, also)
    }

    pub fn start_on(&self, log: Arc<dyn Log>, name: &str, also: impl FnOnce(Service) -> Service) -> Running {
        let tasks = Tasks::new(Drain::new(SOON));
        let options = Options::new(topics(), name.into(), tasks.clone(), self.health.clone());
        let service = Service::new(options, log, Arc::clone(&self.store) as Arc<dyn History>);
        let service = also(service);
        let handle = service.handle();
        tasks.spawn(Kind::Essential, "delivery", service.run(tasks.drain().clone()));
        Running { tasks, handle }
    }

    pub async fn say(&self, customer: &str, id: &str, origin: Option<(u64, u64)>) {
        let record = Record {
            version: 1,
            kind: wire::record::Kind::Message.into(),
            numbered: true,
            wants_agent: true,
            from: Some(Sender {
                role: Role::Customer.into(),
                user: customer.into(),
            }),
            id: id.into(),
            origin: origin.map(|(node, connection)| Origin { node, connection }),
            member: format!("\"message\":{{\"text\":\"{id}\"}}").into(),
            received_at_ms: 1,
            ..Record::default()
        };
        self.put(customer, &record).await;
    }

    pub async fn put(&self, customer: &str, record: &Record) {
        let producer = self.log.producer().await.unwrap();
        let (topic, at) = (topics().messages().into(), partition(customer));
        let value = wire::codec::encode(record);
        append(&*producer, topic, at, Some(key(customer).to_key()), Some(value))
            .await
            .unwrap();
    }

    /// A record in `owners`; its offset.
    pub async fn announce(&self, owner: Owner) -> Offset {
        let producer = self.log.producer().await.unwrap();
        let key = Some(Bytes::from(owner.partition.to_string()));
        let value = Some(owner.encode_to_vec().into());
        let said = append(&*producer, topics().owners().into(), Partition(0), key, value).await;
        said.unwrap().offset
    }

    pub fn at(&self, partition: Partition) -> TopicPartition {
        TopicPartition {
            topic: topics().messages().into(),
            partition,
        }
    }

    /// What persistence would do with all there is of one partition.
    pub async fn persist(&self, partition: Partition) {
        let at = self.at(partition);
        let records = self.log.read(&at, Offset(0), 10_000, 1 << 24).await.unwrap();
        let mut states = std::collections::BTreeMap::<ConversationKey, (State, ConversationWrite)>::new();
        let mut next = Offset(0);
        for record in records {
            next = record.offset.next();
            let decoded =
                wire::codec::decode(record.key.as_ref(), record.value.as_ref(), partition, PARTITIONS).unwrap();
            let Some(key) = decoded.key else { continue };
            let (state, write) = states.entry(key.clone()).or_default();
            let position = Position::new(Epoch(1), record.offset);
            if let Folded::Event(event) = state.fold(&key, position, record.at_ms, &decoded.record) {
                write.events.push(EventRow {
                    seq: event.seq,
                    staff_only: event.staff_only(),
                    at_ms: event.at_ms,
                    entry: entry_of(&event.frame),
                    position,
                });
            }
            write.key = Some(key);
            write.state = state.applied().map(|applied| (state.encode(), applied));
            write.last_seq = state.last_seq();
        }
        let conversations = states.into_values().map(|(_, write)| write).collect();
        let write = PartitionWrite {
            lane: topics().lane,
            epoch: Epoch(1),
            partition,
            conversations,
            marks: Vec::new(),
        };
        self.store.write(write).await.unwrap();
        self.commit_persistence(partition, next).await;
    }

    pub async fn commit_persistence(&self, partition: Partition, next: Offset) {
        let topic = topics().messages().into();
        let mut consumer = self
            .log
            .consume(&topics().persistence_group(), &[topic], Pace::AtOnce)
            .await
            .unwrap();
        loop {
            if let Some(ConsumerEvent::Assigned(_)) = timeout(SOON, consumer.events.recv()).await.unwrap() {
                break;
            }
        }
        consumer.control.commit(vec![(self.at(partition), next)]).await.unwrap();
        consumer.control.close().await;
    }
}

/// A node with one link.
pub struct Node {
    pub id: u64,
    pub sender: mpsc::Sender<ToWorker>,
    pub receiver: Incoming,
    pub seen: VecDeque<Item>,
}

pub enum Incoming {
    Local(mpsc::Receiver<ToNode>),
    Remote(Box<tonic::Streaming<ToNode>>),
}

impl Node {
    pub async fn attach(id: u64, handle: &delivery::Handle) -> Self {
        let node = Self::attach_silent(id, handle).await;
        node.beat();
        node
    }

    /// One that says nothing by itself, and is given up after a while.
    pub async fn attach_silent(id: u64, handle: &delivery::Handle) -> Self {
        let (sender, receiver) = handle.attach();
        let node = Node {
            id,
            sender,
            receiver: Incoming::Local(receiver),
            seen: VecDeque::new(),
        };
        node.hello().await;
        node
    }

    /// Says that it is there as long as it is, as a real node does: on a busy machine seconds may pass between two steps of a test.
    pub fn beat(&self) {
        let sender = self.sender.downgrade();
        tokio::spawn(async move {
            while let Some(sender) = sender.upgrade() {
                let items = vec![FromNode {
                    item: Some(In::Heartbeat(Heartbeat {})),
                }];
                if sender.send(ToWorker { items }).await.is_err() {
                    return;
                }
                drop(sender);
                tokio::time::sleep(Duration::from_millis(wire::limits::LINK_HEARTBEAT_MS / 2)).await;
            }
        });
    }

    pub async fn hello(&self) {
        let hello = NodeHello {
            version: 1,
            node: self.id,
            name: String::new(),
            lane: "core".into(),
        };
        self.send(In::Hello(hello)).await;
    }

    pub async fn send(&self, item: In) {
        let message = ToWorker {
            items: vec![FromNode { item: Some(item) }],
        };
        self.sender.send(message).await.unwrap();
    }

    /// Registers until the worker owns the partition.
    pub async fn register(&mut self, customer: &str, connection: u64, since: Option<u64>) -> Generation {
        loop {
            let answer = self
                .try_register(customer, connection, since, Generation::default())
                .await;
            match answer {
                Some(generation) => return generation,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Registers as one who knows of this owner; `None`: it is not the owner.
    pub async fn try_register(
        &mut self,
        customer: &str,
        connection: u64,
        since: Option<u64>,
        generation: Generation,
    ) -> Option<Generation> {
        let since = since.map(|seq| wire::link::Since {
            conversation: customer.into(),
            seq,
        });
        let register = Register {
            connection,
            rank: connection,
            fresh: true,
            partition: partition(customer).0,
            generation: Some(generation.into()),
            tenant: "demo".into(),
            user: customer.into(),
            role: Role::Customer.into(),
            since: since.into_iter().collect(),
            ..Register::default()
        };
        self.send(In::Register(register)).await;
        match self
            .next(|item| matches!(item, Item::Registered(_) | Item::NotOwner(_)))
            .await
        {
            Item::Registered(registered) => Some(registered.generation.unwrap().into()),
            _ => None,
        }
    }

    async fn message(&mut self) -> Option<ToNode> {
        let receive = async {
            match &mut self.receiver {
                Incoming::Local(receiver) => receiver.recv().await,
                Incoming::Remote(stream) => stream.message().await.unwrap_or_default(),
            }
        };
        timeout(SOON, receive).await.expect("the worker sends nothing")
    }

    /// The next item that fits; others are passed over.
    pub async fn next(&mut self, fits: impl Fn(&Item) -> bool) -> Item {
        self.try_next(fits).await.expect("the link is down")
    }

    pub async fn try_next(&mut self, fits: impl Fn(&Item) -> bool) -> Option<Item> {
        loop {
            while let Some(item) = self.seen.pop_front() {
                if fits(&item) {
                    return Some(item);
                }
            }
            let message = self.message().await?;
            self.seen.extend(message.items.into_iter().filter_map(|i| i.item));
        }
    }

    /// The next event's seq and frame, `placed` included.
    pub async fn push(&mut self) -> (u64, String) {
        let Item::Push(push) = self.next(|item| matches!(item, Item::Push(_))).await else {
            unreachable!()
        };
        (push.seq, text(&push.frame))
    }
}

pub fn text(frame: &Bytes) -> String {
    String::from_utf8(frame.to_vec()).unwrap()
}

/// Waits until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
