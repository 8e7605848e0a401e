//! The desk's time: the sum of the steps between append times, each at least 0 and at most 2 s. So an outage, or a clock's
//! jump, is a step of 2 s and fires nothing.

use serde::{Deserialize, Serialize};
use wire::limits::DESK_CLOCK_STEP_MS_MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Clock {
    now_ms: i64,
    last_at_ms: Option<i64>,
}

impl Clock {
    /// Milliseconds since the machine's first record.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// A record with this append time came.
    pub fn advance(&mut self, at_ms: i64) {
        if let Some(last) = self.last_at_ms {
            self.now_ms += at_ms.saturating_sub(last).clamp(0, DESK_CLOCK_STEP_MS_MAX);
        }
        self.last_at_ms = Some(at_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_and_a_jump_are_steps_of_two_seconds_and_time_never_falls() {
        let mut clock = Clock::default();
        for at in [1_000, 1_500, 3_600_000, 3_600_100, 50, 150, i64::MAX, i64::MIN] {
            clock.advance(at);
        }
        assert_eq!(clock.now_ms(), 500 + 2_000 + 100 + 100 + 2_000);
    }
}
