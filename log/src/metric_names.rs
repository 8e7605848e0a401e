//! Names of this crate's metrics. They belong into `process::metrics`; they stand here only until that exists.

/// Records reported durable, by `log` (embedded | kafka).
pub(crate) const APPENDED: &str = "switchboard_log_appended_total";
/// Records whose report was an error, by `log` and `outcome` (unknown | unavailable | too_large).
pub(crate) const PRODUCE_ERRORS: &str = "switchboard_log_produce_errors_total";
/// Records in one synced batch of the embedded log.
pub(crate) const EMBEDDED_BATCH_RECORDS: &str = "switchboard_log_embedded_batch_records";
/// Time of one synced batch of the embedded log.
pub(crate) const EMBEDDED_COMMIT_SECONDS: &str = "switchboard_log_embedded_commit_seconds";
/// Rebalances a member of a group went through, by `group`.
pub(crate) const REBALANCES: &str = "switchboard_log_rebalances_total";
/// Commits refused because the partition had another owner, by `group`.
pub(crate) const FENCED_COMMITS: &str = "switchboard_log_fenced_commits_total";
/// Fatal producer errors that replaced the producer.
pub(crate) const PRODUCERS_REPLACED: &str = "switchboard_log_producers_replaced_total";
