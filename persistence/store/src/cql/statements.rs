//! Every statement on the tables, prepared once, all marked idempotent: each write names its write time, so writing it twice
//! is writing it once, and the driver may retry.

use scylla::client::session::Session;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

use super::error;
use super::options::{CqlOptions, consistency_of};
use crate::StoreError;

pub(super) struct Statements {
    pub put_event: PreparedStatement,
    pub put_state: PreparedStatement,
    pub put_state_alone: PreparedStatement,
    pub put_last_seq: PreparedStatement,
    /// Customer's recv and read, agent's recv and read.
    pub put_marks: [PreparedStatement; 4],
    pub put_open: PreparedStatement,
    pub delete_open: PreparedStatement,
    pub put_by_agent: PreparedStatement,
    pub put_by_day: PreparedStatement,

    pub get_conversation: PreparedStatement,
    pub get_last_seq: PreparedStatement,
    pub get_span: PreparedStatement,
    pub reread_span: PreparedStatement,
    pub reread_span_falling: PreparedStatement,
    pub get_open: PreparedStatement,
    pub get_by_agent: PreparedStatement,
    pub ping: PreparedStatement,
}

impl Statements {
    pub async fn prepare(session: &Session, options: &CqlOptions) -> Result<Self, StoreError> {
        let keyspace = options.keyspace()?;
        let all = consistency_of(&options.consistency)?;
        let pages = consistency_of(&options.page_consistency)?;
        let rereads = consistency_of(&options.reread_consistency)?;
        let prepare = async |cql: &str, consistency: Consistency| {
            let cql = cql.replace("KS.", &format!("{keyspace}."));
            let mut statement = session.prepare(cql).await.map_err(error::of_prepare)?;
            statement.set_is_idempotent(true);
            statement.set_consistency(consistency);
            Ok::<_, StoreError>(statement)
        };
        let put_mark = async |mark: &str| {
            let cql =
                format!("UPDATE KS.conversations USING TIMESTAMP ? SET {mark} = ? WHERE tenant = ? AND customer = ?");
            prepare(&cql, all).await
        };
        let span = |order: &str| {
            format!(
                "SELECT seq, event, WRITETIME(event) FROM KS.events \
                 WHERE tenant = ? AND customer = ? AND bucket = ? AND seq >= ? AND seq <= ? ORDER BY seq {order} LIMIT ?"
            )
        };
        Ok(Self {
            put_event: prepare(
                "INSERT INTO KS.events (tenant, customer, bucket, seq, event) VALUES (?, ?, ?, ?, ?) \
                 USING TIMESTAMP ? AND TTL ?",
                all,
            )
            .await?,
            put_state: prepare(
                "UPDATE KS.conversations USING TIMESTAMP ? SET state = ?, last_seq = ? WHERE tenant = ? AND customer = ?",
                all,
            )
            .await?,
            put_state_alone: prepare(
                "UPDATE KS.conversations USING TIMESTAMP ? SET state = ? WHERE tenant = ? AND customer = ?",
                all,
            )
            .await?,
            put_last_seq: prepare(
                "UPDATE KS.conversations USING TIMESTAMP ? SET last_seq = ? WHERE tenant = ? AND customer = ?",
                all,
            )
            .await?,
            put_marks: [
                put_mark("customer_recv").await?,
                put_mark("customer_read").await?,
                put_mark("agent_recv").await?,
                put_mark("agent_read").await?,
            ],
            put_open: prepare(
                "INSERT INTO KS.open_sessions (lane, epoch, partition, tenant, customer, agent, state) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
                all,
            )
            .await?,
            delete_open: prepare(
                "DELETE FROM KS.open_sessions USING TIMESTAMP ? \
                 WHERE lane = ? AND epoch = ? AND partition = ? AND tenant = ? AND customer = ?",
                all,
            )
            .await?,
            put_by_agent: prepare(
                "INSERT INTO KS.sessions_by_agent (tenant, agent, month, opened_at, customer, closed_at, first_seq, last_seq) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?",
                all,
            )
            .await?,
            put_by_day: prepare(
                "INSERT INTO KS.sessions_by_day (tenant, day, shard, closed_at, customer, agent, opened_at, first_seq, last_seq) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?",
                all,
            )
            .await?,
            get_conversation: prepare(
                "SELECT state, customer_recv, customer_read, agent_recv, agent_read FROM KS.conversations \
                 WHERE tenant = ? AND customer = ?",
                all,
            )
            .await?,
            get_last_seq: prepare("SELECT last_seq FROM KS.conversations WHERE tenant = ? AND customer = ?", all).await?,
            get_span: prepare(&span("ASC"), pages).await?,
            reread_span: prepare(&span("ASC"), rereads).await?,
            reread_span_falling: prepare(&span("DESC"), rereads).await?,
            get_open: prepare(
                "SELECT tenant, customer, agent, state FROM KS.open_sessions WHERE lane = ? AND epoch = ? AND partition = ?",
                all,
            )
            .await?,
            get_by_agent: prepare(
                "SELECT opened_at, customer, closed_at, first_seq, last_seq, WRITETIME(closed_at) FROM KS.sessions_by_agent \
                 WHERE tenant = ? AND agent = ? AND month = ? LIMIT ?",
                all,
            )
            .await?,
            ping: prepare("SELECT key FROM system.local", Consistency::One).await?,
        })
    }
}
