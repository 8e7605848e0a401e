//! When to come back after a connection ended: close codes and refusals, full jitter, and the server's own wish. Pure.

use wire::CloseCode;

/// How long the client waits before it tries again, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The bound of the first wait; each failed try doubles it.
    pub base_ms: u64,
    pub max_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base_ms: 500,
            max_ms: 20_000,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// The WebSocket close code, or the number of a `close` frame; `None` if the network just ended it.
    pub code: Option<u16>,
    pub reason: String,
    /// The server's wish, from `goaway` or an HTTP `Retry-After`.
    pub retry_after_ms: Option<u64>,
}

impl Ended {
    pub fn lost(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            ..Self::default()
        }
    }

    pub fn closed(code: u16, reason: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            reason: reason.into(),
            ..Self::default()
        }
    }

    pub fn of(code: CloseCode) -> Self {
        Self::closed(code.number(), code.reason())
    }

    /// The protocol's rule: 3500–3999 do not come back; every other end, known or not, does.
    pub fn comes_back(&self) -> bool {
        !matches!(self.code, Some(3500..=3999))
    }
}

/// The wait before try number `failures` (0 is the first after a good connection). Full jitter: anything from 0 up to the bound is
/// equally likely; on top of the server's wish, so that clients told alike do not come back at once.
pub fn wait_ms(backoff: Backoff, failures: u32, ended: &Ended, random: u64) -> u64 {
    let bound = backoff
        .base_ms
        .saturating_mul(1u64.checked_shl(failures.min(32)).unwrap_or(u64::MAX))
        .min(backoff.max_ms);
    ended.retry_after_ms.unwrap_or(0).saturating_add(random % (bound + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_say_do_not_reconnect_are_obeyed_and_no_others() {
        for code in CloseCode::ALL {
            assert_eq!(Ended::of(code).comes_back(), code.reconnect(), "{code:?}");
        }
        assert!(Ended::lost("reset").comes_back());
        assert!(Ended::closed(1006, "").comes_back());
        assert!(!Ended::closed(3999, "").comes_back());
    }

    #[test]
    fn the_wait_is_jittered_bounded_and_never_below_the_servers_wish() {
        let backoff = Backoff::default();
        let lost = Ended::lost("");
        assert_eq!(wait_ms(backoff, 0, &lost, 0), 0);
        assert!((0..1000).all(|r| wait_ms(backoff, 0, &lost, r * 7919) <= 500));
        assert!((0..1000).any(|r| wait_ms(backoff, 60, &lost, r * 7919) > 5_000));
        assert!((0..1000).all(|r| wait_ms(backoff, u32::MAX, &lost, r * 7919) <= 20_000));
        let told = Ended {
            retry_after_ms: Some(3_000),
            ..Ended::lost("")
        };
        assert!((0..1000).all(|r| wait_ms(backoff, 0, &told, r * 7919) >= 3_000));
    }
}
