//! What the application hears, owned and small; an event keeps its bytes as they came.

use bytes::Bytes;
use serde_json::value::RawValue;
use wire::ErrorCode;
use wire::frames::{ConversationState, EventFrame, ServerFrame, Side};

/// What a connection tells its application. Events of a conversation come once each and in the order of `seq`.
#[derive(Debug, Clone)]
pub enum Incoming {
    Connected {
        user: String,
        role: String,
        node: String,
        session: String,
        term: u64,
    },
    /// The connection is gone. With `retry_in_ms` the client comes back by itself; without, this is the last thing heard.
    Disconnected {
        code: Option<u16>,
        reason: String,
        retry_in_ms: Option<u64>,
    },
    Conversation {
        conversation: String,
        last_seq: u64,
        recv: u64,
        read: u64,
        state: ConversationState,
        agent: Option<String>,
    },
    Event(Event),
    /// The message (or note, or recall) is in the log; told once per id.
    Sent {
        id: String,
    },
    /// One's own message has this place; `at` is the broker's append time in Unix milliseconds.
    Placed {
        id: String,
        conversation: String,
        seq: u64,
        at: i64,
    },
    Done {
        id: String,
    },
    /// A definite refusal: the message or act will not appear, and is no longer in the outbox.
    Refused {
        id: String,
        code: ErrorCode,
        message: String,
    },
    /// An error that belongs to no message or act in the outbox.
    Error {
        id: Option<String>,
        code: ErrorCode,
        message: String,
        retry_after_ms: Option<u64>,
    },
    Receipt {
        conversation: String,
        side: Side,
        recv: u64,
        read: u64,
    },
    Typing {
        conversation: String,
        role: String,
        user: Option<String>,
    },
    Queue {
        conversation: String,
        position: u32,
        wait_s: Option<u32>,
    },
    /// Too far behind: what lies after `had` (the last seq handed over) up to `last_seq` is read as history, see [`crate::pages`].
    Reset {
        conversation: String,
        had: u64,
        last_seq: u64,
    },
    /// Forget what is above `last_seq`; it will come anew.
    Rewind {
        conversation: String,
        last_seq: u64,
    },
    Pong,
}

/// One event. `raw` is the history entry, the bytes as pushed.
#[derive(Debug, Clone)]
pub struct Event {
    pub conversation: String,
    pub seq: u64,
    pub at: i64,
    pub id: Option<String>,
    pub role: Option<String>,
    pub user: Option<String>,
    pub deed: Deed,
    pub raw: Bytes,
}

/// What happened: its name and its value, as it stands in JSON. A name this client does not know is `other`.
#[derive(Debug, Clone)]
pub struct Deed {
    pub name: &'static str,
    pub value: Option<Box<RawValue>>,
}

impl Event {
    /// A message's body, byte for byte as sent.
    pub fn body(&self) -> Option<&str> {
        match self.deed.name {
            "message" => self.deed.value.as_deref().map(RawValue::get),
            _ => None,
        }
    }

    /// The text of a message that has one.
    pub fn text(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Text {
            text: String,
        }
        serde_json::from_str::<Text>(self.body()?).ok().map(|t| t.text)
    }

    /// Reads a history entry (the object inside `{"event":…}`).
    pub fn from_entry(raw: Bytes) -> Result<Self, serde_json::Error> {
        let frame: EventFrame = serde_json::from_slice(&raw)?;
        let deed = deed_of(&frame);
        Ok(Event {
            conversation: frame.conversation.to_string(),
            seq: frame.seq,
            at: frame.at,
            id: frame.id.as_ref().map(|s| s.to_string()),
            role: frame.from.as_ref().map(|p| p.role.to_string()),
            user: frame.from.as_ref().and_then(|p| p.user.as_ref()).map(|s| s.to_string()),
            deed,
            raw: raw.clone(),
        })
    }
}

fn deed_of(frame: &EventFrame<'_>) -> Deed {
    let all = [
        ("message", frame.message),
        ("hidden", frame.hidden),
        ("note", frame.note),
        ("recall", frame.recall),
        ("opened", frame.opened),
        ("queued", frame.queued),
        ("assigned", frame.assigned),
        ("transferred", frame.transferred),
        ("joined", frame.joined),
        ("left", frame.left),
        ("closed", frame.closed),
        ("rated", frame.rated),
    ];
    let named = all.into_iter().find_map(|(name, value)| Some((name, value?)));
    match named {
        Some((name, value)) => Deed {
            name,
            value: Some(value.to_owned()),
        },
        None => Deed {
            name: "other",
            value: None,
        },
    }
}

/// The entry inside an event's frame. The server writes `{"event":` … `}`; anything else is found by parsing.
pub(crate) fn entry_of(frame: &Bytes) -> Option<Bytes> {
    const HEAD: &[u8] = br#"{"event":"#;
    if frame.starts_with(HEAD) && frame.ends_with(b"}}") {
        return Some(frame.slice(HEAD.len()..frame.len() - 1));
    }
    #[derive(serde::Deserialize)]
    struct Any<'a> {
        #[serde(borrow)]
        event: &'a RawValue,
    }
    let any: Any = serde_json::from_slice(frame).ok()?;
    Some(frame.slice_ref(any.event.get().as_bytes()))
}

/// The frames that concern no outbox and no place, as the application hears them.
pub(crate) fn plain(frame: ServerFrame<'_>) -> Option<Incoming> {
    Some(match frame {
        ServerFrame::Receipt(r) => Incoming::Receipt {
            conversation: r.conversation.into(),
            side: r.side,
            recv: r.recv,
            read: r.read,
        },
        ServerFrame::Typing(t) => Incoming::Typing {
            conversation: t.conversation.into(),
            role: t.from.role.into(),
            user: t.from.user.map(Into::into),
        },
        ServerFrame::Queue(q) => Incoming::Queue {
            conversation: q.conversation.into(),
            position: q.position,
            wait_s: q.wait_s,
        },
        ServerFrame::Pong(_) => Incoming::Pong,
        _ => return None,
    })
}
