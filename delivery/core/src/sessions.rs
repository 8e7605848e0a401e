//! Sessions as seen from here: which members of staff a conversation is attached to, what the desk is asked and told.

use bytes::Bytes;
use conversation::{SessionChange, is_named, named};
use prost::Message;
use wire::limits;
use wire::record::{Activity, DeskRecord, Kind, Record, Role, Session, SessionState, Wanted, desk_record::Input};
use wire::{ConversationKey, User};

use crate::action::{Action, ProduceTo};
use crate::cursor::{Cursor, Start, Who};
use crate::partition::{Cx, PartitionCore};
use crate::resident::{Conv, Told};

/// Activity of a session is told at most this often.
const ACTIVITY_MS: u64 = 30_000;

impl PartitionCore {
    /// A conversation came into memory with a session.
    pub(crate) fn session_loaded(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv) {
        let Some(state) = &conv.state else { return };
        let session = state.session();
        for user in named(&session) {
            self.serves(conv, slot, user);
        }
        self.watch_wanted(cx, slot, conv);
    }

    /// The log changed the session: attach whom it names now, detach whom it named before.
    pub(crate) fn session_changed(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, change: &SessionChange) {
        let head = conv.head();
        let told = change.before.state != change.after.state || change.before.agent != change.after.agent;
        let unnumbered = conv.tail.get(head, head).is_none_or(|e| !e.changes);
        for c in conv.cursors.iter_mut().filter(|c| c.begun && c.attached) {
            let serves = |s: &Session, u: &str| s.agent == u || s.joined.iter().any(|j| j == u);
            let may_other = c
                .user()
                .is_some_and(|u| serves(&change.before, u) != serves(&change.after, u));
            c.stale |= (told && unnumbered) || may_other;
        }
        for user in named(&change.before).filter(|u| !is_named(&change.after, u)) {
            self.serves_no_more(conv, slot, user);
            for c in conv.cursors.iter_mut().filter(|c| c.attached && c.user() == Some(user)) {
                // Ends with this event, included; one that has not begun has seen nothing and never will.
                c.until = head;
                if !c.begun && !c.ahead {
                    c.attached = false;
                    c.until = u64::MAX;
                }
            }
        }
        for user in named(&change.after) {
            self.serves(conv, slot, user);
            self.attach_user(cx, slot, conv, user, true);
        }
        self.watch_wanted(cx, slot, conv);
        if change.ended {
            conv.told = None;
        }
    }

    /// Attaches every connected member of staff the loaded session names.
    pub(crate) fn attach_named(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv) {
        let Some(state) = &conv.state else { return };
        let session = state.session();
        for user in named(&session) {
            self.attach_user(cx, slot, conv, user, false);
        }
    }

    /// All connections of one member of staff. `live`: by a record just folded, not because it was so before.
    fn attach_user(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, user: &str, live: bool) {
        let Some(user) = User::new(user).ok() else { return };
        let Some(ids) = self.staff_of.get(&(conv.key.tenant.clone(), user)).cloned() else {
            return;
        };
        for id in ids {
            self.attach_staff(cx, slot, conv, id, live);
        }
    }

