//! The digest of a keyspace: every row of every table with the write times of its cells, read at the strictest consistency.
//! TTLs are left out: what is left of them depends on when a row was written, its end does not.

use futures::TryStreamExt;
use scylla::statement::Consistency;
use scylla::value::{CqlValue, Row};

use super::{Cql, error};
use crate::{Digest, StoreError};

/// What is read of each table.
const TABLES: [(&str, &str); 5] = [
    ("events", "tenant, customer, bucket, seq, event, WRITETIME(event)"),
    (
        "conversations",
        "tenant, customer, state, WRITETIME(state), last_seq, WRITETIME(last_seq), \
         customer_recv, WRITETIME(customer_recv), customer_read, WRITETIME(customer_read), \
         agent_recv, WRITETIME(agent_recv), agent_read, WRITETIME(agent_read)",
    ),
    (
        "open_sessions",
        "lane, epoch, partition, tenant, customer, agent, WRITETIME(agent), state, WRITETIME(state)",
    ),
    (
        "sessions_by_agent",
        "tenant, agent, month, opened_at, customer, closed_at, first_seq, last_seq, WRITETIME(closed_at)",
    ),
    (
        "sessions_by_day",
        "tenant, day, shard, closed_at, customer, agent, opened_at, first_seq, last_seq, WRITETIME(agent)",
    ),
];

pub(super) async fn digest(cql: &Cql) -> Result<Digest, StoreError> {
    let mut digest = Digest::default();
    for (table, columns) in TABLES {
        let text = format!("SELECT {columns} FROM {}.{table}", cql.keyspace);
        let mut statement = cql.session.prepare(text).await.map_err(error::of_prepare)?;
        statement.set_consistency(Consistency::All);
        statement.set_is_idempotent(true);
        let unavailable = |e: &dyn std::fmt::Display| StoreError::Unavailable(e.to_string());
        let rows = cql
            .session
            .execute_iter(statement, ())
            .await
            .map_err(|e| unavailable(&e))?;
        let mut rows = rows.rows_stream::<Row>().map_err(error::torn)?;
        while let Some(row) = rows.try_next().await.map_err(|e| unavailable(&e))? {
            let fields: Vec<Vec<u8>> = row.columns.iter().map(|value| bytes_of(value.as_ref())).collect();
            let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            digest.row(table, &fields);
        }
    }
    Ok(digest)
}

/// A value's bytes; no value and an empty one differ.
fn bytes_of(value: Option<&CqlValue>) -> Vec<u8> {
    match value {
        None => vec![0],
        Some(CqlValue::Blob(bytes)) => [&[1], &bytes[..]].concat(),
        Some(CqlValue::Text(text)) => [&[1], text.as_bytes()].concat(),
        Some(value) => [b"\x01", format!("{value:?}").as_bytes()].concat(),
    }
}
