//! Who is there: agents, their chosen state, their connections, and the nodes these stand on.
//!
//! A desk has thousands of agents and applies thousands of records a second: what one record asks is looked up, never searched for.
//! So nobody changes an agent but `Agents::change`, which keeps the look-ups with it.

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

    /// Since when it is lost while sessions are still assigned to it.
    fn owes_since(&self) -> Option<i64> {
        self.lost_ms.filter(|_| !self.connected() && !self.active.is_empty())
    }
}

/// Fewest sessions first; of those the longest idle; of those the first by name.
type Rank = (usize, i64, String);

/// All agents of the tenant, and when their nodes were last heard of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Agents {
    by_name: BTreeMap<String, Agent>,
    nodes: BTreeMap<u64, i64>,
    #[serde(skip)]
    found: Found,
}

/// Made anew from the agents after a load, or when the tenant's capacity changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Found {
    default_capacity: u32,
    able: BTreeSet<Rank>,
    /// Those able who serve every group.
    able_for_all: BTreeSet<Rank>,
    /// Those able who serve some groups, by group; none is empty.
    able_for: BTreeMap<String, BTreeSet<Rank>>,
    /// Agents with a connection there; none is empty.
    on_node: BTreeMap<u64, BTreeSet<String>>,
    /// Lost, with sessions.
    owing: BTreeSet<(i64, String)>,
}

impl Found {
    fn enter(&mut self, name: &str, agent: &Agent) {
        if let Some(since) = agent.owes_since() {
            self.owing.insert((since, name.to_owned()));
        }
        for (node, _) in &agent.connections {
            self.on_node.entry(*node).or_default().insert(name.to_owned());
        }
        if !agent.is_able(self.default_capacity) {
            return;
        }
        let rank = (agent.active.len(), agent.busy_ms, name.to_owned());
        if agent.groups.is_empty() {
            self.able_for_all.insert(rank.clone());
        }
        for group in &agent.groups {
            self.able_for.entry(group.clone()).or_default().insert(rank.clone());
        }
        self.able.insert(rank);
    }

    /// As it was entered.
    fn take_out(&mut self, name: &str, agent: &Agent) {
        if let Some(since) = agent.owes_since() {
            self.owing.remove(&(since, name.to_owned()));
        }
        for (node, _) in &agent.connections {
            take_from(&mut self.on_node, node, name);
        }
        if !agent.is_able(self.default_capacity) {
            return;
        }
        let rank = (agent.active.len(), agent.busy_ms, name.to_owned());
        for group in &agent.groups {
            take_from(&mut self.able_for, group, &rank);
        }
        self.able_for_all.remove(&rank);
        self.able.remove(&rank);
    }
}

/// Takes one out of a set, and the set away with its last.
fn take_from<K: Ord, V: Ord + std::borrow::Borrow<Q>, Q: Ord + ?Sized>(
    sets: &mut BTreeMap<K, BTreeSet<V>>,
    key: &K,
    value: &Q,
) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

impl Agents {
    pub fn by_name(&self) -> &BTreeMap<String, Agent> {
        &self.by_name
    }

    pub fn get(&self, name: &str) -> Option<&Agent> {
        self.by_name.get(name)
    }

