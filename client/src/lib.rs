//! The Rust client of the platform's public protocol: a pure session core, and a thin edge that carries its actions out over
//! WebSocket, raw TCP, server-sent events or long polling. Used by the terminal client, the tests and the replay of dialogues.
//!
//! [`Client::connect`] is where to begin; what arrives is an [`Incoming`]. The rules it keeps:
//! every event reaches the application once and in the order of its `seq`; a message stays in the outbox until it is known to be
//! in the log, and after an error or a new connection everything from the first such message on is sent again, under its old id;
//! acks are cumulative and few; a close code decides whether and when to come back.

pub mod core;
mod edge;
pub mod frames;
pub mod history;
mod incoming;
mod outbox;
pub mod pages;
mod places;
pub mod policy;
mod transport;

pub use edge::{Client, Gone, Handle, Options, text_body};
pub use incoming::{Deed, Event, Incoming};
pub use transport::{Io, Tls, TlsError, Transport, dial};
