//! What has been asked to be sent and is not yet known to be in the log, in order. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ends with `sent`, `placed`, or its event.
    Send,
    /// Ends with `done` (or `sent`, where an act is a message).
    Act,
}

#[derive(Debug)]
pub struct Entry {
    pub id: String,
    /// `None`: a customer's own.
    pub conversation: Option<String>,
    pub frame: Bytes,
    pub kind: Kind,
    /// On the connection that is up now.
    pub written: bool,
    /// On any connection, so it may be in the log already.
    pub ever_written: bool,
}

#[derive(Debug, Default)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    in_flight: usize,
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    pub fn contains(&self, id: &str) -> bool {
        self.entries.iter().any(|e| e.id == id)
    }

    /// It is in the log, or definitely refused.
    pub fn remove(&mut self, id: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|e| e.id == id)?;
        let entry = self.entries.remove(at)?;
        self.in_flight -= usize::from(entry.written);
        Some(entry)
    }

    /// After an error: everything of that conversation from this message on goes again.
    pub fn again_from(&mut self, id: &str) {
        let Some(at) = self.entries.iter().position(|e| e.id == id) else {
            return;
        };
        let conversation = self.entries[at].conversation.clone();
        for entry in self.entries.range_mut(at..).filter(|e| e.conversation == conversation) {
            self.in_flight -= usize::from(entry.written);
            entry.written = false;
        }
    }

    /// The connection is gone: nothing is in flight.
    pub fn disconnected(&mut self) {
        self.in_flight = 0;
        for entry in &mut self.entries {
            entry.written = false;
        }
    }

    /// Writes what may go now, oldest first, at most `window` in flight. `held(conversation)` holds back a conversation
    /// that has something which may be in the log already: it must see what comes back first.
    pub fn flush(&mut self, window: usize, held: impl Fn(Option<&str>) -> bool, mut write: impl FnMut(&Entry)) -> bool {
        let mut blocked: Vec<Option<String>> = Vec::new();
        for entry in &mut self.entries {
            if entry.written || blocked.contains(&entry.conversation) {
                continue;
            }
            if self.in_flight >= window {
                break;
            }
            if entry.ever_written && entry.kind == Kind::Send && held(entry.conversation.as_deref()) {
                blocked.push(entry.conversation.clone());
                continue;
            }
            entry.written = true;
            entry.ever_written = true;
            self.in_flight += 1;
            write(entry);
        }
        !blocked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: u32, conversation: &str) -> Entry {
        Entry {
            id: id.to_string(),
            conversation: Some(conversation.into()),
            frame: Bytes::new(),
            kind: Kind::Send,
            written: false,
            ever_written: false,
        }
    }

    fn flushed(outbox: &mut Outbox, held: bool) -> Vec<String> {
        let mut out = Vec::new();
        outbox.flush(8, |_| held, |e| out.push(e.id.clone()));
        out
    }

    #[test]
    fn after_an_error_its_conversation_goes_again_from_there_and_no_other() {
        let mut outbox = Outbox::default();
        for (id, c) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
            outbox.push(entry(id, c));
        }
        assert_eq!(flushed(&mut outbox, false), ["1", "2", "3", "4"]);
        outbox.remove("1");
        outbox.again_from("3");
        assert_eq!(flushed(&mut outbox, false), ["3"]);
    }

    #[test]
    fn a_new_message_waits_behind_an_older_one_that_may_be_in_the_log() {
        let mut outbox = Outbox::default();
        outbox.push(entry(1, "a"));
        flushed(&mut outbox, false);
        outbox.disconnected();
        outbox.push(entry(2, "a"));
        outbox.push(entry(3, "b"));
        assert_eq!(flushed(&mut outbox, true), ["3"]);
        assert_eq!(flushed(&mut outbox, false), ["1", "2"]);
    }

    proptest! {
        /// Whatever comes in between, each conversation's messages are written in order within every connection, and never more than the window at once.
        #[test]
        fn messages_of_a_conversation_are_written_in_order(ops in proptest::collection::vec((0u8..5, 0u32..3), 1..80)) {
            let mut outbox = Outbox::default();
            let mut next = 0u32;
            let mut flight: Vec<u32> = Vec::new();
            for (op, arg) in ops {
                match op {
                    0 | 1 => {
                        outbox.push(entry(next, ["a", "b", "c"][arg as usize]));
                        next += 1;
                    }
                    2 => if !flight.is_empty() {
                        let id = flight.remove(0);
                        outbox.remove(&id.to_string());
                    },
                    3 => { outbox.disconnected(); flight.clear(); }
                    _ => {
                        let mut per = std::collections::BTreeMap::<Option<String>, u32>::new();
                        let window = 1 + arg as usize;
                        let before = flight.len();
                        let mut wrote = Vec::new();
                        outbox.flush(window, |_| false, |e| {
                            let id: u32 = e.id.parse().unwrap();
                            if let Some(last) = per.insert(e.conversation.clone(), id) { assert!(last < id); }
                            wrote.push(id);
                        });
                        prop_assert!(wrote.is_empty() || before + wrote.len() <= window);
                        flight.extend(wrote);
                    }
                }
            }
        }
    }
}
