//! What goes out into `messages`, per conversation one after the other: the next one only when the log has the last. So a
//! record that failed is repeated before later ones of its conversation, and others don't wait for it. Pure.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use wire::ConversationKey;

/// One partition's outbox. Numbers rise in the order in which records were put in.
#[derive(Default)]
pub(crate) struct Outbox {
    lines: HashMap<ConversationKey, VecDeque<Parcel>>,
    /// Conversation of each record that is on its way or failed.
    heads: HashMap<u64, ConversationKey>,
    failed: BTreeSet<u64>,
    /// Not known to be in the log yet.
    open: BTreeSet<u64>,
    next: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Parcel {
    pub number: u64,
    pub key: ConversationKey,
    pub value: Bytes,
}

impl Outbox {
    /// Takes a record in. Returns it if it is to be produced now.
    pub fn put(&mut self, key: ConversationKey, value: Bytes) -> Option<Parcel> {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        let parcel = Parcel {
            number,
            key: key.clone(),
            value,
        };
        let line = self.lines.entry(key).or_default();
        line.push_back(parcel.clone());
        (line.len() == 1).then(|| self.go(parcel))
    }

    /// The log has it. Returns the conversation's next, to be produced now.
    pub fn logged(&mut self, number: u64) -> Option<Parcel> {
        let key = self.heads.remove(&number)?;
        self.open.remove(&number);
        self.failed.remove(&number);
        let line = self.lines.get_mut(&key)?;
        line.pop_front();
        match line.front().cloned() {
            Some(next) => Some(self.go(next)),
            None => {
                self.lines.remove(&key);
                None
            }
        }
    }

    /// The log may not have it: it stays at the head of its conversation's line until `repeat`.
    pub fn failed(&mut self, number: u64) {
        if self.heads.contains_key(&number) {
            self.failed.insert(number);
        }
    }

    /// What failed, to be produced again now.
    pub fn repeat(&mut self) -> Vec<Parcel> {
        let failed = std::mem::take(&mut self.failed);
        let head = |number: u64| {
            let line = self.lines.get(self.heads.get(&number)?)?;
            line.front().filter(|p| p.number == number).cloned()
        };
        failed.into_iter().filter_map(head).collect()
    }

    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// The number the next record will get.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Every record put in before that number is in the log.
    pub fn is_done_below(&self, number: u64) -> bool {
        self.open.first().is_none_or(|first| *first >= number)
    }

    fn go(&mut self, parcel: Parcel) -> Parcel {
        self.heads.insert(parcel.number, parcel.key.clone());
        parcel
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use wire::{Tenant, User};

    use super::*;

    fn key(n: u8) -> ConversationKey {
        ConversationKey::new(Tenant::new("demo").unwrap(), User::new(format!("c{n}")).unwrap())
    }

    proptest! {
        /// Whatever fails, each conversation's records reach the log in their order, each after the one before.
        #[test]
        fn each_conversation_keeps_its_order_whatever_fails(steps in prop::collection::vec((0u8..3, any::<u8>(), any::<bool>()), 1..200)) {
            let mut outbox = Outbox::default();
            let mut on_the_way: Vec<Parcel> = Vec::new();
            let mut put: HashMap<ConversationKey, Vec<u64>> = HashMap::new();
            let mut logged: HashMap<ConversationKey, Vec<u64>> = HashMap::new();
            let mut take = |outbox: &mut Outbox, on_the_way: &mut Vec<Parcel>, which: u8, ok: bool| {
                if on_the_way.is_empty() {
                    return;
                }
                let parcel = on_the_way.remove(usize::from(which) % on_the_way.len());
                if ok {
                    logged.entry(parcel.key.clone()).or_default().push(parcel.number);
                    on_the_way.extend(outbox.logged(parcel.number));
                } else {
                    outbox.failed(parcel.number);
                }
            };
            for (what, which, ok) in steps {
                match what {
                    0 => {
                        let number = outbox.next();
                        put.entry(key(which % 4)).or_default().push(number);
                        on_the_way.extend(outbox.put(key(which % 4), Bytes::new()));
                    }
                    1 => take(&mut outbox, &mut on_the_way, which, ok),
                    _ => on_the_way.extend(outbox.repeat()),
                }
            }
            while outbox.len() > 0 {
                on_the_way.extend(outbox.repeat());
                take(&mut outbox, &mut on_the_way, 0, true);
            }
            prop_assert!(outbox.is_done_below(outbox.next()));
            prop_assert_eq!(logged, put);
        }
    }

    #[test]
    fn a_report_of_what_is_not_there_changes_nothing() {
        let mut outbox = Outbox::default();
        let first = outbox.put(key(1), Bytes::new()).unwrap();
        assert!(outbox.put(key(1), Bytes::new()).is_none());
        assert!(outbox.logged(99).is_none());
        outbox.failed(99);
        assert!(!outbox.has_failed());
        assert!(!outbox.is_done_below(1) && outbox.is_done_below(0));
        assert_eq!(outbox.logged(first.number).unwrap().number, 1);
        assert!(
            outbox.logged(first.number).is_none(),
            "a second report of the same record"
        );
    }
}
