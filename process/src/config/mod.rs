//! Configuration: every key, its default and what it means. File < environment `SWITCHBOARD__SECTION__KEY` < flags.
//!
//! Every key has a default that stands in `deploy/switchboard.toml` too (a test compares them). There are no optional
//! values: an empty string or 0 means "none", where the comment says so. Secrets are given as `key` or `key_file`.

mod load;
mod network;
mod secret;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::{Lane, Tenant, limits as wire_limits};

pub use load::ConfigError;
pub use network::Network;
pub use secret::Secret;

/// The configuration of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The set of topics, workers and consumers this process belongs to.
    pub lane: Lane,
    /// What this process does: any of ingress, delivery, desk, persistence.
    pub roles: Vec<Role>,
    /// Number of this life of the lane's topics, 1 … 4194303. A re-made log gets one never used before on the platform.
    pub epoch: u32,
    /// Partitions of `messages` and `desk`. Fixed for an epoch.
    pub partitions: u32,
    /// Copies Kafka keeps of each record; topics are created with it.
    pub replication: u16,
    /// Development: allows HS256 tokens and is refused beyond loopback with the default secret. Never in production.
    pub dev: bool,
    pub node: Node,
    pub listen: Listen,
    pub tls: Tls,
    pub http: Http,
    pub link: Link,
    pub log: Log,
    pub store: Store,
    pub limits: Limits,
    pub drain: DrainConfig,
    pub logging: Logging,
    pub history: HistoryLines,
    /// By name. A tenant that is not here does not exist for this process.
    pub tenants: BTreeMap<Tenant, TenantConfig>,
}

/// One of the jobs a process can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Ingress,
    Delivery,
    Desk,
    Persistence,
}

/// Who this process is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Shown to clients, in logs and metrics. Empty: the host's name.
    pub name: String,
}

/// Where this process can be reached: `host:port`, `[v6]:port`, port 0 for any free one; empty: not at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// WebSocket, server-sent events, long polling and the HTTP API.
    pub ws_http: String,
    /// Raw TCP frames.
    pub tcp: String,
    /// `/livez`, `/readyz`, `/metrics`. Keep it inside.
    pub ops: String,
}

/// TLS of what clients reach. Empty: none here, something before us ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert_file: String,
    /// Private key, PEM.
    pub key_file: String,
}

impl Tls {
    pub fn is_on(&self) -> bool {
        !self.cert_file.is_empty()
    }
}

/// The HTTP API and the browser's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Serves the demo page at `/`.
    pub demo_page: bool,
    /// Headers of a request must be there within this time.
    pub header_timeout_ms: u64,
    /// Bytes of all headers of a request together.
    pub header_bytes_max: usize,
    /// A request other than a stream or a poll must be done within this time.
    pub request_timeout_ms: u64,
    /// A long poll is answered, empty if need be, after this time.
    pub poll_wait_ms: u64,
    /// A polled session that does not come back for this long is over.
    pub poll_idle_ms: u64,
    /// Header a trusted proxy lists the client's address in (`x-forwarded-for`); empty: the socket's peer is the client.
    pub client_address_header: String,
    /// Addresses (`10.0.0.0/8`, `::1`) of proxies that header is believed from. What anybody else sends in it is ignored.
    pub trusted_proxies: Vec<Network>,
}

/// The stream between nodes and workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Where a worker listens for nodes; empty: only nodes in the same process reach it.
    pub listen: String,
    /// What a worker tells nodes to dial; empty: the address it listens on.
    pub advertise: String,
    pub tls: MutualTls,
}

/// Both sides show a certificate of one authority. All empty: no TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MutualTls {
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    /// The name the other side's certificate must have; empty: the host dialled.
    pub server_name: String,
}

impl MutualTls {
    pub fn is_on(&self) -> bool {
        !self.ca_file.is_empty()
    }
}

/// Where records are kept in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub kind: LogKind,
    /// Embedded: its directory, used by one process at a time.
    pub dir: String,
    /// Kafka: `host:port` of some brokers.
    pub brokers: Vec<String>,
    /// Kafka: how the brokers see us.
    pub client_id: String,
    /// Kafka: the producer waits this long for more records before it sends a batch, 0 or 1 are sensible.
    pub linger_ms: u64,
    /// Kafka: the producer numbers its records, so that the broker drops its own retries' repeats. Off: we drop them.
    pub idempotence: bool,
    /// Messages and desk records are kept this long; 0: for ever. Longer than any outage of the store to be survived.
    pub retention_ms: u64,
    pub kafka: KafkaSecurity,
    /// Kafka: further librdkafka properties, as they are called there. They win over what we set: with care.
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    Embedded,
    Kafka,
}

