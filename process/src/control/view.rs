//! What roles read of the control topic: always a whole state, never half of one. Whoever has the log feeds the records;
//! nobody else writes. Garbage is counted and logged here.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::state::{Applied, ControlState, Feature};
use crate::metrics;

/// What one [`ControlView::feed`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    pub changed: usize,
    pub stale: usize,
    pub garbage: usize,
}

/// What roles read: always a whole state, never half of one. Cheap to clone.
#[derive(Clone)]
pub struct ControlView {
    inner: Arc<ViewInner>,
}

struct ViewInner {
    /// The writer's copy; published after each batch.
    state: Mutex<ControlState>,
    shown: ArcSwap<ControlState>,
    changes: watch::Sender<u64>,
    caught_up: watch::Sender<bool>,
}

impl Default for ControlView {
    fn default() -> Self {
        Self::new()
    }
}

impl ControlView {
    pub fn new() -> Self {
        Self {
            inner: Arc::new(ViewInner {
                state: Mutex::new(ControlState::default()),
                shown: ArcSwap::from_pointee(ControlState::default()),
                changes: watch::Sender::new(0),
                caught_up: watch::Sender::new(false),
            }),
        }
    }

    /// Applies records of the topic, in its order, and shows the result at once. Give as many as are at hand: each call
    /// that changes something copies the state.
    pub fn feed<'a>(&self, records: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Fed {
        let mut fed = Fed::default();
        let mut state = self.inner.state.lock();
        for (key, value) in records {
            let outcome = match state.apply(key, value) {
                Ok(Applied::Changed) => {
                    fed.changed += 1;
                    "applied"
                }
                Ok(Applied::Stale) => {
                    fed.stale += 1;
                    "stale"
                }
                Err(garbage) => {
                    fed.garbage += 1;
                    let key = String::from_utf8_lossy(key);
                    tracing::warn!(key = %crate::logging::clean(&key), %garbage, "control record dropped; the last good one stays");
                    "garbage"
                }
            };
            metrics::CONTROL_RECORDS_TOTAL
                .with(&[("outcome", outcome)])
                .increment(1);
        }
        if fed.changed > 0 {
            metrics::CONTROL_VERSION.get().set(state.version() as f64);
            self.inner.shown.store(Arc::new(state.clone()));
            self.inner.changes.send_modify(|n| *n += 1);
        }
        fed
    }

    /// The state now. Keep it no longer than one decision.
    pub fn now(&self) -> arc_swap::Guard<Arc<ControlState>> {
        self.inner.shown.load()
    }

    /// Wakes at each change; the number only says that there was one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The tail has reached what was there when it began.
    pub fn set_caught_up(&self) {
        self.inner.caught_up.send_replace(true);
    }

    /// Returns when the tail has caught up; at once if it has already.
    pub async fn caught_up(&self) {
        // An error means the sender is gone, and the sender is in `self`.
        let _ = self.inner.caught_up.subscribe().wait_for(|done| *done).await;
    }

    /// Writes the switches that count now to the metrics; call it once a second or so: expiries make no record.
    pub fn show_switches(&self, now_ms: i64) {
        let state = self.now();
        for feature in Feature::ALL {
            let off = state
                .switches(now_ms)
                .filter(|(f, _, _, s)| *f == feature && !s.on)
                .count();
            metrics::SWITCHED_OFF
                .with(&[("feature", feature.as_str())])
                .set(off as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use wire::record::{Control, Switch, control};
    use wire::{Lane, Tenant};

    use super::*;

    fn typing_off() -> Vec<u8> {
        let switch = Switch {
            lane: "core".into(),
            name: "typing".into(),
            ..Default::default()
        };
        Control {
            version: 1,
            about: Some(control::About::Switch(switch)),
        }
        .encode_to_vec()
    }

    #[tokio::test]
    async fn the_view_shows_whole_batches_and_wakes_those_who_watch() {
        let view = ControlView::new();
        let mut changes = view.changes();
        let (key, value) = (b"switch/core//typing".to_vec(), typing_off());
        let fed = view.feed([
            (&key[..], Some(&value[..])),
            (&b"junk"[..], None),
            (&key[..], Some(&value[..])),
        ]);
        assert_eq!(
            fed,
            Fed {
                changed: 1,
                stale: 1,
                garbage: 1
            }
        );
        changes.changed().await.unwrap();
        assert!(!view.now().is_on(
            Feature::Typing,
            &Lane::new("core").unwrap(),
            &Tenant::new("demo").unwrap(),
            0
        ));
        view.set_caught_up();
        view.caught_up().await;
    }
}
