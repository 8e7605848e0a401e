//! A node with nothing behind it: a log in memory, a store of one page, and a worker played by the test.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(dead_code)] // each test file uses its own part

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use ingress::{Deps, Handle, LocalDialer, Options, Service};
use ordered_log::{
    Appended, Bounds, Consumer, Log, LogError, LogRecord, Pace, ProduceError, Producer, TailEvent, ToProduce, Topic,
    TopicInfo, TopicPartition, TopicSpec,
};
use parking_lot::Mutex;
use process::config::{KeyAlgorithm, Secret, TenantConfig, TenantKey};
use process::{Config, ControlView, Drain, Health, Tasks};
use prost::Message as _;
use serde_json::{Value, json};
use store::{EventRow, History, OpenSession, Page, PageRange, PartitionWrite, StoreError, StoredConversation};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use wire::link::{
    Access, Conversation, FromNode, FromWorker, Generation, NotOwner, Push, Registered, ToNode, ToWorker, WorkerHello,
    from_node, from_worker,
};
use wire::record::{DeskRecord, Owner, Record, Session};
use wire::{ConversationKey, Epoch, Lane, Offset, Partition, Position, Seq, Tenant};

pub const SECRET: &str = "a secret of the tests";
pub const PARTITIONS: u32 = 3;

// ---- the log ----

/// What the log does with the next records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    Takes,
    Refuses,
    DoesNotSay,
    Silent,
}

/// Topic, partition, key and value of a record.
type Produced = (String, Partition, Option<Bytes>, Bytes);

pub struct FakeLog {
    pub records: Mutex<Vec<Produced>>,
    pub mood: Mutex<Mood>,
    owners: Mutex<(Vec<LogRecord>, Vec<mpsc::Sender<TailEvent>>)>,
}

impl FakeLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            mood: Mutex::new(Mood::Takes),
            owners: Mutex::default(),
        })
    }

    pub fn announce(&self, owner: Owner) {
        let mut owners = self.owners.lock();
        let record = LogRecord {
            offset: Offset(owners.0.len() as u64),
            at_ms: 0,
            key: Some(owner.partition.to_string().into()),
            value: Some(owner.encode_to_vec().into()),
            headers: vec![],
        };
        owners.0.push(record.clone());
        for sender in &owners.1 {
            let _ = sender.try_send(TailEvent::Record(record.clone()));
        }
    }

    pub fn messages(&self) -> Vec<(String, Record)> {
        let records = self.records.lock();
        let messages = records.iter().filter(|r| r.0.contains(".messages."));
        messages
            .map(|(_, partition, key, value)| {
                let key = key.clone().unwrap();
                assert_eq!(wire::topics::partition_of(&key, PARTITIONS), *partition);
                (
                    String::from_utf8(key.to_vec()).unwrap(),
                    Record::decode(value.clone()).unwrap(),
                )
            })
            .collect()
    }

    pub fn desk(&self) -> Vec<wire::record::desk_record::Input> {
        let records = self.records.lock();
        let desk = records.iter().filter(|r| r.0.contains(".desk."));
        desk.map(|r| DeskRecord::decode(r.3.clone()).unwrap().input.unwrap())
            .collect()
    }
}

struct FakeProducer(Arc<FakeLog>);

#[async_trait]
impl Producer for FakeProducer {
    fn produce(&self, record: ToProduce) -> Result<(), ProduceError> {
        match *self.0.mood.lock() {
            Mood::Refuses => return Err(ProduceError::Unavailable("away".into())),
            Mood::DoesNotSay => {
                record
                    .reports
                    .report(record.token, Err(ProduceError::Unknown("late".into())));
                return Ok(());
            }
            Mood::Silent => return Ok(()),
            Mood::Takes => {}
        }
        let offset = {
            let mut records = self.0.records.lock();
            let value = record.value.unwrap_or_default();
            records.push((record.topic.to_string(), record.partition, record.key, value));
            Offset(records.len() as u64)
        };
        record.reports.report(record.token, Ok(Appended { offset }));
        record.reports.flush();
        Ok(())
    }

    async fn flush(&self, _: u64) {}
}

struct LogHandle(Arc<FakeLog>);

