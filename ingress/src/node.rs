//! What all of a node's edges share: its name, its connections, the way to the log, to the owners and to the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use ingress_core::session::SILENCE_MS_MAX;
use ingress_core::{Bucket, Claims, Connected, ConnectionLimits, Rate, SessionName, Verb, rights};
use ordered_log::{Appended, ProduceError, Producer, Topic};
use parking_lot::Mutex;
use process::config::Limits;
use process::{ControlView, Health, Recorder, Tasks};
use store::History;
use wire::frames::{Connected as ConnectedFrame, ServerFrame, Since};
use wire::{CloseCode, ConnectionId, ConversationKey, Device, LaneTopics, NodeId, Tenant, event};

use crate::addresses::{Addresses, Slot};
use crate::auth::Verifier;
use crate::clock::Clock;
use crate::conn::{Conn, NewConn, Transport};
use crate::links::Links;
use crate::meters::Meters;
use crate::tenants::TenantState;

/// Connections are spread over so many locks; the sweeper visits one after the other within a second.
pub const SHARDS: usize = 16;

pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub topics: LaneTopics,
    pub messages_topic: Topic,
    pub desk_topic: Topic,
    pub clock: Clock,
    pub meters: Meters,
    pub verifier: Verifier,
    pub tenants: BTreeMap<Tenant, Arc<TenantState>>,
    pub limits: Limits,
    pub connect_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub poll_wait_ms: u64,
    pub control: ControlView,
    pub history: Arc<dyn History>,
    pub links: Links,
    pub addresses: Addresses,
    pub tasks: Tasks,
    pub health: Health,
    pub recorder: Recorder,
    producer: ArcSwapOption<ProducerCell>,
    connection_limits: Arc<ConnectionLimits>,
    poll_limits: Arc<ConnectionLimits>,
    handshakes: Mutex<Bucket>,
    last_connection: AtomicU64,
    open: AtomicUsize,
    shards: [Mutex<HashMap<u64, Arc<Conn>>>; SHARDS],
}

struct ProducerCell(Arc<dyn Producer>);

/// What a node is made of.
pub struct NodeParts {
    pub id: NodeId,
    pub name: String,
    pub topics: LaneTopics,
    pub verifier: Verifier,
    pub tenants: BTreeMap<Tenant, Arc<TenantState>>,
    pub limits: Limits,
    pub connect_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub poll_wait_ms: u64,
    /// A polled session that does not come back for this long is over.
    pub poll_idle_ms: u64,
    pub addresses: Addresses,
    pub control: ControlView,
    pub history: Arc<dyn History>,
    pub tasks: Tasks,
    pub health: Health,
    pub recorder: Recorder,
}

/// Why somebody with a token may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: CloseCode,
    /// Metric label.
    pub outcome: &'static str,
}

/// What `connect` said beside the token.
#[derive(Default)]
pub struct Hello {
    pub device: Option<String>,
    pub since: Option<Since>,
    pub origin: Option<String>,
    pub slot: Option<Arc<Slot>>,
}

