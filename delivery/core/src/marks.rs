//! Watermarks: the highest recv and read of each side. Acks raise them in memory, one record per partition and second makes
//! them known, and what is read back is told as receipts.

use wire::codec::{self, RECORD_VERSION};
use wire::frames::Side;
use wire::record::{Kind, Mark, Marks as MarksPart, Record};
use wire::{Partition, limits};

use crate::action::{Action, ProduceTo};
use crate::partition::{Cx, PartitionCore};
use crate::resident::Conv;

/// Milliseconds after which unseen marks are written again.
const MARKS_AGAIN_MS: u64 = 5_000;
/// Marks in one record: 1,000 of them with the longest names stay below `limits::RECORD_BYTES_MAX` halves.
const MARKS_PER_RECORD: usize = 400;

/// Watermarks of both sides; merged by maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub customer_recv: u64,
    pub customer_read: u64,
    pub agent_recv: u64,
    pub agent_read: u64,
}

impl Marks {
    /// The higher of each.
    pub fn merged(self, other: Marks) -> Marks {
        Marks {
            customer_recv: self.customer_recv.max(other.customer_recv),
            customer_read: self.customer_read.max(other.customer_read),
            agent_recv: self.agent_recv.max(other.agent_recv),
            agent_read: self.agent_read.max(other.agent_read),
        }
    }

    /// (recv, read) of a side.
    pub fn of(&self, side: Side) -> (u64, u64) {
        match side {
            Side::Customer => (self.customer_recv, self.customer_read),
            Side::Agent => (self.agent_recv, self.agent_read),
        }
    }

    /// Raises a side's marks.
    pub fn raise(&mut self, side: Side, recv: u64, read: u64) {
        let (old_recv, old_read) = match side {
            Side::Customer => (&mut self.customer_recv, &mut self.customer_read),
            Side::Agent => (&mut self.agent_recv, &mut self.agent_read),
        };
        *old_recv = recv.max(*old_recv);
        *old_read = read.max(*old_read);
    }
}

impl From<&Mark> for Marks {
    fn from(m: &Mark) -> Self {
        Marks {
            customer_recv: m.customer_recv,
            customer_read: m.customer_read,
            agent_recv: m.agent_recv,
            agent_read: m.agent_read,
        }
    }
}

/// When this partition writes next: once per interval, each partition at its own point of it. All at the same instant
/// would make a thousand receipts of one moment, and every message behind them wait.
fn next_turn(now_ms: u64, at: Partition) -> u64 {
    const EVERY: u64 = limits::MARKS_INTERVAL_MS;
    // Neighbouring partitions lie about 0.382 of the interval apart, so that any number of them is spread evenly.
    let own = u64::from(at.0) * EVERY * 382 / 1000 % EVERY;
    (now_ms + EVERY - own) / EVERY * EVERY + own
}

impl PartitionCore {
    /// Remembers that a conversation's marks have risen and are not in the log yet.
    pub(crate) fn marks_rose(&mut self, slot: u32, conv: &mut Conv) {
        if !conv.marks_listed && conv.acked.merged(conv.logged) != conv.logged {
            conv.marks_listed = true;
            conv.marks_written_ms = 0;
            self.unlogged.push(slot);
        }
    }

