//! Who gets whom: the line in order, each to the least loaded agent that may have them. And what the waiting are told.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use wire::limits::QUEUE_TOLD_MS;

use crate::desk::Desk;
use crate::output::{Cause, Out, Said};
use crate::session::{Place, Session, Stage};

impl Desk {
    /// Serves the line until nobody in it has an eligible agent with room. `cause`: why those who waited before are served.
    pub(crate) fn serve(&mut self, cause: Cause, out: &mut Out) {
        while let Some(customer) = self.line.next(&self.agents).map(str::to_owned) {
            let Some(agent) = self.sessions.get(&customer).and_then(|s| self.agent_for(s)) else {
                return;
            };
            let cause = self.untold.remove(&customer).unwrap_or(cause);
            let (shown, waited_ms) = self.give(&customer, &agent);
            let said = Said {
                waited_ms,
                ..Said::event(cause, "assigned", json!({ "agent": agent }))
            };
            out.effect(&customer, shown, said);
        }
    }

    /// The named agent if able; else, unless nobody else will do, the least loaded of the group.
    fn agent_for(&self, session: &Session) -> Option<String> {
        if let Some(named) = &session.named {
            if self.agents.is_able(named) {
                return Some(named.clone());
            }
            if session.only {
                return None;
            }
        }
        self.agents.least_loaded(&session.group, None).map(str::to_owned)
    }

    /// Moves the session to the agent, from wherever it is. Returns what the conversation shows now, and the time in line.
    pub(crate) fn give(&mut self, customer: &str, agent: &str) -> (wire::record::Session, Option<i64>) {
        let now_ms = self.clock.now_ms();
        let Some(before) = self.sessions.get(customer).cloned() else {
            return Default::default();
        };
        self.leave_place(customer, &before);
        let waited_ms = match before.stage {
            Stage::Waiting { since_ms, .. } => Some(now_ms - since_ms),
            Stage::Active { .. } => None,
        };
        self.agents.change(agent, |agent| {
            agent.active.insert(customer.to_owned());
            agent.busy_ms = now_ms;
        });
        let mut session = Session {
            stage: Stage::Active {
                agent: agent.to_owned(),
            },
            decided_ms: now_ms,
            spoke_ms: now_ms,
            told: None,
            ..before
        };
        session.joined.retain(|j| j != agent);
        session.watching.retain(|w| w != agent);
        let shown = session.shown();
        self.sessions.insert(customer.to_owned(), session);
        (shown, waited_ms)
    }

    /// Agents lost for longer than the grace time: their sessions go back in front of the line, the oldest first.
    pub(crate) fn requeue_of_lost_agents(&mut self) {
        let now_ms = self.clock.now_ms();
        let owed = self.agents.owed_since(now_ms.saturating_sub(self.settings.grace_ms));
        let opened = |c: &String| self.sessions.get(c).map_or(0, |s| s.opened_ms);
        let mut sessions: Vec<(i64, String)> = owed.into_iter().map(|c| (opened(&c), c)).collect();
        sessions.sort_unstable();
        for (_, customer) in sessions.into_iter().rev() {
            self.front -= 1;
            let order = self.front;
            let Some(before) = self.sessions.get(&customer).cloned() else {
                continue;
            };
            self.leave_place(&customer, &before);
            if let Some(session) = self.sessions.get_mut(&customer) {
                session.stage = Stage::Waiting {
                    order,
                    since_ms: now_ms,
                };
                session.decided_ms = now_ms;
            }
            self.stand_in_line(&customer);
            self.untold.insert(customer, Cause::AgentGone);
        }
    }

    /// Those who came into the line with this record and were not served.
    pub(crate) fn tell_untold(&mut self, out: &mut Out) {
        let untold = std::mem::take(&mut self.untold);
        let mut wanted: BTreeMap<&str, BTreeSet<Place>> = BTreeMap::new();
        for session in untold.keys().filter_map(|customer| self.sessions.get(customer)) {
            wanted.entry(&session.group).or_default().extend(session.place());
        }
        let counted = self.line.counted(&wanted);
        for (customer, cause) in untold {
            let Some(session) = self.sessions.get(&customer) else {
                continue;
            };
            let queued = match cause {
                Cause::AgentGone => json!({ "group": session.group, "cause": cause.label() }),
                _ => json!({ "group": session.group }),
            };
            out.effect(&customer, session.shown(), Said::event(cause, "queued", queued));
            if let Some(position) = session.place().and_then(|place| counted.get(&place)) {
                self.tell_position(&customer, *position, out);
            }
        }
    }

    /// Places in line that changed, at most every 5 s each.
    pub(crate) fn tell_positions(&mut self, out: &mut Out) {
        let now_ms = self.clock.now_ms();
        let mut ahead: BTreeMap<&str, u32> = BTreeMap::new();
        let mut news = Vec::new();
        for customer in self.line.customers() {
            let Some(session) = self.sessions.get(customer) else {
                continue;
            };
            let position = ahead.entry(&session.group).or_default();
            *position += 1;
            if session
                .told
                .is_none_or(|(told, at)| told != *position && now_ms - at >= QUEUE_TOLD_MS)
            {
                news.push((customer.to_owned(), *position));
            }
        }
        for (customer, position) in news {
            self.tell_position(&customer, position, out);
        }
    }

    fn tell_position(&mut self, customer: &str, position: u32, out: &mut Out) {
        if let Some(session) = self.sessions.get_mut(customer) {
            session.told = Some((position, self.clock.now_ms()));
            out.queue_place(customer, position);
        }
    }
}