impl Node {
    pub fn new(parts: NodeParts) -> Self {
        let limits = parts.limits;
        let of_connections = ConnectionLimits {
            frames: Rate {
                per_s: limits.connection_frames_per_s,
                burst: limits.connection_frames_burst,
            },
            sends_in_flight: limits.sends_in_flight_per_connection,
            outbound_bytes: limits.outbound_bytes_per_connection_max,
            silence_ms: SILENCE_MS_MAX,
        };
        Self {
            id: parts.id,
            name: parts.name,
            messages_topic: parts.topics.messages().into(),
            desk_topic: parts.topics.desk().into(),
            addresses: parts.addresses,
            links: Links::new(parts.topics.partitions),
            topics: parts.topics,
            clock: Clock::start(),
            meters: Meters::default(),
            verifier: parts.verifier,
            tenants: parts.tenants,
            limits,
            connect_timeout_ms: parts.connect_timeout_ms,
            request_timeout_ms: parts.request_timeout_ms,
            poll_wait_ms: parts.poll_wait_ms,
            control: parts.control,
            history: parts.history,
            tasks: parts.tasks,
            health: parts.health,
            recorder: parts.recorder,
            producer: ArcSwapOption::empty(),
            poll_limits: Arc::new(ConnectionLimits {
                silence_ms: parts.poll_idle_ms,
                ..of_connections
            }),
            connection_limits: Arc::new(of_connections),
            handshakes: Mutex::default(),
            last_connection: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    // ---- the log ----

    pub fn set_producer(&self, producer: Arc<dyn Producer>) {
        self.producer.store(Some(Arc::new(ProducerCell(producer))));
    }

    pub fn producer(&self) -> Option<Arc<dyn Producer>> {
        self.producer.load().as_ref().map(|cell| Arc::clone(&cell.0))
    }

    /// Hands a record over without a copy of the producer's handle.
    pub fn produce(&self, record: ordered_log::ToProduce) -> Result<(), ProduceError> {
        match self.producer.load().as_ref() {
            Some(cell) => cell.0.produce(record),
            None => Err(ProduceError::Unavailable("the log is not connected yet".into())),
        }
    }

    /// Counts what became of a message; deeds come without the time they were received, and are not counted.
    pub fn count_report(&self, outcome: &Result<Appended, ProduceError>, received_low_ms: u32, now_ms: u64) {
        if received_low_ms == 0 {
            return;
        }
        match outcome {
            Ok(_) => {
                self.meters.logged.increment(1);
                let took_ms = (now_ms as u32).wrapping_sub(received_low_ms);
                self.meters.stages.logged.record(f64::from(took_ms) / 1000.0);
            }
            Err(ProduceError::Unknown(_)) => self.meters.produce_unknown.increment(1),
            Err(_) => self.meters.produce_refused.increment(1),
        }
    }

    // ---- connections ----

    pub fn tenant(&self, tenant: &Tenant) -> Option<&Arc<TenantState>> {
        self.tenants.get(tenant)
    }

    /// Does any tenant let pages of this origin connect? Which one it is the token will say.
    pub fn origin_known(&self, origin: Option<&str>) -> bool {
        origin.is_none() || self.tenants.values().any(|t| t.origin_allowed(origin))
    }

    /// Is the node willing to take one more connection now?
    pub fn admit(&self) -> Result<(), Refused> {
        let refuse = |code, outcome| Err(Refused { code, outcome });
        if self.tasks.drain().is_started() {
            return refuse(CloseCode::GoingAway, "draining");
        }
        if self.open.load(Ordering::Relaxed) >= self.limits.connections_per_node_max {
            return refuse(CloseCode::RateLimited, "overloaded");
        }
        Ok(())
    }

    /// Takes one of the second's handshakes. A tenth of a second's are let in at once: those that are connected wait for no more.
    fn may_shake_hands(&self) -> bool {
        let per_s = self.limits.handshakes_per_s;
        let burst = per_s.div_ceil(10);
        per_s == 0
            || self
                .handshakes
                .lock()
                .take(self.clock.now_ms(), 1, Rate { per_s, burst })
                .is_ok()
    }

    /// Makes a verified token a connection: counted, known to the owners, with `connected` as its first frame.
    pub fn connect(self: &Arc<Self>, claims: Claims, hello: Hello, transport: Transport) -> Result<Arc<Conn>, Refused> {
        let result = self.try_connect(claims, hello, transport);
        self.meters.handshake(result.as_ref().err().map_or("ok", |r| r.outcome));
        result
    }

    fn try_connect(self: &Arc<Self>, claims: Claims, hello: Hello, transport: Transport) -> Result<Arc<Conn>, Refused> {
        let refuse = |code, outcome| Err(Refused { code, outcome });
        self.admit()?;
        if !self.may_shake_hands() {
            return refuse(CloseCode::RateLimited, "overloaded");
        }
        let Some(tenant) = self.tenant(&claims.tenant) else {
            return refuse(CloseCode::BadToken, "bad_token");
        };
        if rights::need(claims.role, Verb::Connect) == rights::Need::Never {
            return refuse(CloseCode::Forbidden, "forbidden");
        }
        if !tenant.origin_allowed(hello.origin.as_deref()) {
            return refuse(CloseCode::Forbidden, "forbidden");
        }
        if self.is_revoked(&claims) {
            return refuse(CloseCode::Revoked, "bad_token");
        }
        if hello.since.as_ref().is_some_and(|s| Connected::check_since(s).is_err()) {
            return refuse(CloseCode::TooLarge, "bad_frame");
        }
        let device = match hello.device.as_deref().map(Device::new).transpose() {
            Ok(device) => claims.device.clone().or(device),
            Err(_) => return refuse(CloseCode::BadFrame, "bad_frame"),
        };
        let account = tenant.account(&claims.user);
        if !account.connect() {
            return refuse(CloseCode::RateLimited, "too_many");
        }
        let conn = Arc::new(self.new_conn(claims, hello, device, account, transport));
        self.open.fetch_add(1, Ordering::Relaxed);
        self.meters.connections(transport).increment(1.0);
        self.shard(conn.id).lock().insert(conn.id.0, Arc::clone(&conn));
        self.links.register(&conn);
        if conn.is_staff() {
            crate::presence::tell(self, &conn, true);
        }
        Ok(conn)
    }

    fn new_conn(
        self: &Arc<Self>,
        claims: Claims,
        hello: Hello,
        device: Option<Device>,
        account: Arc<crate::tenants::Account>,
        transport: Transport,
    ) -> Conn {
        let now_ms = self.clock.now_ms();
        let id = self.next_connection(now_ms);
        let key = ConversationKey::new(claims.tenant.clone(), claims.user.clone());
        let customer = !rights::is_staff(claims.role);
        let limits = match transport {
            Transport::Poll => &self.poll_limits,
            _ => &self.connection_limits,
        };
        let mut session = Connected::new(now_ms, &claims, hello.since, Arc::clone(limits));
        let name = SessionName {
            node: self.id,
            connection: id,
        };
        let connected = ServerFrame::Connected(ConnectedFrame {
            session: name.to_string().into(),
            user: claims.user.as_str().into(),
            role: event::role_name(claims.role).into(),
            node: self.name.as_str().into(),
            term: 1,
            ping_s: wire::limits::PING_INTERVAL_S,
        });
        session.write(now_ms, connected.encode());
        Conn::new(
            Arc::clone(self),
            NewConn {
                id,
                account,
                partition: customer.then(|| self.topics.partition_of(&key)),
                device,
                groups: claims.groups,
                priority: claims.priority,
                issued_at_ms: claims.issued_at_ms,
                transport,
                session,
                slot: hello.slot,
            },
        )
    }

    fn next_connection(&self, now_ms: u64) -> ConnectionId {
        let next = |last| Some(ConnectionId::next(ConnectionId(last), now_ms).0);
        let last = self
            .last_connection
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        ConnectionId::next(ConnectionId(last.unwrap_or_default()), now_ms)
    }

    /// The connection is over; says so to whoever knew of it. Only the first call counts.
    pub fn disconnect(&self, conn: &Arc<Conn>) {
        if self.shard(conn.id).lock().remove(&conn.id.0).is_none() {
            return;
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        conn.account.disconnect();
        self.meters.connections(conn.transport).decrement(1.0);
        self.meters.closed(conn.session().closing());
        self.links.unregister(conn);
        if conn.is_staff() {
            crate::presence::tell(self, conn, false);
        }
    }

    pub fn find(&self, id: ConnectionId) -> Option<Arc<Conn>> {
        self.shard(id).lock().get(&id.0).map(Arc::clone)
    }

    /// The connections of one shard now.
    pub fn shard_connections(&self, shard: usize) -> Vec<Arc<Conn>> {
        self.shards[shard].lock().values().map(Arc::clone).collect()
    }

    /// Calls `visit` with every connection.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Conn>)) {
        for shard in 0..SHARDS {
            for conn in self.shard_connections(shard) {
                visit(&conn);
            }
        }
    }

    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn shard(&self, id: ConnectionId) -> &Mutex<HashMap<u64, Arc<Conn>>> {
        // Ids of one millisecond differ in the low bits, those of different ones above bit 22.
        &self.shards[((id.0 ^ (id.0 >> 22)) as usize) % SHARDS]
    }

    pub fn is_revoked(&self, claims: &Claims) -> bool {
        let control = self.control.now();
        control.is_revoked(claims.tenant.as_str(), claims.user.as_str(), claims.issued_at_ms)
    }
}
