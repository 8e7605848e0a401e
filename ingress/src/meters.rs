//! The node's metric handles, taken once.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge};
use process::metrics as names;
use wire::frames::ClientFrame;
use wire::{CloseCode, ErrorCode};

use crate::conn::Transport;

pub struct Meters {
    pub accepted: Counter,
    pub logged: Counter,
    pub produce_refused: Counter,
    pub produce_unknown: Counter,
    pub written: Counter,
    pub delivered: Counter,
    pub accept_errors: Counter,
    pub owner_changes: Counter,
    pub dropped_not_next: Counter,
    pub dropped_gone: Counter,
    pub link_up: Gauge,
    pub link_queue_items: Gauge,
    pub outbound_bytes: Gauge,
    pub stages: names::Stages,
    frames: [Counter; 8],
    connections: [Gauge; 4],
    closes: BTreeMap<u16, Counter>,
    gone: Counter,
}

const FRAME_KINDS: [&str; 8] = ["send", "ack", "act", "typing", "status", "refresh", "ping", "bad"];

impl Default for Meters {
    fn default() -> Self {
        let dropped = |reason| names::PUSHES_DROPPED_TOTAL.with(&[("reason", reason)]);
        Self {
            accepted: names::ACCEPTED_TOTAL.get(),
            logged: names::LOGGED_TOTAL.get(),
            produce_refused: names::PRODUCE_REFUSED_TOTAL.get(),
            produce_unknown: names::PRODUCE_UNKNOWN_TOTAL.get(),
            written: names::WRITTEN_TOTAL.get(),
            delivered: names::DELIVERED_TOTAL.get(),
            accept_errors: names::ACCEPT_ERRORS_TOTAL.get(),
            owner_changes: names::OWNER_CHANGES_TOTAL.get(),
            dropped_not_next: dropped("not_next"),
            dropped_gone: dropped("gone"),
            link_up: names::LINK_UP.with(&[("side", "node")]),
            link_queue_items: names::LINK_QUEUE_ITEMS.with(&[("side", "node")]),
            outbound_bytes: names::OUTBOUND_BYTES.get(),
            stages: names::Stages::new(),
            frames: FRAME_KINDS.map(|kind| names::FRAMES_RECEIVED_TOTAL.with(&[("kind", kind)])),
            connections: Transport::ALL.map(|t| names::CONNECTIONS.with(&[("transport", t.as_str())])),
            closes: CloseCode::ALL
                .into_iter()
                .map(|c| (c.number(), names::CLOSES_TOTAL.with(&[("code", c.reason())])))
                .collect(),
            gone: names::CLOSES_TOTAL.with(&[("code", "gone")]),
        }
    }
}

impl Meters {
    /// Counts a frame by its key.
    pub fn frame(&self, frame: &Result<ClientFrame<'_>, String>) {
        let kind = match frame {
            Ok(ClientFrame::Send(_)) => 0,
            Ok(ClientFrame::Ack(_)) => 1,
            Ok(ClientFrame::Act(_)) => 2,
            Ok(ClientFrame::Typing(_)) => 3,
            Ok(ClientFrame::Status(_)) => 4,
            Ok(ClientFrame::Refresh(_)) => 5,
            Ok(ClientFrame::Ping(_)) => 6,
            Ok(ClientFrame::Connect(_)) | Err(_) => 7,
        };
        self.frames[kind].increment(1);
    }

    pub fn connections(&self, transport: Transport) -> &Gauge {
        &self.connections[transport as usize]
    }

    /// `None`: the client went without a code.
    pub fn closed(&self, code: Option<CloseCode>) {
        let counter = code.and_then(|c| self.closes.get(&c.number()));
        counter.unwrap_or(&self.gone).increment(1);
    }

    /// Rare enough to look the handle up.
    pub fn refused(&self, code: ErrorCode) {
        names::REFUSALS_TOTAL.with(&[("code", code.as_str())]).increment(1);
    }

    pub fn handshake(&self, outcome: &str) {
        names::HANDSHAKES_TOTAL.with(&[("outcome", outcome)]).increment(1);
    }

    pub fn stale(&self, kind: &str) {
        names::STALE_GENERATION_REFUSED_TOTAL
            .with(&[("kind", kind)])
            .increment(1);
    }

    pub fn link_connect(&self, outcome: &str) {
        names::LINK_CONNECTS_TOTAL.with(&[("outcome", outcome)]).increment(1);
    }

    pub fn link_lost(&self, reason: &str) {
        names::LINK_LOST_TOTAL.with(&[("reason", reason)]).increment(1);
    }
}
