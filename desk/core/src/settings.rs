//! A tenant's settings, as far as this build knows them. They are records like any other; without one the defaults hold.

use serde::{Deserialize, Serialize};

/// A month. Longer than that is a month, so that sums with it stay far from overflow.
const IDLE_CLOSE_MS_MAX: i64 = 2_592_000_000;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// How long a lost agent keeps the sessions.
    pub grace_ms: i64,
    /// A session in which nothing was said for this long is closed; 0: never. Activity is told every 30 s, so less than a
    /// minute is a minute; more than a month is a month.
    pub idle_close_ms: i64,
    /// Of agents that named none.
    pub capacity: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace_ms: 30_000,
            idle_close_ms: 0,
            capacity: 8,
        }
    }
}

impl Settings {
    /// `None`: not settings; the ones before stay.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let settings: Self = serde_json::from_slice(json).ok()?;
        Some(Self {
            grace_ms: settings.grace_ms.clamp(0, 3_600_000),
            idle_close_ms: match settings.idle_close_ms {
                ms if ms <= 0 => 0,
                ms => ms.clamp(60_000, IDLE_CLOSE_MS_MAX),
            },
            capacity: settings.capacity.min(crate::CAPACITY_MAX),
        })
    }
}
