//! Real processes under real faults: starts the built binary, puts people on it, hurts it, and lets the checker decide.
//!
//! `house` (processes: start, kill, pause, wake; `config` is their file) → `people` (customers and agents who talk and write down what they see) →
//! `run` (load, faults, quiesce, the final read, the verdict). The tests are in `tests/processes.rs`.

pub mod config;
pub mod house;
pub mod people;
pub mod run;

/// Why a test could not be decided, or what it found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl Failed {
    pub fn because(what: &str, why: impl std::fmt::Display) -> Self {
        Failed(format!("{what}: {why}"))
    }
}
