//! A partition's life here, each step consuming the one before: `Claimed` (the group gave it to us) → `Consuming` (announced,
//! and read) → `Draining` (last watermarks on their way) → `Released`. Nothing is read before it is announced, and nothing is
//! done for it after it is released: what was still under way is cancelled with it.

use ordered_log::TopicPartition;
use tokio_util::sync::CancellationToken;
use wire::{Generation, Offset, Partition, WorkerId};

use crate::owners::Heard;

/// The group gave it to us; nodes do not know yet.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub at: TopicPartition,
    /// The group's own generation.
    pub group: u64,
    /// Tells this ownership's answers from an earlier one's.
    pub claim: u64,
    /// Our highest announcement of this generation heard meanwhile.
    heard_ours: Option<Offset>,
    heard: Announced,
    cancel: CancelOnDrop,
}

/// Announced and read: the core has it.
#[derive(Debug)]
pub(crate) struct Consuming {
    pub at: TopicPartition,
    pub claim: u64,
    pub generation: Generation,
    heard: Announced,
    /// A repeated announcement is under way, as of this generation of the group.
    announcing: Option<u64>,
    /// Log and store disagree: nothing is read any more.
    pub stopped: bool,
    /// Append time of the last record folded.
    pub last_at_ms: i64,
    cancel: CancelOnDrop,
}

/// What stands in `owners` of one partition.
#[derive(Clone, Copy, Debug, Default)]
struct Announced {
    /// The highest announcement of anybody else, as nodes rank them.
    others: Option<Generation>,
    /// The last of all, whoever made it and in whatever generation: of a compacted topic a node that comes later reads no other.
    last: Option<Offset>,
}

impl Announced {
    fn hear(&mut self, said: &Heard, ours: bool) {
        self.last = self.last.max(Some(said.offset));
        if !ours {
            self.others = self.others.max(Some(said.generation()));
        }
    }

