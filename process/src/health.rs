//! Health: named conditions that must all be good before a process takes traffic.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::metrics;

/// The process's conditions; cheap to clone. A condition exists from its first `set` on: declare those that begin bad
/// (`set("log", Err("not connected yet".into()))`) before `ops::start`, so that the process is not ready too early.
#[derive(Clone, Default)]
pub struct Health {
    conditions: Arc<RwLock<BTreeMap<&'static str, Result<(), String>>>>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Good, or why not: a sentence for the operator.
    pub fn set(&self, name: &'static str, condition: Result<(), String>) {
        metrics::CONDITION
            .with(&[("name", name)])
            .set(if condition.is_ok() { 1.0 } else { 0.0 });
        let before = self.conditions.write().insert(name, condition.clone());
        match (before, condition) {
            (Some(Err(_)) | None, Ok(())) => tracing::info!(condition = name, "good"),
            (Some(Err(was)), Err(why)) if was == why => {}
            (_, Err(why)) => tracing::warn!(condition = name, why, "not good"),
            (Some(Ok(())), Ok(())) => {}
        }
    }

    /// What is not good, by name.
    pub fn troubles(&self) -> Vec<(&'static str, String)> {
        let conditions = self.conditions.read();
        conditions
            .iter()
            .filter_map(|(name, c)| c.as_ref().err().map(|why| (*name, why.clone())))
            .collect()
    }

    pub fn is_ready(&self) -> bool {
        self.conditions.read().values().all(Result::is_ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_condition_makes_the_process_not_ready_and_says_why() {
        let health = Health::new();
        health.set("log", Ok(()));
        assert!(health.is_ready());
        health.set("store", Err("no host answers".into()));
        assert!(!health.is_ready());
        assert_eq!(health.troubles(), vec![("store", "no host answers".to_owned())]);
        health.set("store", Ok(()));
        assert!(health.is_ready());
    }
}
