//! Any store, with its operations timed and its errors counted: what the dashboards show is what the roles waited for.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use process::metrics::{Counter, Histogram, STORE_ERRORS_TOTAL, STORE_SECONDS};
use wire::{ConversationKey, Epoch, Lane, Partition, Tenant};

use crate::{
    ClosedSession, Digest, History, OpenSession, Page, PageRange, PartitionWrite, StoreError, StoredConversation,
};

/// Handles of one operation.
struct Meter {
    seconds: Histogram,
    errors: Counter,
}

impl Meter {
    fn new(op: &'static str) -> Self {
        Self {
            seconds: STORE_SECONDS.with(&[("op", op)]),
            errors: STORE_ERRORS_TOTAL.with(&[("op", op)]),
        }
    }

    async fn time<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = work.await;
        self.seconds.record(began.elapsed().as_secs_f64());
        if result.is_err() {
            self.errors.increment(1);
        }
        result
    }
}

/// Install the metrics recorder before making one.
pub struct Metered {
    inner: Arc<dyn History>,
    load: Meter,
    page: Meter,
    open_sessions: Meter,
    write: Meter,
    sync: Meter,
    sessions: Meter,
}

impl Metered {
    pub fn new(inner: Arc<dyn History>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            load: Meter::new("load"),
            page: Meter::new("page"),
            open_sessions: Meter::new("open_sessions"),
            write: Meter::new("write"),
            sync: Meter::new("sync"),
            sessions: Meter::new("sessions"),
        })
    }
}

#[async_trait]
impl History for Metered {
    async fn load(&self, key: &ConversationKey) -> Result<Option<StoredConversation>, StoreError> {
        self.load.time(self.inner.load(key)).await
    }

    async fn page(&self, key: &ConversationKey, range: PageRange, limit: u32) -> Result<Page, StoreError> {
        self.page.time(self.inner.page(key, range, limit)).await
    }

    async fn open_sessions(
        &self,
        lane: &Lane,
        epoch: Epoch,
        partition: Partition,
    ) -> Result<Vec<OpenSession>, StoreError> {
        self.open_sessions
            .time(self.inner.open_sessions(lane, epoch, partition))
            .await
    }

    async fn write(&self, batch: PartitionWrite) -> Result<(), StoreError> {
        self.write.time(self.inner.write(batch)).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.sync.time(self.inner.sync()).await
    }

    async fn sessions_of_agent(
        &self,
        tenant: &Tenant,
        agent: &str,
        limit: u32,
    ) -> Result<Vec<(ConversationKey, ClosedSession)>, StoreError> {
        self.sessions
            .time(self.inner.sessions_of_agent(tenant, agent, limit))
            .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        self.inner.digest().await
    }
}
