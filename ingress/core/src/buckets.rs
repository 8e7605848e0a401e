//! Token buckets in eight bytes: the generic cell rate algorithm keeps only the time at which the bucket would be full again.
//! (ITU-T I.371, "virtual scheduling".) No timer, no heap, nothing to refill.

/// So many units a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_s: u32,
    pub burst: u32,
}

/// A bucket; the default one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it would be full again, nanoseconds of the caller's clock.
    full_at_ns: u64,
}

/// How long to wait before the same would be granted; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfterMs(pub u64);

impl Bucket {
    /// Takes `units`, or leaves the bucket as it is. More units than the burst are granted when it is full.
    pub fn take(&mut self, now_ms: u64, units: u32, rate: Rate) -> Result<(), RetryAfterMs> {
        let now_ns = now_ms.saturating_mul(1_000_000);
        let span = |units: u32| u64::from(units) * 1_000_000_000 / u64::from(rate.per_s.max(1));
        let full_at = self.full_at_ns.max(now_ns) + span(units.min(rate.burst));
        let late_ns = (full_at - now_ns).saturating_sub(span(rate.burst));
        if late_ns > 0 {
            return Err(RetryAfterMs(late_ns.div_ceil(1_000_000)));
        }
        self.full_at_ns = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_s: 10, burst: 5 };

    #[test]
    fn a_full_bucket_grants_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        for _ in 0..5 {
            assert_eq!(bucket.take(1000, 1, RATE), Ok(()));
        }
        assert_eq!(bucket.take(1000, 1, RATE), Err(RetryAfterMs(100)));
        assert_eq!(bucket.take(1099, 1, RATE), Err(RetryAfterMs(1)));
        assert_eq!(bucket.take(1100, 1, RATE), Ok(()));
    }

    #[test]
    fn what_is_larger_than_the_burst_is_granted_to_a_full_bucket_only() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(0, 50, RATE), Ok(()));
        assert!(bucket.take(0, 50, RATE).is_err());
        assert_eq!(bucket.take(500, 50, RATE), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_and_a_retry_is_granted(
            per_s in 1u32..1000, burst in 1u32..1000,
            asks in proptest::collection::vec((0u64..500, 1u32..50), 1..200),
        ) {
            let rate = Rate { per_s, burst };
            let (mut bucket, mut now, mut granted) = (Bucket::default(), 1_000_000u64, 0u64);
            let start = now;
            for (step, units) in asks {
                now += step;
                let units = units.min(burst);
                if bucket.take(now, units, rate).is_ok() { granted += u64::from(units); }
                let allowed = u64::from(burst) + u64::from(per_s) * (now - start) / 1000 + 1;
                prop_assert!(granted <= allowed + u64::from(burst.min(1)), "{granted} > {allowed}");
            }
            if let Err(RetryAfterMs(wait)) = bucket.take(now, 1, rate) {
                prop_assert!(wait >= 1);
                prop_assert_eq!(bucket.take(now + wait, 1, rate), Ok(()));
            }
        }
    }
}
