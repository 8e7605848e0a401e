//! Ingress: holds connections, turns bytes into records, writes pushes; never decides a route.
//!
//! A message enters at `ws` (or `tcp`, `sse`, `poll`, `http`), is judged by the session core (`ingress-core`), becomes a record
//! in `produce`, and its report comes back to `conn`. Pushes come in through `links` and are written by `connection`.
//!
//! When a node dies its connections die with it, and clients come back elsewhere with `since`; what was `sent` is in the log.

mod accept;
mod addresses;
mod auth;
mod bearer;
mod clock;
mod conn;
mod connection;
mod cors;
mod drain;
mod error;
mod handshake;
mod http;
mod links;
mod meters;
mod node;
mod poll;
mod presence;
mod problem;
mod produce;
mod requests;
mod service;
mod sse;
mod sweep;
mod tcp;
mod tenants;
mod tls;
mod turns;
mod ws;

pub use auth::{KeyError, TokenError, Verifier};
pub use error::{Addresses, Error};
pub use http::openapi;
pub use links::LocalDialer;
pub use service::{Deps, Handle, Options, Service};
