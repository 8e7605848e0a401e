//! The stores' tests in one binary: one suite for both, then what only one of them promises.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod conformance;
mod cql;
mod embedded;
mod proxy;
mod suite;
