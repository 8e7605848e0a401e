//! Topic names, and the function that says which partition a conversation's records go to.

use crate::ids::{ConversationKey, Lane, Tenant};
use crate::position::{Epoch, Partition};

/// The platform's compacted control topic; one partition.
pub const CONTROL: &str = "switchboard.control";

/// The topics of one lane in one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneTopics {
    pub lane: Lane,
    pub epoch: Epoch,
    /// Number of partitions of `messages`, `desk`, `dead letters` and `desk snapshots`.
    pub partitions: u32,
}

impl LaneTopics {
    fn name(&self, what: &str) -> String {
        format!("switchboard.{}.{}.e{}", self.lane, what, self.epoch)
    }

    pub fn messages(&self) -> String {
        self.name("messages")
    }

    pub fn desk(&self) -> String {
        self.name("desk")
    }

    /// Compacted; one partition; key = the partition in decimal.
    pub fn owners(&self) -> String {
        self.name("owners")
    }

    /// Compacted; key = the tenant.
    pub fn desk_snapshots(&self) -> String {
        self.name("desk-snapshots")
    }

    /// What could not be decoded, as it was, with topic, partition and offset in its headers.
    pub fn dead_letters(&self) -> String {
        self.name("dead-letters")
    }

    /// Consumer group of the delivery workers.
    pub fn delivery_group(&self) -> String {
        self.name("delivery")
    }

    /// Consumer group of the persistence consumers. Its committed offset says what is in the store.
    pub fn persistence_group(&self) -> String {
        self.name("persistence")
    }

    /// Consumer group of the desks.
    pub fn desk_group(&self) -> String {
        self.name("desk")
    }

    pub fn partition_of(&self, key: &ConversationKey) -> Partition {
        partition_of(&key.to_key(), self.partitions)
    }

    /// All of a tenant's desk records are in one partition, in one order.
    pub fn desk_partition_of(&self, tenant: &Tenant) -> Partition {
        partition_of(tenant.as_str().as_bytes(), self.partitions)
    }
}

/// FNV-1a (64 bit) of the key, mixed with the finaliser of SplitMix64, modulo the number of partitions.
/// Changing it is a new epoch of every lane.
///
/// # Panics
/// If `partitions` is 0.
pub fn partition_of(key: &[u8], partitions: u32) -> Partition {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for &byte in key {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    Partition((hash % u64::from(partitions)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_function_is_fixed_for_ever() {
        let got: Vec<u32> = ["demo/alice", "demo/bob", "acme/爱丽丝", ""]
            .iter()
            .map(|k| partition_of(k.as_bytes(), 12).0)
            .collect();
        assert_eq!(got, FIXED);
    }

    const FIXED: [u32; 4] = [7, 11, 7, 3];

    #[test]
    fn keys_spread_evenly() {
        let mut count = [0u32; 12];
        for i in 0..12_000 {
            count[partition_of(format!("demo/user-{i}").as_bytes(), 12).0 as usize] += 1;
        }
        assert!(count.iter().all(|&n| (800..1200).contains(&n)), "{count:?}");
    }
}
