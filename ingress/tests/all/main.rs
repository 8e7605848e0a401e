//! The node's tests in one binary: real sockets, a log and workers that the tests own (`common`).

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;
mod guard;
mod http;
mod remote;
mod tokens;
mod transports;
mod websocket;
