//! The history of this process (`process::Recorder`): after each record of a tenant's log, where its sessions went and why, and
//! what its agents have. So the checker sees that nobody is in two places, above capacity or forgotten (I16).

use std::collections::{BTreeMap, HashMap};

use desk_core::{Agent, AgentState, Desk, Output, Stage, What};
use ordered_log::LogRecord;
use process::Recorder;
use serde_json::{Value, json};
use wire::Tenant;

pub(crate) struct Lines {
    recorder: Recorder,
    /// Agents as last written: only what changed is written again.
    written: HashMap<Tenant, BTreeMap<String, Value>>,
}

impl Lines {
    pub fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            written: HashMap::new(),
        }
    }

    /// `record` was applied and led to `outputs`.
    pub fn applied(&mut self, desk: &Desk, record: &LogRecord, outputs: &[Output]) {
        if !self.recorder.is_on() {
            return;
        }
        let mut moved = BTreeMap::new();
        for output in outputs {
            if let What::Effect { cause, .. } = output.what {
                moved.insert(output.key.customer.as_str(), cause.label());
            }
        }
        for (customer, cause) in moved {
            self.recorder.ok("assign", || {
                let mut line = place(desk, customer);
                line["tenant"] = json!(desk.tenant().as_str());
                line["conversation"] = json!(customer);
                line["offset"] = json!(record.offset.0);
                line["at_ms"] = json!(record.at_ms);
                line["cause"] = json!(cause);
                line
            });
        }
        let written = self.written.entry(desk.tenant().clone()).or_default();
        for (name, agent) in desk.agents() {
            let is = what_it_has(agent, desk.settings().capacity);
            if written.get(name) == Some(&is) {
                continue;
            }
            self.recorder.ok("capacity", || {
                let mut line = is.clone();
                line["tenant"] = json!(desk.tenant().as_str());
                line["agent"] = json!(name);
                line["offset"] = json!(record.offset.0);
                line["at_ms"] = json!(record.at_ms);
                line
            });
            written.insert(name.clone(), is);
        }
    }
}

/// The one place a conversation is in.
fn place(desk: &Desk, customer: &str) -> Value {
    let Some(session) = desk.sessions().get(customer) else {
        return json!({ "state": "idle" });
    };
    match &session.stage {
        Stage::Active { agent } => json!({ "state": "agent", "agent": agent }),
        Stage::Waiting { .. } => {
            let only = session.named.as_deref().filter(|_| session.only).unwrap_or_default();
            json!({ "state": "queue", "group": session.group, "only": only })
        }
    }
}

fn what_it_has(agent: &Agent, capacity: u32) -> Value {
    json!({
        "n": agent.capacity.unwrap_or(capacity),
        "has": agent.active,
        "able": agent.state == AgentState::Available && agent.connected(),
        "groups": agent.groups,
    })
}
