//! The records that go out into `messages`: effects (the whole resulting session, and the decision's place) and notices.

use serde_json::json;
use wire::codec::RECORD_VERSION;
use wire::frames::{ErrorFrame, IdOnly, QueuePlace, ServerFrame};
use wire::record::{self, Act, Audience, Decision, Effect, Kind, Notice, Record, Role, Sender};
use wire::{ConversationKey, ErrorCode, Position, Tenant, User};

/// Why something was decided; the metric's label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    Requested,
    Wanted,
    Accepted,
    Transferred,
    Closed,
    AgentGone,
    AgentBack,
    Capacity,
    Joined,
    Left,
}

impl Cause {
    pub const ALL: [Cause; 10] = [
        Cause::Requested,
        Cause::Wanted,
        Cause::Accepted,
        Cause::Transferred,
        Cause::Closed,
        Cause::AgentGone,
        Cause::AgentBack,
        Cause::Capacity,
        Cause::Joined,
        Cause::Left,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Cause::Requested => "requested",
            Cause::Wanted => "wanted",
            Cause::Accepted => "accepted",
            Cause::Transferred => "transferred",
            Cause::Closed => "closed",
            Cause::AgentGone => "agent_gone",
            Cause::AgentBack => "agent_back",
            Cause::Capacity => "capacity",
            Cause::Joined => "joined",
            Cause::Left => "left",
        }
    }
}

/// One record for `messages`.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    pub key: ConversationKey,
    pub record: Record,
    pub what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Must be in the log, before later ones of its conversation; the decision's place is in the record.
    Effect {
        cause: Cause,
        /// Time in line, of an assignment that ended it.
        waited_ms: Option<i64>,
    },
    /// An event without a decision (a rating, a tag); must be in the log, its id makes it stand once.
    Event,
    /// A frame for whoever is connected now.
    Notice,
}

/// Gathers what one record leads to.
pub(crate) struct Out {
    tenant: Tenant,
    position: Position,
    number: u32,
    pub outputs: Vec<Output>,
}

/// What an effect says besides the session.
pub(crate) struct Said<'a> {
    pub cause: Cause,
    /// `None`: from the system.
    pub from: Option<&'a Sender>,
    /// The event's member; `None`: no event.
    pub member: Option<(&'static str, serde_json::Value)>,
    pub audience: Audience,
    pub waited_ms: Option<i64>,
    /// Of a close: the last seq its author had seen.
    pub closed_at_seq: Option<u64>,
}

impl Said<'_> {
    pub fn event(cause: Cause, name: &'static str, value: serde_json::Value) -> Self {
        Self {
            member: Some((name, value)),
            ..Self::silent(cause)
        }
    }

    /// Changes the session without an event.
    pub fn silent(cause: Cause) -> Self {
        Self {
            cause,
            from: None,
            member: None,
            audience: Audience::Everyone,
            waited_ms: None,
            closed_at_seq: None,
        }
    }
}

impl Out {
    pub fn new(tenant: Tenant, position: Position) -> Self {
        Self {
            tenant,
            position,
            number: 0,
            outputs: Vec::new(),
        }
    }

    fn key(&self, customer: &str) -> Option<ConversationKey> {
        Some(ConversationKey::new(self.tenant.clone(), User::new(customer).ok()?))
    }

    /// The conversation shows `session` from now on.
    pub fn effect(&mut self, customer: &str, session: record::Session, said: Said<'_>) {
        let Some(key) = self.key(customer) else { return };
        let decision = Decision {
            epoch: self.position.epoch.0,
            offset: self.position.offset.0,
            number: self.number,
        };
        self.number += 1;
        let system = Sender {
            role: Role::System.into(),
            user: String::new(),
        };
        let record = Record {
            version: RECORD_VERSION,
            kind: Kind::Effect.into(),
            numbered: said.member.is_some(),
            audience: said.audience.into(),
            from: Some(said.from.cloned().unwrap_or(system)),
            member: said
                .member
                .map(|(name, value)| member(name, &value.to_string()))
                .unwrap_or_default(),
            effect: Some(Effect {
                decision: Some(decision),
                session: Some(session),
                closed_at_seq: said.closed_at_seq.unwrap_or_default(),
                closes: said.closed_at_seq.is_some(),
            }),
            ..Record::default()
        };
        let what = What::Effect {
            cause: said.cause,
            waited_ms: said.waited_ms,
        };
        self.outputs.push(Output { key, record, what });
    }

    /// An event that leaves the session as it is. Its id is the desk's own: the record's place in the desk's log.
    pub fn event(&mut self, act: &Act, name: &str, value: &str, audience: Audience) {
        let Some(key) = self.key(&act.customer) else { return };
        let record = Record {
            version: RECORD_VERSION,
            kind: Kind::Message.into(),
            numbered: true,
            audience: audience.into(),
            from: act.from.clone(),
            id: format!("desk:{}:{}", self.position, self.number),
            member: member(name, value),
            ..Record::default()
        };
        self.number += 1;
        self.outputs.push(Output {
            key,
            record,
            what: What::Event,
        });
    }

    /// `done` or `error`, to the connection the act came from.
    pub fn answer(&mut self, act: &Act, outcome: Result<(), (ErrorCode, &str)>) {
        let from = act.from.as_ref().map_or("", |f| f.user.as_str());
        // A status has no conversation; any key finds the worker that knows an agent's connection.
        let key = self.key(&act.customer).or_else(|| self.key(from));
        let (Some(key), Some(origin), false) = (key, act.origin, act.id.is_empty()) else {
            return;
        };
        let id = act.id.as_str().into();
        let frame = match outcome {
            Ok(()) => ServerFrame::Done(IdOnly { id }),
            Err((code, message)) => ServerFrame::Error(ErrorFrame {
                id: Some(id),
                code,
                message: message.into(),
                retry_after_ms: None,
            }),
        };
        let notice = Notice {
            frame: frame.encode(),
            to_customer: false,
        };
        let record = Record {
            from: act.from.clone(),
            origin: Some(origin),
            ..notice_record(notice)
        };
        self.outputs.push(Output {
            key,
            record,
            what: What::Notice,
        });
    }

    pub fn queue_place(&mut self, customer: &str, position: u32) {
        let Some(key) = self.key(customer) else { return };
        let frame = ServerFrame::Queue(QueuePlace {
            conversation: customer.into(),
            position,
            wait_s: None,
        });
        let record = notice_record(Notice {
            frame: frame.encode(),
            to_customer: true,
        });
        self.outputs.push(Output {
            key,
            record,
            what: What::Notice,
        });
    }
}

fn notice_record(notice: Notice) -> Record {
    Record {
        version: RECORD_VERSION,
        kind: Kind::Notice.into(),
        notice: Some(notice),
        ..Record::default()
    }
}

fn member(name: &str, value: &str) -> bytes::Bytes {
    format!("{}:{value}", json!(name)).into()
}
