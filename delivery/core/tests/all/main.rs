//! The delivery core's tests in one binary, over a network of workers and devices in one struct (`net`).

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod claims;
mod marks;
mod net;
mod outage;
mod random;
mod rules;
mod sessions;
