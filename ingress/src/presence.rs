//! Agents' presence, written to `desk`: who came, who went, and every two seconds who is still here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ordered_log::{Appended, ProduceError, Reports};
use process::Drain;
use wire::record::{AgentConnection, Alive, Presence, desk_record};
use wire::{Tenant, limits};

use crate::conn::Conn;
use crate::node::Node;

/// Nobody waits for these reports: what was lost is said again two seconds later.
struct Unheard;

impl Reports for Unheard {
    fn report(&self, _: u64, outcome: Result<Appended, ProduceError>) {
        if let Err(error) = outcome {
            tracing::debug!(%error, "a presence record was not logged; the next one says the same");
        }
    }
}

/// An agent's connection came or went.
pub fn tell(node: &Node, conn: &Conn, connected: bool) {
    let input = desk_record::Input::Presence(Presence {
        node: node.id.0,
        connection: conn.id.0,
        agent: conn.account.user.as_str().to_owned(),
        connected,
        role: conn.session().role.into(),
        groups: conn.groups.to_vec(),
    });
    if let Err(error) = node.produce_desk(conn.tenant(), input, 0, Arc::new(Unheard)) {
        tracing::debug!(%error, "presence is told with the next `alive`");
    }
}

/// Says every two seconds which agents are connected here. A tenant that had some is told once that it has none.
pub async fn run(node: Arc<Node>, drain: Drain) {
    let mut every = tokio::time::interval(Duration::from_millis(limits::ALIVE_INTERVAL_MS));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: Vec<Tenant> = Vec::new();
    loop {
        if drain.is_started() && node.open_connections() == 0 {
            return;
        }
        every.tick().await;
        let mut present: BTreeMap<Tenant, Vec<AgentConnection>> = told.drain(..).map(|t| (t, Vec::new())).collect();
        node.links.for_each_staff(|conn| {
            present.entry(conn.tenant().clone()).or_default().push(AgentConnection {
                connection: conn.id.0,
                agent: conn.account.user.as_str().to_owned(),
                role: conn.session().role.into(),
                groups: conn.groups.to_vec(),
            });
        });
        for (tenant, connections) in present {
            let some = !connections.is_empty();
            let alive = Alive {
                node: node.id.0,
                connections,
            };
            if let Err(error) = node.produce_desk(&tenant, desk_record::Input::Alive(alive), 0, Arc::new(Unheard)) {
                tracing::debug!(%error, "`alive` could not be produced");
            }
            if some {
                told.push(tenant);
            }
        }
    }
}
