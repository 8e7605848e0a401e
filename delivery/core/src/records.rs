//! A batch of the log: each record is decoded by the one `decode`, folded, kept in the tail and pushed. One whose conversation
//! is being loaded is parked and holds up nobody else.

use bytes::Bytes;
use conversation::Folded;
use wire::codec::{DecodeError, decode};
use wire::event::placed_frame;
use wire::link::Whose;
use wire::record::{Kind, Record, Role, Sender};
use wire::{Offset, Position, Tenant};

use crate::partition::{Cx, PartitionCore};
use crate::resident::{Conv, Parked, parked_bytes};
use crate::stats::since;
use crate::tail::TailEvent;

/// One record as read from the log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub offset: Offset,
    /// The log's append time, Unix milliseconds.
    pub at_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

impl PartitionCore {
    pub(crate) fn record(&mut self, cx: &mut Cx, entry: Entry) {
        let offset = entry.offset.0;
        if offset < self.next || self.stopped {
            return;
        }
        self.next = offset + 1;
        cx.stats.records += 1;
        let decoded = match decode(
            entry.key.as_ref(),
            entry.value.as_ref(),
            self.at,
            self.topics.partitions,
        ) {
            Ok(decoded) => decoded,
            Err(refused) => {
                let _: DecodeError = refused;
                cx.stats.dropped += 1;
                return;
            }
        };
        let Some(key) = decoded.key else {
            for mark in decoded.record.marks.iter().flat_map(|m| &m.marks) {
                self.mark_read_back(cx, offset, mark);
            }
            return;
        };
        let slot = match self.by_key.get(&key) {
            Some(&slot) => slot,
            // Nobody's connection is known to belong to it: a notice has nobody to go to but its origin.
            None if decoded.record.kind() == Kind::Notice => {
                return self.notice_to_origin(cx, &key.tenant, None, &decoded.record);
            }
            None => self.resident(cx, key),
        };
        let Some(mut conv) = self.slots.take(slot) else { return };
        if conv.state.is_some() {
            self.fold(cx, slot, &mut conv, offset, entry.at_ms, decoded.record);
        } else {
            let bytes = parked_bytes(entry.key.as_ref(), entry.value.as_ref());
            self.bytes += bytes;
            self.parked += 1;
            conv.waiting().parked.push(Parked {
                offset,
                at_ms: entry.at_ms,
                record: Some(Box::new(decoded.record)),
                bytes,
            });
            self.events.push_back((offset, slot));
        }
        self.slots.put_back(slot, conv);
    }

    /// Folds one record of a loaded conversation and pushes what came of it.
    pub(crate) fn fold(
        &mut self,
        cx: &mut Cx,
        slot: u32,
        conv: &mut Conv,
        offset: u64,
        at_ms: i64,
        mut record: Record,
    ) {
        let Some(state) = &mut conv.state else { return };
        conv.past = conv.past.max(offset + 1);
        if record.kind() == Kind::Notice {
            return self.notice(cx, conv, &record);
        }
        let position = Position::new(self.topics.epoch, Offset(offset));
        match state.fold(&conv.key, position, at_ms, &record) {
            Folded::Skipped => cx.stats.skipped += 1,
            Folded::Superseded => cx.stats.superseded += 1,
            Folded::Unnumbered => {}
            Folded::Repeat { seq, at_ms } => {
                cx.stats.repeats += 1;
                let Some(origin) = record.origin else { return };
                let Some(i) = conv.cursor_of_origin(&origin, staff_of(record.from.as_ref())) else {
                    return;
                };
                let frame = placed_frame(conv.name(), seq, at_ms, &record.id);
                conv.cursors[i].placed.get_or_insert_default().push((seq.0, frame));
                self.flush_placed(cx, conv, i);
            }
            Folded::Session(change) => {
                self.session_changed(cx, slot, conv, &change);
                self.pump_all(cx, slot, conv);
                self.maybe_idle(cx, slot, conv);
            }
            Folded::Event(event) => {
                cx.stats.folded += 1;
                if let Some(ms) = since(cx.now_ms, record.received_at_ms) {
                    cx.stats.folded_ms.push(ms);
                }
                let changes = event
                    .session
                    .as_ref()
                    .is_some_and(|c| c.before.state != c.after.state || c.before.agent != c.after.agent);
                let (node, connection) = record.origin.map_or((0, 0), |o| (o.node, o.connection));
                let kept = TailEvent {
                    offset,
                    at_ms,
                    frame: event.frame.clone(),
                    id: std::mem::take(&mut record.id),
                    node,
                    connection,
                    from_staff: staff_of(record.from.as_ref()).map(Into::into),
                    received_at_ms: record.received_at_ms,
                    staff_only: event.staff_only(),
                    changes,
                };
                self.bytes += kept.bytes();
                conv.tail.push(kept);
                self.events.push_back((offset, slot));
                if let Some(change) = &event.session {
                    self.session_changed(cx, slot, conv, change);
                }
                self.tell_desk_of(cx, conv, &record);
                self.pump_all(cx, slot, conv);
                self.maybe_idle(cx, slot, conv);
            }
        }
    }

    /// A frame without a seq: to the customer's connections, or to the one that asked.
    fn notice(&mut self, cx: &mut Cx, conv: &Conv, record: &Record) {
        let Some(notice) = &record.notice else { return };
        if !notice.to_customer {
            return self.notice_to_origin(cx, &conv.key.tenant, Some(conv), record);
        }
        for c in conv.cursors.iter().filter(|c| c.is_customer()) {
            self.send_frame(cx, c.link, c.connection, notice.frame.clone());
        }
    }

    /// Whoever POSTs may name any session: the answer goes there only if it is the asker's own.
    fn notice_to_origin(&mut self, cx: &mut Cx, tenant: &Tenant, taken: Option<&Conv>, record: &Record) {
        let (Some(notice), Some(origin), Some(from)) = (&record.notice, &record.origin, &record.from) else {
            return;
        };
        let whose = Whose {
            tenant: tenant.as_str().to_owned(),
            user: from.user.clone(),
            role: from.role,
        };
        if notice.to_customer {
            return;
        }
        if let Some(link) = cx.links.of_node(origin.node)
            && self.belongs_to(link, origin.connection, &whose, taken)
        {
            self.send_frame(cx, link, origin.connection, notice.frame.clone());
        }
    }
}

/// The sender's name, unless it was the customer.
fn staff_of(from: Option<&Sender>) -> Option<&str> {
    from.filter(|f| f.role() != Role::Customer).map(|f| f.user.as_str())
}
