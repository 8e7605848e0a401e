//! What the client sends: each frame is judged (rate, rights, limits, shape) and becomes at most one step.

use serde_json::value::RawValue;
use wire::frames::{self, ClientFrame, ServerFrame};
use wire::link::Access;
use wire::record::Role;
use wire::{ClientId, CloseCode, ErrorCode, User};

use super::{Connected, REFUSALS};
use crate::body::{self, BodyError};
use crate::rights::{Claims, Need, Verb, need};
use crate::steps::{NewAct, NewRecord, Off, Quota, Step, Switch, error_frame};

impl Connected {
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
        if self.is_expired(now_ms) {
            self.close(CloseCode::TokenExpired);
            return Step::Close(CloseCode::TokenExpired);
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
            ClientFrame::Typing(typing) => self.handle_typing(&typing, quota),
            ClientFrame::Status(status) => self.handle_status(&status, quota),
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
        if customer && let Err(step) = self.may_open(&id, &conversation, quota) {
            return step;
        }
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
                if verb == Verb::Request
                    && let Err(step) = self.may_open(&id, &conversation, quota)
                {
                    return step;
                }
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

    fn handle_status<'a>(&mut self, status: &frames::Status<'_>, quota: &dyn Quota) -> Step<'a> {
        let id = match status.id.as_deref().map(ClientId::new).transpose() {
            Ok(id) => id,
            Err(e) => return refuse(None, ErrorCode::BadFrame, &e.to_string(), None),
        };
        if need(self.role, Verb::Status) == Need::Never {
            let id = id.as_ref().map(ClientId::as_str);
            return refuse(id, ErrorCode::Forbidden, "only staff have a status", None);
        }
        if let Some(off) = quota.switched_off(Switch::Presence) {
            return degraded(id.as_ref().map(ClientId::as_str), "states cannot be changed now", off);
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

    fn handle_typing<'a>(&mut self, typing: &frames::TypingFrom<'_>, quota: &dyn Quota) -> Step<'a> {
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
            (true, Ok(conversation)) => match quota.switched_off(Switch::Typing) {
                Some(off) => degraded(None, "typing is not passed on now", off),
                None => Step::Typing { conversation },
            },
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

    /// While new sessions are held off, what would open one is refused; where one is open, everything goes on. Whether one is
    /// open only the owner knows.
    fn may_open<'s>(&self, id: &ClientId, conversation: &User, quota: &dyn Quota) -> Result<(), Step<'s>> {
        match (quota.switched_off(Switch::NewSessions), self.session_open) {
            (None, _) | (Some(_), Some(true)) => Ok(()),
            (Some(off), Some(false)) => Err(degraded(Some(id.as_str()), "no new sessions are opened now", off)),
            (Some(_), None) => Err(Step::Ask {
                conversation: conversation.clone(),
                id: id.clone(),
                needs: Access::None,
            }),
        }
    }

    /// What the owner answered about a conversation nobody had told us of.
    pub fn learn(&mut self, conversation: &str, access: Access) {
        // A customer's place is its own, whatever staff may do there.
        if self.role == Role::Customer {
            return;
        }
        if let Some(place) = self.places.entry(&self.user, conversation)
            && place.access.is_none()
        {
            place.access = Some(access);
            self.learnt = true;
        }
    }

    /// Whether a session is open in that conversation, for the frame that is handed in again.
    pub fn learn_open(&mut self, open: bool) {
        self.session_open = Some(open);
    }

    /// Forgets what was learnt by asking: it counts for the frame that asked, and the owner is asked again for the next one.
    pub fn unlearn(&mut self, conversation: &str) {
        self.session_open = None;
        if std::mem::take(&mut self.learnt) {
            self.places.forget(conversation);
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
}

fn refuse<'a>(id: Option<&str>, code: ErrorCode, message: &str, retry_after_ms: Option<u64>) -> Step<'a> {
    Step::Answer(error_frame(id, code, message, retry_after_ms))
}

fn degraded<'a>(id: Option<&str>, message: &str, off: Off) -> Step<'a> {
    refuse(id, ErrorCode::Degraded, message, off.retry_after_ms)
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
