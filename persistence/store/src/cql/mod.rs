//! History on a CQL cluster: ScyllaDB, or Cassandra where that can't be had. `schema` holds the tables and why they are so.
//!
//! No wait is without end: every request has a time limit, its retries included, and what passes it is `Unavailable`.
//! The driver goes on trying to reach lost nodes; `ping` tells when it has.

mod digest;
mod error;
mod options;
mod read;
mod schema;
mod statements;
mod values;
mod write;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::statement::Consistency;
use tokio::sync::{Semaphore, SemaphorePermit};
use wire::{ConversationKey, Epoch, Lane, Partition, Tenant};

pub use options::CqlOptions;
pub use schema::schema_cql;

use crate::retention::now_ms;
use crate::{
    ClosedSession, Digest, History, OpenSession, Page, PageRange, PartitionWrite, Retention, StoreError,
    StoredConversation,
};
use options::consistency_of;
use statements::Statements;

pub struct Cql {
    session: Session,
    statements: Statements,
    retention: Retention,
    consistency: Consistency,
    keyspace: String,
    in_flight: Semaphore,
    in_flight_max: usize,
}

impl Cql {
    /// Connects and prepares every statement. `Unavailable`: nobody answers, try again. `Failed`: the tables are not there, or
    /// the options are wrong.
    pub async fn connect(options: CqlOptions) -> Result<Arc<Self>, StoreError> {
        let keyspace = options.keyspace()?.to_owned();
        let session = session(&options, Some(&keyspace)).await?;
        Ok(Arc::new(Self {
            statements: Statements::prepare(&session, &options).await?,
            session,
            retention: options.retention.clone(),
            consistency: consistency_of(&options.consistency)?,
            keyspace,
            in_flight: Semaphore::new(options.in_flight_max.max(1)),
            in_flight_max: options.in_flight_max.max(1),
        }))
    }

    /// Makes keyspace and tables where there are none; changes nothing that is there.
    pub async fn create_schema(options: &CqlOptions) -> Result<(), StoreError> {
        let statements = schema_cql(options.keyspace()?, &options.replication);
        // Making a table takes a cluster longer than any request of ours may.
        let options = CqlOptions {
            request_timeout_ms: options.request_timeout_ms.max(60_000),
            ..options.clone()
        };
        let session = session(&options, None).await?;
        for statement in statements {
            session.query_unpaged(statement, ()).await.map_err(error::of_request)?;
        }
        Ok(())
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        self.in_flight
            .acquire()
            .await
            .map_err(|e| StoreError::Failed(e.to_string()))
    }
}

async fn session(options: &CqlOptions, keyspace: Option<&str>) -> Result<Session, StoreError> {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = &options.datacenter {
        policy = policy.prefer_datacenter(datacenter.clone());
    }
    let timeout = Duration::from_millis(options.connect_timeout_ms);
    // The default retry policy looks at `is_idempotent`, which every statement of ours sets. No speculation: a second copy of
    // a write costs the store more than it spares us.
    let profile = ExecutionProfile::builder()
        .consistency(consistency_of(&options.consistency)?)
        .request_timeout(Some(Duration::from_millis(options.request_timeout_ms)))
        .load_balancing_policy(policy.build())
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.contact_points)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(timeout)
        // A peer that went silent is given up, and with it the stream ids of requests that will not be answered.
        .keepalive_interval(Duration::from_secs(5))
        .keepalive_timeout(Duration::from_secs(5));
    if let Some(keyspace) = keyspace {
        builder = builder.keyspaces_to_fetch([keyspace]);
    }
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        builder = builder.user(user, password);
    }
    // The driver's own limits are per attempt and per node; this one is for all of them.
    match tokio::time::timeout(timeout * 3, builder.build()).await {
        Ok(session) => session.map_err(error::of_session),
        Err(_) => Err(StoreError::Unavailable(format!(
            "{} did not answer in {} ms",
            options.contact_points.join(", "),
            timeout.as_millis() * 3
        ))),
    }
}

#[async_trait]
impl History for Cql {
    async fn load(&self, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
        read::load(self, key).await
    }

    async fn page(&self, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError> {
        read::page(self, key, range, limit).await
    }

    async fn open_sessions(
        &self,
        lane: &Lane,
        epoch: Epoch,
        partition: Partition,
    ) -> Result<Vec<OpenSession>, StoreError> {
        read::open_sessions(self, lane, epoch, partition).await
    }

    async fn write(&self, batch: PartitionWrite) -> Result<(), StoreError> {
        write::write(self, &batch, now_ms()).await
    }

    async fn sessions_of_agent(
        &self,
        tenant: &Tenant,
        agent: &str,
        limit: u32,
    ) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
        read::sessions_of_agent(self, tenant, agent, limit, now_ms()).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.select(&self.statements.ping, ()).await.map(|_| ())
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        digest::digest(self).await
    }
}
