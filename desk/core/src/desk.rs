//! What one record does, in this order: time passes → silent nodes are forgotten → the record itself → what time brought
//! (grace over, sessions idle) → the line is served → whoever now waits is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::json;
use wire::record::desk_record::Input;
use wire::record::{Activity, Alive, DeskRecord, Presence, Wanted};
use wire::{Position, Tenant};

use crate::agents::{Agent, AgentState, Agents};
use crate::answered::Answered;
use crate::clock::Clock;
use crate::line::Line;
use crate::output::{Cause, Out, Output, Said, What};
use crate::session::{Session, Stage};
use crate::settings::Settings;
use crate::{CLOSES_MAX, DEFAULT_GROUP, SHOWN_AGAIN_MS};

/// One tenant's desk.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Desk {
    pub(crate) tenant: Tenant,
    /// The last record applied.
    pub(crate) position: Option<Position>,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) agents: Agents,
    /// By customer.
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) answered: Answered,
    /// (customer, last seq its author had seen) of the last closes.
    pub(crate) closes: VecDeque<(String, u64)>,
    /// Orders given so far, at the end of the line and at its front.
    pub(crate) back: i64,
    pub(crate) front: i64,
    /// Made anew from the sessions after a load.
    #[serde(skip)]
    pub(crate) line: Line,
    /// Who came into the line with this record, and why: not told yet. Empty between records.
    #[serde(skip)]
    pub(crate) untold: BTreeMap<String, Cause>,
    #[serde(skip)]
    pub(crate) idle_due: IdleDue,
}

/// No session is idle for long enough before this. Only a short cut: it is no part of what the desk is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdleDue(i64);

impl PartialEq for IdleDue {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// For metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub waiting: usize,
    pub assigned: usize,
    pub available: usize,
    pub busy: usize,
    pub away: usize,
    /// Agents without a connection.
    pub gone: usize,
}

impl Desk {
    pub fn new(tenant: Tenant) -> Self {
        let settings = Settings::default();
        let mut agents = Agents::default();
        agents.find_anew(settings.capacity);
        Self {
            tenant,
            position: None,
            clock: Clock::default(),
            settings,
            agents,
            sessions: BTreeMap::new(),
            answered: Answered::default(),
            closes: VecDeque::new(),
            back: 0,
            front: 0,
            line: Line::default(),
            untold: BTreeMap::new(),
            idle_due: IdleDue::default(),
        }
    }

    /// Applies the next record of the tenant, in log order. `at_ms`: its append time. Records at or before the last one
    /// change nothing and lead to nothing.
    pub fn apply(&mut self, position: Position, at_ms: i64, record: &DeskRecord) -> Vec<Output> {
        if self.position.is_some_and(|last| position <= last) {
            return Vec::new();
        }
        self.position = Some(position);
        self.clock.advance(at_ms);
        let mut out = Out::new(self.tenant.clone(), position);
        let now_ms = self.clock.now_ms();
        match &record.input {
            Some(Input::Alive(alive)) => self.agents.heard_of(alive.node, now_ms),
            Some(Input::Presence(presence)) => self.agents.heard_of(presence.node, now_ms),
            _ => {}
        }
        self.agents.forget_silent_nodes(now_ms);
        let cause = self.take_in(record.input.as_ref(), &mut out);
        self.requeue_of_lost_agents();
        self.close_idle(&mut out);
        self.serve(cause, &mut out);
        self.tell_untold(&mut out);
        if let Some(Input::Tick(_)) = &record.input {
            self.tell_positions(&mut out);
        }
        // Whoever hears `done` finds it done.
        out.outputs.sort_by_key(|o| o.what == What::Notice);
        out.outputs
    }

    /// The record itself. Returns why somebody in line may be served now.
    fn take_in(&mut self, input: Option<&Input>, out: &mut Out) -> Cause {
        match input {
            Some(Input::Act(act)) => return self.act(act, out),
            Some(Input::Presence(presence)) => {
                self.presence(presence);
                return Cause::AgentBack;
            }
            Some(Input::Alive(alive)) => {
                self.alive(alive);
                return Cause::AgentBack;
            }
            Some(Input::Wanted(wanted)) => self.wanted(wanted, out),
            Some(Input::Activity(activity)) => self.activity(activity),
            Some(Input::Settings(settings)) => {
                if let Some(new) = Settings::parse(&settings.json) {
                    self.settings = new;
                    self.agents.find_anew(self.settings.capacity);
                    self.idle_due = IdleDue::default();
                }
            }
            Some(Input::Tick(_)) | None => {}
        }
        Cause::Capacity
    }

    fn presence(&mut self, presence: &Presence) {
        let now_ms = self.clock.now_ms();
        if presence.connected {
            self.agents
                .connect(&presence.agent, presence.node, presence.connection, &presence.groups);
        } else {
            self.agents
                .disconnect(&presence.agent, presence.node, presence.connection, now_ms);
        }
    }

    /// What the node says is all there is on it.
    fn alive(&mut self, alive: &Alive) {
        let mut stays: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for c in &alive.connections {
            stays.entry(&c.agent).or_default().insert(c.connection);
        }
        self.agents.replace_connections(alive.node, &stays, self.clock.now_ms());
        for c in &alive.connections {
            self.agents.connect(&c.agent, alive.node, c.connection, &c.groups);
        }
    }

