//! The session core behind all transports: `Handshaking` → `Connected` → closing. What the client sends comes in as frames, what
//! the workers and the log say comes in as pushes and reports; what must be written waits in the session's own outbox.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use wire::frames::{self, ClientFrame, Connect, LastSeq, ServerFrame, Since};
use wire::link::Access;
use wire::record::Role;
use wire::{ClientId, CloseCode, ErrorCode, Seq, User, event, limits};

use crate::body::{self, BodyError};
use crate::buckets::{Bucket, Rate};
use crate::outbox::{Full, Outbox};
use crate::places::{Place, Places};
use crate::rights::{Claims, Need, Verb, is_staff, need};
use crate::steps::{NewAct, NewRecord, Quota, Step, error_frame};

/// Frames a connection may send although it was told to wait; beyond it is closed.
const REFUSALS: Rate = Rate {
    per_s: 20,
    burst: limits::CONNECTION_FRAMES_BURST,
};
/// What one connection may use. Shared by all of a node's connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub frames: Rate,
    pub sends_in_flight: usize,
    pub outbound_bytes: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            frames: Rate {
                per_s: limits::CONNECTION_FRAMES_PER_S,
                burst: limits::CONNECTION_FRAMES_BURST,
            },
            sends_in_flight: limits::SENDS_IN_FLIGHT_PER_CONNECTION,
            outbound_bytes: limits::OUTBOUND_BYTES_PER_CONNECTION_MAX,
        }
    }
}

const MINUTE_MS: u64 = 60_000;

/// Reads one frame; the message says what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<ClientFrame<'_>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the frame is not UTF-8".to_owned())?;
    serde_json::from_str(text).map_err(|e| format!("the frame cannot be read: {e}"))
}

/// Counts bad frames: a sliding minute would cost ten times; a fixed one starts with its first bad frame.
#[derive(Clone, Copy, Debug, Default)]
struct BadFrames {
    since_ms: u64,
    count: u32,
}

impl BadFrames {
    /// True if this one closes the connection.
    fn one_more(&mut self, now_ms: u64) -> bool {
        if self.count == 0 || now_ms.saturating_sub(self.since_ms) >= MINUTE_MS {
            *self = BadFrames {
                since_ms: now_ms,
                count: 0,
            };
        }
        self.count += 1;
        self.count >= limits::BAD_FRAMES_PER_MINUTE
    }
}

/// A connection that has not shown a token. Boxed by the edges, it is gone as soon as it has.
#[derive(Debug, Default)]
pub struct Handshaking {
    bad: BadFrames,
}

/// What a first frame asks for.
#[derive(Debug)]
pub enum Greeting<'a> {
    /// Check the token, then [`Connected::new`].
    Verify(Connect<'a>),
    Answer(Bytes),
    Close(CloseCode),
}

impl Handshaking {
    pub fn handle_frame<'a>(&mut self, now_ms: u64, bytes: &'a [u8]) -> Greeting<'a> {
        let why = match parse(bytes) {
            Ok(ClientFrame::Connect(connect)) => return Greeting::Verify(connect),
            Ok(_) => Cow::Borrowed("the first frame must be connect"),
            Err(why) => Cow::Owned(why),
        };
        if self.bad.one_more(now_ms) {
            return Greeting::Close(CloseCode::BadFrame);
        }
        Greeting::Answer(error_frame(None, ErrorCode::BadFrame, &why, None))
    }
}

/// How a record fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    Logged,
    /// It was never handed to the log.
    Unavailable,
    /// It may appear.
    Unknown,
    TooLarge,
}

impl Reported {
    /// The answer to whoever sent `id`.
    pub fn answer(self, id: &str) -> Bytes {
        let error = |code, text| error_frame(Some(id), code, text, None);
        match self {
            Reported::Logged => event::sent_frame(id),
            Reported::Unavailable => error_frame(
                Some(id),
                ErrorCode::Unavailable,
                "the log takes nothing now; it was not sent",
                Some(1_000),
            ),
            Reported::Unknown => error(ErrorCode::Unknown, "it may have been sent: send the same id again"),
            Reported::TooLarge => error(ErrorCode::TooLarge, "the record is larger than the log allows"),
        }
    }
}

