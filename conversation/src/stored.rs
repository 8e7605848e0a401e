//! The state as one cell of the conversation's row. A cell of a later build is refused, never guessed at.

use bytes::Bytes;
use prost::Message;
use wire::record::{Decision, Session};
use wire::row::STATE_VERSION;
use wire::{Epoch, Offset, Position, Seq};

use crate::let_go::LetGo;
use crate::repeats::{IdHash, Remembered, Repeats};
use crate::session::{OpenSpan, Shown};
use crate::state::State;

/// A remembered id: hash 16, seq 8, append time 8 bytes.
const REMEMBERED_BYTES: usize = 32;

#[derive(Clone, PartialEq, Message)]
struct Cell {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    last_seq: u64,
    #[prost(uint32, tag = "3")]
    applied_epoch: u32,
    #[prost(uint64, tag = "4")]
    applied_offset: u64,
    #[prost(bytes = "bytes", tag = "5")]
    repeats: Bytes,
    #[prost(message, optional, tag = "6")]
    session: Option<Session>,
    #[prost(uint64, tag = "7")]
    first_seq: u64,
    #[prost(int64, tag = "8")]
    opened_at_ms: i64,
    #[prost(uint64, tag = "9")]
    last_asked: u64,
    #[prost(message, optional, tag = "10")]
    decision: Option<Decision>,
    #[prost(bool, tag = "11")]
    ever_applied: bool,
    #[prost(message, repeated, tag = "12")]
    let_go: Vec<LetGoCell>,
}

#[derive(Clone, PartialEq, Message)]
struct LetGoCell {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(uint64, tag = "2")]
    seq: u64,
}

/// The cell cannot be used: stop the partition rather than number anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadState {
    #[error("the conversation's state cell is not one of ours")]
    NotAState,
    #[error("the state cell has version {0}, this build knows {STATE_VERSION}; run the newer build")]
    Version(u32),
}

impl State {
    /// The cell's bytes; the same state always gives the same bytes.
    pub fn encode(&self) -> Bytes {
        let mut repeats = Vec::with_capacity(self.repeats.len() * REMEMBERED_BYTES);
        for r in self.repeats.iter() {
            repeats.extend_from_slice(&r.hash.0);
            repeats.extend_from_slice(&r.seq.0.to_be_bytes());
            repeats.extend_from_slice(&r.at_ms.to_be_bytes());
        }
        Cell {
            version: STATE_VERSION,
            last_seq: self.last_seq.0,
            applied_epoch: self.applied.map_or(0, |p| p.epoch.0),
            applied_offset: self.applied.map_or(0, |p| p.offset.0),
            ever_applied: self.applied.is_some(),
            repeats: repeats.into(),
            session: self.shown.session.as_deref().cloned(),
            first_seq: self.shown.span.first_seq.0,
            opened_at_ms: self.shown.span.opened_at_ms,
            last_asked: self.shown.last_asked.0,
            decision: self.shown.decision,
            let_go: self.shown.let_go.iter().map(let_go_cell).collect(),
        }
        .encode_to_vec()
        .into()
    }

    pub fn decode(cell: Bytes) -> Result<State, BadState> {
        let cell = Cell::decode(cell).map_err(|_| BadState::NotAState)?;
        if cell.version != STATE_VERSION {
            return Err(BadState::Version(cell.version));
        }
        let (chunks, rest) = cell.repeats.as_chunks::<REMEMBERED_BYTES>();
        if !rest.is_empty() {
            return Err(BadState::NotAState);
        }
        let mut repeats = Repeats::default();
        for chunk in chunks {
            repeats.remember(remembered(chunk));
        }
        Ok(State {
            last_seq: Seq(cell.last_seq),
            applied: cell
                .ever_applied
                .then(|| Position::new(Epoch(cell.applied_epoch), Offset(cell.applied_offset))),
            repeats,
            shown: Shown {
                session: cell.session.map(Box::new),
                span: OpenSpan {
                    first_seq: Seq(cell.first_seq),
                    opened_at_ms: cell.opened_at_ms,
                },
                last_asked: Seq(cell.last_asked),
                decision: cell.decision,
                let_go: LetGo::of(cell.let_go.into_iter().map(|l| (l.user, Seq(l.seq))).collect()),
            },
        })
    }
}

fn let_go_cell((user, seq): &(String, Seq)) -> LetGoCell {
    LetGoCell {
        user: user.clone(),
        seq: seq.0,
    }
}

fn remembered(chunk: &[u8; REMEMBERED_BYTES]) -> Remembered {
    let mut hash = [0; 16];
    let mut seq = [0; 8];
    let mut at = [0; 8];
    hash.copy_from_slice(&chunk[..16]);
    seq.copy_from_slice(&chunk[16..24]);
    at.copy_from_slice(&chunk[24..]);
    Remembered {
        hash: IdHash(hash),
        seq: Seq(u64::from_be_bytes(seq)),
        at_ms: i64::from_be_bytes(at),
    }
}