    /// Asked again every 2 s while the conversation shows `wanted`: what the desk already has is left alone.
    fn wanted(&mut self, wanted: &Wanted, out: &mut Out) {
        let now_ms = self.clock.now_ms();
        if let Some(session) = self.sessions.get_mut(&wanted.customer) {
            session.last_seq = session.last_seq.max(wanted.last_seq);
            if now_ms - session.decided_ms >= SHOWN_AGAIN_MS {
                session.decided_ms = now_ms;
                out.effect(&wanted.customer, session.shown(), Said::silent(Cause::Wanted));
            }
            return;
        }
        // Asked before a close that had seen everything up to there.
        if self
            .closes
            .iter()
            .any(|(customer, seen)| *customer == wanted.customer && wanted.last_seq <= *seen)
        {
            return;
        }
        let session = self.new_session(DEFAULT_GROUP, wanted.priority, wanted.last_seq);
        self.open(&wanted.customer, session, Cause::Wanted);
    }

    fn activity(&mut self, activity: &Activity) {
        if let Some(session) = self.sessions.get_mut(&activity.customer) {
            session.spoke_ms = self.clock.now_ms();
            session.last_seq = session.last_seq.max(activity.last_seq);
        }
    }

    /// A session at the end of the line.
    pub(crate) fn new_session(&mut self, group: &str, priority: u32, last_seq: u64) -> Session {
        let now_ms = self.clock.now_ms();
        self.back += 1;
        Session {
            stage: Stage::Waiting {
                order: self.back,
                since_ms: now_ms,
            },
            group: group.to_owned(),
            priority,
            named: None,
            only: false,
            joined: Vec::new(),
            watching: Vec::new(),
            opened_ms: now_ms,
            spoke_ms: now_ms,
            last_seq,
            decided_ms: now_ms,
            told: None,
        }
    }

    /// Into the line; told after the line was served, so that who is served at once is never told to wait.
    pub(crate) fn open(&mut self, customer: &str, session: Session, cause: Cause) {
        if wire::User::new(customer).is_err() {
            return;
        }
        self.sessions.insert(customer.to_owned(), session);
        self.stand_in_line(customer);
        self.untold.insert(customer.to_owned(), cause);
    }

    /// Ends a session. `seen`: the last seq whoever closes had seen.
    pub(crate) fn end(&mut self, customer: &str, by: &str, seen: u64, out: &mut Out) {
        let Some(session) = self.sessions.remove(customer) else {
            return;
        };
        self.leave_place(customer, &session);
        self.untold.remove(customer);
        if seen < u64::MAX {
            if self.closes.len() >= CLOSES_MAX {
                self.closes.pop_front();
            }
            self.closes.push_back((customer.to_owned(), seen));
        }
        let said = Said {
            closed_at_seq: Some(seen),
            ..Said::event(Cause::Closed, "closed", json!({ "by": by }))
        };
        let idle = wire::record::Session {
            priority: session.priority,
            ..Default::default()
        };
        out.effect(customer, idle, said);
    }

    /// Takes the session out of the line, or from its agent.
    pub(crate) fn leave_place(&mut self, customer: &str, session: &Session) {
        match &session.stage {
            Stage::Waiting { order, .. } => self.line.leave((session.priority, *order)),
            Stage::Active { agent } => {
                let now_ms = self.clock.now_ms();
                self.agents.change(agent, |agent| {
                    agent.active.remove(customer);
                    agent.busy_ms = now_ms;
                });
            }
        }
    }

    pub(crate) fn stand_in_line(&mut self, customer: &str) {
        if let Some(session) = self.sessions.get(customer) {
            self.line.stand(customer, session);
        }
    }

    fn close_idle(&mut self, out: &mut Out) {
        let limit = self.settings.idle_close_ms;
        if limit == 0 {
            return;
        }
        let now_ms = self.clock.now_ms();
        if now_ms < self.idle_due.0 {
            return;
        }
        let idle: Vec<(String, u64)> = self
            .sessions
            .iter()
            .filter(|(_, s)| !s.is_waiting() && now_ms - s.spoke_ms >= limit)
            .map(|(customer, s)| (customer.clone(), s.last_seq))
            .collect();
        for (customer, seen) in idle {
            self.end(&customer, "desk", seen, out);
        }
        // Whoever speaks, or is given to somebody, only puts it off.
        let answered = self.sessions.values().filter(|s| !s.is_waiting());
        self.idle_due = IdleDue(answered.map(|s| s.spoke_ms).min().unwrap_or(now_ms) + limit);
    }

    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The last record applied.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Time matters here: somebody waits, is answered, or is connected.
    pub fn needs_ticks(&self) -> bool {
        !self.sessions.is_empty() || self.agents.any_connected()
    }

    pub fn sessions(&self) -> &BTreeMap<String, Session> {
        &self.sessions
    }

    pub fn agents(&self) -> &BTreeMap<String, Agent> {
        self.agents.by_name()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            waiting: self.line.len(),
            ..Counts::default()
        };
        counts.assigned = self.sessions.len() - counts.waiting;
        for agent in self.agents.by_name().values() {
            match agent.state {
                _ if !agent.connected() => counts.gone += 1,
                AgentState::Available => counts.available += 1,
                AgentState::Busy => counts.busy += 1,
                AgentState::Away => counts.away += 1,
            }
        }
        counts
    }
}
