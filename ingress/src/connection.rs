//! The task of one connection on a byte stream (WebSocket, TCP): reads frames, carries out what the session says, and writes all
//! that waits with one flush per wake-up. Written as a plain `Future` so that an idle connection holds nothing but what it needs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ingress_core::session::parse;
use ingress_core::{Reported, Step, error_frame};
use ordered_log::Reports;
use tokio::time::Sleep;
use wire::record::Session;
use wire::row::PublicState;
use wire::{CloseCode, ConversationKey, ErrorCode, User};

use crate::clock::Clock;
use crate::conn::Conn;
use crate::links::{From, access_of, is_open};
use crate::node::Node;
use crate::produce::refused;

/// Frames read in one wake-up before others get their turn.
const FRAMES_PER_WAKE: u32 = 64;
/// Bytes handed to the socket before it must have taken them: what a connection that fell behind holds twice.
const WRITE_BYTES: usize = 32 * 1024;
/// A peer that was told to go has this long to say goodbye.
const GOODBYE_MS: u64 = 1_000;

/// How long the store may take to say who may speak.
const ROW_TIMEOUT_MS: u64 = 2_000;

/// What a stream gave.
pub enum Incoming {
    Frame(Bytes),
    /// A ping, a pong: a sign of life.
    Heard,
    /// Something that can never be a frame; it counts as a bad one.
    Bad(&'static str),
    /// What comes cannot be understood any more: the peer is told why, and not read again.
    Broken(CloseCode),
    Gone,
}

/// A byte stream that carries frames both ways.
pub trait FrameStream: Send + Unpin + 'static {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming>;
    /// Takes a frame into the stream's buffer. False: the peer is gone.
    fn start(&mut self, frame: Bytes) -> bool;
    fn start_ping(&mut self) -> bool;
    /// The last thing that is written.
    fn start_close(&mut self, code: CloseCode) -> bool;
    /// Ready(false): the peer is gone.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<bool>;
}

type Asking = Pin<Box<dyn Future<Output = (Bytes, User, Option<Session>)> + Send>>;

/// A connection that has shown its token.
pub struct ConnectionTask<S> {
    stream: S,
    conn: Arc<Conn>,
    node: Arc<Node>,
    /// A frame that waits for the owner's answer. Nothing is read meanwhile, so frames keep their order.
    asking: Option<Asking>,
    flushing: bool,
    /// Nothing more can be understood. The socket stays open unread for a moment: closed at once, its reset could overtake the
    /// close that says why.
    deaf: bool,
    /// The close was handed to the stream; nothing is written behind it.
    told: bool,
    /// The session is over; the peer may take what is left and say goodbye, for a moment.
    leaving: Option<Pin<Box<Sleep>>>,
}

impl<S: FrameStream> ConnectionTask<S> {
    pub fn new(stream: S, conn: Arc<Conn>, node: Arc<Node>) -> Self {
        Self {
            stream,
            conn,
            node,
            asking: None,
            flushing: false,
            deaf: false,
            told: false,
            leaving: None,
        }
    }

