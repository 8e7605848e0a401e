//! What connections say beside registering: acks, typing, and nodes' questions.

use wire::Generation;
use wire::link::from_worker::Item;
use wire::link::{Acked, Answer, Ask, Typing, Whose};
use wire::record::Role;

use crate::cursor::Who;
use crate::frames;
use crate::link::LinkId;
use crate::partition::{Cx, PartitionCore};
use crate::register::Home;
use crate::resident::{Asked, Conv};
use crate::stats::since;

/// How long a node's question waits for a cold conversation.
const ASK_WAIT_MS: u64 = 2_000;

impl PartitionCore {
    /// The link a connection stands on: this one, or (a POST that another node got) the one of the node it names, if the
    /// connection is that user's.
    fn link_of(&self, cx: &Cx, link: LinkId, (node, connection): (u64, u64), whose: Option<&Whose>) -> Option<LinkId> {
        if node == 0 || cx.links.node_of(link) == Some(node) {
            return Some(link);
        }
        let other = cx.links.of_node(node)?;
        self.belongs_to(other, connection, whose?, None).then_some(other)
    }

    /// Is it a connection of exactly this user? A customer and a member of staff may have one name, and so may users of two tenants.
    /// `taken` is the conversation that is in somebody's hands now, if one is.
    pub(crate) fn belongs_to(&self, link: LinkId, connection: u64, whose: &Whose, taken: Option<&Conv>) -> bool {
        let customer = whose.role() == Role::Customer;
        match self.routes.get(&(link, connection)) {
            Some(Home::Customer(slot)) => {
                self.slots.get(*slot).or(taken).is_some_and(|conv| {
                    customer && conv.key.tenant.as_str() == whose.tenant && conv.name() == whose.user
                })
            }
            Some(Home::Staff(id)) => self.staff[*id as usize].as_deref().is_some_and(|staff| {
                !customer && staff.tenant.as_str() == whose.tenant && staff.user.as_str() == whose.user
            }),
            None => false,
        }
    }

    /// The slot of a conversation as one of this connection's.
    fn slot_of(&self, link: LinkId, connection: u64, conversation: &str) -> Option<u32> {
        let named = |slot: &u32| self.slots.get(*slot).is_some_and(|c| c.name() == conversation);
        match self.routes.get(&(link, connection))? {
            Home::Customer(slot) => Some(*slot).filter(named),
            Home::Staff(id) => self.staff[*id as usize].as_deref()?.convs.iter().copied().find(named),
        }
    }

    pub(crate) fn acked(&mut self, cx: &mut Cx, link: LinkId, a: Acked) {
        let theirs: Generation = a.generation.map(Into::into).unwrap_or_default();
        if theirs < self.generation {
            cx.stats.refused_generation += 1;
            return;
        }
        let Some(link) = self.link_of(cx, link, (a.node, a.connection), a.whose.as_ref()) else {
            return;
        };
        let Some(slot) = self.slot_of(link, a.connection, &a.conversation) else {
            return;
        };
        let Some(mut conv) = self.slots.take(slot) else { return };
        if let Some(i) = conv.cursor_of(link, a.connection) {
            let c = &mut conv.cursors[i];
            let recv = a.recv.max(a.read).min(c.pos);
            let read = a.read.min(c.pos);
            if recv > c.recv {
                c.recv = recv;
                c.full_since_ms = 0;
                c.window.acked(recv, |received_at_ms| {
                    cx.stats.acked += 1;
                    cx.stats.acked_ms.extend(since(cx.now_ms, received_at_ms));
                });
            }
            c.read = c.read.max(read);
            if !c.ahead && c.begun {
                let (recv, read) = (c.recv, c.read);
                self.raise_marks(slot, &mut conv, i, recv, read);
            }
            self.pump(cx, slot, &mut conv, i);
        }
        self.slots.put_back(slot, conv);
    }

    /// A connection's acks count for its side.
    pub(crate) fn raise_marks(&mut self, slot: u32, conv: &mut Conv, i: usize, recv: u64, read: u64) {
        let c = &conv.cursors[i];
        if conv.counts(c) {
            let (side, before) = (c.side(), conv.acked);
            conv.acked.raise(side, recv, read);
            if conv.acked != before {
                // Not what was written last: the next round takes it.
                conv.marks_written_ms = 0;
            }
            self.marks_rose(slot, conv);
        }
    }

    /// To the other side, if the sender may speak here.
    pub(crate) fn typing(&mut self, cx: &mut Cx, link: LinkId, t: Typing) {
        let Some(link) = self.link_of(cx, link, (t.node, t.connection), t.whose.as_ref()) else {
            return;
        };
        let Some(slot) = self.slot_of(link, t.connection, &t.conversation) else {
            return;
        };
        let Some(conv) = self.slots.get(slot) else { return };
        let (Some(state), Some(i)) = (&conv.state, conv.cursor_of(link, t.connection)) else {
            return;
        };
        let sender = &conv.cursors[i];
        let (role, user) = match &sender.who {
            Who::Customer { .. } => (Role::Customer, conv.name()),
            Who::Staff { user, role } if sender.listens() && state.serves(user.as_str()) => (*role, user.as_str()),
            Who::Staff { .. } => return,
        };
        let frame = frames::typing(&conv.key, role, user);
        for c in &conv.cursors {
            if c.side() != sender.side() && c.listens() {
                self.send_frame(cx, c.link, c.connection, frame.clone());
            }
        }
    }

    pub(crate) fn ask(&mut self, cx: &mut Cx, link: LinkId, a: &Ask) {
        let Some(key) = self
            .key_of(&a.tenant, &a.conversation)
            .filter(|k| self.topics.partition_of(k) == self.at)
        else {
            return unknown(cx, link, a.ask);
        };
        let slot = self.resident(cx, key);
        let Some(mut conv) = self.slots.take(slot) else { return };
        if conv.state.is_some() {
            self.answer(cx, link, a.ask, &conv);
            self.maybe_idle(cx, slot, &mut conv);
        } else {
            let until_ms = cx.now_ms + ASK_WAIT_MS;
            conv.waiting().asks.push(Asked {
                link,
                ask: a.ask,
                until_ms,
            });
            self.asks_due.push_back((until_ms, slot));
        }
        self.slots.put_back(slot, conv);
    }

    pub(crate) fn answer(&self, cx: &mut Cx, link: LinkId, ask: u64, conv: &Conv) {
        let Some(state) = &conv.state else { return };
        let answer = Answer {
            ask,
            known: true,
            session: Some(state.session()),
            last_seq: state.last_seq().0,
        };
        cx.links.send(link, Item::Answer(answer));
    }

    /// Questions whose conversation did not come in time.
    pub(crate) fn give_up_asks(&mut self, cx: &mut Cx) {
        while let Some(&(until_ms, slot)) = self.asks_due.front().filter(|(until, _)| *until <= cx.now_ms) {
            self.asks_due.pop_front();
            let Some(waiting) = self.slots.get_mut(slot).and_then(|c| c.waiting.as_deref_mut()) else {
                continue;
            };
            waiting.asks.retain(|asked| {
                let late = asked.until_ms <= until_ms;
                if late {
                    unknown(cx, asked.link, asked.ask);
                }
                !late
            });
        }
    }
}

pub(crate) fn unknown(cx: &mut Cx, link: LinkId, ask: u64) {
    let answer = Answer {
        ask,
        ..Answer::default()
    };
    cx.links.send(link, Item::Answer(answer));
}
