//! A fingerprint of everything stored, write times included: what "replay changes nothing" (I14) is decided by.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

/// Per table the number of rows and the sum of their hashes: equal whatever order the rows were read in. Of one kind of store
/// only; the two kinds keep different rows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Digest {
    tables: BTreeMap<&'static str, (u64, u128)>,
}

impl Digest {
    /// Adds one row: its fields in the table's order, each with the write times that stand beside it.
    pub(crate) fn row(&mut self, table: &'static str, fields: &[&[u8]]) {
        let mut hash = Sha256::new();
        for field in fields {
            // The length first, so that no two lists of fields read alike.
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        let hash: [u8; 32] = hash.finalize().into();
        let half = hash.iter().take(16).fold(0u128, |n, b| n << 8 | u128::from(*b));
        let (rows, sum) = self.tables.entry(table).or_default();
        *rows += 1;
        *sum = sum.wrapping_add(half);
    }

    /// Rows of one table.
    pub fn rows(&self, table: &str) -> u64 {
        self.tables.get(table).map_or(0, |(rows, _)| *rows)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (table, (rows, sum))) in self.tables.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}{table}:{rows}:{sum:032x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn order_is_nothing_and_every_byte_is_something() {
        let of = |rows: &[&[&[u8]]]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|row| digest.row("t", row));
            digest
        };
        let (a, b): (&[&[u8]], &[&[u8]]) = (&[b"ab", b"c"], &[b"a", b"bc"]);
        assert_eq!(of(&[a, b]), of(&[b, a]));
        assert_ne!(of(&[a]), of(&[b]));
        assert_ne!(of(&[a]), of(&[a, a]));
    }
}
