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
    /// The group's generation, or a higher one that was announced of the partition before.
    group: u64,
    /// Tells this ownership's answers from an earlier one's.
    pub claim: u64,
    /// Our highest announcement of this generation heard meanwhile.
    heard_ours: Option<Offset>,
    cancel: CancelOnDrop,
}

/// Announced and read: the core has it.
#[derive(Debug)]
pub(crate) struct Consuming {
    pub at: TopicPartition,
    pub claim: u64,
    pub generation: Generation,
    /// A repeated announcement is under way, as of this generation of the group.
    announcing: Option<u64>,
    /// Log and store disagree: nothing is read any more.
    pub stopped: bool,
    /// Append time of the last record folded.
    pub last_at_ms: i64,
    cancel: CancelOnDrop,
}

/// What stands in `owners` of one partition, whoever said it and whether or not it was ours to contest then: a tail that has
/// caught up brings nothing twice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Announced {
    /// The highest announcement, as nodes rank them.
    highest: Generation,
    /// The last one, in whatever generation: of a compacted topic a node that comes later reads no other.
    last: u64,
}

impl Announced {
    pub fn hear(&mut self, said: &Heard) {
        self.last = self.last.max(said.offset.0);
        self.highest = self.highest.max(said.generation());
    }

    /// Is there one that nodes rank above ours, or that is all they are left with?
    fn hides(&self, ours: Generation) -> bool {
        self.highest > ours || self.last > ours.announced
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
            cancel: CancelOnDrop(CancellationToken::new()),
        }
    }

    /// Cancelled when the partition is let go, at whatever step.
    pub fn token(&self) -> CancellationToken {
        self.cancel.0.clone()
    }

    /// The generation of the group to announce it with: never below what was announced before, whatever that claimed.
    pub fn announce(&mut self, over: &Announced) -> u64 {
        self.group = self.group.max(over.highest.group);
        self.group
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
    pub fn contested(&self, by: &Announced) -> bool {
        by.hides(self.generation)
    }

    /// The partition is ours although another announcement hides ours. Returns the generation of the group to say so
    /// with, unless that is under way: never below theirs, whatever they claimed, or no node would ever hear us again.
    pub fn announce_again(&mut self, over: &Announced) -> Option<u64> {
        if !self.contested(over) || self.announcing.is_some() || self.stopped {
            return None;
        }
        self.announcing = Some(self.generation.group.max(over.highest.group));
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

    /// An announcement of this partition was heard, the last of `all`; `me` is this worker.
    pub fn heard(&mut self, said: &Heard, all: &Announced, me: WorkerId) -> Said {
        let ours = said.worker == me;
        match self {
            Owned::Claimed(c) => {
                if ours && said.group == c.group {
                    c.heard_ours = c.heard_ours.max(Some(said.offset));
                }
                Said::Nothing
            }
            Owned::Consuming(c) => {
                if ours && said.generation() > c.generation {
                    c.generation = said.generation();
                    Said::Ours(c.generation)
                } else if c.contested(all) {
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

    /// An ownership, and all that was announced of its partition.
    struct Told {
        owned: Option<Owned>,
        all: Announced,
    }

    impl Told {
        fn claimed() -> Self {
            Self {
                owned: Some(Owned::Claimed(claimed())),
                all: Announced::default(),
            }
        }

        /// Announced at 7.
        fn consuming() -> Self {
            let mut told = Self::claimed();
            told.reported(7);
            told
        }

        /// `of`: worker, group, offset.
        fn hear(&mut self, of: (u64, u64, u64)) -> Said {
            let said = Heard {
                partition: Partition(2),
                worker: WorkerId(of.0),
                group: of.1,
                offset: Offset(of.2),
            };
            self.all.hear(&said);
            self.owned
                .as_mut()
                .map_or(Said::Nothing, |o| o.heard(&said, &self.all, ME))
        }

        fn reported(&mut self, offset: u64) {
            if let Some(Owned::Claimed(c)) = self.owned.take() {
                self.owned = Some(Owned::Consuming(c.announced(Offset(offset))));
            }
        }

        fn ours(&mut self) -> &mut Consuming {
            match &mut self.owned {
                Some(Owned::Consuming(c)) => c,
                other => panic!("{other:?}"),
            }
        }

        fn contested(&mut self) -> bool {
            let all = self.all;
            self.ours().contested(&all)
        }

        fn announce_again(&mut self) -> Option<u64> {
            let all = self.all;
            self.ours().announce_again(&all)
        }
    }

    #[test]
    fn an_own_announcement_that_lands_again_is_adopted() {
        let mut told = Told::consuming();
        assert_eq!(told.hear((1, 3, 7)), Said::Nothing);
        let adopted = Generation { group: 3, announced: 9 };
        assert_eq!(told.hear((1, 3, 9)), Said::Ours(adopted));
        assert_eq!(told.hear((1, 3, 8)), Said::Nothing);
    }

    #[test]
    fn the_highest_own_announcement_heard_before_the_report_is_the_one_that_counts() {
        let mut told = Told::claimed();
        told.hear((1, 2, 8));
        told.hear((1, 3, 9));
        told.reported(7);
        assert_eq!((told.ours().generation.announced, told.contested()), (9, false));
        let mut told = Told::claimed();
        told.hear((1, 3, 7));
        told.reported(9);
        assert_eq!(told.ours().generation.announced, 9);
    }

    #[test]
    fn anothers_announcement_above_ours_is_contested_even_if_heard_before_the_report() {
        let mut told = Told::consuming();
        assert_eq!(told.hear((2, 3, 6)), Said::Nothing);
        assert_eq!(told.hear((2, 3, 8)), Said::Contested);
        let contested = |theirs: u64| {
            let mut told = Told::claimed();
            told.hear((2, 3, theirs));
            told.reported(7);
            told.contested()
        };
        assert_eq!((contested(6), contested(8)), (false, true));
    }

    #[test]
    fn what_was_announced_before_the_partition_was_ours_counts() {
        let mut told = Told {
            owned: None,
            all: Announced::default(),
        };
        told.hear((2, 9, 5));
        told.hear((2, 1, 6));
        let mut ours = claimed();
        assert_eq!(ours.announce(&told.all), 9);
        told.owned = Some(Owned::Claimed(ours));
        told.reported(7);
        assert_eq!(told.ours().generation, Generation { group: 9, announced: 7 });
        assert!(!told.contested());
    }

    #[test]
    fn a_repeated_announcement_below_anothers_leaves_it_contested() {
        let mut told = Told::consuming();
        told.hear((2, 3, 11));
        assert_eq!(told.announce_again(), Some(3));
        assert_eq!(told.announce_again(), None, "it is under way");
        told.ours().announced_again(Some(Offset(10)));
        assert!(told.contested());
        assert_eq!(told.announce_again(), Some(3));
        told.ours().announced_again(None);
        assert!(told.contested(), "it never reached the log");
        assert_eq!(told.announce_again(), Some(3));
        told.ours().announced_again(Some(Offset(12)));
        assert!(!told.contested());
        assert_eq!(told.announce_again(), None);
    }

    #[test]
    fn an_absurd_generation_in_the_log_does_not_silence_the_true_owner() {
        let mut told = Told::consuming();
        assert_eq!(told.hear((2, u64::MAX, 8)), Said::Contested);
        assert_eq!(told.announce_again(), Some(u64::MAX));
        told.ours().announced_again(Some(Offset(9)));
        let highest = Generation {
            group: u64::MAX,
            announced: 9,
        };
        assert_eq!((told.ours().generation, told.contested()), (highest, false));
    }

    /// Nodes that heard ours keep to it; one that starts later finds only the last of its key in the compacted topic.
    #[test]
    fn an_announcement_behind_ours_is_answered_whatever_its_generation_and_whoever_made_it() {
        for worker in [1, 2] {
            let mut told = Told::consuming();
            assert_eq!(told.hear((worker, 2, 6)), Said::Nothing);
            assert_eq!(told.hear((worker, 2, 9)), Said::Contested, "worker {worker}");
            assert_eq!(told.announce_again(), Some(3));
            told.ours().announced_again(Some(Offset(10)));
            let again = Generation {
                group: 3,
                announced: 10,
            };
            assert_eq!((told.ours().generation, told.contested()), (again, false));
        }
    }

    #[test]
    fn an_earlier_generations_announcement_behind_ours_counts_even_if_heard_before_the_report() {
        for worker in [1, 2] {
            let mut told = Told::claimed();
            told.hear((worker, 2, 8));
            told.reported(7);
            assert!(told.contested(), "worker {worker}");
        }
    }
}
