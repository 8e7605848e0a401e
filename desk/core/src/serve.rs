//! Who gets whom: the line in order, each to the least loaded agent that may have them. And what the waiting are told.

use serde_json::json;
use wire::limits::QUEUE_TOLD_MS;

use crate::agents::Agent;
use crate::desk::Desk;
use crate::output::{Cause, Out, Said};
use crate::session::{Session, Stage};

impl Desk {
    /// Serves the line until nobody in it has an eligible agent with room. `cause`: why those who waited before are served.
    pub(crate) fn serve(&mut self, cause: Cause, out: &mut Out) {
        if self.line.is_empty() || !self.anybody_able() {
            return;
        }
        let line: Vec<String> = self.line.values().cloned().collect();
        for customer in line {
            let Some(agent) = self.sessions.get(&customer).and_then(|s| self.agent_for(s)) else {
                continue;
            };
            let cause = self.untold.remove(&customer).unwrap_or(cause);
            let session = self.give(&customer, &agent);
            let said = Said {
                waited_ms: session.1,
                ..Said::event(cause, "assigned", json!({ "agent": agent }))
            };
            out.effect(&customer, session.0, said);
            if !self.anybody_able() {
                return;
            }
        }
    }

    fn anybody_able(&self) -> bool {
        self.agents.by_name.values().any(|a| a.is_able(self.settings.capacity))
    }

    /// The named agent if able; else, unless nobody else will do, the least loaded of the group.
    fn agent_for(&self, session: &Session) -> Option<String> {
        if let Some(named) = &session.named {
            if self.is_able(named) {
                return Some(named.clone());
            }
            if session.only {
                return None;
            }
        }
        self.least_loaded(&session.group, None)
    }

    pub(crate) fn is_able(&self, agent: &str) -> bool {
        self.agents
            .by_name
            .get(agent)
            .is_some_and(|a| a.is_able(self.settings.capacity))
    }

    /// Fewest sessions; of those the longest idle; of those the first by name.
    pub(crate) fn least_loaded(&self, group: &str, except: Option<&str>) -> Option<String> {
        let rank = |(name, agent): (&String, &Agent)| (agent.active.len(), agent.busy_ms, name.clone());
        self.agents
            .by_name
            .iter()
            .filter(|(name, a)| Some(name.as_str()) != except && a.serves(group) && a.is_able(self.settings.capacity))
            .map(rank)
            .min()
            .map(|(_, _, name)| name)
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
        let taker = self.agents.by_name.entry(agent.to_owned()).or_default();
        taker.active.insert(customer.to_owned());
        taker.busy_ms = now_ms;
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
        let (now_ms, grace_ms) = (self.clock.now_ms(), self.settings.grace_ms);
        let lost =
            |a: &Agent| !a.active.is_empty() && !a.connected() && a.lost_ms.is_some_and(|at| now_ms - at >= grace_ms);
        let mut sessions: Vec<(i64, String)> = Vec::new();
        for agent in self.agents.by_name.values().filter(|a| lost(a)) {
            let opened = |c: &String| self.sessions.get(c).map_or(0, |s| s.opened_ms);
            sessions.extend(agent.active.iter().map(|c| (opened(c), c.clone())));
        }
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
        for (customer, cause) in std::mem::take(&mut self.untold) {
            let Some(session) = self.sessions.get(&customer) else {
                continue;
            };
            let queued = match cause {
                Cause::AgentGone => json!({ "group": session.group, "cause": cause.label() }),
                _ => json!({ "group": session.group }),
            };
            out.effect(&customer, session.shown(), Said::event(cause, "queued", queued));
            let ahead = self.line.values().take_while(|c| **c != customer);
            let same_group = |c: &&String| self.sessions.get(*c).is_some_and(|s| s.group == session.group);
            let position = ahead.filter(same_group).count() as u32 + 1;
            self.tell_position(&customer, position, out);
        }
    }

    /// Places in line that changed, at most every 5 s each.
    pub(crate) fn tell_positions(&mut self, out: &mut Out) {
        let now_ms = self.clock.now_ms();
        let mut ahead: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
        let mut news = Vec::new();
        for customer in self.line.values() {
            let Some(session) = self.sessions.get(customer) else {
                continue;
            };
            let position = ahead.entry(&session.group).or_default();
            *position += 1;
            if session
                .told
                .is_none_or(|(told, at)| told != *position && now_ms - at >= QUEUE_TOLD_MS)
            {
                news.push((customer.clone(), *position));
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