/// A record that waits for its report.
#[derive(Debug)]
struct Pending {
    token: u32,
    /// Acts are answered by the desk; only their failure is ours to tell.
    act: bool,
    id: Option<ClientId>,
}

/// What a second's passing asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    Nothing,
    Ping,
    Close(CloseCode),
}

/// A connection with a good token.
#[derive(Debug)]
pub struct Connected {
    limits: Arc<ConnectionLimits>,
    pub user: User,
    pub role: Role,
    places: Places,
    /// From `connect`, until the owner has heard it.
    since: Option<Box<Since>>,
    outbox: Outbox,
    pending: Vec<Pending>,
    next_token: u32,
    frames: Bucket,
    refusals: Bucket,
    bad: BadFrames,
    expires_at_ms: u64,
    heard_at_ms: u64,
    pinged_at_ms: u64,
    closing: Option<CloseCode>,
}

impl Connected {
    /// `since` of `connect`; a customer's number counts for its own conversation, a map for staff.
    pub fn new(now_ms: u64, claims: &Claims, since: Option<Since>, limits: Arc<ConnectionLimits>) -> Self {
        let staff = is_staff(claims.role);
        Self {
            limits,
            user: claims.user.clone(),
            role: claims.role,
            places: if staff { Places::many() } else { Places::own() },
            since: since.map(Box::new),
            outbox: Outbox::default(),
            pending: Vec::new(),
            next_token: 0,
            frames: Bucket::default(),
            refusals: Bucket::default(),
            bad: BadFrames::default(),
            expires_at_ms: claims.expires_at_ms,
            heard_at_ms: now_ms,
            pinged_at_ms: now_ms,
            closing: None,
        }
    }

    /// The refusal of a `since` that names too many conversations.
    pub fn check_since(since: &Since) -> Result<(), ErrorCode> {
        match since {
            Since::Conversations(map) if map.len() > limits::SINCE_PLACES_MAX => Err(ErrorCode::TooLarge),
            _ => Ok(()),
        }
    }

    // ---- from the client ----

    /// Anything came from the client, a pong or ping included. False if it sends too many and must be closed.
    pub fn handle_heard(&mut self, now_ms: u64) -> bool {
        self.heard_at_ms = now_ms;
        self.frames.take(now_ms, 1, self.limits.frames).is_ok() || self.refusals.take(now_ms, 1, REFUSALS).is_ok() || {
            self.close(CloseCode::RateLimited);
            false
        }
    }

    /// A sign of life that is no frame of the client's: a poll came, or a stream's socket took what was written.
    pub fn handle_alive(&mut self, now_ms: u64) {
        self.heard_at_ms = now_ms;
    }

