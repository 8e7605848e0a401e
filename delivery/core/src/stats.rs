//! Counts and times for the driver's metrics. Taken and zeroed once per wake-up.

/// What happened since the last take. Times are milliseconds from the node's `received_at_ms`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    pub records: u64,
    pub folded: u64,
    pub repeats: u64,
    pub skipped: u64,
    pub superseded: u64,
    pub dropped: u64,
    pub pushed: u64,
    pub placed: u64,
    pub acked: u64,
    pub resets: u64,
    pub rewinds: u64,
    pub too_slow: u64,
    pub replaced: u64,
    pub refused_generation: u64,
    pub registered_fresh: u64,
    pub registered_again: u64,
    pub not_owner: u64,
    pub marks: u64,
    pub pages: u64,
    /// Records read again from the log.
    pub read_back: u64,
    pub loads: u64,
    pub evicted: u64,
    pub folded_ms: Vec<u32>,
    pub pushed_ms: Vec<u32>,
    pub acked_ms: Vec<u32>,
}

/// Milliseconds since a node's clock said `received_at_ms`; `None` if it said nothing. Clocks differ: never negative.
pub(crate) fn since(now_ms: u64, received_at_ms: i64) -> Option<u32> {
    (received_at_ms > 0).then(|| u32::try_from(now_ms.saturating_sub(received_at_ms as u64)).unwrap_or(u32::MAX))
}