    /// Ready: the peer is gone.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..FRAMES_PER_WAKE {
            if self.deaf {
                return Poll::Pending;
            }
            if let Some(asking) = &mut self.asking {
                let Poll::Ready((frame, conversation, session)) = asking.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                self.asking = None;
                self.answered(&frame, &conversation, session.as_ref());
            }
            match self.stream.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Incoming::Gone) => return Poll::Ready(()),
                Poll::Ready(Incoming::Frame(_) | Incoming::Heard | Incoming::Bad(_)) if self.leaving.is_some() => {}
                Poll::Ready(Incoming::Frame(bytes)) => self.handle(&bytes),
                Poll::Ready(Incoming::Heard) => {
                    self.conn.session().handle_heard(self.node.clock.now_ms());
                }
                Poll::Ready(Incoming::Bad(why)) => {
                    let step = self.node.step(&self.conn, Err(why.to_owned()));
                    self.carry_out(step, &Bytes::new());
                }
                Poll::Ready(Incoming::Broken(code)) => {
                    self.deaf = true;
                    self.conn.session().close(code);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn handle(&mut self, bytes: &Bytes) {
        let step = self.node.step(&self.conn, parse(bytes));
        self.carry_out(step, bytes);
    }

    fn carry_out(&mut self, step: Step<'_>, bytes: &Bytes) {
        if let Step::Ask { conversation, .. } = step {
            self.asking = Some(ask(&self.node, &self.conn, conversation, bytes.clone()));
        } else if let Some(answer) = self.node.carry_out(&self.conn, step) {
            self.conn.session().write(self.node.clock.now_ms(), answer);
        }
    }

    /// The frame that asked is handed in again, with what the owner said.
    fn answered(&mut self, frame: &Bytes, conversation: &User, session: Option<&Session>) {
        let step = self.node.step_again(&self.conn, frame, conversation, session);
        self.carry_out(step, frame);
    }

    fn leave(&mut self) {
        let goodbye = || Box::pin(tokio::time::sleep(Duration::from_millis(GOODBYE_MS)));
        self.leaving.get_or_insert_with(goodbye);
    }

    /// Ready: the peer is gone, or has been told to go.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.flushing {
                match self.stream.poll_flush(cx) {
                    Poll::Pending => {
                        // A socket that takes nothing must not keep a session that is over.
                        if self.conn.session().closing().is_some() {
                            self.leave();
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(false) => return Poll::Ready(()),
                    Poll::Ready(true) => self.flushing = false,
                }
            }
            if self.told {
                return Poll::Pending;
            }
            let output = self.conn.take_output(self.node.clock.now_ms(), WRITE_BYTES);
            if output.frames.is_empty() && !output.ping && output.close.is_none() {
                return Poll::Pending;
            }
            let mut alive = output.frames.into_iter().all(|frame| self.stream.start(frame));
            if alive && output.ping {
                alive = self.stream.start_ping();
            }
            if let Some(code) = output.close {
                alive = alive && self.stream.start_close(code);
                self.told = true;
                self.leave();
            }
            if !alive {
                return Poll::Ready(());
            }
            self.flushing = true;
        }
    }
}

