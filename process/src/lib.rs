//! How any process of the platform lives: configuration, tasks and what their end means, drain, metric names, health,
//! the control topic's state, logging and exit codes. Imports `wire` and nothing else of ours.
//!
//! The order in `main`: `Config::load` → `logging::init` → `metrics::install_recorder` → `Drain::from_signals` →
//! `Tasks::new` → build and bind everything → `ops::start` → spawn the roles → `drain::run_until` → exit with its code.

pub mod config;
pub mod control;
pub mod disk;
pub mod drain;
pub mod exit;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod ops;
pub mod recorder;
pub mod tasks;

pub use config::{Config, ConfigError};
pub use control::{ControlState, ControlView};
pub use drain::{Drain, run_until};
pub use exit::Exit;
pub use health::Health;
pub use recorder::Recorder;
pub use tasks::{Kind, Tasks};
