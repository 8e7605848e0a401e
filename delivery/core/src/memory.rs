//! What may leave memory: only what is in the store (below persistence's committed offset), oldest first.

use conversation::named;

use crate::partition::{Cx, PartitionCore};
use crate::resident::Conv;

/// An idle conversation stays this long, so that the next message finds it warm.
const IDLE_MS: u64 = 120_000;
/// Steps of clean-up in one wake-up.
const STEPS_MAX: usize = 4_096;

impl PartitionCore {
    /// Everything below `committed` is in the store.
    pub(crate) fn stored_below(&mut self, cx: &mut Cx, committed: u64) {
        if committed > self.next {
            // Persistence may be ahead of us, but never of the log.
            let offset = committed - 1;
            self.ask_end(cx, crate::partition::Wait::Applied { offset });
        }
        self.committed = self.committed.max(committed);
        let committed = self.committed;
        self.stray_marks.retain(|_, (_, offset)| *offset >= committed);
    }

    /// Trims tails until no more than `keep_bytes` are held, or nothing more is stored.
    pub(crate) fn trim(&mut self, keep_bytes: usize) {
        for _ in 0..STEPS_MAX {
            let Some(&(offset, slot)) = self.events.front().filter(|(offset, _)| *offset < self.committed) else {
                return;
            };
            let held = self.slots.get(slot).is_some_and(|conv| conv.tail.begins_at(offset));
            if held && self.held_bytes() <= keep_bytes {
                return;
            }
            self.events.pop_front();
            self.spilled = self.spilled.saturating_sub(1);
            if let Some(conv) = self.slots.get_mut(slot) {
                self.bytes = self.bytes.saturating_sub(conv.tail.trim(offset));
            }
        }
    }

    /// Is there anything left for `spill`?
    pub(crate) fn has_bodies(&self) -> bool {
        self.spilled < self.events.len()
    }

    /// Lets bodies go until so many bytes are free, oldest first; what is freed.
    pub(crate) fn spill(&mut self, bytes: usize) -> usize {
        let mut freed = 0;
        while freed < bytes
            && let Some(&(offset, slot)) = self.events.get(self.spilled)
        {
            self.spilled += 1;
            if let Some(conv) = self.slots.get_mut(slot) {
                freed += conv.tail.spill(offset) + conv.spill_parked(offset);
            }
        }
        self.bytes = self.bytes.saturating_sub(freed);
        freed
    }

    /// Lists a conversation that nobody looks at any more.
    pub(crate) fn maybe_idle(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv) {
        if !conv.idle_listed && conv.is_idle() {
            conv.idle_listed = true;
            self.idle.push_back((cx.now_ms, slot));
        }
    }

    /// Lets idle conversations go: after their time, or at once when memory is short.
    pub(crate) fn evict(&mut self, cx: &mut Cx, short: bool) {
        for _ in 0..self.idle.len().min(STEPS_MAX) {
            let Some(&(since, slot)) = self.idle.front() else {
                return;
            };
            if !short && cx.now_ms < since + IDLE_MS {
                return;
            }
            self.idle.pop_front();
            let Some(conv) = self.slots.get_mut(slot) else { continue };
            if !conv.idle_listed {
                continue;
            }
            conv.idle_listed = false;
            if !conv.is_idle() {
                continue;
            }
            if conv.past > self.committed {
                conv.idle_listed = true;
                self.idle.push_back((cx.now_ms, slot));
                continue;
            }
            self.forget(cx, slot);
        }
    }

    fn forget(&mut self, cx: &mut Cx, slot: u32) {
        let Some(conv) = self.slots.remove(slot) else { return };
        cx.stats.evicted += 1;
        self.by_key.remove(&conv.key);
        self.bytes = self.bytes.saturating_sub(conv.heap_bytes());
        let session = conv.state.as_ref().map(|s| s.session()).unwrap_or_default();
        for user in named(&session) {
            self.serves_no_more(&conv, slot, user);
        }
        for c in &conv.cursors {
            // Only detached ones are left: the place is remembered by the connection.
            self.remember_place(&conv, c, slot);
        }
    }
}
