//! What a run's processes are set to: drawn from the seed, so that no constant is load-bearing by accident.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::env::{MS, S};

#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    pub partitions: u32,
    pub nodes: u8,
    pub workers: u8,
    pub persists: u8,
    pub desks: u8,
    /// Memory of a worker: small now and then, so that conversations leave it and cursors read from the store.
    pub bytes_budget: usize,
    /// Timers of all processes.
    pub tick_us: u64,
    /// Records in one answer of the log, at most.
    pub fetch_records: u64,
    /// Records persistence folds at once, at most.
    pub batch_records: usize,
    /// Persistence writes states and commits this often; rows at once.
    pub cut_us: u64,
    /// The desk is written down after so many records.
    pub snapshot_records: u64,
    /// A client's sends under way at once, and how often it acks.
    pub window: usize,
    pub ack_us: u64,
    /// One in so many ticks a client says something.
    pub talk_every: u64,
    /// The usual way through the network takes at most this.
    pub hop_us: u64,
    /// A member that is silent for this long loses its partitions.
    pub session_us: u64,
}

impl Knobs {
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        fn one<T: Copy>(rng: &mut ChaCha8Rng, of: &[T]) -> T {
            of[rng.random_range(0..of.len())]
        }
        Knobs {
            partitions: one(rng, &[1, 2, 3, 3, 4]),
            nodes: one(rng, &[1, 2, 2, 3]),
            workers: one(rng, &[1, 2, 2, 3, 3]),
            persists: one(rng, &[1, 2, 2]),
            desks: one(rng, &[1, 2, 2]),
            bytes_budget: one(rng, &[30_000, 60_000, 16_000_000, 16_000_000, 16_000_000]),
            tick_us: one(rng, &[100 * MS, 250 * MS, 250 * MS, 400 * MS]),
            fetch_records: one(rng, &[2, 16, 64, 64, 500]),
            batch_records: one(rng, &[1, 8, 32, 32, 256]),
            cut_us: one(rng, &[0, 200 * MS, 500 * MS, 2 * S]),
            snapshot_records: one(rng, &[5, 40, 40, 200]),
            window: one(rng, &[1, 4, 16, 64]),
            ack_us: one(rng, &[50 * MS, 300 * MS, 300 * MS, S]),
            talk_every: one(rng, &[4, 6, 6, 10]),
            hop_us: one(rng, &[MS, 3 * MS, 3 * MS, 40 * MS]),
            session_us: one(rng, &[3 * S, 6 * S, 6 * S]),
        }
    }
}
