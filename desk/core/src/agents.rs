//! Who is there: agents, their chosen state, their connections, and the nodes these stand on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::limits::ALIVE_TIMEOUT_MS;

use crate::DEFAULT_GROUP;

/// What an agent chose. It outlives connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    Available,
    Busy,
    /// Until the first `status`.
    #[default]
    Away,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Agent {
    pub state: AgentState,
    /// Sessions at once; `None`: the tenant's default. Lowered below what the agent has, it takes effect as sessions end.
    pub capacity: Option<u32>,
    /// Groups from the token; none: serves all.
    pub groups: BTreeSet<String>,
    /// (node, connection).
    pub connections: BTreeSet<(u64, u64)>,
    /// Customers of the sessions assigned.
    pub active: BTreeSet<String>,
    /// When the last connection went.
    pub lost_ms: Option<i64>,
    /// When a session was last given or taken; the smallest has been idle longest.
    pub busy_ms: i64,
}

impl Agent {
    pub fn connected(&self) -> bool {
        !self.connections.is_empty()
    }

    pub fn has_room(&self, default_capacity: u32) -> bool {
        self.active.len() < self.capacity.unwrap_or(default_capacity) as usize
    }

    /// May be given a session without being asked.
    pub fn is_able(&self, default_capacity: u32) -> bool {
        self.state == AgentState::Available && self.connected() && self.has_room(default_capacity)
    }

    pub fn serves(&self, group: &str) -> bool {
        group == DEFAULT_GROUP || self.groups.is_empty() || self.groups.contains(group)
    }
}

/// All agents of the tenant, and when their nodes were last heard of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Agents {
    pub by_name: BTreeMap<String, Agent>,
    nodes: BTreeMap<u64, i64>,
}

impl Agents {
    pub fn nodes_only(&self) -> Self {
        Self {
            by_name: BTreeMap::new(),
            nodes: self.nodes.clone(),
        }
    }

    pub fn heard_of(&mut self, node: u64, now_ms: i64) {
        self.nodes.insert(node, now_ms);
    }

    /// Lets go of the connections of nodes that were silent too long.
    pub fn forget_silent_nodes(&mut self, now_ms: i64) {
        let silent: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, heard)| now_ms - **heard > ALIVE_TIMEOUT_MS as i64)
            .map(|(node, _)| *node)
            .collect();
        for node in silent {
            self.nodes.remove(&node);
            self.replace_connections(node, BTreeMap::new(), now_ms);
        }
    }

    pub fn connect(&mut self, name: &str, node: u64, connection: u64, groups: &[String]) {
        let agent = self.by_name.entry(name.to_owned()).or_default();
        agent.connections.insert((node, connection));
        agent.lost_ms = None;
        if !groups.is_empty() {
            agent.groups = groups.iter().cloned().collect();
        }
    }

    pub fn disconnect(&mut self, name: &str, node: u64, connection: u64, now_ms: i64) {
        if let Some(agent) = self.by_name.get_mut(name)
            && agent.connections.remove(&(node, connection))
            && agent.connections.is_empty()
        {
            agent.lost_ms = Some(now_ms);
        }
    }

    /// These are all of the tenant's agents' connections on the node.
    pub fn replace_connections(&mut self, node: u64, now: BTreeMap<&str, BTreeSet<u64>>, now_ms: i64) {
        for (name, agent) in &mut self.by_name {
            let stays = now.get(name.as_str());
            let before = agent.connections.len();
            agent
                .connections
                .retain(|(n, c)| *n != node || stays.is_some_and(|s| s.contains(c)));
            if before > 0 && agent.connections.is_empty() && stays.is_none() {
                agent.lost_ms = Some(now_ms);
            }
        }
    }

    pub fn any_connected(&self) -> bool {
        self.by_name.values().any(Agent::connected)
    }
}
