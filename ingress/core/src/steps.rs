//! What the edge must do because of a client's frame. One frame causes at most one step.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;
use wire::frames::{ErrorFrame, ServerFrame};
use wire::link::Access;
use wire::{ClientId, CloseCode, ErrorCode, User};

use crate::buckets::RetryAfterMs;
use crate::places::Acks;

/// What a connection shares with others: the limits of its user and its tenant, and what operators have switched off.
pub trait Quota {
    /// Asks for one send with a body of so many bytes.
    fn take_send(&self, now_ms: u64, body_bytes: usize) -> Result<(), RetryAfterMs>;

    /// Is this held off now?
    fn switched_off(&self, _: Switch) -> Option<Off> {
        None
    }
}

/// What a client may ask for that operators can hold off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Typing,
    /// An agent's chosen state. Who is connected is told the desk all the same: it would take their sessions away.
    Presence,
    /// What would open a session: a request, or a customer's message, where none is open.
    NewSessions,
}

/// A switch that is off, and for how long if it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Off {
    pub retry_after_ms: Option<u64>,
}

#[derive(Debug)]
pub enum Step<'a> {
    Nothing,
    /// Goes back to where the frame came from.
    Answer(Bytes),
    /// Into `messages`; answered by `handle_report`.
    Produce(NewRecord<'a>),
    /// Into `desk`; answered by `handle_report` only if it fails.
    Desk(NewAct),
    /// To the conversation's owner.
    Acked {
        conversation: User,
        acks: Acks,
    },
    Typing {
        conversation: User,
    },
    /// It depends on the conversation's session, of which nobody has told us: ask the owner, tell
    /// [`crate::Connected::learn`], hand the frame in again.
    Ask {
        conversation: User,
        id: ClientId,
        needs: Access,
    },
    /// Verify it, then [`crate::Connected::handle_refreshed`].
    Refresh {
        token: Cow<'a, str>,
    },
    /// The connection must be closed; the code is set already.
    Close(CloseCode),
}

/// A numbered record to be.
#[derive(Debug)]
pub struct NewRecord<'a> {
    pub token: u32,
    pub conversation: User,
    pub id: ClientId,
    /// The event's last member: its name …
    pub member: &'static str,
    /// … and its value, byte for byte.
    pub value: &'a RawValue,
    pub staff_only: bool,
    /// A customer's message, which somebody must answer.
    pub wants_agent: bool,
}

impl NewRecord<'_> {
    /// `"message":{…}`: the record's `member`.
    pub fn member_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.member.len() + 3 + self.value.get().len());
        out.push(b'"');
        out.extend_from_slice(self.member.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(self.value.get().as_bytes());
        out.into()
    }
}

/// A deed for the desk.
#[derive(Debug, PartialEq)]
pub struct NewAct {
    pub token: u32,
    /// None for a `status` without one.
    pub id: Option<ClientId>,
    /// None for `status`.
    pub customer: Option<User>,
    /// `{"close":{}}`.
    pub deed: Bytes,
    /// A close: the last seq its author had seen.
    pub seen_seq: u64,
}

/// `{"error":{…}}`.
pub fn error_frame(id: Option<&str>, code: ErrorCode, message: &str, retry_after_ms: Option<u64>) -> Bytes {
    ServerFrame::Error(ErrorFrame {
        id: id.map(Cow::Borrowed),
        code,
        message: Cow::Borrowed(message),
        retry_after_ms,
    })
    .encode()
}