    /// Is there one that nodes rank above ours, or that is all they are left with?
    fn hides(&self, ours: Generation) -> bool {
        self.others.is_some_and(|theirs| theirs > ours) || self.last.is_some_and(|last| last.0 > ours.announced)
    }
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
            heard_ours: None,
            heard: Announced::default(),
            cancel: CancelOnDrop(CancellationToken::new()),
        }
    }

    /// Cancelled when the partition is let go, at whatever step.
    pub fn token(&self) -> CancellationToken {
        self.cancel.0.clone()
    }

    /// Our announcement stands at this offset of `owners`, or higher if it landed more than once.
    pub fn announced(self, reported: Offset) -> Consuming {
        let announced = self.heard_ours.map_or(reported, |heard| heard.max(reported));
        Consuming {
            generation: Generation {
                group: self.group,
                announced: announced.0,
            },
            at: self.at,
            claim: self.claim,
            heard: self.heard,
            announcing: None,
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

    /// Another announcement stands above ours, or behind it in the topic: a commit decides who is right.
    pub fn contested(&self) -> bool {
        self.heard.hides(self.generation)
    }

    /// The partition is ours although another announcement hides ours. Returns the generation of the group to say so
    /// with, unless that is under way: never below theirs, whatever they claimed, or no node would ever hear us again.
    pub fn announce_again(&mut self) -> Option<u64> {
        if !self.contested() || self.announcing.is_some() || self.stopped {
            return None;
        }
        let theirs = self.heard.others.map_or(0, |theirs| theirs.group);
        self.announcing = Some(self.generation.group.max(theirs));
        self.announcing
    }

    /// How the repeated announcement fared; `None`: it is not in the log.
    pub fn announced_again(&mut self, announced: Option<Offset>) {
        let group = self.announcing.take();
        if let (Some(group), Some(announced)) = (group, announced) {
            let again = Generation {
                group,
                announced: announced.0,
            };
            self.generation = self.generation.max(again);
        }
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

/// What an announcement changes for an owner that hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Nothing,
    /// Ours landed again, above the one we know of: nodes go by the highest, and so must we.
    Ours(Generation),
    /// One that is not the one we stand by hides ours.
    Contested,
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

    /// An announcement of this partition was heard; `me` is this worker.
    pub fn heard(&mut self, said: &Heard, me: WorkerId) -> Said {
        let ours = said.worker == me;
        match self {
            Owned::Claimed(c) => {
                c.heard.hear(said, ours);
                if ours && said.group == c.group {
                    c.heard_ours = c.heard_ours.max(Some(said.offset));
                }
                Said::Nothing
            }
            Owned::Consuming(c) => {
                c.heard.hear(said, ours);
                if ours && said.generation() > c.generation {
                    c.generation = said.generation();
                    Said::Ours(c.generation)
                } else if c.contested() {
                    Said::Contested
                } else {
                    Said::Nothing
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: WorkerId = WorkerId(1);

    fn claimed() -> Claimed {
        let at = TopicPartition {
            topic: "messages".into(),
            partition: Partition(2),
        };
        Claimed::new(at, 3, 1)
    }

    fn said(worker: u64, group: u64, offset: u64) -> Heard {
        Heard {
            partition: Partition(2),
            worker: WorkerId(worker),
            group,
            offset: Offset(offset),
        }
    }

    fn announced(owned: Owned, reported: u64) -> Consuming {
        match owned {
            Owned::Claimed(c) => c.announced(Offset(reported)),
            Owned::Consuming(c) => panic!("{c:?}"),
        }
    }

    #[test]
    fn an_own_announcement_that_lands_again_is_adopted() {
        let mut owned = Owned::Consuming(claimed().announced(Offset(7)));
        assert_eq!(owned.heard(&said(1, 3, 7), ME), Said::Nothing);
        let adopted = Generation { group: 3, announced: 9 };
        assert_eq!(owned.heard(&said(1, 3, 9), ME), Said::Ours(adopted));
        assert_eq!(owned.heard(&said(1, 3, 8), ME), Said::Nothing);
    }

    #[test]
    fn the_highest_own_announcement_heard_before_the_report_is_the_one_that_counts() {
        let mut owned = Owned::Claimed(claimed());
        owned.heard(&said(1, 2, 8), ME);
        owned.heard(&said(1, 3, 9), ME);
        let consuming = announced(owned, 7);
        assert_eq!((consuming.generation.announced, consuming.contested()), (9, false));
        let mut owned = Owned::Claimed(claimed());
        owned.heard(&said(1, 3, 7), ME);
        assert_eq!(announced(owned, 9).generation.announced, 9);
    }

    #[test]
    fn anothers_announcement_above_ours_is_contested_even_if_heard_before_the_report() {
        let mut owned = Owned::Consuming(claimed().announced(Offset(7)));
        assert_eq!(owned.heard(&said(2, 3, 6), ME), Said::Nothing);
        assert_eq!(owned.heard(&said(2, 3, 8), ME), Said::Contested);
        let contested = |theirs: u64| {
            let mut owned = Owned::Claimed(claimed());
            owned.heard(&said(2, 3, theirs), ME);
            announced(owned, 7).contested()
        };
        assert_eq!((contested(6), contested(8)), (false, true));
    }

    #[test]
    fn a_repeated_announcement_below_anothers_leaves_it_contested() {
        let mut consuming = claimed().announced(Offset(7));
        consuming.heard.hear(&said(2, 3, 11), false);
        assert_eq!(consuming.announce_again(), Some(3));
        assert_eq!(consuming.announce_again(), None, "it is under way");
        consuming.announced_again(Some(Offset(10)));
        assert!(consuming.contested());
        assert_eq!(consuming.announce_again(), Some(3));
        consuming.announced_again(None);
        assert!(consuming.contested(), "it never reached the log");
        assert_eq!(consuming.announce_again(), Some(3));
        consuming.announced_again(Some(Offset(12)));
        assert!(!consuming.contested());
        assert_eq!(consuming.announce_again(), None);
    }

    #[test]
    fn an_absurd_generation_in_the_log_does_not_silence_the_true_owner() {
        let mut owned = Owned::Consuming(claimed().announced(Offset(7)));
        assert_eq!(owned.heard(&said(2, u64::MAX, 8), ME), Said::Contested);
        let Owned::Consuming(mut consuming) = owned else {
            panic!()
        };
        assert_eq!(consuming.announce_again(), Some(u64::MAX));
        consuming.announced_again(Some(Offset(9)));
        let highest = Generation {
            group: u64::MAX,
            announced: 9,
        };
        assert_eq!((consuming.generation, consuming.contested()), (highest, false));
    }

    /// Nodes that heard ours keep to it; one that starts later finds only the last of its key in the compacted topic.
    #[test]
    fn an_announcement_behind_ours_is_answered_whatever_its_generation_and_whoever_made_it() {
        for worker in [1, 2] {
            let mut owned = Owned::Consuming(claimed().announced(Offset(7)));
            assert_eq!(owned.heard(&said(worker, 2, 6), ME), Said::Nothing);
            assert_eq!(owned.heard(&said(worker, 2, 9), ME), Said::Contested, "worker {worker}");
            let Owned::Consuming(mut consuming) = owned else {
                panic!()
            };
            assert_eq!(consuming.announce_again(), Some(3));
            consuming.announced_again(Some(Offset(10)));
            let again = Generation {
                group: 3,
                announced: 10,
            };
            assert_eq!((consuming.generation, consuming.contested()), (again, false));
        }
    }

    #[test]
    fn an_earlier_generations_announcement_behind_ours_counts_even_if_heard_before_the_report() {
        for worker in [1, 2] {
            let mut owned = Owned::Claimed(claimed());
            owned.heard(&said(worker, 2, 8), ME);
            assert!(announced(owned, 7).contested(), "worker {worker}");
        }
    }
}
