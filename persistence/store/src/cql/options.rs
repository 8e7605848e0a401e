//! How to reach the CQL cluster, and what is asked of it.

use std::collections::BTreeMap;
use std::fmt;

use scylla::statement::Consistency;
use wire::Tenant;

use crate::StoreError;

#[derive(Clone)]
pub struct CqlOptions {
    /// `host:port`; any that answers leads to the others.
    pub contact_points: Vec<String>,
    /// `[a-z][a-z0-9_]*`, at most 48 bytes.
    pub keyspace: String,
    pub user: Option<String>,
    pub password: Option<String>,
    /// CQL's map, for [`super::Cql::create_schema`] alone.
    pub replication: String,
    /// Where our replicas are; all if left out.
    pub datacenter: Option<String>,
    /// Events are kept this long from their time on; 0: for ever.
    pub ttl_days: u32,
    pub ttl_days_by_tenant: BTreeMap<String, u32>,
    /// Of state, watermarks, sessions, and of all writes.
    pub consistency: String,
    /// Of pages at first; a page with a hole is read again at `reread_consistency`.
    pub page_consistency: String,
    pub reread_consistency: String,
    /// Of one request, its retries included.
    pub request_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// Statements and batches under way at once.
    pub in_flight_max: usize,
}

impl Default for CqlOptions {
    fn default() -> Self {
        Self {
            contact_points: vec!["127.0.0.1:9042".into()],
            keyspace: "switchboard".into(),
            user: None,
            password: None,
            replication: "{'class': 'SimpleStrategy', 'replication_factor': 1}".into(),
            datacenter: None,
            ttl_days: 365,
            ttl_days_by_tenant: BTreeMap::new(),
            consistency: "LOCAL_QUORUM".into(),
            page_consistency: "LOCAL_ONE".into(),
            reread_consistency: "QUORUM".into(),
            request_timeout_ms: 5_000,
            connect_timeout_ms: 5_000,
            in_flight_max: 128,
        }
    }
}

/// Leaves the password out.
impl fmt::Debug for CqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CqlOptions")
            .field("contact_points", &self.contact_points)
            .field("keyspace", &self.keyspace)
            .field("user", &self.user)
            .field("ttl_days", &self.ttl_days)
            .finish_non_exhaustive()
    }
}

impl CqlOptions {
    /// The keyspace, if it can stand in a statement as it is.
    pub(super) fn keyspace(&self) -> Result<&str, StoreError> {
        let name = self.keyspace.as_str();
        let is_name = name.len() <= 48
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if is_name {
            return Ok(name);
        }
        Err(StoreError::Failed(format!(
            "the keyspace is {name:?}; it must be at most 48 of a–z, 0–9 and '_', the first a letter"
        )))
    }

    pub(super) fn retention(&self) -> Retention {
        Retention {
            days: self.ttl_days,
            days_by_tenant: self.ttl_days_by_tenant.clone(),
        }
    }
}

pub(super) fn consistency_of(name: &str) -> Result<Consistency, StoreError> {
    Ok(match name.to_ascii_uppercase().as_str() {
        "ONE" => Consistency::One,
        "TWO" => Consistency::Two,
        "THREE" => Consistency::Three,
        "QUORUM" => Consistency::Quorum,
        "ALL" => Consistency::All,
        "LOCAL_ONE" => Consistency::LocalOne,
        "LOCAL_QUORUM" => Consistency::LocalQuorum,
        "EACH_QUORUM" => Consistency::EachQuorum,
        _ => {
            return Err(StoreError::Failed(format!(
                "the consistency is {name:?}; it may be ONE, TWO, THREE, QUORUM, ALL, LOCAL_ONE, LOCAL_QUORUM or EACH_QUORUM"
            )));
        }
    })
}

/// How long rows live.
pub(super) struct Retention {
    days: u32,
    days_by_tenant: BTreeMap<String, u32>,
}

/// CQL's own limit of a TTL: 20 years.
const TTL_S_MAX: i64 = 630_720_000;
const DAY_S: i64 = 86_400;

impl Retention {
    /// The TTL of a row about something that happened at `at_ms`, so that writing it again prolongs nothing: 0 for ever, `None`
    /// if its time is over and it need not be written.
    pub fn ttl_s(&self, tenant: &Tenant, at_ms: i64, now_ms: i64) -> Option<i32> {
        let days = self.days_by_tenant.get(tenant.as_str()).unwrap_or(&self.days);
        if *days == 0 {
            return Some(0);
        }
        // An event from the future (a broker's clock) lives no longer than one from now.
        let age_s = (now_ms - at_ms).max(0) / 1_000;
        let left = (i64::from(*days) * DAY_S).min(TTL_S_MAX) - age_s;
        (left > 0).then_some(left as i32)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_prolongs_nothing_and_what_is_over_is_not_written() {
        let options = CqlOptions {
            ttl_days: 2,
            ttl_days_by_tenant: [("keeps".to_owned(), 0), ("long".to_owned(), u32::MAX)].into(),
            ..Default::default()
        };
        let ttl = |tenant: &str, age_s: i64| {
            options
                .retention()
                .ttl_s(&Tenant::new(tenant).unwrap(), 0, age_s * 1_000)
        };
        assert_eq!(ttl("demo", 0), Some(172_800));
        assert_eq!(ttl("demo", 172_799), Some(1));
        assert_eq!(ttl("demo", 172_800), None);
        assert_eq!(ttl("demo", -60), Some(172_800));
        assert_eq!(ttl("keeps", 1 << 40), Some(0));
        assert_eq!(ttl("long", 0), Some(630_720_000));
    }

    #[test]
    fn a_keyspace_that_is_more_than_a_name_and_a_password_in_a_log_are_refused() {
        let options = |keyspace: &str| CqlOptions {
            keyspace: keyspace.into(),
            password: Some("hunter2".into()),
            ..Default::default()
        };
        assert!(options("sb_1").keyspace().is_ok());
        for bad in ["", "1a", "a; DROP", "A", &"a".repeat(49)] {
            assert!(options(bad).keyspace().is_err(), "{bad}");
        }
        assert!(!format!("{:?}", options("a")).contains("hunter2"));
        assert!(consistency_of("local_quorum").is_ok() && consistency_of("MOST").is_err());
    }
}
