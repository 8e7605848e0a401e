//! Where each conversation stands on one connection: the last seq written, the client's acks, what its user may do there.
//! Keeps I8 (what is not the connection's next seq is not written) and I9 (acks never exceed what was written, and never fall).

use std::collections::BTreeMap;

use wire::link::Access;
use wire::{Seq, User};

/// One conversation on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// The last seq written to the connection; `None` before the conversation began here.
    pub written: Option<Seq>,
    pub recv: Seq,
    pub read: Seq,
    /// Where the conversation began here, for counting.
    from: Seq,
    /// What the owner said last; `None` if it said nothing yet.
    pub access: Option<Access>,
}

/// A rise of a place's acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acks {
    pub recv: Seq,
    pub read: Seq,
    /// Events acknowledged for the first time.
    pub newly_received: u64,
}

impl Place {
    /// Does this event come next?
    pub fn push(&mut self, seq: Seq) -> bool {
        match self.written {
            Some(written) if written.next() == seq => {
                self.written = Some(seq);
                true
            }
            _ => false,
        }
    }

    /// The conversation begins here, after `from`. One that has begun goes on where it stands: never back.
    pub fn begin(&mut self, from: Seq) {
        if self.written.is_none_or(|written| written < from) {
            self.written = Some(from);
            self.from = from;
        }
    }

    /// `reset` and `rewind`: the client forgets what it has; nothing is acknowledged beyond.
    pub fn move_to(&mut self, seq: Seq) {
        self.written = Some(seq);
        self.from = seq;
        self.recv = self.recv.min(seq);
        self.read = self.read.min(seq);
    }

    /// Takes the client's acks, clamped to what was written; `None` if nothing rose.
    pub fn ack(&mut self, recv: u64, read: u64) -> Option<Acks> {
        let written = self.written?;
        let read = Seq(read).min(written).max(self.read);
        let recv = Seq(recv).min(written).max(read).max(self.recv);
        if (recv, read) == (self.recv, self.read) {
            return None;
        }
        let newly_received = recv.0.saturating_sub(self.recv.max(self.from).0);
        (self.recv, self.read) = (recv, read);
        Some(Acks {
            recv,
            read,
            newly_received,
        })
    }

    pub fn attached(&self) -> bool {
        self.access.is_none_or(|a| a != Access::None)
    }
}

/// A connection's conversations. A customer has one, without a map; staff have those they were attached to.
#[derive(Clone, Debug)]
pub enum Places {
    Own(Place),
    // Boxed: most connections are customers', and this enum is in each.
    #[allow(clippy::box_collection)]
    Many(Box<BTreeMap<User, Place>>),
}

impl Places {
    pub fn own() -> Self {
        Places::Own(Place::default())
    }

    pub fn many() -> Self {
        Places::Many(Box::default())
    }

    /// `own` is the connection's user. A customer has no place but its own.
    pub fn get(&self, own: &User, conversation: &str) -> Option<&Place> {
        match self {
            Places::Own(place) => (own.as_str() == conversation).then_some(place),
            Places::Many(places) => places.get(conversation),
        }
    }

    pub fn get_mut(&mut self, own: &User, conversation: &str) -> Option<&mut Place> {
        match self {
            Places::Own(place) => (own.as_str() == conversation).then_some(place),
            Places::Many(places) => places.get_mut(conversation),
        }
    }

    /// The place, made if it is a new one; `None` if the connection cannot have it.
    pub fn entry(&mut self, own: &User, conversation: &str) -> Option<&mut Place> {
        match self {
            Places::Own(place) => (own.as_str() == conversation).then_some(place),
            Places::Many(places) => {
                if !places.contains_key(conversation) {
                    places.insert(User::new(conversation).ok()?, Place::default());
                }
                places.get_mut(conversation)
            }
        }
    }

    /// Takes back what was learnt by asking. A place that never began is dropped: whoever names thousands of conversations must
    /// not fill the memory with them.
    pub fn forget(&mut self, conversation: &str) {
        let Places::Many(places) = self else { return };
        match places.get_mut(conversation) {
            Some(place) if place.written.is_some() => place.access = None,
            _ => {
                places.remove(conversation);
            }
        }
    }

    /// Places where something was written, by name.
    pub fn begun<'a>(&'a self, own: &'a User) -> impl Iterator<Item = (&'a User, &'a Place)> {
        let (one, many) = match self {
            Places::Own(place) => (Some((own, place)), None),
            Places::Many(places) => (None, Some(places.iter())),
        };
        one.into_iter()
            .chain(many.into_iter().flatten())
            .filter(|(_, p)| p.written.is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_customer_has_its_own_place_only_and_staff_get_new_ones() {
        let alice = User::new("alice").unwrap();
        let mut own = Places::own();
        assert!(own.entry(&alice, "bob").is_none());
        assert!(own.entry(&alice, "alice").is_some());
        let mut many = Places::many();
        assert!(many.get(&alice, "bob").is_none());
        many.entry(&alice, "bob").unwrap().begin(Seq(3));
        assert_eq!(many.begun(&alice).count(), 1);
    }

    #[test]
    fn what_never_began_is_forgotten_whole_and_what_began_stays() {
        let bo = User::new("bo").unwrap();
        let mut many = Places::many();
        for name in ["began", "asked"] {
            many.entry(&bo, name).unwrap().access = Some(Access::Full);
        }
        many.entry(&bo, "began").unwrap().begin(Seq(0));
        for name in ["began", "asked", "never heard of"] {
            many.forget(name);
        }
        let Places::Many(places) = &many else { panic!() };
        assert_eq!(places.keys().map(User::as_str).collect::<Vec<_>>(), ["began"]);
    }

    #[test]
    fn read_implies_recv_and_neither_exceeds_what_was_written() {
        let mut place = Place::default();
        assert_eq!(place.ack(5, 5), None);
        place.begin(Seq(10));
        assert_eq!(place.ack(3, 7).map(|a| (a.recv.0, a.read.0)), Some((7, 7)));
        assert_eq!(place.ack(u64::MAX, 2).map(|a| (a.recv.0, a.read.0)), Some((10, 7)));
        assert_eq!(place.ack(1, 1), None);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(u64),
        Begin(u64),
        Ack(u64, u64),
    }

    proptest! {
        #[test]
        fn only_consecutive_seqs_are_ever_written(ops in proptest::collection::vec(prop_oneof![
            4 => (0u64..20).prop_map(Op::Push),
            1 => (0u64..20).prop_map(Op::Begin),
            1 => (0u64..30, 0u64..30).prop_map(|(a, b)| Op::Ack(a, b)),
        ], 0..200)) {
            let mut place = Place::default();
            let mut last: Option<u64> = None;
            for op in ops {
                let before = (place.recv, place.read);
                match op {
                    Op::Push(seq) => {
                        if place.push(Seq(seq)) {
                            prop_assert_eq!(last.map(|l| l + 1), Some(seq));
                            last = Some(seq);
                        }
                    }
                    Op::Begin(from) => {
                        place.begin(Seq(from));
                        last = Some(last.map_or(from, |l| l.max(from)));
                    }
                    Op::Ack(recv, read) => { place.ack(recv, read); }
                }
                prop_assert!(place.recv >= before.0 && place.read >= before.1);
                prop_assert!(place.read <= place.recv);
                prop_assert!(place.recv <= place.written.unwrap_or_default());
            }
        }
    }
}
