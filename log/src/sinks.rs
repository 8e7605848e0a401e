//! Which sinks had reports in a round, so that each is flushed once.

use std::collections::HashSet;
use std::sync::Arc;

use crate::Reports;

/// The distinct sinks of a round.
#[derive(Default)]
pub(crate) struct Sinks {
    all: Vec<Arc<dyn Reports>>,
    seen: HashSet<usize>,
}

impl Sinks {
    pub fn add(&mut self, sink: Arc<dyn Reports>) {
        let last = self.all.last();
        if last.is_some_and(|last| Arc::ptr_eq(last, &sink)) {
            return;
        }
        if self.seen.insert(Arc::as_ptr(&sink).cast::<()>() as usize) {
            self.all.push(sink);
        }
    }

    pub fn flush(&mut self) {
        self.seen.clear();
        for sink in self.all.drain(..) {
            sink.flush();
        }
    }
}
