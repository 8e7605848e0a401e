//! Push by cursor: the one rule behind going live, resuming, take-over and a full link. A cursor is pushed its next event and
//! nothing else; where that is not in memory it is read from the store; where there is no room the cursor stands still.

use bytes::Bytes;
use wire::event::{frame_of, hidden_frame, placed_frame};
use wire::limits;
use wire::link::from_worker::Item;
use wire::link::{Access, Conversation, Push, Reset, Rewind};
use wire::{Partition, Seq};

use crate::action::{Action, PageRow, PageToken};
use crate::cursor::{Cursor, Start};
use crate::frames;
use crate::link::{Shared, Stalled};
use crate::partition::{Cx, PartitionCore, Wait};
use crate::resident::Conv;
use crate::stats::since;

/// What is pushed next to one cursor.
struct Next<'a> {
    seq: u64,
    at_ms: i64,
    frame: Bytes,
    hidden: bool,
    /// The client's id if this connection sent it.
    own_id: Option<&'a str>,
    received_at_ms: i64,
}

impl PartitionCore {
    /// Begins a cursor whose conversation is loaded, or goes on with one that has begun elsewhere.
    pub(crate) fn begin(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize) {
        let Some(state) = &conv.state else { return };
        let head = state.last_seq().0;
        let first = state.span().first_seq.0;
        let c = &mut conv.cursors[i];
        if !c.attached || c.ahead || (c.begun && c.start != Start::Placed) {
            return self.pump(cx, slot, conv, i);
        }
        if !c.begun {
            c.pos = match c.start {
                Start::Head => head,
                Start::Since(seq) => seq,
                Start::Session if first > 0 => (first - 1).min(head),
                Start::Session => head,
                Start::Placed => c.pos,
            };
        }
        if c.pos > head {
            c.ahead = true;
            let (link, connection) = (c.link, c.connection);
            return self.ask_end(cx, Wait::Cursor { slot, link, connection });
        }
        self.begin_at(cx, slot, conv, i, false);
    }

    /// The place is known to exist: say where it begins, and push from there.
    fn begin_at(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize, rewound: bool) {
        let head = conv.head();
        let c = &mut conv.cursors[i];
        let last = head.min(c.until);
        let behind = last.saturating_sub(c.pos) > limits::RESUME_EVENTS_MAX;
        // What is not stored is in the log: nobody is sent back to read it as history.
        let stored = behind.then(|| conv.tail.stored(head, self.committed).min(last));
        let reset_to = stored.filter(|stored| *stored > c.pos);
        let far = reset_to.is_some();
        c.pos = reset_to.unwrap_or(c.pos);
        let (fresh, pos) = (!c.begun, c.pos);
        c.begun = true;
        c.start = Start::Head;
        c.stale = !fresh;
        let (recv, read) = (c.recv, c.read);
        self.raise_marks(slot, conv, i, recv, read);
        if fresh {
            self.tell_conversation(cx, conv, i, true);
        }
        let c = &conv.cursors[i];
        if far {
            cx.stats.resets += 1;
            let reset = Reset {
                partition: self.at.0,
                generation: self.wire_generation(),
                connection: c.connection,
                conversation: conv.name().to_owned(),
                last_seq: pos,
            };
            cx.links.send(c.link, Item::Reset(reset));
        }
        if rewound {
            cx.stats.rewinds += 1;
            let rewind = Rewind {
                partition: self.at.0,
                generation: self.wire_generation(),
                connection: c.connection,
                conversation: conv.name().to_owned(),
                last_seq: pos,
            };
            cx.links.send(c.link, Item::Rewind(rewind));
        }
        self.pump(cx, slot, conv, i);
    }

    /// The log's end as of the registration is folded, and the cursor may still be above the head.
    pub(crate) fn rewind(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize) {
        let head = conv.head();
        let c = &mut conv.cursors[i];
        if !c.ahead {
            return;
        }
        c.ahead = false;
        let rewound = c.pos > head;
        if rewound {
            c.pos = head;
            c.recv = c.recv.min(head);
            c.read = c.read.min(head);
            if c.until < u64::MAX {
                c.until = c.until.min(head);
            }
            c.window.clear();
        }
        self.begin_at(cx, slot, conv, i, rewound);
    }

