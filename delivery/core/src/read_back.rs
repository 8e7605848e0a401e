//! What memory let go while the store took nothing (`memory`): bodies of events that a cursor needs, and parked records whose
//! conversation is loaded at last, are read again from the log.

use wire::event::{entry_of, event_frame};
use wire::record::Audience;
use wire::{Offset, Seq, codec};

use crate::action::{Action, PageRow, PageToken};
use crate::partition::{Cx, PartitionCore};
use crate::records::Entry;
use crate::resident::{Conv, parked_bytes};

/// Events read back at once for one cursor.
const READ_BACK_MAX: usize = 64;

impl PartitionCore {
    /// Reads on for a cursor whose next event is known by its offset.
    pub(crate) fn read_spilled(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize, limit: u64) {
        let next = conv.cursors[i].pos + 1;
        let most = READ_BACK_MAX.min(limit as usize);
        let offsets = conv.tail.offsets(next, conv.head(), most);
        if offsets.is_empty() {
            return;
        }
        let token = self.next_token(slot);
        conv.cursors[i].reading = token.serial;
        cx.stats.read_back += offsets.len() as u64;
        cx.actions.push_back(Action::ReadBack { token, offsets });
    }

    /// Asks for parked records that are not in memory.
    pub(crate) fn ask_parked(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, offsets: Vec<Offset>) {
        let token = self.next_token(slot);
        conv.waiting().reading = token.serial;
        cx.stats.read_back += offsets.len() as u64;
        cx.actions.push_back(Action::ReadBack { token, offsets });
    }

    pub(crate) fn next_token(&mut self, slot: u32) -> PageToken {
        self.page_serial = self.page_serial.wrapping_add(1).max(1);
        PageToken {
            partition: self.at,
            instance: self.instance,
            slot,
            serial: self.page_serial,
        }
    }

    pub(crate) fn read_back(&mut self, cx: &mut Cx, token: PageToken, entries: Vec<Entry>) {
        let Some(mut conv) = self.slots.take(token.slot) else {
            return;
        };
        let parked = conv.waiting.as_deref().is_some_and(|w| w.reading == token.serial);
        if parked {
            let key = conv.key.clone();
            let loaded = self.unpark(&mut conv, entries);
            self.slots.put_back(token.slot, conv);
            if let Some(loaded) = loaded {
                self.loaded(cx, &key, *loaded);
            }
            return;
        }
        if let Some(i) = conv.cursors.iter().position(|c| c.reading == token.serial) {
            let rows: Vec<PageRow> = entries.iter().filter_map(|e| self.row_of(&conv, e)).collect();
            if rows.first().is_none_or(|row| row.seq.0 != conv.cursors[i].pos + 1) {
                // Stored meanwhile, and trimmed: the next read is of the store.
                conv.cursors[i].reading = 0;
                self.pump(cx, token.slot, &mut conv, i);
            } else {
                self.page_of(cx, token.slot, &mut conv, i, &rows);
            }
        }
        self.slots.put_back(token.slot, conv);
    }

    /// The event as it was folded: the record, its place and the same bytes around it.
    fn row_of(&self, conv: &Conv, entry: &Entry) -> Option<PageRow> {
        let seq = Seq(conv.tail.seq_of(entry.offset, conv.head())?);
        let record = self.decoded(conv, entry)?;
        let from = record.from.clone().unwrap_or_default();
        let frame = event_frame(conv.name(), seq, entry.at_ms, &record.id, &from, &record.member);
        Some(PageRow {
            seq,
            staff_only: record.audience() == Audience::Staff,
            at_ms: entry.at_ms,
            entry: entry_of(&frame),
        })
    }

    fn decoded(&self, conv: &Conv, entry: &Entry) -> Option<wire::record::Record> {
        let (key, value) = (entry.key.as_ref(), entry.value.as_ref());
        let decoded = codec::decode(key, value, self.at, self.topics.partitions).ok()?;
        (decoded.key.as_ref() == Some(&conv.key)).then_some(decoded.record)
    }

    /// Puts what was read back where it was parked; the row that waited for it.
    fn unpark(&mut self, conv: &mut Conv, entries: Vec<Entry>) -> Option<Box<crate::action::Loaded>> {
        let mut records: Vec<_> = entries.iter().map(|e| self.decoded(conv, e)).collect();
        let waiting = conv.waiting();
        waiting.reading = 0;
        for (entry, record) in entries.iter().zip(&mut records) {
            if let Ok(at) = waiting.parked.binary_search_by_key(&entry.offset.0, |p| p.offset)
                && let Some(record) = record.take()
            {
                let parked = &mut waiting.parked[at];
                let bytes = parked_bytes(entry.key.as_ref(), entry.value.as_ref());
                self.bytes += bytes.saturating_sub(parked.bytes);
                parked.bytes = bytes;
                parked.record = Some(Box::new(record));
            }
        }
        waiting.loaded.take()
    }
}
