//! The public part of a conversation's state cell: what a node may know of a conversation whose owner does not answer. The whole
//! cell is the fold's business (`conversation::State`), which keeps these fields where they are.

use prost::Message;

use crate::Seq;
use crate::record::Session;

/// Version of the state cell. A cell of another version is not read.
pub const STATE_VERSION: u32 = 1;

/// What may be read of a state cell without the fold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublicState {
    pub last_seq: Seq,
    /// As the log said up to the cell's position; the default one if nobody ever asked for an agent.
    pub session: Session,
}

#[derive(Clone, PartialEq, Message)]
struct Cell {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    last_seq: u64,
    #[prost(message, optional, tag = "6")]
    session: Option<Session>,
}

impl PublicState {
    /// `None`: not a state cell of this version.
    pub fn of_cell(cell: &[u8]) -> Option<Self> {
        let cell = Cell::decode(cell).ok()?;
        (cell.version == STATE_VERSION).then(|| Self {
            last_seq: Seq(cell.last_seq),
            session: cell.session.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_another_version_or_no_cell_is_not_read() {
        let cell = |version| {
            Cell {
                version,
                last_seq: 4,
                session: None,
            }
            .encode_to_vec()
        };
        assert_eq!(
            PublicState::of_cell(&cell(STATE_VERSION)).map(|s| s.last_seq),
            Some(Seq(4))
        );
        assert_eq!(PublicState::of_cell(&cell(STATE_VERSION + 1)), None);
        assert_eq!(PublicState::of_cell(b""), None);
        assert_eq!(PublicState::of_cell(b"\xff\xff"), None);
    }
}
