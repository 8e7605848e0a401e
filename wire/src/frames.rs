//! Frames between clients and nodes: JSON, externally tagged, one object a frame. Bodies are never parsed, only passed on.
//! JSON Schema is derived from these types; field docs become its descriptions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codes::ErrorCode;

/// JSON Schema of a body or other object that is passed on byte for byte.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

/// What a client sends.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientFrame<'a> {
    /// First frame of a connection.
    #[serde(borrow)]
    Connect(Connect<'a>),
    #[serde(borrow)]
    Send(Send<'a>),
    #[serde(borrow)]
    Ack(Ack<'a>),
    #[serde(borrow)]
    Act(Box<Act<'a>>),
    #[serde(borrow)]
    Typing(TypingFrom<'a>),
    #[serde(borrow)]
    Status(Status<'a>),
    #[serde(borrow)]
    Refresh(Refresh<'a>),
    Ping(Empty),
}

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Connect<'a> {
    /// A JWT of the tenant.
    #[serde(borrow)]
    pub token: Cow<'a, str>,
    /// Of two connections of one device the newer one stays.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Cow<'a, str>>,
    /// The last seq the client has; a customer's own conversation, or an agent's conversations by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// The term `since` was heard in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Since {
    Own(u64),
    Conversations(BTreeMap<String, u64>),
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Send<'a> {
    /// The client's own id, at most 64 bytes; UUIDv7 advised. The same id again is the same message.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// May be left out by customers, who have one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Cow<'a, str>>,
    /// `{"text":…}`, `{"image":…}`, `{"file":…}`, `{"card":…}` or `{"custom":…}`; at most 65,536 bytes, kept byte for byte.
    #[serde(borrow)]
    #[schemars(schema_with = "any_object")]
    pub body: &'a RawValue,
}

/// Cumulative: everything up to `recv` has arrived, everything up to `read` has been seen. `read` implies `recv`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Ack<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Cow<'a, str>>,
    #[serde(default)]
    pub recv: u64,
    #[serde(default)]
    pub read: u64,
}

/// A deed: exactly one of the optional members below `conversation` names it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Act<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Cow<'a, str>>,
    /// Ask for somebody to answer: `{"group":…,"agent":…,"only":true}`, all optional.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub request: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub close: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub accept: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub transfer: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub rate: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub note: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub tag: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub join: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub leave: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub watch: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub recall: Option<&'a RawValue>,
}

impl<'a> Act<'a> {
    /// The deed's name and its value; `None` unless there is exactly one.
    pub fn deed(&self) -> Option<(&'static str, &'a RawValue)> {
        let all = [
            ("request", self.request),
            ("close", self.close),
            ("accept", self.accept),
            ("transfer", self.transfer),
            ("rate", self.rate),
            ("note", self.note),
            ("tag", self.tag),
            ("join", self.join),
            ("leave", self.leave),
            ("watch", self.watch),
            ("recall", self.recall),
        ];
        let mut given = all.into_iter().filter_map(|(name, v)| Some((name, v?)));
        match (given.next(), given.next()) {
            (Some(deed), None) => Some(deed),
            _ => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TypingFrom<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Cow<'a, str>>,
}

/// An agent's chosen state: `available`, `busy` or `away`, and how many sessions it takes at once.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    pub state: AgentState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    Available,
    Busy,
    Away,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refresh<'a> {
    #[serde(borrow)]
    pub token: Cow<'a, str>,
}

/// What a node sends.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    #[serde(borrow)]
    Connected(Connected<'a>),
    #[serde(borrow)]
    Conversation(ConversationFrame<'a>),
    /// It is in the log: it will not be lost.
    #[serde(borrow)]
    Sent(IdOnly<'a>),
    #[serde(borrow)]
    Placed(Placed<'a>),
    /// An act was carried out.
    #[serde(borrow)]
    Done(IdOnly<'a>),
    #[serde(borrow)]
    Event(Box<EventFrame<'a>>),
    #[serde(borrow)]
    Receipt(Receipt<'a>),
    #[serde(borrow)]
    Typing(TypingBy<'a>),
    #[serde(borrow)]
    Queue(QueuePlace<'a>),
    #[serde(borrow)]
    Reset(LastSeq<'a>),
    #[serde(borrow)]
    Rewind(LastSeq<'a>),
    #[serde(borrow)]
    Error(ErrorFrame<'a>),
    Goaway(Goaway),
    #[serde(borrow)]
    Close(CloseFrame<'a>),
    Pong(Empty),
}

/// The node's own answer to a good token; sending may start.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Connected<'a> {
    #[serde(borrow)]
    pub session: Cow<'a, str>,
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    #[serde(borrow)]
    pub role: Cow<'a, str>,
    #[serde(borrow)]
    pub node: Cow<'a, str>,
    pub term: u64,
    pub ping_s: u64,
}

/// Precedes the conversation's first event here and follows each event that changes its state or agent.
/// `recv` and `read` are one's own side's.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConversationFrame<'a> {
    #[serde(borrow)]
    pub conversation: Cow<'a, str>,
    pub last_seq: u64,
    pub recv: u64,
    pub read: u64,
    pub state: ConversationState,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Cow<'a, str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConversationState {
    Idle,
    Wanted,
    Queued,
    Active,
    Left,
}

impl From<crate::record::SessionState> for ConversationState {
    fn from(s: crate::record::SessionState) -> Self {
        use crate::record::SessionState as S;
        match s {
            S::SessionIdle => ConversationState::Idle,
            S::SessionWanted => ConversationState::Wanted,
            S::SessionQueued => ConversationState::Queued,
            S::SessionActive => ConversationState::Active,
            S::SessionLeft => ConversationState::Left,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct IdOnly<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

/// To the connection that sent it, in place of the whole event; implies `sent`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Placed<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub conversation: Cow<'a, str>,
    pub seq: u64,
    /// The broker's append time, Unix milliseconds.
    pub at: i64,
}

/// One event of a conversation; the member after `from` names what happened. A history entry is this object, the same bytes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EventFrame<'a> {
    #[serde(borrow)]
    pub conversation: Cow<'a, str>,
    pub seq: u64,
    /// The broker's append time, Unix milliseconds.
    pub at: i64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Person<'a>>,
    /// A message's body, byte for byte as sent.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub message: Option<&'a RawValue>,
    /// Not meant for this side.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub hidden: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub note: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub recall: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub opened: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub queued: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub assigned: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub transferred: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub joined: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub left: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub closed: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub rated: Option<&'a RawValue>,
    /// For staff only.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub tagged: Option<&'a RawValue>,
    /// The store refused the event: its place, time and sender are all that is kept.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub withheld: Option<&'a RawValue>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Person<'a> {
    #[serde(borrow)]
    pub role: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Cow<'a, str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Customer,
    Agent,
}

/// The watermarks of one side of a conversation.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Receipt<'a> {
    #[serde(borrow)]
    pub conversation: Cow<'a, str>,
    pub side: Side,
    pub recv: u64,
    pub read: u64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TypingBy<'a> {
    #[serde(borrow)]
    pub conversation: Cow<'a, str>,
    #[serde(borrow)]
    pub from: Person<'a>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct QueuePlace<'a> {
    #[serde(borrow)]
    pub conversation: Cow<'a, str>,
    /// 1 is next.
    pub position: u32,
    /// Estimated wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct LastSeq<'a> {
    #[serde(borrow)]
    pub conversation: Cow<'a, str>,
    pub last_seq: u64,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorFrame<'a> {
    /// The frame it answers, if that had one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    pub code: ErrorCode,
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Goaway {
    pub retry_after_ms: u64,
}

/// The last frame where the transport has no close codes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CloseFrame<'a> {
    pub code: u16,
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
}

impl ServerFrame<'_> {
    /// The frame's bytes.
    pub fn encode(&self) -> bytes::Bytes {
        let mut out = Vec::with_capacity(128);
        // Serialising these types into memory cannot fail: no maps with odd keys, no failing writer.
        let _ = serde_json::to_writer(&mut out, self);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_keeps_its_body_byte_for_byte() {
        let text = r#"{"send":{"id":"1","body":{ "text" : "h\u00e9 ",  "n":1e400}}}"#;
        match serde_json::from_str(text).unwrap() {
            ClientFrame::Send(send) => assert_eq!(send.body.get(), r#"{ "text" : "h\u00e9 ",  "n":1e400}"#),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_frame_has_exactly_one_known_key() {
        for bad in [
            "{}",
            "[]",
            r#"{"nope":{}}"#,
            r#"{"ping":{},"send":{}}"#,
            r#"{"ping":{}}x"#,
            "\"ping\"",
        ] {
            assert!(serde_json::from_str::<ClientFrame>(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<ClientFrame>(r#"{"ping":{}}"#).is_ok());
    }

    #[test]
    fn an_act_has_exactly_one_deed() {
        let act = |s: &'static str| serde_json::from_str::<Act<'static>>(s).unwrap();
        assert_eq!(act(r#"{"id":"1","close":{}}"#).deed().map(|d| d.0), Some("close"));
        assert!(act(r#"{"id":"1"}"#).deed().is_none());
        assert!(act(r#"{"id":"1","close":{},"join":{}}"#).deed().is_none());
    }

    #[test]
    fn since_is_a_number_or_a_map() {
        let c: Connect = serde_json::from_str(r#"{"token":"t","since":41}"#).unwrap();
        assert!(matches!(c.since, Some(Since::Own(41))));
        let c: Connect = serde_json::from_str(r#"{"token":"t","since":{"alice":41}}"#).unwrap();
        assert!(matches!(c.since, Some(Since::Conversations(m)) if m["alice"] == 41));
    }
}
