//! The one cell of an event, alike in every store: `[version][flags][at_ms, big endian][entry]`. Its position is not in it:
//! that is the cell's write time.

use bytes::Bytes;
use wire::{Epoch, Offset, Position, Seq};

use crate::{EventRow, StoreError};

/// Bytes before the entry.
pub(crate) const HEAD_BYTES: usize = 10;
const VERSION: u8 = 1;
const STAFF_ONLY: u8 = 1;
/// Its retention is over: nothing of it is left but its place. Only in stores without a TTL of their own.
const GONE: u8 = 2;
const OFFSET_BITS: u32 = 40;

pub(crate) fn head(row: &EventRow) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = VERSION;
    head[1] = if row.staff_only { STAFF_ONLY } else { 0 };
    head[2..].copy_from_slice(&row.at_ms.to_be_bytes());
    head
}

/// The cell of an event whose retention is over, where its place must be kept.
pub(crate) fn gone_head(at_ms: i64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = VERSION;
    head[1] = GONE;
    head[2..].copy_from_slice(&at_ms.to_be_bytes());
    head
}

pub(crate) fn is_gone(cell: &[u8]) -> bool {
    cell.get(1).is_some_and(|flags| flags & GONE != 0)
}

/// When the event happened; 0 of what is no cell, which `decode` tells.
pub(crate) fn at_ms_of(cell: &[u8]) -> i64 {
    read_i64(cell, 2).unwrap_or(0)
}

/// Reads a cell back; the entry is a slice of it, not a copy.
pub(crate) fn decode(seq: Seq, write_time: i64, cell: &Bytes) -> Result<EventRow, StoreError> {
    match (cell.first(), cell.get(1), read_i64(cell, 2)) {
        (Some(&VERSION), Some(flags), Some(at_ms)) => Ok(EventRow {
            seq,
            staff_only: flags & STAFF_ONLY != 0,
            at_ms,
            entry: cell.slice(HEAD_BYTES..),
            position: position_of(write_time),
        }),
        (Some(version), ..) if *version != VERSION => Err(StoreError::Failed(format!(
            "event {seq} is of layout {version}, this build reads {VERSION}"
        ))),
        _ => Err(StoreError::Failed(format!("event {seq} is torn: {} bytes", cell.len()))),
    }
}

/// The position a write time was made of: the inverse of `Position::write_time`.
pub(crate) fn position_of(write_time: i64) -> Position {
    Position::new(
        Epoch((write_time >> OFFSET_BITS) as u32),
        Offset(write_time as u64 & ((1 << OFFSET_BITS) - 1)),
    )
}

/// Eight bytes at `at`, if there are as many.
pub(crate) fn read_i64(bytes: &[u8], at: usize) -> Option<i64> {
    let field = bytes.get(at..at + 8)?;
    Some(i64::from_be_bytes(field.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cell_is_read_back_whole(
            seq in 1u64..1 << 50, staff_only: bool, at_ms: i64, entry: Vec<u8>,
            epoch in 1u32..1 << 22, offset in 0u64..1 << 40,
        ) {
            let row = EventRow {
                seq: Seq(seq), staff_only, at_ms, entry: entry.into(),
                position: Position::new(Epoch(epoch), Offset(offset)),
            };
            let cell = Bytes::from([&head(&row)[..], &row.entry].concat());
            prop_assert_eq!(decode(row.seq, row.position.write_time(), &cell).unwrap(), row);
        }
    }

    #[test]
    fn a_torn_cell_and_a_later_layout_are_told_apart() {
        let text = |cell: &'static [u8]| decode(Seq(3), 1, &Bytes::from_static(cell)).unwrap_err().to_string();
        assert!(text(&[1, 0, 0]).contains("torn"));
        assert!(text(&[]).contains("torn"));
        assert!(text(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]).contains("layout 2"));
    }
}