    /// The one way to change an agent; who was not known is made.
    pub fn change(&mut self, name: &str, how: impl FnOnce(&mut Agent)) {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.to_owned(), Agent::default());
        }
        if let Some(agent) = self.by_name.get_mut(name) {
            self.found.take_out(name, agent);
            how(agent);
            self.found.enter(name, agent);
        }
    }

    /// Agents from a snapshot's part; to be followed by `find_anew`.
    pub fn add(&mut self, agents: BTreeMap<String, Agent>) {
        self.by_name.extend(agents);
    }

    /// Makes the look-ups from the agents as they stand.
    pub fn find_anew(&mut self, default_capacity: u32) {
        self.found = Found {
            default_capacity,
            ..Found::default()
        };
        for (name, agent) in &self.by_name {
            self.found.enter(name, agent);
        }
    }

    pub fn nodes_only(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            ..Self::default()
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
            self.replace_connections(node, &BTreeMap::new(), now_ms);
        }
    }

    pub fn connect(&mut self, name: &str, node: u64, connection: u64, groups: &[String]) {
        let is_known = |a: &Agent| {
            a.connections.contains(&(node, connection))
                && a.lost_ms.is_none()
                && (groups.is_empty() || groups.len() == a.groups.len() && groups.iter().all(|g| a.groups.contains(g)))
        };
        if self.by_name.get(name).is_some_and(is_known) {
            return;
        }
        self.change(name, |agent| {
            agent.connections.insert((node, connection));
            agent.lost_ms = None;
            if !groups.is_empty() {
                agent.groups = groups.iter().cloned().collect();
            }
        });
    }

    pub fn disconnect(&mut self, name: &str, node: u64, connection: u64, now_ms: i64) {
        let has_it = |a: &Agent| a.connections.contains(&(node, connection));
        if !self.by_name.get(name).is_some_and(has_it) {
            return;
        }
        self.change(name, |agent| {
            agent.connections.remove(&(node, connection));
            if agent.connections.is_empty() {
                agent.lost_ms = Some(now_ms);
            }
        });
    }

    /// These are all of the tenant's agents' connections on the node.
    pub fn replace_connections(&mut self, node: u64, now: &BTreeMap<&str, BTreeSet<u64>>, now_ms: i64) {
        let there = self.found.on_node.get(&node).into_iter().flatten();
        let stay = |name: &str, connection: u64| now.get(name).is_some_and(|s| s.contains(&connection));
        let of_node = |name: &str| {
            let agent = self.by_name.get(name).into_iter();
            agent.flat_map(|a| a.connections.range((node, 0)..=(node, u64::MAX)))
        };
        let changed = there.filter(|name| of_node(name).any(|(_, c)| !stay(name, *c)));
        for name in changed.cloned().collect::<Vec<String>>() {
            self.change(&name, |agent| {
                agent.connections.retain(|(n, c)| *n != node || stay(&name, *c));
                if agent.connections.is_empty() && !now.contains_key(name.as_str()) {
                    agent.lost_ms = Some(now_ms);
                }
            });
        }
    }

    pub fn any_connected(&self) -> bool {
        !self.found.on_node.is_empty()
    }

    /// Customers of agents that were lost at this time or before.
    pub fn owed_since(&self, at_ms: i64) -> Vec<String> {
        let lost = self.found.owing.iter().take_while(|(since, _)| *since <= at_ms);
        let agents = lost.filter_map(|(_, name)| self.by_name.get(name));
        agents.flat_map(|agent| agent.active.iter().cloned()).collect()
    }

    pub fn is_able(&self, name: &str) -> bool {
        self.by_name
            .get(name)
            .is_some_and(|a| a.is_able(self.found.default_capacity))
    }

    pub fn anybody_able(&self) -> bool {
        !self.found.able.is_empty()
    }

    pub fn able_count(&self) -> usize {
        self.found.able.len()
    }

    pub fn able_names(&self) -> impl Iterator<Item = &String> {
        self.found.able.iter().map(|(_, _, name)| name)
    }

    /// Somebody able serves the group.
    pub fn anybody_serves(&self, group: &str) -> bool {
        self.serving(group).any(|able| !able.is_empty())
    }

    /// Of those able that serve the group, the first by rank.
    pub fn least_loaded(&self, group: &str, except: Option<&str>) -> Option<&str> {
        let first = |able: &'_ BTreeSet<Rank>| able.iter().find(|(_, _, name)| Some(name.as_str()) != except).cloned();
        let (_, _, name) = self.serving(group).filter_map(first).min()?;
        self.by_name.get_key_value(&name).map(|(name, _)| name.as_str())
    }

    fn serving(&self, group: &str) -> impl Iterator<Item = &BTreeSet<Rank>> {
        let everybody = group == DEFAULT_GROUP;
        let all = if everybody {
            &self.found.able
        } else {
            &self.found.able_for_all
        };
        let some = self.found.able_for.get(group).filter(|_| !everybody);
        std::iter::once(all).chain(some)
    }
}
