//! The seeded simulation of the pure cores, and the checker that decides every run, simulated or real.

pub mod checker;
pub mod coverage;
pub mod runner;
pub mod world;
