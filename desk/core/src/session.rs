//! One session as the desk has it. A conversation without one is idle here, whatever is still on its way.

use serde::{Deserialize, Serialize};
use wire::record::{self, SessionState};

/// Exactly one place: in line, or with one agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// Smaller orders are served first within a priority; those put back in front have the smallest.
    Waiting {
        order: i64,
        since_ms: i64,
    },
    Active {
        agent: String,
    },
}

/// In line: (priority, order). The smallest is served first.
pub(crate) type Place = (u32, i64);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    pub stage: Stage,
    pub group: String,
    /// 0 is served first.
    pub priority: u32,
    /// Asked first.
    pub named: Option<String>,
    /// Nobody but `named`.
    pub only: bool,
    pub joined: Vec<String>,
    pub watching: Vec<String>,
    pub opened_ms: i64,
    pub spoke_ms: i64,
    /// The last seq heard of.
    pub last_seq: u64,
    /// When the conversation was last told.
    pub decided_ms: i64,
    /// Place in line as last told, and when.
    pub told: Option<(u32, i64)>,
}

impl Session {
    pub fn agent(&self) -> Option<&str> {
        match &self.stage {
            Stage::Active { agent } => Some(agent),
            Stage::Waiting { .. } => None,
        }
    }

    /// In line, if it waits.
    pub(crate) fn place(&self) -> Option<Place> {
        match self.stage {
            Stage::Waiting { order, .. } => Some((self.priority, order)),
            Stage::Active { .. } => None,
        }
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting { .. })
    }

    /// Assigned or joined.
    pub fn serves(&self, user: &str) -> bool {
        self.agent() == Some(user) || self.joined.iter().any(|j| j == user)
    }

    /// As the conversation shows it.
    pub fn shown(&self) -> record::Session {
        let state = match self.stage {
            Stage::Waiting { .. } => SessionState::SessionQueued,
            Stage::Active { .. } => SessionState::SessionActive,
        };
        record::Session {
            state: state.into(),
            agent: self.agent().unwrap_or_default().to_owned(),
            joined: self.joined.clone(),
            watching: self.watching.clone(),
            group: self.group.clone(),
            priority: self.priority,
        }
    }
}
