//! The network's log and persistence: records as people, the desk and workers write them, what is stored of them, and the truth.

use bytes::Bytes;
use conversation::{Folded, State};
use delivery_core::{Entry, Marks, PageRow};
use wire::codec;
use wire::event::entry_of;
use wire::record::{Audience, Decision, Effect, Kind, Notice, Origin, Record, Role, Sender, Session, SessionState};
use wire::{Epoch, Offset, Position};

use super::devices::content;
use super::{Net, P, key};

impl Net {
    pub fn append(&mut self, customer: &str, record: Record) -> u64 {
        let key = (record.kind() != Kind::Marks).then(|| key(customer).to_key());
        self.log.push(Entry {
            offset: Offset(self.log.len() as u64),
            at_ms: self.now_ms as i64,
            key,
            value: Some(codec::encode(&record)),
        });
        self.log.len() as u64 - 1
    }

    /// A message of a person; from a device if there is one.
    pub fn say(&mut self, conversation: &str, role: Role, user: &str, device: Option<usize>) -> String {
        self.next_id += 1;
        let id = format!("m{}", self.next_id);
        self.say_with(conversation, role, user, device, &id, Audience::Everyone);
        id
    }

    pub fn say_with(
        &mut self,
        conversation: &str,
        role: Role,
        user: &str,
        device: Option<usize>,
        id: &str,
        audience: Audience,
    ) {
        let bytes = self.text_bytes;
        let record = Record {
            version: 1,
            kind: Kind::Message.into(),
            numbered: true,
            wants_agent: role == Role::Customer,
            audience: audience.into(),
            from: Some(Sender {
                role: role.into(),
                user: user.into(),
            }),
            id: id.into(),
            origin: device.map(|d| Origin {
                node: self.devices[d].node,
                connection: self.devices[d].connection,
            }),
            member: format!("\"message\":{{\"text\":\"{id:x<bytes$}\"}}").into(),
            ..Record::default()
        };
        self.append(conversation, record);
    }

    /// A desk decision; `None`: closes.
    pub fn decide(&mut self, conversation: &str, agent: Option<&str>) {
        let session = Session {
            state: match agent {
                Some(_) => SessionState::SessionActive,
                None => SessionState::SessionIdle,
            }
            .into(),
            agent: agent.unwrap_or_default().into(),
            ..Session::default()
        };
        self.decide_session(conversation, session);
    }

    /// A desk decision with this whole session; an idle one closes.
    pub fn decide_session(&mut self, conversation: &str, session: Session) {
        self.decide_by(conversation, session, true);
    }

    /// The same without an event, as when a supervisor begins or ends to watch.
    pub fn decide_unseen(&mut self, conversation: &str, session: Session) {
        self.decide_by(conversation, session, false);
    }

    fn decide_by(&mut self, conversation: &str, session: Session, numbered: bool) {
        let closes = session.state() == SessionState::SessionIdle;
        self.decision += 1;
        let record = Record {
            version: 1,
            kind: Kind::Effect.into(),
            numbered,
            from: Some(Sender {
                role: Role::System.into(),
                user: String::new(),
            }),
            member: if closes {
                "\"closed\":{}".into()
            } else {
                format!("\"assigned\":{{\"agent\":\"{}\"}}", session.agent).into()
            },
            effect: Some(Effect {
                decision: Some(Decision {
                    epoch: 1,
                    offset: self.decision,
                    number: 0,
                }),
                session: Some(session),
                closed_at_seq: u64::MAX,
                closes,
            }),
            ..Record::default()
        };
        self.append(conversation, record);
    }

    pub fn notice(&mut self, conversation: &str, device: Option<usize>, frame: &str) {
        self.notice_of(conversation, device, device, frame);
    }

    /// The answer to an act of `asker`, who named `victim`'s connection as its own.
    pub fn notice_from(&mut self, conversation: &str, asker: usize, victim: usize, frame: &str) {
        self.notice_of(conversation, Some(asker), Some(victim), frame);
    }

    fn notice_of(&mut self, conversation: &str, asker: Option<usize>, device: Option<usize>, frame: &str) {
        let record = Record {
            version: 1,
            kind: Kind::Notice.into(),
            from: asker.map(|d| self.devices[d].sender()),
            origin: device.map(|d| Origin {
                node: self.devices[d].node,
                connection: self.devices[d].connection,
            }),
            notice: Some(Notice {
                frame: Bytes::copy_from_slice(frame.as_bytes()),
                to_customer: device.is_none(),
            }),
            ..Record::default()
        };
        self.append(conversation, record);
    }

    /// Persistence takes `n` more records.
    pub fn persist(&mut self, n: usize) {
        let until = (self.committed as usize + n).min(self.log.len());
        for entry in &self.log[self.committed as usize..until] {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).unwrap();
            let Some(key) = decoded.key else {
                for mark in &decoded.record.marks.unwrap().marks {
                    let stored = self.marks.entry(self::key(&mark.customer)).or_default();
                    *stored = stored.merged(Marks {
                        customer_recv: mark.customer_recv,
                        customer_read: mark.customer_read,
                        agent_recv: mark.agent_recv,
                        agent_read: mark.agent_read,
                    });
                }
                continue;
            };
            let state = self.states.entry(key.clone()).or_default();
            let position = Position::new(Epoch(1), entry.offset);
            if let Folded::Event(event) = state.fold(&key, position, entry.at_ms, &decoded.record) {
                self.rows.entry(key).or_default().push(PageRow {
                    seq: event.seq,
                    staff_only: event.staff_only(),
                    at_ms: event.at_ms,
                    entry: entry_of(&event.frame),
                });
            }
        }
        self.committed = until as u64;
    }

    /// What everybody should see of a conversation: the log folded from its start.
    pub fn truth(&self, customer: &str) -> Vec<String> {
        let key = key(customer);
        let mut state = State::default();
        let mut events = Vec::new();
        for entry in &self.log {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).unwrap();
            if decoded.key.as_ref() == Some(&key)
                && let Folded::Event(e) = state.fold(
                    &key,
                    Position::new(Epoch(1), entry.offset),
                    entry.at_ms,
                    &decoded.record,
                )
            {
                events.push(content(&e.frame));
            }
        }
        events
    }

    /// The conversation's state by the whole log.
    pub fn state_of(&self, customer: &str) -> State {
        let key = key(customer);
        let mut state = State::default();
        for entry in &self.log {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).unwrap();
            if decoded.key.as_ref() == Some(&key) {
                state.fold(
                    &key,
                    Position::new(Epoch(1), entry.offset),
                    entry.at_ms,
                    &decoded.record,
                );
            }
        }
        state
    }

    /// Retention takes the first `n` events of a conversation.
    pub fn forget_rows(&mut self, customer: &str, n: usize) {
        if let Some(rows) = self.rows.get_mut(&key(customer)) {
            rows.drain(..n);
        }
    }

    /// The marks of the last record of watermarks.
    pub fn last_marks(&self) -> Option<wire::record::Mark> {
        self.log.iter().rev().find_map(|entry| {
            let decoded = codec::decode(entry.key.as_ref(), entry.value.as_ref(), P, 1).ok()?;
            decoded.record.marks?.marks.first().cloned()
        })
    }
}