    /// One frame. `frame` is what [`parse`] made of it.
    pub fn handle_frame<'a>(
        &mut self,
        now_ms: u64,
        frame: Result<ClientFrame<'a>, String>,
        quota: &dyn Quota,
    ) -> Step<'a> {
        if self.closing.is_some() {
            return Step::Nothing;
        }
        self.heard_at_ms = now_ms;
        let granted = self.frames.take(now_ms, 1, self.limits.frames);
        if granted.is_err() && self.refusals.take(now_ms, 1, REFUSALS).is_err() {
            self.close(CloseCode::RateLimited);
            return Step::Close(CloseCode::RateLimited);
        }
        let frame = match frame {
            Ok(frame) => frame,
            Err(why) => return self.bad_frame(now_ms, &why),
        };
        if let Err(wait) = granted {
            return refuse(
                frame_id(&frame),
                ErrorCode::RateLimited,
                "too many frames",
                Some(wait.0),
            );
        }
        self.dispatch(now_ms, frame, quota)
    }

    fn dispatch<'a>(&mut self, now_ms: u64, frame: ClientFrame<'a>, quota: &dyn Quota) -> Step<'a> {
        match frame {
            ClientFrame::Send(send) => self.handle_send(now_ms, send, quota),
            ClientFrame::Ack(ack) => self.handle_ack(&ack),
            ClientFrame::Act(act) => self.handle_act(now_ms, *act, quota),
            ClientFrame::Typing(typing) => self.handle_typing(&typing),
            ClientFrame::Status(status) => self.handle_status(&status),
            ClientFrame::Refresh(refresh) => Step::Refresh { token: refresh.token },
            ClientFrame::Ping(_) => Step::Answer(ServerFrame::Pong(frames::Empty {}).encode()),
            ClientFrame::Connect(_) => self.bad_frame(now_ms, "this connection is connected already"),
        }
    }

    fn bad_frame<'a>(&mut self, now_ms: u64, why: &str) -> Step<'a> {
        if self.bad.one_more(now_ms) {
            self.close(CloseCode::BadFrame);
            return Step::Close(CloseCode::BadFrame);
        }
        refuse(None, ErrorCode::BadFrame, why, None)
    }

    fn handle_send<'a>(&mut self, now_ms: u64, send: frames::Send<'a>, quota: &dyn Quota) -> Step<'a> {
        let id = match ClientId::new(&send.id) {
            Ok(id) => id,
            Err(e) => return refuse(None, ErrorCode::BadFrame, &e.to_string(), None),
        };
        let conversation = match self.target(&id, Verb::Send, send.conversation.as_deref()) {
            Ok(conversation) => conversation,
            Err(step) => return step,
        };
        if let Err(e) = body::check_message(send.body) {
            return refuse_body(&id, e);
        }
        let customer = self.role == Role::Customer;
        self.numbered(now_ms, id, conversation, ("message", send.body, false, customer), quota)
    }

    /// Takes what a numbered record needs: a share of the limits, and a token for its report.
    fn numbered<'a>(
        &mut self,
        now_ms: u64,
        id: ClientId,
        conversation: User,
        (member, value, staff_only, wants_agent): (&'static str, &'a RawValue, bool, bool),
        quota: &dyn Quota,
    ) -> Step<'a> {
        if self.pending.len() >= self.limits.sends_in_flight {
            return refuse(
                Some(id.as_str()),
                ErrorCode::RateLimited,
                "too many sends wait for the log",
                Some(50),
            );
        }
        if let Err(wait) = quota.take_send(now_ms, value.get().len()) {
            return refuse(
                Some(id.as_str()),
                ErrorCode::RateLimited,
                "too many sends",
                Some(wait.0),
            );
        }
        let token = self.expect_report(false, Some(id.clone()));
        Step::Produce(NewRecord {
            token,
            conversation,
            id,
            member,
            value,
            staff_only,
            wants_agent,
        })
    }

    fn handle_act<'a>(&mut self, now_ms: u64, act: frames::Act<'a>, quota: &dyn Quota) -> Step<'a> {
        let id = match ClientId::new(&act.id) {
            Ok(id) => id,
            Err(e) => return refuse(None, ErrorCode::BadFrame, &e.to_string(), None),
        };
        let Some((name, value)) = act.deed() else {
            return refuse(
                Some(id.as_str()),
                ErrorCode::BadFrame,
                "an act has exactly one deed",
                None,
            );
        };
        let Some(verb) = Verb::of_deed(name) else {
            return refuse(Some(id.as_str()), ErrorCode::BadFrame, "this deed is not known", None);
        };
        let conversation = match self.target(&id, verb, act.conversation.as_deref()) {
            Ok(conversation) => conversation,
            Err(step) => return step,
        };
        if let Err(e) = body::check_object(value) {
            return refuse_body(&id, e);
        }
        match verb {
            Verb::Note => self.numbered(now_ms, id, conversation, ("note", value, true, false), quota),
            Verb::Recall => self.numbered(now_ms, id, conversation, ("recall", value, false, false), quota),
            _ => {
                let seen_seq = self.seen_seq(verb, &conversation);
                self.for_desk(
                    Some(id),
                    Some(conversation),
                    format!("{{\"{name}\":{}}}", value.get()),
                    seen_seq,
                )
            }
        }
    }

    /// A close names what its author has seen: staff what was written to this connection, a customer everything.
    fn seen_seq(&self, verb: Verb, conversation: &User) -> u64 {
        match (verb, self.role) {
            (Verb::Close, Role::Customer) => u64::MAX,
            (Verb::Close, _) => {
                let place = self.places.get(&self.user, conversation.as_str());
                place.and_then(|p| p.written).unwrap_or_default().0
            }
            _ => 0,
        }
    }

    fn handle_status<'a>(&mut self, status: &frames::Status<'_>) -> Step<'a> {
        let id = match status.id.as_deref().map(ClientId::new).transpose() {
            Ok(id) => id,
            Err(e) => return refuse(None, ErrorCode::BadFrame, &e.to_string(), None),
        };
        if need(self.role, Verb::Status) == Need::Never {
            let id = id.as_ref().map(ClientId::as_str);
            return refuse(id, ErrorCode::Forbidden, "only staff have a status", None);
        }
        let deed = frames::Status {
            id: None,
            state: status.state,
            capacity: status.capacity,
        };
        // Serialising two plain members cannot fail.
        let deed = serde_json::to_string(&deed).unwrap_or_default();
        self.for_desk(id, None, format!("{{\"status\":{deed}}}"), 0)
    }

    fn for_desk<'a>(&mut self, id: Option<ClientId>, customer: Option<User>, deed: String, seen_seq: u64) -> Step<'a> {
        if self.pending.len() >= self.limits.sends_in_flight {
            let id = id.as_ref().map(ClientId::as_str);
            return refuse(id, ErrorCode::RateLimited, "too many acts wait for the log", Some(50));
        }
        let token = self.expect_report(true, id.clone());
        Step::Desk(NewAct {
            token,
            id,
            customer,
            deed: deed.into(),
            seen_seq,
        })
    }

    fn handle_ack<'a>(&mut self, ack: &frames::Ack<'_>) -> Step<'a> {
        let conversation = match (ack.conversation.as_deref(), self.role) {
            (None, Role::Customer) => self.user.as_str(),
            (None, _) => {
                return refuse(
                    None,
                    ErrorCode::BadFrame,
                    "an ack of staff names its conversation",
                    None,
                );
            }
            (Some(conversation), _) => conversation,
        };
        // An ack for what was never written here says nothing; it may cross a detachment.
        let Some(place) = self.places.get_mut(&self.user, conversation) else {
            return Step::Nothing;
        };
        match (place.ack(ack.recv, ack.read), User::new(conversation)) {
            (Some(acks), Ok(conversation)) => Step::Acked { conversation, acks },
            _ => Step::Nothing,
        }
    }

    fn handle_typing<'a>(&mut self, typing: &frames::TypingFrom<'_>) -> Step<'a> {
        let own = self.role == Role::Customer;
        let conversation = typing
            .conversation
            .as_deref()
            .unwrap_or(if own { self.user.as_str() } else { "" });
        let may = if own {
            conversation == self.user.as_str()
        } else {
            let access = self.places.get(&self.user, conversation).and_then(|p| p.access);
            need(self.role, Verb::Typing) == Need::Full && access == Some(Access::Full)
        };
        match (may, User::new(conversation)) {
            (true, Ok(conversation)) => Step::Typing { conversation },
            _ => Step::Nothing,
        }
    }

    /// Which conversation is meant, and may this user do that there?
    fn target<'s>(&self, id: &ClientId, verb: Verb, named: Option<&str>) -> Result<User, Step<'s>> {
        let no = |code, message| Err(refuse(Some(id.as_str()), code, message, None));
        let needs = match need(self.role, verb) {
            Need::Never => return no(ErrorCode::Forbidden, "this role may not do that"),
            Need::Own => {
                return match named {
                    Some(other) if other != self.user.as_str() => {
                        no(ErrorCode::Forbidden, "this is not your conversation")
                    }
                    _ => Ok(self.user.clone()),
                };
            }
            other => other,
        };
        let Some(named) = named else {
            return no(ErrorCode::BadFrame, "staff name the conversation they mean");
        };
        let Ok(conversation) = User::new(named) else {
            return no(ErrorCode::BadFrame, "this is not a conversation's name");
        };
        let needs = match needs {
            Need::Full => Access::Full,
            Need::Watch => Access::Watch,
            _ => return Ok(conversation),
        };
        match self.places.get(&self.user, named).and_then(|p| p.access) {
            Some(access) if access >= needs => Ok(conversation),
            Some(_) => no(ErrorCode::NotAssigned, "you are neither assigned nor joined"),
            None => Err(Step::Ask {
                conversation,
                id: id.clone(),
                needs,
            }),
        }
    }

    /// What the owner answered about a conversation nobody had told us of.
    pub fn learn(&mut self, conversation: &str, access: Access) {
        if let Some(place) = self.places.entry(&self.user, conversation) {
            place.access.get_or_insert(access);
        }
    }

    /// Forgets what was learnt by asking: it counts for the frame that asked, and the owner is asked again for the next one.
    pub fn unlearn(&mut self, conversation: &str) {
        if let Some(place) = self.places.get_mut(&self.user, conversation)
            && place.written.is_none()
        {
            place.access = None;
        }
    }

    /// A token that was verified again. It keeps tenant, user and role, or it counts for nothing.
    pub fn handle_refreshed(&mut self, same_tenant: bool, claims: &Claims) -> Result<(), ErrorCode> {
        if !same_tenant || claims.user != self.user || claims.role != self.role {
            return Err(ErrorCode::Forbidden);
        }
        self.expires_at_ms = claims.expires_at_ms;
        Ok(())
    }

    // ---- from the log ----

    fn expect_report(&mut self, act: bool, id: Option<ClientId>) -> u32 {
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        self.pending.push(Pending { token, act, id });
        token
    }

    /// A delivery report. True if something is to be written.
    pub fn handle_report(&mut self, now_ms: u64, token: u32, reported: Reported) -> bool {
        match self.settle(token) {
            Some(Pending { id: Some(id), act, .. }) if !act || reported != Reported::Logged => {
                self.write(now_ms, reported.answer(id.as_str()))
            }
            _ => false,
        }
    }

    /// A report that is answered elsewhere, in the response to a POST.
    pub fn handle_report_elsewhere(&mut self, token: u32) {
        self.settle(token);
    }

    fn settle(&mut self, token: u32) -> Option<Pending> {
        // Reports come in the order of the records, as a rule: the first is the one.
        let at = self.pending.iter().position(|p| p.token == token)?;
        let pending = self.pending.remove(at);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        Some(pending)
    }

    /// Records that still wait for their report.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    // ---- from the owners of partitions ----

    /// The next event of a conversation, or its `placed`. True if it is written; what is not the next one is dropped.
    pub fn handle_push(&mut self, now_ms: u64, conversation: &str, seq: Seq, frame: Bytes) -> bool {
        let next = match self.places.get_mut(&self.user, conversation) {
            Some(place) => place.push(seq),
            None => false,
        };
        next && self.write(now_ms, frame)
    }

    /// A conversation begins here, or its state or this user's access changed.
    pub fn handle_conversation(&mut self, now_ms: u64, item: &wire::link::Conversation) -> bool {
        let Some(place) = self.places.entry(&self.user, &item.conversation) else {
            return false;
        };
        if item.begin {
            place.begin(Seq(item.from));
        }
        place.access = Some(item.access());
        item.frame.is_empty() || self.write(now_ms, item.frame.clone())
    }

    /// A frame without a place in the order.
    pub fn handle_loose(&mut self, now_ms: u64, frame: Bytes) -> bool {
        self.write(now_ms, frame)
    }

    /// Too far behind, or ahead of what exists: the place becomes `last_seq`.
    pub fn handle_moved(&mut self, now_ms: u64, conversation: &str, last_seq: Seq, rewind: bool) -> bool {
        let Some(place) = self.places.entry(&self.user, conversation) else {
            return false;
        };
        place.move_to(last_seq);
        let place = LastSeq {
            conversation: conversation.into(),
            last_seq: last_seq.0,
        };
        let frame = if rewind {
            ServerFrame::Rewind(place)
        } else {
            ServerFrame::Reset(place)
        };
        self.write(now_ms, frame.encode())
    }

    /// Where each conversation stands, for a registration.
    pub fn places(&self) -> impl Iterator<Item = (&User, &Place)> {
        self.places.begun(&self.user)
    }

    /// From `connect`; kept because any owner may be met for the first time later.
    pub fn since(&self) -> Option<&Since> {
        self.since.as_deref()
    }

    // ---- from time ----

    /// Called about once a second.
    pub fn handle_tick(&mut self, now_ms: u64) -> Tick {
        let ping_ms = limits::PING_INTERVAL_S * 1000;
        let code = if self.closing.is_some() {
            return Tick::Nothing;
        } else if now_ms > self.expires_at_ms + limits::TOKEN_LEEWAY_S * 1000 {
            CloseCode::TokenExpired
        } else if now_ms.saturating_sub(self.heard_at_ms) > 2 * ping_ms {
            CloseCode::PingTimeout
        } else if self.outbox.stalled_ms(now_ms) > limits::WRITE_STALL_MS_MAX {
            CloseCode::TooSlow
        } else if now_ms.saturating_sub(self.pinged_at_ms.max(self.heard_at_ms)) >= ping_ms {
            self.pinged_at_ms = now_ms;
            return Tick::Ping;
        } else {
            return Tick::Nothing;
        };
        self.close(code);
        Tick::Close(code)
    }

    // ---- to the client ----

    /// Queues a frame. True if it is to be written; a full queue closes the connection.
    pub fn write(&mut self, now_ms: u64, frame: Bytes) -> bool {
        if self.closing.is_some() {
            return false;
        }
        if let Err(Full) = self.outbox.push(now_ms, frame, self.limits.outbound_bytes) {
            self.close(CloseCode::TooSlow);
        }
        true
    }

    /// Frames to write now, at most about `bytes_max`.
    pub fn take_output(&mut self, now_ms: u64, bytes_max: usize) -> VecDeque<Bytes> {
        self.outbox.take(now_ms, bytes_max)
    }

    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub fn output_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Ends the session; the first code stands. A reader that is too slow does not get what it would not read.
    pub fn close(&mut self, code: CloseCode) {
        if self.closing.is_none() {
            self.closing = Some(code);
            if code == CloseCode::TooSlow {
                self.outbox.clear();
            }
        }
    }

    pub fn closing(&self) -> Option<CloseCode> {
        self.closing
    }
}

fn refuse<'a>(id: Option<&str>, code: ErrorCode, message: &str, retry_after_ms: Option<u64>) -> Step<'a> {
    Step::Answer(error_frame(id, code, message, retry_after_ms))
}

fn refuse_body<'a>(id: &ClientId, error: BodyError) -> Step<'a> {
    refuse(Some(id.as_str()), error.code(), &error.to_string(), None)
}

fn frame_id<'f>(frame: &'f ClientFrame<'_>) -> Option<&'f str> {
    match frame {
        ClientFrame::Send(send) => Some(&send.id),
        ClientFrame::Act(act) => Some(&act.id),
        ClientFrame::Status(status) => status.id.as_deref(),
        _ => None,
    }
}