    /// Pushes to every cursor of a conversation what it may get.
    pub(crate) fn pump_all(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv) {
        for i in 0..conv.cursors.len() {
            self.pump(cx, slot, conv, i);
        }
    }

    /// Pushes to one cursor until it is at the head, or has no room, or must read.
    pub(crate) fn pump(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize) {
        let head = conv.head();
        if conv.state.is_none() {
            return;
        }
        loop {
            let c = &mut conv.cursors[i];
            if !c.attached || c.reading != 0 {
                return;
            }
            if c.ahead {
                if c.pos <= head {
                    c.ahead = false;
                    self.begin_at(cx, slot, conv, i, false);
                }
                return;
            }
            if !c.begun || c.start == Start::Placed {
                return;
            }
            if c.pos >= head.min(c.until) {
                return self.at_limit(cx, slot, conv, i);
            }
            if !cx.links.has_room(c.link) {
                return self.stall(cx, slot, c);
            }
            let seq = c.pos + 1;
            let Some(event) = conv.tail.get(seq, head) else {
                return self.read_page(cx, slot, conv, i);
            };
            let own = event.connection != 0
                && event.connection == c.connection
                && event.node == c.node
                && event.from_staff.as_deref() == c.user();
            let hidden = event.staff_only && c.is_customer();
            let next = Next {
                seq,
                at_ms: event.at_ms,
                frame: if own || hidden {
                    Bytes::new()
                } else {
                    event.frame.clone()
                },
                hidden,
                own_id: own.then_some(event.id.as_str()),
                received_at_ms: event.received_at_ms,
            };
            let changes = event.changes;
            if !push(
                self.at,
                self.generation,
                self.instance,
                cx,
                slot,
                conv.key.customer.as_str(),
                c,
                next,
            ) {
                return self.window_full(cx, slot, c);
            }
            self.flush_placed(cx, conv, i);
            let c = &conv.cursors[i];
            if changes && seq > c.told && seq < c.until {
                if self.caught_up {
                    self.tell_conversation(cx, conv, i, false);
                } else {
                    conv.cursors[i].stale = true;
                }
            }
        }
    }

    /// Rows of the store for one cursor, in order. Rows that find no room are read again.
    pub(crate) fn page(&mut self, cx: &mut Cx, token: PageToken, rows: &[PageRow]) {
        let slot = token.slot;
        let Some(mut conv) = self.slots.take(slot) else { return };
        if let Some(i) = conv
            .cursors
            .iter()
            .position(|c| c.reading == token.serial && token.serial != 0)
        {
            self.page_of(cx, slot, &mut conv, i, rows);
        }
        self.slots.put_back(slot, conv);
    }

    pub(crate) fn page_of(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize, rows: &[PageRow]) {
        let head = conv.head();
        let c = &mut conv.cursors[i];
        c.reading = 0;
        if !c.attached {
            return;
        }
        let before = c.pos;
        let mut no_room = None;
        for row in rows.iter().filter(|r| r.seq.0 > before) {
            if row.seq.0 != c.pos + 1 || row.seq.0 > head.min(c.until) {
                break;
            }
            let hidden = row.staff_only && c.is_customer();
            let next = Next {
                seq: row.seq.0,
                at_ms: row.at_ms,
                frame: if hidden { Bytes::new() } else { frame_of(&row.entry) },
                hidden,
                own_id: None,
                received_at_ms: 0,
            };
            if !cx.links.has_room(c.link) {
                no_room = Some(NoRoom::Link);
                break;
            }
            let bytes = next.frame.len();
            let pushed = push(
                self.at,
                self.generation,
                self.instance,
                cx,
                slot,
                conv.key.customer.as_str(),
                c,
                next,
            );
            if !pushed {
                c.row_bytes = bytes.max(HIDDEN_BYTES) as u32;
                c.row_waits = true;
                no_room = Some(NoRoom::Window);
                break;
            }
            c.stale = true;
        }
        if c.pos == before && no_room.is_none() && c.pos < head.min(c.until) {
            // Retention has taken it, or the row was never readable: the client reads what there is as history.
            let stored = conv.tail.stored(head, self.committed).min(conv.cursors[i].until);
            self.reset_to(cx, conv, i, stored);
        }
        self.flush_placed(cx, conv, i);
        // Not read again before there is room: that would be asked for ever.
        match no_room {
            None => self.pump(cx, slot, conv, i),
            Some(NoRoom::Link) => self.stall(cx, slot, &mut conv.cursors[i]),
            Some(NoRoom::Window) => self.window_full(cx, slot, &mut conv.cursors[i]),
        }
    }

