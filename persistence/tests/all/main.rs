//! Persistence's tests in one binary, over the embedded log and a store that fails on demand (`support`).

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod core;
mod replay;
mod service;
mod speed;
mod support;
