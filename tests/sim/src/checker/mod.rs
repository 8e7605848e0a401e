//! The checker: decides from one run's history which of RELIABILITY's invariants held.

pub mod history;