    fn reset_to(&mut self, cx: &mut Cx, conv: &mut Conv, i: usize, seq: u64) {
        cx.stats.resets += 1;
        let c = &mut conv.cursors[i];
        c.pos = seq;
        c.stale = true;
        let reset = Reset {
            partition: self.at.0,
            generation: self.wire_generation(),
            connection: c.connection,
            conversation: conv.key.customer.as_str().to_owned(),
            last_seq: seq,
        };
        cx.links.send(c.link, Item::Reset(reset));
    }

    fn stall(&mut self, cx: &mut Cx, slot: u32, c: &mut Cursor) {
        if !c.stalled {
            c.stalled = true;
            let stalled = Stalled {
                at: self.here(),
                slot,
                connection: c.connection,
            };
            cx.links.stall(c.link, stalled);
        }
    }

    fn window_full(&mut self, cx: &mut Cx, slot: u32, c: &mut Cursor) {
        if c.full_since_ms == 0 {
            c.full_since_ms = cx.now_ms.max(1);
            self.full.push_back((c.full_since_ms, slot, c.link, c.connection));
        }
    }

    fn read_page(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize) {
        let head = conv.head();
        let below = conv.tail.before(head);
        let c = &mut conv.cursors[i];
        // The event that found no room is not read again before there is some; what comes behind it is taken to be as large.
        let next = if c.row_waits { c.row_bytes } else { 1 };
        if !c.window.has_room(next as usize) {
            return self.window_full(cx, slot, c);
        }
        let room = c.window.room_for(c.row_bytes as usize) as u64;
        let wanted = room.min(c.until - c.pos);
        if c.pos >= below {
            // Its offset is known, its body is not in memory.
            self.read_spilled(cx, slot, conv, i, wanted);
            return;
        }
        let limit = wanted.min(below - c.pos);
        let token = self.next_token(slot);
        let c = &mut conv.cursors[i];
        c.reading = token.serial;
        cx.stats.pages += 1;
        cx.actions.push_back(Action::ReadPage {
            token,
            key: conv.key.clone(),
            after: Seq(conv.cursors[i].pos),
            limit: limit as u32,
        });
    }

    /// At the head, or at the detaching event. What is folded again after a take-over is older than what the owner before has
    /// told: a connection that had begun is told nothing of it until all of that is folded.
    fn at_limit(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, i: usize) {
        let c = &mut conv.cursors[i];
        if c.pos >= c.until && !self.caught_up {
            // What is still to be folded may give it the conversation back: it need not hear that it was let go.
            c.stale = true;
        } else if c.pos >= c.until {
            c.attached = false;
            c.until = u64::MAX;
            c.stale = false;
            self.tell_conversation(cx, conv, i, false);
            self.maybe_idle(cx, slot, conv);
        } else if c.stale && self.caught_up {
            // After a take-over all of them come at once: each waits for room.
            if !cx.links.has_room(c.link) {
                return self.stall(cx, slot, c);
            }
            self.tell_conversation(cx, conv, i, false);
        }
    }

    /// Everything up to the take-over is folded: whoever waited to be told is told.
    pub(crate) fn caught_up(&mut self, cx: &mut Cx) {
        self.caught_up = true;
        for slot in 0..self.slots.len() {
            let Some(mut conv) = self.slots.take(slot) else {
                continue;
            };
            for i in 0..conv.cursors.len() {
                if conv.cursors[i].stale {
                    self.pump(cx, slot, &mut conv, i);
                }
            }
            self.slots.put_back(slot, conv);
        }
    }

