//! The desk's log, applied as it lands, and what changed with each record as lines for I16. The desks' processes write the same
//! lines when they apply it, so a desk that was restored and decides otherwise is seen.

use std::collections::BTreeMap;

use desk_core::{Desk, Output, Stage, What};
use wire::codec::decode_desk;
use wire::{Epoch, Offset, Position, Tenant};

use super::EPOCH;
use super::env::Env;
use super::input::LogRecord;
use crate::checker::history::{Kind, Op};

/// Where a conversation was, as last written down: state, agent, group, only.
type Place = (&'static str, String, String, String);
/// What an agent takes and has: capacity, conversations, able.
type Agent = (u64, Vec<String>, bool, Vec<String>);

/// What was written of one desk so far.
#[derive(Default)]
pub struct DeskView {
    places: BTreeMap<String, Place>,
    agents: BTreeMap<String, Agent>,
}

impl DeskView {
    /// As the desk stands, with nothing to say about it.
    pub fn of(desk: &Desk) -> Self {
        DeskView {
            places: desk.sessions().iter().map(|(c, s)| (c.clone(), place(s))).collect(),
            agents: desk
                .agents()
                .iter()
                .map(|(name, a)| (name.clone(), agent(desk, a)))
                .collect(),
        }
    }

    /// The desk has applied the record at `offset`, with these outputs.
    pub fn lines(&mut self, desk: &Desk, (offset, at_ms): (u64, i64), outputs: &[Output]) -> Vec<Op> {
        let mut lines = Vec::new();
        let tenant = desk.tenant().as_str();
        let cause = |customer: &str| {
            let of = |o: &&Output| o.key.customer.as_str() == customer;
            let causes = outputs.iter().filter(of).filter_map(|o| match o.what {
                What::Effect { cause, .. } => Some(cause.label()),
                _ => None,
            });
            causes.last().unwrap_or_default().to_owned()
        };
        let mut assign = |customer: &str, (state, agent, group, only): &Place| {
            lines.push(Op::Assign {
                tenant: tenant.into(),
                conversation: customer.into(),
                offset,
                at_ms,
                state: (*state).into(),
                agent: agent.clone(),
                group: group.clone(),
                only: only.clone(),
                cause: cause(customer),
            });
        };
        self.places.retain(|customer, _| {
            let there = desk.sessions().contains_key(customer);
            if !there {
                assign(customer, &("idle", String::new(), String::new(), String::new()));
            }
            there
        });
        for (customer, session) in desk.sessions() {
            let now = place(session);
            if self.places.get(customer) != Some(&now) {
                assign(customer, &now);
                self.places.insert(customer.clone(), now);
            }
        }
        for (name, is) in desk.agents() {
            let now = agent(desk, is);
            if self.agents.get(name) != Some(&now) {
                let (n, has, able, groups) = now.clone();
                lines.push(Op::Capacity {
                    tenant: tenant.into(),
                    agent: name.clone(),
                    offset,
                    at_ms,
                    n,
                    has,
                    able,
                    groups,
                });
                self.agents.insert(name.clone(), now);
            }
        }
        lines
    }
}

fn place(session: &desk_core::Session) -> Place {
    let group = session.group.clone();
    let only = session.named.clone().filter(|_| session.only).unwrap_or_default();
    match &session.stage {
        Stage::Waiting { .. } => ("queue", String::new(), group, only),
        Stage::Active { agent } => ("agent", agent.clone(), group, only),
    }
}

fn agent(desk: &Desk, is: &desk_core::Agent) -> Agent {
    (
        u64::from(is.capacity.unwrap_or(desk.settings().capacity)),
        is.active.iter().cloned().collect(),
        is.state == desk_core::AgentState::Available && is.connected(),
        is.groups.iter().cloned().collect(),
    )
}

/// Every tenant's desk, as its log has it.
#[derive(Default)]
pub struct AllDesks(BTreeMap<Tenant, (Desk, DeskView)>);

/// A record of `desk` has landed.
pub fn logged(env: &mut Env, record: &LogRecord) {
    let Some(input) = decode_desk(record.value.as_ref()) else {
        return;
    };
    let tenant = record.key.as_ref().and_then(|k| std::str::from_utf8(k).ok());
    let Some(tenant) = tenant.and_then(|t| Tenant::new(t).ok()) else {
        return;
    };
    let (desk, view) = env
        .desks
        .0
        .entry(tenant.clone())
        .or_insert_with(|| (Desk::new(tenant), DeskView::default()));
    let position = Position::new(Epoch(EPOCH), Offset(record.offset));
    let outputs = desk.apply(position, record.at_ms, &input);
    for line in view.lines(desk, (record.offset, record.at_ms), &outputs) {
        env.record("desk-log", Kind::Ok, line);
    }
}
