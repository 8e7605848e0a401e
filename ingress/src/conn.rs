//! One connection: its session, and how other threads reach it. Pushes, delivery reports and closes are put into the session's
//! outbox from whichever thread has them; the connection's own task is woken and writes all that waits with one flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use futures::task::AtomicWaker;
use ingress_core::{Connected, Reported};
use ordered_log::{Appended, ProduceError, Reports};
use parking_lot::{Mutex, MutexGuard};
use wire::{CloseCode, ConnectionId, Device, Partition, Tenant};

use crate::addresses::Slot;
use crate::node::Node;
use crate::tenants::Account;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Tcp,
    Sse,
    Poll,
}

impl Transport {
    pub const ALL: [Transport; 4] = [Transport::WebSocket, Transport::Tcp, Transport::Sse, Transport::Poll];

    /// Metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::WebSocket => "ws",
            Transport::Tcp => "tcp",
            Transport::Sse => "sse",
            Transport::Poll => "poll",
        }
    }
}

/// A connection with a good token.
pub struct Conn {
    pub id: ConnectionId,
    pub account: Arc<Account>,
    /// `None`: staff, registered with every partition.
    pub partition: Option<Partition>,
    pub device: Option<Device>,
    pub groups: Box<[String]>,
    pub priority: u32,
    pub transport: Transport,
    node: Arc<Node>,
    /// Which of two connections of one device stays; an owner may have raised it.
    rank: AtomicU64,
    /// An owner has confirmed a registration of it.
    registered: AtomicBool,
    issued_at_ms: AtomicI64,
    ping_due: AtomicBool,
    /// Each poll takes the next number; an older one that still waits is answered at once.
    pub polls: AtomicU32,
    session: Mutex<Connected>,
    waker: AtomicWaker,
    /// Its share of what its address may hold, where no socket of its own has it.
    _slot: Option<Arc<Slot>>,
}

/// What the connection's task is to do now.
pub struct Output {
    pub frames: std::collections::VecDeque<bytes::Bytes>,
    pub ping: bool,
    /// Set when nothing more will come after `frames`.
    pub close: Option<CloseCode>,
}

/// What a new connection is made of.
pub struct NewConn {
    pub id: ConnectionId,
    pub account: Arc<Account>,
    pub partition: Option<Partition>,
    pub device: Option<Device>,
    pub groups: Vec<String>,
    pub priority: u32,
    pub issued_at_ms: i64,
    pub transport: Transport,
    pub session: Connected,
    pub slot: Option<Arc<Slot>>,
}

impl Conn {
    pub fn new(node: Arc<Node>, new: NewConn) -> Self {
        Self {
            id: new.id,
            account: new.account,
            partition: new.partition,
            device: new.device,
            groups: new.groups.into(),
            priority: new.priority,
            transport: new.transport,
            node,
            rank: AtomicU64::new(new.id.0),
            registered: AtomicBool::new(false),
            issued_at_ms: AtomicI64::new(new.issued_at_ms),
            ping_due: AtomicBool::new(false),
            polls: AtomicU32::new(0),
            session: Mutex::new(new.session),
            waker: AtomicWaker::new(),
            _slot: new.slot,
        }
    }

    pub fn tenant(&self) -> &Tenant {
        &self.account.tenant.tenant
    }

    pub fn session(&self) -> MutexGuard<'_, Connected> {
        self.session.lock()
    }

    pub fn is_staff(&self) -> bool {
        self.partition.is_none()
    }

    pub fn register_waker(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    pub fn wake(&self) {
        self.waker.wake();
    }

    pub fn close(&self, code: CloseCode) {
        self.session.lock().close(code);
        self.wake();
    }

    pub fn ping(&self) {
        self.ping_due.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Runs `change` on the session and wakes the task if that says so.
    pub fn with(&self, change: impl FnOnce(&mut Connected) -> bool) -> bool {
        let woken = change(&mut self.session.lock());
        if woken {
            self.wake();
        }
        woken
    }

    /// What waits to be written, at most about `bytes_max`.
    pub fn take_output(&self, now_ms: u64, bytes_max: usize) -> Output {
        let mut session = self.session.lock();
        let frames = session.take_output(now_ms, bytes_max);
        let close = if session.has_output() { None } else { session.closing() };
        Output {
            frames,
            ping: self.ping_due.load(Ordering::Relaxed) && self.ping_due.swap(false, Ordering::Relaxed),
            close,
        }
    }

    pub fn rank(&self) -> u64 {
        self.rank.load(Ordering::Relaxed)
    }

    /// An owner has it, with this rank.
    pub fn set_registered(&self, rank: u64) {
        self.rank.fetch_max(rank, Ordering::Relaxed);
        self.registered.store(true, Ordering::Relaxed);
    }

    pub fn is_fresh(&self) -> bool {
        !self.registered.load(Ordering::Relaxed)
    }

    pub fn issued_at_ms(&self) -> i64 {
        self.issued_at_ms.load(Ordering::Relaxed)
    }

    pub fn set_issued_at_ms(&self, at: i64) {
        self.issued_at_ms.store(at, Ordering::Relaxed);
    }
}

/// How a record fared, in the session's words.
pub fn reported(outcome: &Result<Appended, ProduceError>) -> Reported {
    match outcome {
        Ok(_) => Reported::Logged,
        Err(ProduceError::Unavailable(_)) => Reported::Unavailable,
        Err(ProduceError::Unknown(_)) => Reported::Unknown,
        Err(ProduceError::TooLarge) => Reported::TooLarge,
    }
}

/// The token of a record: the session's own, and above it the low half of the time it was received, for the stage histogram.
pub fn report_token(token: u32, received_ms: u64) -> u64 {
    (received_ms << 32) | u64::from(token)
}

impl Reports for Conn {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        let now_ms = self.node.clock.now_ms();
        self.node.count_report(&outcome, (token >> 32) as u32, now_ms);
        self.with(|session| session.handle_report(now_ms, token as u32, reported(&outcome)));
    }
}