/// How we show the brokers who we are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSecurity {
    /// plaintext, ssl, sasl_plaintext or sasl_ssl.
    pub protocol: String,
    /// Authority of the brokers' certificates, PEM; empty: the system's.
    pub ca_file: String,
    /// Our certificate and key for mutual TLS; empty: none.
    pub cert_file: String,
    pub key_file: String,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    pub sasl_mechanism: String,
    pub user: String,
    pub password: Secret,
    pub password_file: String,
}

/// Where history is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    pub kind: StoreKind,
    /// Embedded: its directory, used by one process at a time.
    pub dir: String,
    /// CQL: `host:port` of some servers.
    pub nodes: Vec<String>,
    pub keyspace: String,
    /// CQL: our data centre; with it reads and writes are LOCAL_QUORUM. Empty: QUORUM.
    pub datacenter: String,
    /// CQL: copies of each row; used when the keyspace is created.
    pub replication: u16,
    pub user: String,
    pub password: Secret,
    pub password_file: String,
    /// CQL: authority of the servers' certificates, PEM; empty: no TLS.
    pub ca_file: String,
    /// A statement that takes longer has failed, and is repeated.
    pub request_timeout_ms: u64,
    /// Batches written at the same time by one process.
    pub writes_in_flight: usize,
    /// Events are forgotten after this; 0: never.
    pub event_ttl_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    Embedded,
    Cql,
}

/// Limits at the edge. The defaults are `wire::limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client frames of one connection: sustained, and at once.
    pub connection_frames_per_s: u32,
    pub connection_frames_burst: u32,
    /// Bytes read of one connection, whatever they say; what comes faster waits. 0: not limited.
    pub connection_bytes_per_s: u32,
    pub connection_bytes_burst: u32,
    /// Sends of one connection that wait for the log.
    pub sends_in_flight_per_connection: usize,
    /// Bytes queued for one connection; beyond it it is closed `too_slow`.
    pub outbound_bytes_per_connection_max: usize,
    /// Sends of one user over all its connections of a node.
    pub user_sends_per_s: u32,
    pub user_sends_burst: u32,
    /// Body bytes of one user.
    pub user_bytes_per_s: u32,
    pub user_bytes_burst: u32,
    /// History pages one user reads.
    pub user_reads_per_s: u32,
    pub user_reads_burst: u32,
    pub connections_per_user_max: usize,
    /// Sends of one tenant on a node.
    pub tenant_sends_per_s: u32,
    pub tenant_sends_burst: u32,
    /// Connections from one address; 0: not limited.
    pub connections_per_address_max: usize,
    pub connections_per_node_max: usize,
    /// New connections a node takes per second: what comes faster is told to wait. 0: not limited.
    pub handshakes_per_s: u32,
    /// Memory a worker may use for conversations.
    pub worker_bytes_budget: usize,
}

/// How a process leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// After this it leaves with work left over.
    pub deadline_ms: u64,
    /// Clients are told to go elsewhere in so many batches, spread over half of the deadline.
    pub goaway_batches: u32,
}

/// What is logged, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    pub format: LogFormat,
    /// As in RUST_LOG, which wins over it: `info,delivery=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// What this process did, as JSON lines for the checker: for tests and for looking into an incident.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryLines {
    /// Appended to, one file per process; empty: off.
    pub file: String,
    /// The file grows no further than this.
    pub bytes_max: u64,
}

/// One company on the platform.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantConfig {
    /// Keys its tokens are signed with.
    pub keys: Vec<TenantKey>,
    /// Pages that may connect from a browser: `https://shop.example`, exactly. Empty: none may; `*`: all may.
    pub origins: Vec<String>,
    /// Whose histories an agent may read.
    pub agents_read: AgentsRead,
    pub limits: TenantLimits,
}

