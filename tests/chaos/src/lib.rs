//! Faults on the real thing: three brokers, a CQL server and the built processes, with a seeded proxy on every hop and people who talk;
//! faults are drawn from a table, then everything heals, and the checker of `tests/sim` decides.
//!
//! `servers` (brokers, CQL) → `lab` (all of it together) → `faults` (the table) → `acts` (how each is done) → `storm` (which, when) →
//! `timing` (how long people waited) → `report` (what a person reads). `proxy` stands alone.

pub mod acts;
pub mod altered;
pub mod faults;
pub mod garbage;
pub mod lab;
pub mod measure;
pub mod proxy;
pub mod report;
pub mod servers;
pub mod storm;
pub mod timing;
pub mod tools;
