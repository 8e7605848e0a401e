//! Connections: registering and unregistering, and which of two of one device stays.

use std::collections::HashMap;

use wire::link::from_worker::Item;
use wire::link::{Close, NotOwner, Place, Register, Registered};
use wire::record::Role;
use wire::{CloseCode, Generation, Tenant, User};

use crate::cursor::{Cursor, Start, Who};
use crate::link::LinkId;
use crate::partition::{Cx, PartitionCore};
use crate::resident::Conv;

/// Where a connection is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// The slot of the customer's own conversation.
    Customer(u32),
    /// A number in `PartitionCore::staff`.
    Staff(u32),
}

/// A connection of a member of staff: registered at every partition, attached where its user is named.
#[derive(Debug)]
pub(crate) struct Staff {
    pub link: LinkId,
    pub node: u64,
    pub connection: u64,
    pub rank: u64,
    pub fresh: bool,
    pub tenant: Tenant,
    pub user: User,
    pub role: Role,
    pub device: String,
    pub since: HashMap<String, u64>,
    /// Where conversations stand that are not attached now.
    pub places: HashMap<String, Place>,
    /// Conversations with a cursor of this connection.
    pub convs: Vec<u32>,
}

/// The rank a registration stays with, against the highest other rank of its device; `None`: it loses.
fn contest(rank: u64, fresh: bool, highest_other: Option<u64>) -> Option<u64> {
    match highest_other {
        Some(other) if rank <= other => fresh.then(|| other.saturating_add(1)),
        _ => Some(rank),
    }
}

impl PartitionCore {
    pub(crate) fn register(&mut self, cx: &mut Cx, link: LinkId, r: Register) {
        let Some(node) = cx.links.node_of(link) else { return };
        let theirs: Generation = r.generation.map(Into::into).unwrap_or_default();
        if theirs > self.generation {
            cx.stats.not_owner += 1;
            let item = NotOwner {
                partition: self.at.0,
                generation: self.wire_generation(),
                connections: vec![r.connection],
            };
            return cx.links.send(link, Item::NotOwner(item));
        }
        if r.fresh {
            cx.stats.registered_fresh += 1;
        } else {
            cx.stats.registered_again += 1;
        }
        self.unregister(cx, link, r.connection);
        match r.role() {
            Role::Customer => self.register_customer(cx, link, node, r),
            Role::Unknown | Role::System => close(cx, link, r.connection, CloseCode::Forbidden),
            _ => self.register_staff(cx, link, node, r),
        }
    }

    fn register_customer(&mut self, cx: &mut Cx, link: LinkId, node: u64, r: Register) {
        let Some(key) = self
            .key_of(&r.tenant, &r.user)
            .filter(|k| self.topics.partition_of(k) == self.at)
        else {
            return close(cx, link, r.connection, CloseCode::Internal);
        };
        let slot = self.resident(cx, key);
        let Some(mut conv) = self.slots.take(slot) else { return };
        let same_device = |who: &Who| match who {
            Who::Customer {
                rank,
                device: Some(device),
            } if !r.device.is_empty() && **device == *r.device => Some(*rank),
            _ => None,
        };
        let highest = conv.cursors.iter().filter_map(|c| same_device(&c.who)).max();
        let Some(rank) = contest(r.rank, r.fresh, highest) else {
            self.slots.put_back(slot, conv);
            cx.stats.replaced += 1;
            return close(cx, link, r.connection, CloseCode::Replaced);
        };
        conv.cursors.retain(|c| {
            let stays = same_device(&c.who).is_none();
            if !stays {
                cx.stats.replaced += 1;
                self.routes.remove(&(c.link, c.connection));
                close(cx, c.link, c.connection, CloseCode::Replaced);
            }
            stays
        });
        self.registered(cx, link, r.connection, rank);
        let who = Who::Customer {
            rank,
            device: (!r.device.is_empty()).then(|| r.device.as_str().into()),
        };
        let place = r.places.iter().find(|p| p.conversation == conv.name());
        let since = r.since.iter().find(|s| s.conversation == conv.name());
        let start = match (place, since) {
            (Some(_), _) => Start::Placed,
            (None, Some(since)) => Start::Since(since.seq),
            (None, None) => Start::Head,
        };
        let mut cursor = Cursor::new(link, node, r.connection, who, start);
        if let Some(place) = place {
            set_place(&mut cursor, place);
        }
        self.routes.insert((link, r.connection), Home::Customer(slot));
        let i = conv.add_cursor(cursor);
        self.begin(cx, slot, &mut conv, i);
        self.slots.put_back(slot, conv);
    }

