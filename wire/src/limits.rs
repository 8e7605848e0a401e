//! Every limit of the platform, by name, in one place. Units are in the names.

/// A message's body as sent, and a private note's.
pub const BODY_BYTES_MAX: usize = 65_536;
/// A client frame: a body and its envelope.
pub const FRAME_BYTES_MAX: usize = 73_728;
/// Nesting of a body's JSON.
pub const BODY_DEPTH_MAX: usize = 64;
/// A record's value: a frame and the envelope around it.
pub const RECORD_BYTES_MAX: usize = 131_072;

pub const TENANT_BYTES_MAX: usize = 64;
pub const USER_BYTES_MAX: usize = 128;
pub const CLIENT_ID_BYTES_MAX: usize = 64;
pub const LANE_BYTES_MAX: usize = 64;
pub const DEVICE_BYTES_MAX: usize = 64;
/// A token longer than this is refused before it is looked at.
pub const TOKEN_BYTES_MAX: usize = 8_192;
/// Groups a token may name.
pub const TOKEN_GROUPS_MAX: usize = 32;
/// Conversations in an agent's `since`.
pub const SINCE_PLACES_MAX: usize = 1_000;

/// The fold remembers the ids of this many events of a conversation.
pub const REPEAT_WINDOW_EVENTS: usize = 64;

/// `connect` must come within this time, on every transport.
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// The server pings this often; a connection silent for two of them is closed.
pub const PING_INTERVAL_S: u64 = 25;
/// Bad frames a connection may send per minute; the tenth closes it.
pub const BAD_FRAMES_PER_MINUTE: u32 = 10;
/// How long after its expiry a token is still accepted, for clocks that differ.
pub const TOKEN_LEEWAY_S: u64 = 5;

/// Sends of one connection that wait for their delivery report.
pub const SENDS_IN_FLIGHT_PER_CONNECTION: usize = 128;
/// Bytes queued to be written to one connection; beyond it the connection is closed `too_slow`.
pub const OUTBOUND_BYTES_PER_CONNECTION_MAX: usize = 1_048_576;
/// A socket that takes no byte for this long while something is queued is closed `too_slow`.
pub const WRITE_STALL_MS_MAX: u64 = 30_000;

/// Token bucket of a connection, in frames.
pub const CONNECTION_FRAMES_PER_S: u32 = 200;
pub const CONNECTION_FRAMES_BURST: u32 = 400;
/// Bytes read of a connection, whatever they say; what comes faster waits. Twice a user's body bytes: whoever stays within the
/// other limits never notices.
pub const CONNECTION_BYTES_PER_S: u32 = 2 * USER_BYTES_PER_S;
pub const CONNECTION_BYTES_BURST: u32 = 2 * USER_BYTES_BURST;
/// Token bucket of a user over all its connections of a node, in sends.
pub const USER_SENDS_PER_S: u32 = 100;
pub const USER_SENDS_BURST: u32 = 200;
/// Token bucket of a tenant on a node, in sends.
pub const TENANT_SENDS_PER_S: u32 = 20_000;
pub const TENANT_SENDS_BURST: u32 = 40_000;
/// Body bytes a user may send per second, sustained and at once.
pub const USER_BYTES_PER_S: u32 = 1_048_576;
pub const USER_BYTES_BURST: u32 = 4_194_304;
/// Token bucket of a user's history reads on a node, in pages: reading never costs a send.
pub const USER_READS_PER_S: u32 = 100;
pub const USER_READS_BURST: u32 = 400;
/// Connections of one user on one node.
pub const CONNECTIONS_PER_USER_MAX: usize = 32;
/// Connections of one node.
pub const CONNECTIONS_PER_NODE_MAX: usize = 200_000;
/// Connections that may wait to be accepted, as far as the system allows (`net.core.somaxconn`, 4,096). One too many is not refused: its
/// client tries again after a second, and of 2,000 that came back at once some did.
pub const LISTEN_BACKLOG: u32 = 16_384;

/// Events pushed to a connection beyond its last `recv`.
pub const PUSH_WINDOW_EVENTS: usize = 128;
pub const PUSH_WINDOW_BYTES: usize = 262_144;
/// A push window full for this long closes the connection `too_slow`.
pub const PUSH_WINDOW_FULL_MS_MAX: u64 = 30_000;
/// A place farther behind than this is answered `reset`.
pub const RESUME_EVENTS_MAX: u64 = 1_000;
/// Events in one history page.
pub const PAGE_EVENTS_MAX: u32 = 1_000;
pub const PAGE_EVENTS_DEFAULT: u32 = 100;
/// Events of a conversation in one bucket of the history table.
pub const BUCKET_EVENTS: u64 = 10_000;
/// No conversation has more events: every client can count so far (2^53 − 1), and every store.
pub const SEQ_MAX: u64 = (1 << 53) - 1;

/// Clients ack at most this often.
pub const ACK_INTERVAL_MS: u64 = 300;
pub const ACK_EVERY_EVENTS: u64 = 64;
/// A worker writes moved watermarks this often.
pub const MARKS_INTERVAL_MS: u64 = 1_000;
/// A wanted session is asked for again this often.
pub const WANTED_AGAIN_MS: u64 = 2_000;

/// `alive` of a node for its agents; a node silent for the second is gone.
pub const ALIVE_INTERVAL_MS: u64 = 2_000;
pub const ALIVE_TIMEOUT_MS: u64 = 6_000;
/// A desk's clock moves at most this far between two records.
pub const DESK_CLOCK_STEP_MS_MAX: i64 = 2_000;
/// Queue positions are told at most this often.
pub const QUEUE_TOLD_MS: i64 = 5_000;

/// A link sends a heartbeat after this much silence and is given up after the second.
pub const LINK_HEARTBEAT_MS: u64 = 1_000;
pub const LINK_TIMEOUT_MS: u64 = 4_000;
/// Items queued on one side of a link.
pub const LINK_QUEUE_ITEMS: usize = 8_192;
/// Items of one wake-up that travel in one link message.
pub const LINK_BATCH_ITEMS: usize = 512;

/// A delivery report later than this is `unknown`.
pub const PRODUCE_TIMEOUT_MS: u64 = 10_000;
/// Records handed to the producer without report, per process.
pub const PRODUCE_IN_FLIGHT_MAX: usize = 65_536;
pub const PRODUCE_IN_FLIGHT_BYTES_MAX: usize = 67_108_864;
/// A member that is silent for longer loses its partitions.
pub const SESSION_TIMEOUT_MS: u64 = 6_000;
/// Records of one partition handed over at once.
pub const BATCH_RECORDS_MAX: usize = 1_024;

/// Memory a worker may use for conversations; beyond it it stops reading until persistence has caught up.
pub const WORKER_BYTES_BUDGET: usize = 1_073_741_824;

/// A drain gives up after this.
pub const DRAIN_DEADLINE_MS: u64 = 20_000;
