//! How to reach the CQL cluster, and what is asked of it.

use std::fmt;

use scylla::statement::Consistency;

use crate::{Retention, StoreError};

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
    pub retention: Retention,
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
            retention: Retention::default(),
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
            .field("retention", &self.retention)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
