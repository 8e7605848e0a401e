//! How long events and closed sessions are kept, alike in every store: from their own time on, so that writing them again
//! prolongs nothing. A conversation's row (state, watermarks, where it ends) never expires.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::Tenant;

/// How long rows live.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// Seconds from an event's time on; 0: for ever.
    pub ttl_s: u64,
    /// Other times for some tenants.
    pub ttl_s_by_tenant: BTreeMap<String, u64>,
}

/// CQL's own limit of a TTL: 20 years.
const TTL_S_MAX: u64 = 630_720_000;

impl Retention {
    /// Whether nothing ever expires.
    pub fn keeps_everything(&self) -> bool {
        self.ttl_s == 0 && self.ttl_s_by_tenant.values().all(|ttl_s| *ttl_s == 0)
    }

    fn of(&self, tenant: &str) -> u64 {
        *self.ttl_s_by_tenant.get(tenant).unwrap_or(&self.ttl_s)
    }

    /// What is left for a row about something that happened at `at_ms`, as a TTL of CQL: 0 for ever, `None` if its time is
    /// over and it need not be written.
    pub(crate) fn left_s(&self, tenant: &Tenant, at_ms: i64, now_ms: i64) -> Option<i32> {
        let ttl_s = self.of(tenant.as_str());
        if ttl_s == 0 {
            return Some(0);
        }
        // An event from the future (a broker's clock) lives no longer than one from now.
        let age_s = (now_ms - at_ms).max(0) / 1_000;
        let left = ttl_s.min(TTL_S_MAX) as i64 - age_s;
        (left > 0).then_some(left as i32)
    }

    /// The same question of a store that has no TTL of its own.
    pub(crate) fn is_over(&self, tenant: &str, at_ms: i64, now_ms: i64) -> bool {
        let ttl_s = self.of(tenant);
        ttl_s > 0 && (now_ms - at_ms).max(0) / 1_000 >= ttl_s.min(TTL_S_MAX) as i64
    }

    pub(crate) fn keeps_all_of(&self, tenant: &str) -> bool {
        self.of(tenant) == 0
    }
}

/// Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_prolongs_nothing_and_what_is_over_is_not_written() {
        let retention = Retention {
            ttl_s: 172_800,
            ttl_s_by_tenant: [("keeps".to_owned(), 0), ("long".to_owned(), u64::MAX)].into(),
        };
        let left = |tenant: &str, age_s: i64| {
            let left = retention.left_s(&Tenant::new(tenant).unwrap(), 0, age_s * 1_000);
            assert_eq!(
                left.is_none(),
                retention.is_over(tenant, 0, age_s * 1_000),
                "{tenant} {age_s}"
            );
            left
        };
        assert_eq!(left("demo", 0), Some(172_800));
        assert_eq!(left("demo", 172_799), Some(1));
        assert_eq!(left("demo", 172_800), None);
        assert_eq!(left("demo", -60), Some(172_800));
        assert_eq!(left("keeps", 1 << 40), Some(0));
        assert_eq!(left("long", 0), Some(630_720_000));
        assert!(!retention.keeps_everything() && Retention::default().keeps_everything());
    }
}
