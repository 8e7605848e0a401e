//! Hostile input against the built binary: tables of bytes, each row with the exact answer it must get.
//!
//! Rows speak over raw sockets, so nothing on our side tidies up what is sent. After every row a good client must still be
//! served; after every table nothing that was refused may stand in the log, and the process must not have panicked.
//!
//! `server` (the process, its metrics and its log) → `socket`, `ws` (bytes out, answers in) → the tables: `framing`, `utf8`
//! (Autobahn's case numbers), `upgrade` (handshake), `stream` (raw TCP), `api` (HTTP), `envelope` (JSON), `order` (protocol
//! state), `abuse`, `own_records` (our own log), `settings` (configuration).

pub mod abuse;
pub mod api;
pub mod envelope;
pub mod framing;
pub mod order;
pub mod own_records;
pub mod rows;
pub mod server;
pub mod settings;
pub mod socket;
pub mod stream;
pub mod token;
pub mod upgrade;
pub mod utf8;
pub mod ws;

/// Why a row did not hold.
pub type Outcome = Result<(), String>;

/// `Ok` if it holds, else the words.
pub fn expect(holds: bool, words: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(words()) }
}

/// What was found where something else was wanted.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Outcome {
    expect(found == wanted, || {
        format!("{what}: {found:?} where {wanted:?} is right")
    })
}