    /// Writes what has risen: at most once per interval, or at once when the partition is let go.
    pub(crate) fn write_marks(&mut self, cx: &mut Cx, at_once: bool) {
        if self.unlogged.is_empty() || (!at_once && cx.now_ms < self.marks_next_ms) {
            return;
        }
        self.marks_next_ms = next_turn(cx.now_ms, self.at);
        let mut marks = Vec::new();
        let mut still = Vec::with_capacity(self.unlogged.len());
        let mut known = Vec::new();
        for slot in std::mem::take(&mut self.unlogged) {
            let Some(conv) = self.slots.get_mut(slot) else { continue };
            if conv.acked.merged(conv.logged) == conv.logged {
                conv.marks_listed = false;
                known.push(slot);
                continue;
            }
            still.push(slot);
            if conv.marks_written_ms == 0 || cx.now_ms >= conv.marks_written_ms + MARKS_AGAIN_MS || at_once {
                conv.marks_written_ms = cx.now_ms;
                marks.push(Mark {
                    tenant: conv.key.tenant.as_str().to_owned(),
                    customer: conv.key.customer.as_str().to_owned(),
                    customer_recv: conv.acked.customer_recv,
                    customer_read: conv.acked.customer_read,
                    agent_recv: conv.acked.agent_recv,
                    agent_read: conv.acked.agent_read,
                });
            }
        }
        self.unlogged = still;
        for slot in known {
            // Its marks were the last thing that kept it in memory, perhaps.
            if let Some(mut conv) = self.slots.take(slot) {
                self.maybe_idle(cx, slot, &mut conv);
                self.slots.put_back(slot, conv);
            }
        }
        cx.stats.marks += marks.len() as u64;
        for chunk in marks.chunks(MARKS_PER_RECORD) {
            let record = Record {
                version: RECORD_VERSION,
                kind: Kind::Marks.into(),
                marks: Some(MarksPart {
                    partition: self.at.0,
                    marks: chunk.to_vec(),
                }),
                ..Record::default()
            };
            cx.actions.push_back(Action::Produce {
                to: ProduceTo::Messages,
                partition: self.at,
                key: None,
                value: codec::encode(&record),
            });
        }
    }

    /// One mark was read back from the log: from here on it is told.
    pub(crate) fn mark_read_back(&mut self, cx: &mut Cx, offset: u64, mark: &Mark) {
        let Some(key) = self.key_of(&mark.tenant, &mark.customer) else {
            return;
        };
        let marks = Marks::from(mark);
        let Some(&slot) = self.by_key.get(&key) else {
            let stray = self.stray_marks.entry(key).or_default();
            stray.0 = stray.0.merged(marks);
            stray.1 = offset;
            return;
        };
        let Some(mut conv) = self.slots.take(slot) else { return };
        conv.past = conv.past.max(offset + 1);
        let before = conv.logged;
        conv.logged = conv.logged.merged(marks);
        conv.acked = conv.acked.merged(marks);
        for side in [Side::Customer, Side::Agent] {
            if conv.state.is_some() && conv.logged.of(side) != before.of(side) {
                self.tell_receipt(cx, &mut conv, side);
            }
        }
        self.slots.put_back(slot, conv);
    }

    /// To the other side, and to those of one's own devices that do not know it from their own acks.
    fn tell_receipt(&self, cx: &mut Cx, conv: &mut Conv, side: Side) {
        let logged = conv.logged.of(side);
        let mut frame = None;
        for i in 0..conv.cursors.len() {
            let c = &conv.cursors[i];
            if !c.listens() {
                continue;
            }
            let own = c.side() == side;
            let told = if own { conv.own_marks(c) } else { logged };
            if own && conv.counts(c) && (c.recv, c.read) == told {
                continue;
            }
            if !self.caught_up {
                // The owner before may have told more: with the next `conversation` frame.
                conv.cursors[i].stale = true;
                continue;
            }
            let make = || crate::frames::receipt(&conv.key, side, told.0, told.1);
            let frame = if told == logged {
                frame.get_or_insert_with(make).clone()
            } else {
                make()
            };
            self.send_frame(cx, c.link, c.connection, frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_write_at_points_spread_over_the_interval_and_each_once_in_it() {
        const NOW: u64 = 1_766_361_600_123;
        for count in [3u32, 12, 48] {
            let mut turns: Vec<u64> = (0..count).map(|n| next_turn(NOW, Partition(n))).collect();
            assert!(
                turns
                    .iter()
                    .all(|t| (NOW + 1..=NOW + limits::MARKS_INTERVAL_MS).contains(t))
            );
            for (n, turn) in (0..count).zip(&turns) {
                assert_eq!(next_turn(*turn, Partition(n)), turn + limits::MARKS_INTERVAL_MS);
            }
            turns.sort_unstable();
            // The circle closes: all at one point would be a gap of the whole interval.
            turns.push(turns[0] + limits::MARKS_INTERVAL_MS);
            let widest = turns.windows(2).map(|w| w[1] - w[0]).max().unwrap();
            let even = limits::MARKS_INTERVAL_MS / u64::from(count);
            assert!(widest <= 3 * even, "{count}: {turns:?}");
        }
    }
}