/// A key and the one algorithm it is used with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantKey {
    /// The `kid` of the tokens' header.
    pub kid: String,
    pub alg: KeyAlgorithm,
    /// EdDSA, ES256, RS256: the public key, PEM; or the file it is in.
    pub key: String,
    pub key_file: String,
    /// HS256: the shared secret; or the file it is in.
    pub secret: Secret,
    pub secret_file: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyAlgorithm {
    #[default]
    EdDSA,
    ES256,
    RS256,
    /// Only with `dev = true`.
    HS256,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentsRead {
    /// Any history of the tenant.
    #[default]
    All,
    /// Those of the agent's groups.
    Group,
    /// Those the agent is assigned to, joined or watches.
    Own,
}

/// A tenant's own limits; 0: as everybody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantLimits {
    pub sends_per_s: u32,
    pub sends_burst: u32,
    pub user_sends_per_s: u32,
    pub user_sends_burst: u32,
    pub connections_per_user_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lane: Lane::new("standard").expect("a literal that is a lane's name"),
            roles: vec![Role::Ingress, Role::Delivery, Role::Desk, Role::Persistence],
            epoch: 1,
            partitions: 12,
            replication: 3,
            dev: false,
            node: Node::default(),
            listen: Listen::default(),
            tls: Tls::default(),
            http: Http::default(),
            link: Link::default(),
            log: Log::default(),
            store: Store::default(),
            limits: Limits::default(),
            drain: DrainConfig::default(),
            logging: Logging::default(),
            history: HistoryLines::default(),
            tenants: BTreeMap::new(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            ws_http: "127.0.0.1:8080".into(),
            tcp: "127.0.0.1:8081".into(),
            ops: "127.0.0.1:9090".into(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            demo_page: false,
            header_timeout_ms: 10_000,
            header_bytes_max: 16_384,
            request_timeout_ms: 30_000,
            poll_wait_ms: 25_000,
            poll_idle_ms: 60_000,
            client_address_header: String::new(),
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            kind: LogKind::Embedded,
            dir: "data/log".into(),
            brokers: vec!["127.0.0.1:9092".into()],
            client_id: "switchboard".into(),
            linger_ms: 0,
            idempotence: false,
            retention_ms: 7 * 24 * 3_600 * 1_000,
            kafka: KafkaSecurity::default(),
            properties: BTreeMap::new(),
        }
    }
}

impl Default for KafkaSecurity {
    fn default() -> Self {
        Self {
            protocol: "plaintext".into(),
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            sasl_mechanism: "SCRAM-SHA-512".into(),
            user: String::new(),
            password: Secret::default(),
            password_file: String::new(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Embedded,
            dir: "data/store".into(),
            nodes: vec!["127.0.0.1:9042".into()],
            keyspace: "switchboard".into(),
            datacenter: String::new(),
            replication: 3,
            user: String::new(),
            password: Secret::default(),
            password_file: String::new(),
            ca_file: String::new(),
            request_timeout_ms: 5_000,
            writes_in_flight: 64,
            event_ttl_s: 0,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connection_frames_per_s: wire_limits::CONNECTION_FRAMES_PER_S,
            connection_frames_burst: wire_limits::CONNECTION_FRAMES_BURST,
            connection_bytes_per_s: wire_limits::CONNECTION_BYTES_PER_S,
            connection_bytes_burst: wire_limits::CONNECTION_BYTES_BURST,
            sends_in_flight_per_connection: wire_limits::SENDS_IN_FLIGHT_PER_CONNECTION,
            outbound_bytes_per_connection_max: wire_limits::OUTBOUND_BYTES_PER_CONNECTION_MAX,
            user_sends_per_s: wire_limits::USER_SENDS_PER_S,
            user_sends_burst: wire_limits::USER_SENDS_BURST,
            user_bytes_per_s: wire_limits::USER_BYTES_PER_S,
            user_bytes_burst: wire_limits::USER_BYTES_BURST,
            user_reads_per_s: wire_limits::USER_READS_PER_S,
            user_reads_burst: wire_limits::USER_READS_BURST,
            connections_per_user_max: wire_limits::CONNECTIONS_PER_USER_MAX,
            tenant_sends_per_s: wire_limits::TENANT_SENDS_PER_S,
            tenant_sends_burst: wire_limits::TENANT_SENDS_BURST,
            connections_per_address_max: 0,
            connections_per_node_max: wire_limits::CONNECTIONS_PER_NODE_MAX,
            handshakes_per_s: 0,
            worker_bytes_budget: wire_limits::WORKER_BYTES_BUDGET,
        }
    }
}

impl Limits {
    /// The limits that hold for a tenant: its own where it has some.
    pub fn of(&self, tenant: &TenantConfig) -> Limits {
        let own = &tenant.limits;
        let or = |own: u32, all: u32| if own == 0 { all } else { own };
        Limits {
            tenant_sends_per_s: or(own.sends_per_s, self.tenant_sends_per_s),
            tenant_sends_burst: or(own.sends_burst, self.tenant_sends_burst),
            user_sends_per_s: or(own.user_sends_per_s, self.user_sends_per_s),
            user_sends_burst: or(own.user_sends_burst, self.user_sends_burst),
            connections_per_user_max: match own.connections_per_user_max {
                0 => self.connections_per_user_max,
                n => n,
            },
            ..*self
        }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            deadline_ms: wire_limits::DRAIN_DEADLINE_MS,
            goaway_batches: 10,
        }
    }
}

impl Default for HistoryLines {
    fn default() -> Self {
        Self {
            file: String::new(),
            bytes_max: 1 << 30,
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info,fjall=warn,lsm_tree=warn,scylla=warn,rdkafka=warn,librdkafka=warn".into(),
        }
    }
}