    /// The `conversation` frame, and after a first one the other side's receipt.
    pub(crate) fn tell_conversation(&mut self, cx: &mut Cx, conv: &mut Conv, i: usize, begin: bool) {
        let Some(state) = &conv.state else { return };
        let head = state.last_seq().0;
        let own_marks = conv.own_marks(&conv.cursors[i]);
        let c = &mut conv.cursors[i];
        let caught_up_elsewhere = c.stale;
        c.told = head;
        c.stale = false;
        let item = Conversation {
            partition: self.at.0,
            generation: self.wire_generation(),
            connections: vec![c.connection],
            conversation: conv.key.customer.as_str().to_owned(),
            begin,
            from: c.pos,
            access: access(state, c).into(),
            frame: frames::conversation(&conv.key, state, own_marks),
        };
        cx.links.send(c.link, Item::Conversation(item));
        let other = match c.side() {
            wire::frames::Side::Customer => wire::frames::Side::Agent,
            wire::frames::Side::Agent => wire::frames::Side::Customer,
        };
        let (recv, read) = conv.logged.of(other);
        if (begin || caught_up_elsewhere) && c.attached && recv + read > 0 {
            let (link, connection) = (c.link, c.connection);
            self.send_frame(cx, link, connection, frames::receipt(&conv.key, other, recv, read));
        }
    }

    /// The `placed` of dropped repeats the cursor has passed.
    pub(crate) fn flush_placed(&self, cx: &mut Cx, conv: &mut Conv, i: usize) {
        let c = &mut conv.cursors[i];
        let Some(placed) = &mut c.placed else { return };
        let pos = c.pos;
        let (link, connection) = (c.link, c.connection);
        let mut due = Vec::new();
        placed.retain(|(seq, frame)| {
            let wait = *seq > pos;
            if !wait {
                due.push(frame.clone());
            }
            wait
        });
        if placed.is_empty() {
            c.placed = None;
        }
        for frame in due {
            self.send_frame(cx, link, connection, frame);
        }
    }
}

/// What this connection's user may do from now on.
fn access(state: &conversation::State, c: &Cursor) -> Access {
    match c.user() {
        None => Access::Full,
        Some(_) if !c.attached => Access::None,
        Some(user) if state.serves(user) => Access::Full,
        Some(user) if state.watches(user) => Access::Watch,
        Some(_) => Access::None,
    }
}

/// What a hidden event's frame takes at most, near enough.
const HIDDEN_BYTES: usize = 256;

/// Why a row that was read is not pushed.
#[derive(Clone, Copy)]
enum NoRoom {
    Link,
    Window,
}

/// Queues one event for one connection; false if its window has no room. `placed` needs none.
#[allow(clippy::too_many_arguments)] // the hot path: everything it needs, nothing looked up twice
fn push(
    partition: Partition,
    generation: wire::Generation,
    instance: u64,
    cx: &mut Cx,
    slot: u32,
    conversation: &str,
    c: &mut Cursor,
    next: Next,
) -> bool {
    let frame = match next.own_id {
        Some(id) => placed_frame(conversation, Seq(next.seq), next.at_ms, id),
        None if next.hidden => hidden_frame(conversation, Seq(next.seq), next.at_ms),
        None => next.frame,
    };
    let bytes = frame.len();
    let shared = if next.own_id.is_some() {
        cx.stats.placed += 1;
        None
    } else {
        if !c.window.has_room(bytes) {
            return false;
        }
        c.window.add(next.seq, bytes, next.received_at_ms);
        cx.stats.pushed += 1;
        if let Some(ms) = since(cx.now_ms, next.received_at_ms) {
            cx.stats.pushed_ms.push(ms);
        }
        Some(Shared {
            instance,
            slot,
            seq: next.seq,
            hidden: next.hidden,
        })
    };
    c.pos = next.seq;
    c.full_since_ms = 0;
    c.row_waits = false;
    let (connection, seq, received_at_ms) = (c.connection, next.seq, next.received_at_ms);
    cx.links.push(c.link, shared, connection, || {
        let push = Push {
            partition: partition.0,
            generation: Some(generation.into()),
            connections: vec![connection],
            conversation: conversation.to_owned(),
            seq,
            frame,
            received_at_ms,
        };
        (push, bytes)
    });
    true
}