#[async_trait]
impl Log for LogHandle {
    async fn create_topics(&self, _: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }
    async fn topic(&self, _: &str) -> Result<Option<TopicInfo>, LogError> {
        Ok(None)
    }
    async fn producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        Ok(Arc::new(FakeProducer(Arc::clone(&self.0))))
    }
    async fn consume(&self, _: &str, _: &[Topic], _: Pace) -> Result<Consumer, LogError> {
        Err(LogError::Failed("a node consumes nothing".into()))
    }
    async fn read(&self, _: &TopicPartition, _: Offset, _: usize, _: usize) -> Result<Vec<LogRecord>, LogError> {
        Err(LogError::Failed("a node reads nothing".into()))
    }
    async fn bounds(&self, _: &TopicPartition) -> Result<Bounds, LogError> {
        Err(LogError::Failed("a node asks for no bounds".into()))
    }
    async fn committed(&self, _: &str, _: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        Err(LogError::Failed("a node asks for no offsets".into()))
    }
    async fn tail(&self, topic: Topic) -> Result<mpsc::Receiver<TailEvent>, LogError> {
        assert!(topic.contains("owners"));
        let (sender, receiver) = mpsc::channel(1000);
        let mut owners = self.0.owners.lock();
        for record in &owners.0 {
            let _ = sender.try_send(TailEvent::Record(record.clone()));
        }
        let _ = sender.try_send(TailEvent::CaughtUp);
        owners.1.push(sender);
        Ok(receiver)
    }
}

// ---- the store ----

#[derive(Default)]
pub struct FakeHistory {
    pub rows: Mutex<HashMap<String, Vec<EventRow>>>,
    /// State cells.
    pub cells: Mutex<HashMap<String, Bytes>>,
    pub away: Mutex<bool>,
}

impl FakeHistory {
    pub fn put(&self, key: &str, seq: u64, staff_only: bool) {
        let row = EventRow {
            seq: Seq(seq),
            staff_only,
            at_ms: 7,
            entry: format!("{{\"seq\":{seq},\"text\":\"whatever  {seq}\"}}").into(),
            position: Position::new(Epoch(1), Offset(seq)),
        };
        self.rows.lock().entry(key.to_owned()).or_default().push(row);
    }
}

