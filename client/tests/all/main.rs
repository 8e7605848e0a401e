//! The client's tests in one binary, against a small server of their own.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod fake;
mod pages;
mod session;
