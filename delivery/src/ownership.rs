//! A partition's life here, each step consuming the one before: `Claimed` (the group gave it to us) → `Consuming` (announced,
//! and read) → `Draining` (last watermarks on their way) → `Released`. Nothing is read before it is announced, and nothing is
//! done for it after it is released: what was still under way is cancelled with it.

use ordered_log::TopicPartition;
use tokio_util::sync::CancellationToken;
use wire::{Generation, Offset, Partition};

/// The group gave it to us; nodes do not know yet.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub at: TopicPartition,
    /// The group's own generation.
    pub group: u64,
    /// Tells this ownership's answers from an earlier one's.
    pub claim: u64,
    cancel: CancelOnDrop,
}

/// Announced and read: the core has it.
#[derive(Debug)]
pub(crate) struct Consuming {
    pub at: TopicPartition,
    pub claim: u64,
    pub generation: Generation,
    /// Somebody else announced itself above us: a commit decides who is right.
    pub contested: bool,
    /// A repeated announcement is under way.
    pub announcing: bool,
    /// Log and store disagree: nothing is read any more.
    pub stopped: bool,
    /// Append time of the last record folded.
    pub last_at_ms: i64,
    cancel: CancelOnDrop,
}

/// Nodes are told; the last watermarks may still be on their way to the log.
#[derive(Debug)]
#[must_use = "a draining partition is released"]
pub(crate) struct Draining {
    partition: Partition,
}

/// Somebody else may have it.
#[derive(Debug)]
pub(crate) struct Released(pub Partition);

#[derive(Debug)]
struct CancelOnDrop(CancellationToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Claimed {
    pub fn new(at: TopicPartition, group: u64, claim: u64) -> Self {
        Self {
            at,
            group,
            claim,
            cancel: CancelOnDrop(CancellationToken::new()),
        }
    }

    /// Cancelled when the partition is let go, at whatever step.
    pub fn token(&self) -> CancellationToken {
        self.cancel.0.clone()
    }

    /// Our announcement stands at this offset of `owners`.
    pub fn announced(self, announced: Offset) -> Consuming {
        Consuming {
            generation: Generation {
                group: self.group,
                announced: announced.0,
            },
            at: self.at,
            claim: self.claim,
            contested: false,
            announcing: false,
            stopped: false,
            last_at_ms: 0,
            cancel: self.cancel,
        }
    }
}

impl Consuming {
    pub fn token(&self) -> CancellationToken {
        self.cancel.0.clone()
    }

    pub fn announced_again(&mut self, announced: Offset) {
        self.announcing = false;
        self.generation.announced = self.generation.announced.max(announced.0);
    }

    pub fn drain(self) -> Draining {
        Draining {
            partition: self.at.partition,
        }
    }
}

impl Draining {
    pub fn released(self) -> Released {
        Released(self.partition)
    }
}

/// What we have of a partition now.
#[derive(Debug)]
pub(crate) enum Owned {
    Claimed(Claimed),
    Consuming(Consuming),
}

impl Owned {
    pub fn claim(&self) -> u64 {
        match self {
            Owned::Claimed(c) => c.claim,
            Owned::Consuming(c) => c.claim,
        }
    }
}
