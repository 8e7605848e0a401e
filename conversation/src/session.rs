//! The session as the conversation shows it. The desk decides; the fold only keeps the last decision and one rule of its own:
//! a customer's message that nobody answers makes the session wanted.

use wire::Seq;
use wire::record::{Decision, Effect, Session, SessionState};

use crate::let_go::LetGo;

/// Where the open session began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenSpan {
    /// Its first event: the message that made it wanted, or the event that opened it. 0 while idle.
    pub first_seq: Seq,
    pub opened_at_ms: i64,
}

/// What a record did to the session.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionChange {
    pub before: Session,
    pub after: Session,
    /// Of the session before, when it ended; of the session after otherwise.
    pub span: OpenSpan,
    /// The session before has ended. (The one after may be wanted already.)
    pub ended: bool,
}

/// Session, span and what is needed to decide the next change.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Shown {
    /// `None`: idle, never anything else said about it.
    pub session: Option<Box<Session>>,
    pub span: OpenSpan,
    /// The last customer's message that wants an agent.
    pub last_asked: Seq,
    pub decision: Option<Decision>,
    pub let_go: LetGo,
}

impl Shown {
    pub fn session(&self) -> Session {
        self.session.as_deref().cloned().unwrap_or_default()
    }

    pub fn state(&self) -> SessionState {
        self.session.as_ref().map_or(SessionState::SessionIdle, |s| s.state())
    }

    /// A customer's message took `seq`.
    pub fn asked(&mut self, seq: Seq, at_ms: i64) -> Option<SessionChange> {
        self.last_asked = seq;
        if self.state() != SessionState::SessionIdle {
            return None;
        }
        let before = self.session();
        let after = wanted(before.priority);
        self.let_go.changed(&before, &after, seq);
        self.span = OpenSpan {
            first_seq: seq,
            opened_at_ms: at_ms,
        };
        self.session = Some(Box::new(after.clone()));
        Some(SessionChange {
            before,
            after,
            span: self.span,
            ended: false,
        })
    }

    pub fn is_news(&self, decision: &Decision) -> bool {
        let rank = |d: &Decision| (d.epoch, d.offset, d.number);
        self.decision.as_ref().is_none_or(|last| rank(decision) > rank(last))
    }

    /// A decision above the last one. `seq` is the event's own, or the last one if the decision takes none.
    pub fn decided(&mut self, effect: &Effect, seq: Seq, at_ms: i64) -> SessionChange {
        let before = self.session();
        let was_idle = before.state() == SessionState::SessionIdle;
        let mut after = effect.session.clone().unwrap_or_default();
        let mut ended = false;
        let mut span_shown = self.span;
        if effect.closes || after.state() == SessionState::SessionIdle {
            ended = !was_idle;
            self.span = OpenSpan::default();
            if self.last_asked.0 > effect.closed_at_seq {
                // Whoever closed had not seen the customer's last message: it still wants an answer.
                after = wanted(after.priority);
                self.span = OpenSpan {
                    first_seq: Seq(effect.closed_at_seq + 1),
                    opened_at_ms: at_ms,
                };
                if !ended {
                    span_shown = self.span;
                }
            }
        } else if was_idle {
            self.span = OpenSpan {
                first_seq: seq,
                opened_at_ms: at_ms,
            };
            span_shown = self.span;
        }
        self.decision = effect.decision;
        self.let_go.changed(&before, &after, seq);
        self.session = Some(Box::new(after.clone()));
        SessionChange {
            before,
            after,
            span: span_shown,
            ended,
        }
    }
}

fn wanted(priority: u32) -> Session {
    Session {
        state: SessionState::SessionWanted.into(),
        priority,
        ..Session::default()
    }
}
