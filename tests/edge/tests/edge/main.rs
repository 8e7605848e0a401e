//! The built binary as clients meet it: the Rust client over all four transports, TLS with real certificates, and what is in the
//! logs afterwards.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod certificates;
mod house;
mod nodes;
mod person;
mod secrets;
mod tls;
mod transports;
