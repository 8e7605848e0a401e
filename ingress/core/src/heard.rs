//! The highest generation heard of per partition. What comes from a lower one comes from a worker that was replaced while it
//! slept, and is refused (invariant I11).

use wire::{Generation, Partition};

#[derive(Clone, Debug, Default)]
pub struct Heard(Vec<Generation>);

impl Heard {
    pub fn new(partitions: u32) -> Self {
        Self(vec![Generation::default(); partitions as usize])
    }

    /// Takes note of a generation; `false` if a higher one was heard before, or there is no such partition.
    pub fn accept(&mut self, partition: Partition, generation: Generation) -> bool {
        match self.0.get_mut(partition.0 as usize) {
            Some(highest) if generation >= *highest => {
                *highest = generation;
                true
            }
            _ => false,
        }
    }

    pub fn highest(&self, partition: Partition) -> Generation {
        self.0.get(partition.0 as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_generation_is_refused_for_its_partition_only() {
        let g = |group, announced| Generation { group, announced };
        let mut heard = Heard::new(2);
        assert!(heard.accept(Partition(0), g(1, 5)));
        assert!(heard.accept(Partition(0), g(1, 5)));
        assert!(heard.accept(Partition(0), g(2, 1)));
        assert!(!heard.accept(Partition(0), g(1, 9)));
        assert!(heard.accept(Partition(1), g(1, 9)));
        assert!(!heard.accept(Partition(2), g(9, 9)));
        assert_eq!(heard.highest(Partition(0)), g(2, 1));
    }
}
