//! Places: in the log (epoch, offset) and in a conversation (seq). Positions of one lane are totally ordered; write times follow them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A partition of a lane's topics: 0 … partitions − 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Partition(pub u32);

/// One life of a lane's topics. Every re-made, re-cut or re-homed log gets a higher one than any before; 1 … 2^22 − 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Epoch(pub u32);

/// A record's place in its partition: 0 … 2^40 − 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Offset(pub u64);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

/// Where a record stands, comparable over all epochs of its conversation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Position {
    pub epoch: Epoch,
    pub offset: Offset,
}

const OFFSET_BITS: u32 = 40;

impl Position {
    pub fn new(epoch: Epoch, offset: Offset) -> Self {
        Self { epoch, offset }
    }

    /// The CQL write time of everything written because of this record: `epoch << 40 | offset`, in "microseconds".
    pub fn write_time(self) -> i64 {
        debug_assert!(self.offset.0 < 1 << OFFSET_BITS);
        (i64::from(self.epoch.0) << OFFSET_BITS) | self.offset.0 as i64
    }
}

/// 1, 2, 3 … per conversation, without holes. 0 stands before the first event.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    pub const ZERO: Seq = Seq(0);

    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl From<u64> for Seq {
    fn from(n: u64) -> Self {
        Seq(n)
    }
}

/// Which ownership of a partition this is: the consumer group's generation, then the offset of the owner's announcement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Generation {
    pub group: u64,
    pub announced: u64,
}

impl From<Generation> for crate::link::Generation {
    fn from(g: Generation) -> Self {
        Self {
            group: g.group,
            announced: g.announced,
        }
    }
}

impl From<crate::link::Generation> for Generation {
    fn from(g: crate::link::Generation) -> Self {
        Self {
            group: g.group,
            announced: g.announced,
        }
    }
}

macro_rules! number_display {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}
number_display!(Partition, Epoch, Offset, Seq);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.announced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_times_order_like_positions() {
        let p = |e, o| Position::new(Epoch(e), Offset(o));
        assert!(p(1, (1 << 40) - 1).write_time() < p(2, 0).write_time());
        assert!(p(1, 5).write_time() < p(1, 6).write_time());
        assert!(p(4_000_000, 1).write_time() > 0);
    }
}
