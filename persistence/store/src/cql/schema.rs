//! The tables of the history, as CQL. Where each rule comes from is DESIGN.md §5 and §11.
//!
//! - Every write names its write time: the position of the record that caused it, `epoch << 40 | offset`. So write times lie
//!   in 1970, a write without one (now, in microseconds) would hide all later ones, and nothing may ever write so.
//! - The same is why compaction is by size: for a compaction by time all of it would be one window.
//! - A cell is written whole or not at all: no null is ever bound, it would be a tombstone.
//! - A conversation's row never expires and is never deleted: it knows `last_seq`.

/// The statements that make keyspace and tables where there are none yet; safe to repeat. `replication` is CQL's map, e.g.
/// `{'class': 'NetworkTopologyStrategy', 'dc1': 3}`.
pub fn schema_cql(keyspace: &str, replication: &str) -> Vec<String> {
    let table = |name: &str, columns: &str, options: &str| {
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.{name} ({columns}) WITH {options}{}compaction = {COMPACTION}",
            if options.is_empty() { "" } else { " AND " }
        )
    };
    vec![
        format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}"),
        // `event`: [version][flags][at_ms][the entry as pushed]; its WRITETIME is its position.
        table(
            "events",
            "tenant text, customer text, bucket int, seq bigint, event blob, \
             PRIMARY KEY ((tenant, customer, bucket), seq)",
            "CLUSTERING ORDER BY (seq DESC)",
        ),
        // `state` and `last_seq` have the time of the state's position. A watermark's write time is the watermark: the
        // higher one stands, whoever writes it and in whatever order, and nobody has to read it first.
        table(
            "conversations",
            "tenant text, customer text, state blob, last_seq bigint, \
             customer_recv bigint, customer_read bigint, agent_recv bigint, agent_read bigint, \
             PRIMARY KEY ((tenant, customer))",
            "",
        ),
        table(
            "open_sessions",
            "lane text, epoch int, partition int, tenant text, customer text, agent text, state int, \
             PRIMARY KEY ((lane, epoch, partition), tenant, customer)",
            "",
        ),
        // `month` is year * 12 + month − 1 of the opening, UTC.
        table(
            "sessions_by_agent",
            "tenant text, agent text, month int, opened_at timestamp, customer text, \
             closed_at timestamp, first_seq bigint, last_seq bigint, \
             PRIMARY KEY ((tenant, agent, month), opened_at, customer)",
            "CLUSTERING ORDER BY (opened_at DESC, customer ASC)",
        ),
        // `day` is days since 1970 of the closing, UTC: a day that is over is complete. `shard`: 0 … 15, of the customer.
        table(
            "sessions_by_day",
            "tenant text, day int, shard int, closed_at timestamp, customer text, \
             agent text, opened_at timestamp, first_seq bigint, last_seq bigint, \
             PRIMARY KEY ((tenant, day, shard), closed_at, customer)",
            "",
        ),
    ]
}

const COMPACTION: &str = "{'class': 'SizeTieredCompactionStrategy'}";

/// Parts of a day in `sessions_by_day`.
pub(super) const DAY_SHARDS: u32 = 16;
const DAY_MS: i64 = 86_400_000;

pub(super) fn day_of(at_ms: i64) -> i32 {
    at_ms.div_euclid(DAY_MS) as i32
}

/// Months since year 0, UTC.
pub(super) fn month_of(at_ms: i64) -> i32 {
    // Days to a civil date, after H. Hinnant's "chrono-compatible low-level date algorithms": years begin in March.
    let days = i64::from(day_of(at_ms)) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    ((era * 400 + year_of_era) * 12 + month_from_march + 2) as i32
}

/// FNV-1a: a part of the day that every build agrees on.
pub(super) fn shard_of(customer: &str) -> i32 {
    let hash = customer.bytes().fold(0x811c_9dc5_u32, |hash, b| {
        (hash ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    (hash % DAY_SHARDS) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let month = |year: i32, month: i32| year * 12 + month - 1;
        for (at_s, expected) in [
            (0, month(1970, 1)),
            (951_782_399, month(2000, 2)),
            (951_868_799, month(2000, 2)),
            (951_868_800, month(2000, 3)),
            (1_767_225_599, month(2025, 12)),
            (1_767_225_600, month(2026, 1)),
            (-1, month(1969, 12)),
        ] {
            assert_eq!(month_of(at_s * 1_000), expected, "{at_s}");
        }
    }

    #[test]
    fn every_statement_can_be_repeated() {
        assert!(schema_cql("k", "{}").iter().all(|cql| cql.contains("IF NOT EXISTS k")));
    }
}
