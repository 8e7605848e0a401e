//! People's deeds. Each is carried out or refused, and answered, once per (sender, id).

use serde_json::json;
use wire::ErrorCode;
use wire::record::{Act, Audience, Role, Sender, Session as Shown};

use crate::agents::AgentState;
use crate::answered::place;
use crate::deed::{Deed, Request, Status, Transfer};
use crate::desk::Desk;
use crate::output::{Cause, Out, Said};
use crate::{CAPACITY_MAX, DEFAULT_GROUP};

type Refusal = (ErrorCode, &'static str);

const NOT_YOURS: Refusal = (
    ErrorCode::Forbidden,
    "customers act on their own conversation, staff on any of their tenant",
);
const STAFF_ONLY: Refusal = (ErrorCode::Forbidden, "only staff may do this");
const CUSTOMER_ONLY: Refusal = (ErrorCode::Forbidden, "only the customer may do this");
const NO_SESSION: Refusal = (ErrorCode::NotFound, "the conversation has no open session");
const NOT_ASSIGNED: Refusal = (
    ErrorCode::NotAssigned,
    "you are neither assigned to the conversation nor joined",
);
const TAKEN: Refusal = (ErrorCode::Conflict, "another agent has the conversation");
const NO_ROOM: Refusal = (
    ErrorCode::Conflict,
    "you have as many conversations as your capacity allows, or are not connected",
);
const NOT_ELIGIBLE: Refusal = (ErrorCode::Conflict, "the customer waits for another agent or group");
const NOBODY_ABLE: Refusal = (ErrorCode::Conflict, "nobody you named can take the conversation now");
const STILL_ASSIGNED: Refusal = (
    ErrorCode::Conflict,
    "you are assigned: transfer or close the conversation instead",
);
const UNKNOWN_DEED: Refusal = (ErrorCode::BadFrame, "the act does not name a deed of the desk");

/// Groups are names, not texts.
const GROUP_BYTES_MAX: usize = 64;

impl Desk {
    /// Returns why somebody in line may be served now.
    pub(crate) fn act(&mut self, act: &Act, out: &mut Out) -> Cause {
        if let Some(answer) = self.answered.find(act) {
            // The same act from another connection is somebody who never heard the answer.
            let origin = act.origin.as_ref().map(place);
            if answer.origin != origin {
                answer.origin = origin;
                let outcome = answer
                    .error
                    .map_or(Ok(()), |code| Err((code, "refused before; the answer is the same")));
                out.answer(act, outcome);
            }
            return Cause::Capacity;
        }
        let deed = Deed::parse(&act.deed);
        let cause = match deed {
            Some(Deed::Status(_)) => Cause::AgentBack,
            _ => Cause::Capacity,
        };
        let outcome = self.carry_out(act, deed, out);
        self.answered.remember(act, outcome.err().map(|(code, _)| code));
        out.answer(act, outcome);
        cause
    }

    fn carry_out(&mut self, act: &Act, deed: Option<Deed>, out: &mut Out) -> Result<(), Refusal> {
        let from = act.from.as_ref().filter(|f| !f.user.is_empty()).ok_or(NOT_YOURS)?;
        let customer = from.role() == Role::Customer;
        if customer && from.user != act.customer {
            return Err(NOT_YOURS);
        }
        let staff_only = if customer { Err(STAFF_ONLY) } else { Ok(()) };
        match deed.ok_or(UNKNOWN_DEED)? {
            Deed::Request(request) => self.request(act, from, request),
            Deed::Close(_) => self.close(act, from, out),
            Deed::Rate(value) if customer => {
                out.event(act, "rated", value.get(), Audience::Everyone);
                Ok(())
            }
            Deed::Rate(_) => Err(CUSTOMER_ONLY),
            other => {
                staff_only?;
                self.staff_act(act, from, other, out)
            }
        }
    }

    fn staff_act(&mut self, act: &Act, from: &Sender, deed: Deed, out: &mut Out) -> Result<(), Refusal> {
        match deed {
            Deed::Accept(_) => self.accept(act, from, out),
            Deed::Transfer(transfer) => self.transfer(act, from, &transfer, out),
            Deed::Join(_) => self.join(act, from, out),
            Deed::Leave(_) => self.leave(act, from, out),
            Deed::Watch(_) => self.watch(act, from, out),
            Deed::Status(status) => self.status(act, from, &status),
            Deed::Tag(value) => {
                out.event(act, "tagged", value.get(), Audience::Staff);
                Ok(())
            }
            Deed::Request(_) | Deed::Close(_) | Deed::Rate(_) => Err(UNKNOWN_DEED),
        }
    }

    /// With an open session nothing changes. Staff that name nobody ask for themselves.
    fn request(&mut self, act: &Act, from: &Sender, request: Request) -> Result<(), Refusal> {
        if self.sessions.contains_key(&act.customer) {
            return Ok(());
        }
        let group = request.group.filter(|g| !g.is_empty() && g.len() <= GROUP_BYTES_MAX);
        let group = group.unwrap_or_else(|| DEFAULT_GROUP.to_owned());
        let own = (from.role() != Role::Customer).then(|| from.user.clone());
        let named = request.agent.filter(|a| wire::User::new(a).is_ok()).or(own);
        let mut session = self.new_session(&group, act.priority, 0);
        session.only = request.only && named.is_some();
        session.named = named;
        self.open(&act.customer, session, Cause::Requested);
        Ok(())
    }

    fn close(&mut self, act: &Act, from: &Sender, out: &mut Out) -> Result<(), Refusal> {
        let customer = from.role() == Role::Customer;
        let Some(session) = self.sessions.get(&act.customer) else {
            if customer {
                // It may be wanted and not heard of here yet.
                let said = Said {
                    closed_at_seq: Some(act.seen_seq),
                    ..Said::silent(Cause::Closed)
                };
                out.effect(&act.customer, Shown::default(), said);
            }
            return Ok(());
        };
        if !customer && !session.serves(&from.user) && !may_oversee(from) {
            return Err(NOT_ASSIGNED);
        }
        self.end(
            &act.customer,
            if customer { "customer" } else { "agent" },
            act.seen_seq,
            out,
        );
        Ok(())
    }

    /// Takes somebody out of the line, whatever the own chosen state.
    fn accept(&mut self, act: &Act, from: &Sender, out: &mut Out) -> Result<(), Refusal> {
        let session = self.sessions.get(&act.customer).ok_or(NO_SESSION)?;
        match session.agent() {
            Some(agent) if agent == from.user => return Ok(()),
            Some(_) => return Err(TAKEN),
            None => {}
        }
        let agent = self.agents.get(&from.user).ok_or(NO_ROOM)?;
        if !agent.connected() || !agent.has_room(self.settings.capacity) {
            return Err(NO_ROOM);
        }
        let for_another = session.only && session.named.as_ref() != Some(&from.user);
        if for_another || !agent.serves(&session.group) {
            return Err(NOT_ELIGIBLE);
        }
        let (shown, waited_ms) = self.give(&act.customer, &from.user);
        let said = Said {
            waited_ms,
            ..Said::event(Cause::Accepted, "assigned", json!({ "agent": from.user }))
        };
        out.effect(&act.customer, shown, said);
        Ok(())
    }

    /// Only to somebody able to answer; the note is for staff.
    fn transfer(&mut self, act: &Act, from: &Sender, transfer: &Transfer, out: &mut Out) -> Result<(), Refusal> {
        let session = self.sessions.get(&act.customer).ok_or(NO_SESSION)?;
        if session.agent() != Some(&from.user) && !may_oversee(from) {
            return Err(NOT_ASSIGNED);
        }
        let holder = session.agent().map(str::to_owned);
        let to = match (&transfer.agent, &transfer.group) {
            (Some(agent), _) if holder.as_ref() != Some(agent) && self.agents.is_able(agent) => agent.clone(),
            (None, Some(group)) => self
                .agents
                .least_loaded(group, holder.as_deref())
                .ok_or(NOBODY_ABLE)?
                .to_owned(),
            _ => return Err(NOBODY_ABLE),
        };
        if let Some(session) = self.sessions.get_mut(&act.customer) {
            // Whom the customer had asked for is settled by the transfer.
            session.named = None;
            session.only = false;
            if let (None, Some(group)) = (&transfer.agent, &transfer.group) {
                session.group.clone_from(group);
            }
        }
        let (shown, waited_ms) = self.give(&act.customer, &to);
        let mut member = json!({ "agent": to, "from": holder });
        if let Some(group) = &transfer.group {
            member["group"] = json!(group);
        }
        let said = Said {
            waited_ms,
            ..Said::event(Cause::Transferred, "transferred", member)
        };
        out.effect(&act.customer, shown.clone(), said);
        if let Some(note) = transfer.note.as_ref().filter(|n| !n.is_empty()) {
            let said = Said {
                from: Some(from),
                audience: Audience::Staff,
                ..Said::event(Cause::Transferred, "note", json!({ "text": note }))
            };
            out.effect(&act.customer, shown, said);
        }
        Ok(())
    }

    fn join(&mut self, act: &Act, from: &Sender, out: &mut Out) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&act.customer).ok_or(NO_SESSION)?;
        if session.serves(&from.user) {
            return Ok(());
        }
        session.joined.push(from.user.clone());
        session.watching.retain(|w| *w != from.user);
        let said = Said {
            from: Some(from),
            ..Said::event(Cause::Joined, "joined", json!({ "agent": from.user }))
        };
        out.effect(&act.customer, session.shown(), said);
        Ok(())
    }

    fn leave(&mut self, act: &Act, from: &Sender, out: &mut Out) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&act.customer).ok_or(NO_SESSION)?;
        if session.agent() == Some(&from.user) {
            return Err(STILL_ASSIGNED);
        }
        let joined = session.joined.contains(&from.user);
        let watching = session.watching.contains(&from.user);
        session.joined.retain(|j| *j != from.user);
        session.watching.retain(|w| *w != from.user);
        if joined {
            let said = Said {
                from: Some(from),
                ..Said::event(Cause::Left, "left", json!({ "agent": from.user }))
            };
            out.effect(&act.customer, session.shown(), said);
        } else if watching {
            out.effect(&act.customer, session.shown(), Said::silent(Cause::Left));
        }
        Ok(())
    }

    /// Unseen by the customer: no event.
    fn watch(&mut self, act: &Act, from: &Sender, out: &mut Out) -> Result<(), Refusal> {
        if !may_oversee(from) {
            return Err((ErrorCode::Forbidden, "only supervisors may watch"));
        }
        let session = self.sessions.get_mut(&act.customer).ok_or(NO_SESSION)?;
        if !session.serves(&from.user) && !session.watching.contains(&from.user) {
            session.watching.push(from.user.clone());
            out.effect(&act.customer, session.shown(), Said::silent(Cause::Joined));
        }
        Ok(())
    }

    fn status(&mut self, act: &Act, from: &Sender, status: &Status) -> Result<(), Refusal> {
        let now_ms = self.clock.now_ms();
        self.agents.change(&from.user, |agent| {
            agent.state = status.state;
            if let Some(capacity) = status.capacity {
                agent.capacity = Some(capacity.min(CAPACITY_MAX));
            }
            if !act.groups.is_empty() {
                agent.groups = act.groups.iter().cloned().collect();
            }
            if status.state == AgentState::Available {
                agent.busy_ms = agent.busy_ms.max(now_ms);
            }
        });
        Ok(())
    }
}

fn may_oversee(from: &Sender) -> bool {
    matches!(from.role(), Role::Supervisor | Role::TenantAdmin)
}
