//! The session core behind all transports: `Handshaking` → `Connected` → closing. What the client sends comes in as frames, what
//! the workers and the log say comes in as pushes and reports; what must be written waits in the session's own outbox.

mod client;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use wire::frames::{ClientFrame, Connect, LastSeq, ServerFrame, Since};
use wire::record::Role;
use wire::{ClientId, CloseCode, ErrorCode, Seq, User, event, limits};

use crate::buckets::{Bucket, Rate};
use crate::outbox::{Full, Outbox};
use crate::places::{Place, Places};
use crate::rights::{Claims, is_staff};
use crate::steps::error_frame;

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
    /// A connection that is silent for longer is over.
    pub silence_ms: u64,
}

/// Two pings: what a connection with a socket may be silent for.
pub const SILENCE_MS_MAX: u64 = 2 * limits::PING_INTERVAL_S * 1000;

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            frames: Rate {
                per_s: limits::CONNECTION_FRAMES_PER_S,
                burst: limits::CONNECTION_FRAMES_BURST,
            },
            sends_in_flight: limits::SENDS_IN_FLIGHT_PER_CONNECTION,
            outbound_bytes: limits::OUTBOUND_BYTES_PER_CONNECTION_MAX,
            silence_ms: SILENCE_MS_MAX,
        }
    }
}

const MINUTE_MS: u64 = 60_000;

/// Reads one frame; the message says what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<ClientFrame<'_>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the frame is not UTF-8".to_owned())?;
    let frame = serde_json::from_str(text).map_err(|e| format!("the frame cannot be read: {e}"))?;
    // serde reads a list as an object too, by its members' order; no known key has a colon in it.
    let value = text.split_once(':').map_or("", |(_, value)| value.trim_start());
    if !value.starts_with('{') {
        return Err("the frame's value is not an object".to_owned());
    }
    Ok(frame)
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
    /// It was no frame; there may be another.
    Answer(Bytes),
    Close(CloseCode),
}

impl Handshaking {
    pub fn handle_frame<'a>(&mut self, now_ms: u64, bytes: &'a [u8]) -> Greeting<'a> {
        let why = match parse(bytes) {
            Ok(ClientFrame::Connect(connect)) => return Greeting::Verify(connect),
            // Whoever speaks before it has said who it is does not know the protocol: waiting would change nothing.
            Ok(_) => return Greeting::Close(CloseCode::BadFrame),
            Err(why) => why,
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
    /// Asked for the frame at hand: is a session open in its conversation?
    session_open: Option<bool>,
    /// A place has its access from asking, for the frame at hand.
    learnt: bool,
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
            session_open: None,
            learnt: false,
        }
    }

    /// The refusal of a `since` that names too many conversations.
    pub fn check_since(since: &Since) -> Result<(), ErrorCode> {
        match since {
            Since::Conversations(map) if map.len() > limits::SINCE_PLACES_MAX => Err(ErrorCode::TooLarge),
            _ => Ok(()),
        }
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
        } else if self.is_expired(now_ms) {
            CloseCode::TokenExpired
        } else if now_ms.saturating_sub(self.heard_at_ms) > self.limits.silence_ms {
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

    /// The token no longer counts, clocks that differ included (I18).
    fn is_expired(&self, now_ms: u64) -> bool {
        now_ms > self.expires_at_ms + limits::TOKEN_LEEWAY_S * 1000
    }

    // ---- to the client ----

    /// Queues a frame. True if it is to be written; a full queue closes the connection.
    pub fn write(&mut self, now_ms: u64, frame: Bytes) -> bool {
        if self.closing.is_some() {
            return false;
        }
        if self.is_expired(now_ms) {
            self.close(CloseCode::TokenExpired);
            return true;
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