impl<S: FrameStream> Future for ConnectionTask<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.conn.register_waker(cx.waker());
        if this.poll_read(cx).is_ready() || this.poll_write(cx).is_ready() {
            return Poll::Ready(());
        }
        match &mut this.leaving {
            Some(goodbye) => goodbye.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<S> Drop for ConnectionTask<S> {
    fn drop(&mut self) {
        self.node.disconnect(&self.conn);
    }
}

fn ask(node: &Arc<Node>, conn: &Arc<Conn>, conversation: User, frame: Bytes) -> Asking {
    let (node, conn) = (Arc::clone(node), Arc::clone(conn));
    Box::pin(async move {
        let session = node.ask(conn.tenant(), &conversation).await;
        (frame, conversation, session)
    })
}

impl Node {
    /// Hands a client's frame to its session.
    pub fn step<'a>(&self, conn: &Conn, frame: Result<wire::frames::ClientFrame<'a>, String>) -> Step<'a> {
        self.meters.frame(&frame);
        conn.session().handle_frame(self.clock.now_ms(), frame, &*conn.account)
    }

    /// Hands a frame in again after its owner was asked. What the owner said counts for this frame only.
    pub fn step_again<'a>(
        &self,
        conn: &Conn,
        frame: &'a [u8],
        conversation: &User,
        heard: Option<&Session>,
    ) -> Step<'a> {
        let Some(heard) = heard else {
            return unanswered(frame);
        };
        let mut session = conn.session();
        session.learn(conversation.as_str(), access_of(heard, &conn.account.user));
        session.learn_open(is_open(heard));
        let step = session.handle_frame(self.clock.now_ms(), parse(frame), &*conn.account);
        session.unlearn(conversation.as_str());
        step
    }

    /// Carries a step out for a live connection; what is to be answered comes back. `Ask` is the caller's.
    pub fn carry_out(self: &Arc<Self>, conn: &Arc<Conn>, step: Step<'_>) -> Option<Bytes> {
        match step {
            Step::Nothing | Step::Ask { .. } | Step::Close(_) => None,
            Step::Answer(answer) => {
                self.count_refusal(&answer);
                Some(answer)
            }
            Step::Produce(new) => {
                let role = conn.session().role;
                let now_ms = self.clock.now_ms();
                let reports = Arc::clone(conn) as Arc<dyn Reports>;
                if let Err(error) = self.produce_record(&self.author(conn, role), &new, now_ms, reports) {
                    self.meters.produce_refused.increment(1);
                    self.not_produced(conn, new.token, &error);
                }
                None
            }
            Step::Desk(act) => {
                let role = conn.session().role;
                let reports = Arc::clone(conn) as Arc<dyn Reports>;
                if let Err(error) = self.produce_act(&self.author(conn, role), &act, reports) {
                    self.not_produced(conn, act.token, &error);
                }
                None
            }
            Step::Acked { conversation, acks } => {
                self.meters.delivered.increment(acks.newly_received);
                let partition = self.partition_of(conn.tenant(), &conversation);
                self.links
                    .acked(partition, From::here(conn.id), &conversation, acks.recv, acks.read);
                None
            }
            Step::Typing { conversation } => {
                self.typing(conn.tenant(), From::here(conn.id), &conversation);
                None
            }
            Step::Refresh { token } => self.refresh(conn, &token),
        }
    }

    fn not_produced(&self, conn: &Conn, token: u32, error: &ordered_log::ProduceError) {
        tracing::debug!(%error, "a record was refused by the producer");
        let reported: Reported = refused(error);
        conn.session().handle_report(self.clock.now_ms(), token, reported);
    }

    fn refresh(&self, conn: &Conn, token: &str) -> Option<Bytes> {
        let refuse = |why: &str| Some(error_frame(None, ErrorCode::Forbidden, why, None));
        let claims = match self.verifier.verify(token, Clock::wall_ms()) {
            Ok(claims) => claims,
            Err(error) => return refuse(&error.to_string()),
        };
        if self.is_revoked(&claims) {
            return refuse("the token is revoked");
        }
        let same_tenant = claims.tenant == *conn.tenant();
        match conn.session().handle_refreshed(same_tenant, &claims) {
            Ok(()) => {
                conn.set_issued_at_ms(claims.issued_at_ms);
                None
            }
            Err(_) => refuse("a refresh keeps tenant, user and role"),
        }
    }

    pub fn typing(&self, tenant: &wire::Tenant, from: From<'_>, conversation: &User) {
        self.links
            .typing(self.partition_of(tenant, conversation), from, conversation);
    }

    pub fn partition_of(&self, tenant: &wire::Tenant, conversation: &User) -> wire::Partition {
        self.topics
            .partition_of(&ConversationKey::new(tenant.clone(), conversation.clone()))
    }

    /// The conversation's session as its owner says; if it does not answer, as the conversation's row says. `None`: neither did.
    pub async fn ask(&self, tenant: &wire::Tenant, conversation: &User) -> Option<Session> {
        let partition = self.partition_of(tenant, conversation);
        if let Some(session) = self.links.ask(partition, tenant, conversation).await {
            return Some(session);
        }
        let key = ConversationKey::new(tenant.clone(), conversation.clone());
        let load = tokio::time::timeout(Duration::from_millis(ROW_TIMEOUT_MS), self.history.load(&key));
        match load.await {
            Ok(Ok(row)) => match row.and_then(|row| row.state) {
                Some(cell) => Some(PublicState::of_cell(&cell)?.session),
                // Nothing was ever said there.
                None => Some(Session::default()),
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "a conversation's row could not be read");
                None
            }
            Err(_) => None,
        }
    }

    pub fn count_refusal(&self, answer: &[u8]) {
        if let Ok(wire::frames::ServerFrame::Error(error)) = serde_json::from_slice(answer) {
            self.meters.refused(error.code);
        }
    }
}

/// Nobody said who may speak there: refused, and told to try again.
fn unanswered<'a>(frame: &'a [u8]) -> Step<'a> {
    use wire::frames::ClientFrame;
    let id = match parse(frame) {
        Ok(ClientFrame::Send(send)) => Some(send.id),
        Ok(ClientFrame::Act(act)) => Some(act.id),
        _ => None,
    };
    let why = "the conversation's owner did not answer; it was not sent";
    Step::Answer(error_frame(id.as_deref(), ErrorCode::Unavailable, why, Some(1_000)))
}
