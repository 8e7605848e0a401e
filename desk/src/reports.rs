//! Delivery reports, from the log's thread to the driver. As many as there are records on their way, which the outboxes bound.

use ordered_log::{Appended, ProduceError, Reports};
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct ReportBox {
    arrived: Mutex<Vec<(u64, bool)>>,
    filled: Notify,
}

impl Reports for ReportBox {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        if let Err(why) = &outcome {
            tracing::warn!(%why, "the log did not take a desk's record; it is repeated");
        }
        self.arrived.lock().push((token, outcome.is_ok()));
        self.filled.notify_one();
    }
}

impl ReportBox {
    /// (token, whether the log has it), at least one. For one waiter.
    pub async fn arrived(&self) -> Vec<(u64, bool)> {
        loop {
            let arrived = std::mem::take(&mut *self.arrived.lock());
            if !arrived.is_empty() {
                return arrived;
            }
            self.filled.notified().await;
        }
    }
}

/// For records whose fate is seen when they are read back: ticks.
pub(crate) struct Unreported;

impl Reports for Unreported {
    fn report(&self, _: u64, _: Result<Appended, ProduceError>) {}
}
