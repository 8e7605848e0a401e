//! One conversation's state, and the function that folds a record into it.

use bytes::Bytes;
use wire::event::{event_frame, hidden_frame};
use wire::record::{Audience, Kind, Record, Sender, Session, SessionState};
use wire::{ConversationKey, Position, Seq};

use crate::repeats::{IdHash, Remembered, Repeats};
use crate::session::{OpenSpan, SessionChange, Shown};

/// What is known of one conversation after the records up to `applied`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    pub(crate) last_seq: Seq,
    pub(crate) applied: Option<Position>,
    pub(crate) repeats: Repeats,
    pub(crate) shown: Shown,
}

/// What became of a record.
#[derive(Clone, PartialEq, Debug)]
pub enum Folded {
    /// At or before `applied`: its effect is in the state already.
    Skipped,
    /// The same sender's id stands already; answer with its place.
    Repeat { seq: Seq, at_ms: i64 },
    /// A desk decision that is not above the last one.
    Superseded,
    /// It took the next seq.
    Event(Box<Event>),
    /// A desk decision without an event of its own.
    Session(Box<SessionChange>),
    /// A frame without a seq, marks, a seal: nothing for the state.
    Unnumbered,
}

/// One numbered event.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub seq: Seq,
    pub at_ms: i64,
    pub position: Position,
    pub audience: Audience,
    pub from: Sender,
    /// The frame as pushed; `wire::event::entry_of` is the history entry.
    pub frame: Bytes,
    pub session: Option<SessionChange>,
}

impl Event {
    pub fn staff_only(&self) -> bool {
        self.audience == Audience::Staff
    }

    /// What the customer is shown of it.
    pub fn frame_for_customer(&self, conversation: &str) -> Bytes {
        if self.staff_only() {
            hidden_frame(conversation, self.seq, self.at_ms)
        } else {
            self.frame.clone()
        }
    }
}

impl State {
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Position of the last record that changed the state.
    pub fn applied(&self) -> Option<Position> {
        self.applied
    }

    pub fn session(&self) -> Session {
        self.shown.session()
    }

    pub fn session_state(&self) -> SessionState {
        self.shown.state()
    }

    /// The assigned agent; empty if there is none.
    pub fn agent(&self) -> &str {
        self.shown.session.as_ref().map_or("", |s| s.agent.as_str())
    }

    /// May this member of staff speak (assigned or joined)?
    pub fn serves(&self, user: &str) -> bool {
        self.shown
            .session
            .as_ref()
            .is_some_and(|s| s.agent == user || s.joined.iter().any(|j| j == user))
    }

    pub fn watches(&self, user: &str) -> bool {
        self.shown
            .session
            .as_ref()
            .is_some_and(|s| s.watching.iter().any(|w| w == user))
    }

    /// The last event of a member of staff who is not named any more: what comes after it is not theirs. `None`: never named, or
    /// let go too long ago.
    pub fn let_go_at(&self, user: &str) -> Option<Seq> {
        self.shown.let_go.at(user)
    }

    pub fn span(&self) -> OpenSpan {
        self.shown.span
    }

    /// The last customer's message that wants an agent; 0 if there was none.
    pub fn last_asked(&self) -> Seq {
        self.shown.last_asked
    }

    /// Approximate heap bytes, for budgets.
    pub fn heap_bytes(&self) -> usize {
        let session = self.shown.session.as_ref().map_or(0, |s| {
            std::mem::size_of::<Session>() + s.agent.len() + s.group.len() + 32 * (s.joined.len() + s.watching.len())
        });
        let let_go: usize = self.shown.let_go.iter().map(|(user, _)| 40 + user.len()).sum();
        self.repeats.len() * std::mem::size_of::<Remembered>() + session + let_go
    }

    /// Folds one record of this conversation. `at_ms` is the log's append time. Order of calls: the log's.
    pub fn fold(&mut self, key: &ConversationKey, position: Position, at_ms: i64, record: &Record) -> Folded {
        if self.applied.is_some_and(|applied| position <= applied) {
            return Folded::Skipped;
        }
        let hash = match (&record.from, record.numbered, record.id.is_empty()) {
            (Some(from), true, false) => Some(IdHash::of(from, &record.id)),
            _ => None,
        };
        if let Some(seen) = hash.and_then(|h| self.repeats.find(h)) {
            return Folded::Repeat {
                seq: seen.seq,
                at_ms: seen.at_ms,
            };
        }
        let effect = record.effect.as_ref().filter(|_| record.kind() == Kind::Effect);
        if let Some(decision) = effect.and_then(|e| e.decision.as_ref())
            && !self.shown.is_news(decision)
        {
            return Folded::Superseded;
        }
        if !record.numbered {
            return match effect {
                Some(effect) => {
                    self.applied = Some(position);
                    Folded::Session(Box::new(self.shown.decided(effect, self.last_seq, at_ms)))
                }
                None => Folded::Unnumbered,
            };
        }
        self.number(key, position, at_ms, record, hash)
    }

    fn number(
        &mut self,
        key: &ConversationKey,
        position: Position,
        at_ms: i64,
        record: &Record,
        hash: Option<IdHash>,
    ) -> Folded {
        let seq = self.last_seq.next();
        self.last_seq = seq;
        self.applied = Some(position);
        if let Some(hash) = hash {
            self.repeats.remember(Remembered { hash, seq, at_ms });
        }
        let session = match &record.effect {
            Some(effect) if record.kind() == Kind::Effect => Some(self.shown.decided(effect, seq, at_ms)),
            _ if record.wants_agent => self.shown.asked(seq, at_ms),
            _ => None,
        };
        let from = record.from.clone().unwrap_or_default();
        Folded::Event(Box::new(Event {
            seq,
            at_ms,
            position,
            audience: record.audience(),
            frame: event_frame(key.customer.as_str(), seq, at_ms, &record.id, &from, &record.member),
            from,
            session,
        }))
    }
}