#[async_trait]
impl History for FakeHistory {
    async fn load(&self, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
        if *self.away.lock() {
            return Err(StoreError::Unavailable("away".into()));
        }
        let state = self.cells.lock().get(&key.to_string()).cloned();
        Ok(state.map(|state| StoredConversation {
            state: Some(state),
            ..StoredConversation::default()
        }))
    }
    async fn page(&self, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError> {
        if *self.away.lock() {
            return Err(StoreError::Unavailable("away".into()));
        }
        let rows = self.rows.lock().get(&key.to_string()).cloned().unwrap_or_default();
        let last_seq = rows.last().map(|r| r.seq).unwrap_or_default();
        let limit = limit as usize;
        let events: Vec<EventRow> = match range {
            PageRange::After(seq) => rows.into_iter().filter(|r| r.seq > seq).take(limit).collect(),
            PageRange::Before(seq) => {
                let below: Vec<EventRow> = rows.into_iter().filter(|r| r.seq < seq).collect();
                below[below.len().saturating_sub(limit)..].to_vec()
            }
            PageRange::Newest => rows[rows.len().saturating_sub(limit)..].to_vec(),
        };
        Ok(Page { events, last_seq })
    }
    async fn open_sessions(&self, _: &Lane, _: Epoch, _: Partition) -> Result<Vec<OpenSession>, StoreError> {
        Ok(vec![])
    }
    async fn write(&self, _: PartitionWrite) -> Result<(), StoreError> {
        Err(StoreError::Failed("a node writes nothing".into()))
    }
    async fn sessions_of_agent(
        &self,
        _: &Tenant,
        _: &str,
        _: u32,
    ) -> Result<Vec<(ConversationKey, store::ClosedSession)>, StoreError> {
        Ok(vec![])
    }
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

// ---- the worker ----

/// One link as the worker sees it.
pub struct WorkerLink {
    pub from_node: mpsc::Receiver<ToWorker>,
    pub to_node: mpsc::Sender<ToNode>,
    waiting: std::collections::VecDeque<FromNode>,
}

impl WorkerLink {
    /// The worker says first which run of it this is.
    pub fn new(from_node: mpsc::Receiver<ToWorker>, to_node: mpsc::Sender<ToNode>, incarnation: u64) -> Self {
        let hello = from_worker::Item::Hello(WorkerHello {
            version: 1,
            worker: incarnation,
            name: format!("worker-{incarnation}"),
        });
        let items = vec![FromWorker { item: Some(hello) }];
        to_node.try_send(ToNode { items }).unwrap();
        Self {
            from_node,
            to_node,
            waiting: Default::default(),
        }
    }

    /// The next item that is no heartbeat.
    pub async fn next(&mut self) -> from_node::Item {
        soon(self.any()).await
    }

    /// The same, however long it takes.
    pub async fn any(&mut self) -> from_node::Item {
        loop {
            if let Some(item) = self.waiting.pop_front() {
                match item.item.unwrap() {
                    from_node::Item::Heartbeat(_) => continue,
                    item => return item,
                }
            }
            let message = self.from_node.recv().await.expect("the node closed the link");
            self.waiting.extend(message.items);
        }
    }

    pub async fn hello(&mut self) {
        assert!(matches!(self.next().await, from_node::Item::Hello(h) if h.node != 0));
    }

    pub async fn register(&mut self) -> wire::link::Register {
        match self.next().await {
            from_node::Item::Register(register) => register,
            other => panic!("{other:?}"),
        }
    }

    pub async fn not_owner(&self, register: &wire::link::Register) {
        self.send(from_worker::Item::NotOwner(NotOwner {
            partition: register.partition,
            generation: register.generation,
            connections: vec![register.connection],
        }))
        .await;
    }

    /// The next registration, confirmed, and its conversation begun.
    pub async fn attach(&mut self, conversation: &str, from: u64, access: Access) -> wire::link::Register {
        let register = self.register().await;
        self.send(from_worker::Item::Registered(Registered {
            connection: register.connection,
            partition: register.partition,
            generation: register.generation,
            rank: register.rank,
        }))
        .await;
        self.begin(&register, conversation, from, access).await;
        register
    }

    pub async fn begin(&self, register: &wire::link::Register, conversation: &str, from: u64, access: Access) {
        let frame =
            json!({"conversation":{"conversation":conversation,"last_seq":from,"recv":0,"read":0,"state":"idle"}});
        self.send(from_worker::Item::Conversation(Conversation {
            partition: register.partition,
            generation: register.generation,
            connections: vec![register.connection],
            conversation: conversation.into(),
            begin: true,
            from,
            access: access.into(),
            frame: frame.to_string().into(),
        }))
        .await;
    }

    pub async fn push(&self, register: &wire::link::Register, conversation: &str, seq: u64) {
        self.push_as(register, conversation, seq, register.generation).await;
    }

    pub async fn push_as(
        &self,
        register: &wire::link::Register,
        conversation: &str,
        seq: u64,
        generation: Option<Generation>,
    ) {
        self.send(from_worker::Item::Push(Push {
            partition: register.partition,
            generation,
            connections: vec![register.connection],
            conversation: conversation.into(),
            seq,
            frame: json!({"event":{"seq":seq}}).to_string().into(),
            received_at_ms: 0,
        }))
        .await;
    }

    pub async fn send(&self, item: from_worker::Item) {
        let message = ToNode {
            items: vec![FromWorker { item: Some(item) }],
        };
        self.to_node.send(message).await.expect("the node closed the link");
    }
}

// ---- the node ----

pub struct TestNode {
    pub handle: Handle,
    pub log: Arc<FakeLog>,
    pub history: Arc<FakeHistory>,
    pub control: ControlView,
    pub tasks: Tasks,
    pub drain: Drain,
    links: mpsc::Receiver<WorkerLink>,
}

static WORKERS: AtomicU64 = AtomicU64::new(1);

pub fn config() -> Config {
    let mut config = Config {
        partitions: PARTITIONS,
        dev: true,
        ..Config::default()
    };
    config.listen.ws_http = "127.0.0.1:0".into();
    config.listen.tcp = "127.0.0.1:0".into();
    config.http.poll_wait_ms = 400;
    let key = TenantKey {
        kid: "dev".into(),
        alg: KeyAlgorithm::HS256,
        secret: Secret::new(SECRET),
        ..TenantKey::default()
    };
    let tenant = TenantConfig {
        keys: vec![key],
        origins: vec!["https://shop.example".into()],
        ..TenantConfig::default()
    };
    config.tenants.insert(Tenant::new("demo").unwrap(), tenant.clone());
    config.tenants.insert(
        Tenant::new("other").unwrap(),
        TenantConfig {
            origins: vec![],
            ..tenant
        },
    );
    config
}

pub async fn start() -> TestNode {
    start_with(config(), |_| {}).await
}

pub async fn start_with(config: Config, change: impl FnOnce(&mut Options)) -> TestNode {
    start_with_dialer(config, change, true).await
}

/// Without a dialer all workers are elsewhere.
pub async fn start_with_dialer(config: Config, change: impl FnOnce(&mut Options), local: bool) -> TestNode {
    let drain = Drain::new(Duration::from_secs(6));
    let tasks = Tasks::new(drain.clone());
    let log = FakeLog::new();
    let history = Arc::new(FakeHistory::default());
    let control = ControlView::new();
    let (links_in, links) = mpsc::channel(16);
    let dialer: LocalDialer = Arc::new(move |owner| {
        let (to_worker, from_node) = mpsc::channel(64);
        let (to_node, from_worker) = mpsc::channel(64);
        links_in
            .try_send(WorkerLink::new(from_node, to_node, owner.worker_incarnation))
            .ok()?;
        Some((to_worker, from_worker))
    });
    let mut options = Options::new(Arc::new(config));
    change(&mut options);
    let deps = Deps {
        log: Arc::new(LogHandle(Arc::clone(&log))),
        history: Arc::clone(&history) as Arc<dyn History>,
        control: control.clone(),
        health: Health::new(),
        tasks: tasks.clone(),
        local_dialer: local.then_some(dialer),
    };
    let service = Service::bind(options, deps).await.unwrap();
    let handle = service.handle();
    let run = service.run(drain.clone());
    tasks.spawn(process::Kind::Worker, "ingress", Box::pin(run));
    TestNode {
        handle,
        log,
        history,
        control,
        tasks,
        drain,
        links,
    }
}

impl TestNode {
    /// A worker that owns every partition, and the node's link to it.
    pub async fn worker(&mut self, group_generation: u64) -> WorkerLink {
        let incarnation = WORKERS.fetch_add(1, Ordering::Relaxed);
        for partition in 0..PARTITIONS {
            self.log.announce(owner(partition, incarnation, group_generation));
        }
        self.next_link().await
    }

    pub async fn next_link(&mut self) -> WorkerLink {
        let mut link = soon(self.links.recv()).await.unwrap();
        link.hello().await;
        link
    }

    pub fn http(&self) -> String {
        format!("http://{}", self.handle.addresses.ws_http.unwrap())
    }

    pub async fn ws(&self) -> Ws {
        let url = format!("ws://{}/v1/connect", self.handle.addresses.ws_http.unwrap());
        Ws(soon(tokio_tungstenite::connect_async(url)).await.unwrap().0)
    }

    /// A connection of this user, past its `connected`.
    pub async fn connect(&self, user: &str, role: &str) -> Ws {
        let mut ws = self.ws().await;
        ws.send(json!({"connect":{"token":token(user, role)}})).await;
        let connected = ws.recv().await;
        assert_eq!(connected["connected"]["user"], user, "{connected}");
        ws
    }
}

pub fn owner(partition: u32, incarnation: u64, group_generation: u64) -> Owner {
    Owner {
        partition,
        worker: format!("worker-{incarnation}"),
        link_address: String::new(),
        worker_incarnation: incarnation,
        group_generation,
    }
}

pub fn answer(ask: u64, agent: &str) -> from_worker::Item {
    from_worker::Item::Answer(wire::link::Answer {
        ask,
        known: true,
        session: Some(Session {
            agent: agent.into(),
            ..Session::default()
        }),
        last_seq: 0,
    })
}

/// A token of tenant demo that holds for an hour.
pub fn token(user: &str, role: &str) -> String {
    sign(json!({"tenant":"demo","sub":user,"role":role,"exp":in_s(3600)}))
}

pub fn in_s(s: i64) -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    now.as_secs() as i64 + s
}

pub fn sign(claims: Value) -> String {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some("dev".into());
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

// ---- the client ----

pub struct Ws(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Ws {
    pub async fn send(&mut self, frame: Value) {
        self.text(&frame.to_string()).await;
    }

    pub async fn text(&mut self, text: &str) {
        soon(self.0.send(Message::text(text))).await.unwrap();
    }

    pub async fn recv(&mut self) -> Value {
        loop {
            match soon(self.0.next()).await.expect("the connection is open").unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code the server closes with; frames before it are passed over.
    pub async fn closed(&mut self) -> u16 {
        loop {
            let message = soon(self.0.next())
                .await
                .expect("a close comes before the end")
                .unwrap();
            if let Message::Close(frame) = message {
                return frame.unwrap().code.into();
            }
        }
    }
}

/// Longer than anything takes that does not hang, on a machine however busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whatever a test waits for, with an end.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("nothing came within a minute")
}

/// What comes within more than a heartbeat's time, if anything does.
pub async fn soon_or_none<F: Future>(future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_millis(1_500), future).await.ok()
}

/// Waits until `check` holds.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let began = tokio::time::Instant::now();
    while !check() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