    /// One connection of a member of staff whom the session names.
    pub(crate) fn attach_staff(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv, id: u32, live: bool) {
        let Some(staff) = self.staff.get_mut(id as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        if let Some(i) = conv.cursor_of(staff.link, staff.connection) {
            let c = &mut conv.cursors[i];
            c.until = u64::MAX;
            if !c.attached {
                // Goes on where it stopped.
                c.attached = true;
                c.stale = c.begun;
                if c.begun {
                    c.start = Start::Placed;
                }
                self.begin(cx, slot, conv, i);
            }
            return;
        }
        let who = Who::Staff {
            user: staff.user.clone(),
            role: staff.role,
        };
        let start = match staff.since.get(conv.name()) {
            Some(&seq) => Start::Since(seq),
            None if live || !staff.fresh => Start::Session,
            None => Start::Head,
        };
        let mut cursor = Cursor::new(staff.link, staff.node, staff.connection, who, start);
        if let Some(place) = staff.places.remove(conv.name()) {
            cursor.begun = true;
            cursor.start = Start::Placed;
            cursor.pos = place.written;
            cursor.recv = place.recv.min(place.written);
            cursor.read = place.read.min(place.written);
        }
        if !staff.convs.contains(&slot) {
            staff.convs.push(slot);
        }
        let i = conv.add_cursor(cursor);
        self.begin(cx, slot, conv, i);
    }

    fn serves(&mut self, conv: &Conv, slot: u32, user: &str) {
        let Some(user) = User::new(user).ok() else { return };
        let slots = self.serving.entry((conv.key.tenant.clone(), user)).or_default();
        if !slots.contains(&slot) {
            slots.push(slot);
        }
    }

    pub(crate) fn serves_no_more(&mut self, conv: &Conv, slot: u32, user: &str) {
        let Some(user) = User::new(user).ok() else { return };
        let key = (conv.key.tenant.clone(), user);
        if let Some(slots) = self.serving.get_mut(&key) {
            slots.retain(|s| *s != slot);
            if slots.is_empty() {
                self.serving.remove(&key);
            }
        }
    }

    /// Lists a wanted session for the desk: at once, or in a moment while older records may still change it.
    fn watch_wanted(&mut self, cx: &mut Cx, slot: u32, conv: &mut Conv) {
        let wanted = conv
            .state
            .as_ref()
            .is_some_and(|s| s.session_state() == SessionState::SessionWanted);
        if !wanted {
            if conv.wanted_due_ms != 0 {
                self.wanted.remove(&(conv.wanted_due_ms, slot));
                conv.wanted_due_ms = 0;
            }
        } else if conv.wanted_due_ms == 0 {
            let wait = if self.caught_up { 0 } else { limits::WANTED_AGAIN_MS };
            conv.wanted_due_ms = (cx.now_ms + wait).max(1);
            self.wanted.insert((conv.wanted_due_ms, slot));
        }
    }

    /// Asks the desk for every wanted session that is due.
    pub(crate) fn ask_wanted(&mut self, cx: &mut Cx) {
        while let Some(&(due, slot)) = self.wanted.first().filter(|(due, _)| *due <= cx.now_ms) {
            self.wanted.remove(&(due, slot));
            let Some(conv) = self.slots.get_mut(slot) else { continue };
            let Some(state) = conv.state.as_ref().filter(|_| conv.wanted_due_ms == due) else {
                continue;
            };
            let wanted = Wanted {
                customer: conv.key.customer.as_str().to_owned(),
                last_seq: state.last_seq().0,
                priority: state.session().priority,
            };
            conv.wanted_due_ms = cx.now_ms + limits::WANTED_AGAIN_MS;
            self.wanted.insert((conv.wanted_due_ms, slot));
            let action = to_desk(&self.topics, &conv.key, Input::Wanted(wanted));
            cx.actions.push_back(action);
        }
    }

    /// A session's first reply at once; activity at most every 30 s.
    pub(crate) fn tell_desk_of(&mut self, cx: &mut Cx, conv: &mut Conv, record: &Record) {
        let role = record.from.as_ref().map_or(Role::Unknown, |f| f.role());
        let speaks = record.kind() == Kind::Message && record.audience() == wire::record::Audience::Everyone;
        if !speaks || !conv.is_open() || matches!(role, Role::System | Role::Unknown) {
            return;
        }
        let Some(state) = &conv.state else { return };
        let by_agent = role != Role::Customer;
        let first_seq = state.span().first_seq.0;
        let last_seq = state.last_seq().0;
        let told = conv.told.get_or_insert_default();
        if told.session_first_seq != first_seq {
            **told = Told {
                session_first_seq: first_seq,
                replied: false,
                last_ms: cx.now_ms,
            };
        }
        let first_reply = by_agent && !told.replied;
        told.replied |= by_agent;
        if !first_reply && cx.now_ms < told.last_ms + ACTIVITY_MS {
            return;
        }
        told.last_ms = cx.now_ms;
        let activity = Activity {
            customer: conv.key.customer.as_str().to_owned(),
            first_reply,
            by_agent,
            last_seq,
        };
        cx.actions
            .push_back(to_desk(&self.topics, &conv.key, Input::Activity(activity)));
    }
}

fn to_desk(topics: &wire::LaneTopics, key: &ConversationKey, input: Input) -> Action {
    let record = DeskRecord {
        version: wire::codec::RECORD_VERSION,
        input: Some(input),
    };
    Action::Produce {
        to: ProduceTo::Desk,
        partition: topics.desk_partition_of(&key.tenant),
        key: Some(Bytes::copy_from_slice(key.tenant.as_str().as_bytes())),
        value: record.encode_to_vec().into(),
    }
}