    fn register_staff(&mut self, cx: &mut Cx, link: LinkId, node: u64, r: Register) {
        let role = r.role();
        let (Some(tenant), Ok(user)) = (self.tenant(&r.tenant), User::new(&r.user)) else {
            return close(cx, link, r.connection, CloseCode::Internal);
        };
        let of = (tenant.clone(), user.clone());
        let rivals: Vec<(LinkId, u64, u64)> = self
            .staff_of
            .get(&of)
            .into_iter()
            .flatten()
            .filter_map(|id| self.staff[*id as usize].as_deref())
            .filter(|s| !r.device.is_empty() && s.device == r.device)
            .map(|s| (s.link, s.connection, s.rank))
            .collect();
        let Some(rank) = contest(r.rank, r.fresh, rivals.iter().map(|s| s.2).max()) else {
            cx.stats.replaced += 1;
            return close(cx, link, r.connection, CloseCode::Replaced);
        };
        for (link, connection, _) in rivals {
            cx.stats.replaced += 1;
            self.unregister(cx, link, connection);
            close(cx, link, connection, CloseCode::Replaced);
        }
        self.registered(cx, link, r.connection, rank);
        let (attached, detached): (Vec<Place>, Vec<Place>) = r.places.into_iter().partition(|p| p.attached);
        let staff = Staff {
            link,
            node,
            connection: r.connection,
            rank,
            fresh: r.fresh,
            tenant,
            user,
            role,
            device: r.device,
            since: r.since.into_iter().map(|s| (s.conversation, s.seq)).collect(),
            places: detached.into_iter().map(|p| (p.conversation.clone(), p)).collect(),
            convs: Vec::new(),
        };
        let id = match self.staff.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.staff.push(None);
                self.staff.len() - 1
            }
        };
        self.staff[id] = Some(Box::new(staff));
        let id = id as u32;
        self.routes.insert((link, r.connection), Home::Staff(id));
        self.staff_of.entry(of.clone()).or_default().push(id);
        for place in attached {
            self.place_staff(cx, id, place);
        }
        for slot in self.serving.get(&of).cloned().unwrap_or_default() {
            let Some(mut conv) = self.slots.take(slot) else {
                continue;
            };
            let has = conv.cursor_of(link, r.connection).is_some();
            if conv.state.is_some() && !has {
                self.attach_staff(cx, slot, &mut conv, id, false);
            }
            self.slots.put_back(slot, conv);
        }
    }

    /// A conversation that was attached to this connection at the owner before.
    fn place_staff(&mut self, cx: &mut Cx, id: u32, place: Place) {
        let Some(staff) = self.staff[id as usize].as_deref() else {
            return;
        };
        let (link, node, connection) = (staff.link, staff.node, staff.connection);
        let (tenant, user, role) = (staff.tenant.clone(), staff.user.clone(), staff.role);
        let Some(key) = self
            .key_of(tenant.as_str(), &place.conversation)
            .filter(|k| self.topics.partition_of(k) == self.at)
        else {
            return;
        };
        let slot = self.resident(cx, key);
        let Some(mut conv) = self.slots.take(slot) else { return };
        let mut cursor = Cursor::new(link, node, connection, Who::Staff { user, role }, Start::Placed);
        set_place(&mut cursor, &place);
        let i = conv.add_cursor(cursor);
        if let Some(staff) = self.staff[id as usize].as_deref_mut() {
            staff.convs.push(slot);
        }
        if conv.state.is_some() {
            end_places(&mut conv);
            self.begin(cx, slot, &mut conv, i);
        }
        self.slots.put_back(slot, conv);
    }

    fn registered(&self, cx: &mut Cx, link: LinkId, connection: u64, rank: u64) {
        let item = Registered {
            connection,
            partition: self.at.0,
            generation: self.wire_generation(),
            rank,
        };
        cx.links.send(link, Item::Registered(item));
    }

    /// Removes exactly this connection of this link.
    pub(crate) fn unregister(&mut self, cx: &mut Cx, link: LinkId, connection: u64) {
        match self.routes.remove(&(link, connection)) {
            None => {}
            Some(Home::Customer(slot)) => self.drop_cursor(cx, slot, link, connection),
            Some(Home::Staff(id)) => {
                let Some(staff) = self.staff[id as usize].take() else {
                    return;
                };
                for slot in &staff.convs {
                    self.drop_cursor(cx, *slot, link, connection);
                }
                let of = (staff.tenant, staff.user);
                if let Some(ids) = self.staff_of.get_mut(&of) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        self.staff_of.remove(&of);
                    }
                }
            }
        }
    }

    fn drop_cursor(&mut self, cx: &mut Cx, slot: u32, link: LinkId, connection: u64) {
        let Some(mut conv) = self.slots.take(slot) else { return };
        conv.cursors.retain(|c| !c.is(link, connection));
        if conv.cursors.is_empty() {
            conv.cursors = Vec::new();
        }
        self.maybe_idle(cx, slot, &mut conv);
        self.slots.put_back(slot, conv);
    }

    /// The link is gone, and every route that stood on it.
    pub(crate) fn link_down(&mut self, cx: &mut Cx, link: LinkId) {
        self.unregister_where(cx, |of| of == link);
    }

    pub(crate) fn unregister_where(&mut self, cx: &mut Cx, is_gone: impl Fn(LinkId) -> bool) {
        let routes = self.routes.keys().copied();
        let mut gone: Vec<(LinkId, u64)> = routes.filter(|(link, _)| is_gone(*link)).collect();
        gone.sort_unstable();
        for (link, connection) in gone {
            self.unregister(cx, link, connection);
        }
    }

    /// A detached conversation leaves memory: its connection keeps the place.
    pub(crate) fn remember_place(&mut self, conv: &Conv, c: &Cursor, slot: u32) {
        let Some(Home::Staff(id)) = self.routes.get(&(c.link, c.connection)).copied() else {
            return;
        };
        let Some(staff) = self.staff[id as usize].as_deref_mut() else {
            return;
        };
        staff.convs.retain(|s| *s != slot);
        let place = Place {
            conversation: conv.name().to_owned(),
            written: c.pos,
            recv: c.recv,
            read: c.read,
            attached: false,
        };
        staff.places.insert(place.conversation.clone(), place);
    }

    /// Windows that have been full for too long.
    pub(crate) fn close_slow(&mut self, cx: &mut Cx) {
        let limit = wire::limits::PUSH_WINDOW_FULL_MS_MAX;
        while let Some(&(since_ms, slot, link, connection)) = self.full.front().filter(|f| f.0 + limit <= cx.now_ms) {
            self.full.pop_front();
            let still = self.slots.get(slot).is_some_and(|conv| {
                conv.cursors
                    .iter()
                    .any(|c| c.is(link, connection) && c.full_since_ms == since_ms)
            });
            if still {
                cx.stats.too_slow += 1;
                close(cx, link, connection, CloseCode::TooSlow);
                self.unregister(cx, link, connection);
            }
        }
    }
}

/// Staff cursors that came from an earlier owner and whose user was let go since: they end with the event after which that was.
/// One that is not remembered ends where it stands.
pub(crate) fn end_places(conv: &mut Conv) {
    let Some(state) = &conv.state else { return };
    for c in conv
        .cursors
        .iter_mut()
        .filter(|c| c.attached && c.start == Start::Placed && c.until == u64::MAX)
    {
        if let Some(user) = c.user()
            && !state.serves(user)
            && !state.watches(user)
        {
            c.until = state.let_go_at(user).map_or(c.pos, |seq| seq.0);
        }
    }
}

fn set_place(cursor: &mut Cursor, place: &Place) {
    cursor.begun = true;
    cursor.start = Start::Placed;
    cursor.pos = place.written;
    cursor.recv = place.recv.max(place.read).min(place.written);
    cursor.read = place.read.min(place.written);
}

fn close(cx: &mut Cx, link: LinkId, connection: u64, code: CloseCode) {
    let close = Close {
        connection,
        code: code.number().into(),
    };
    cx.links.send(link, Item::Close(close));
}
