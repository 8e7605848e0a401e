//! I14: replaying any stretch of the log, in any chunking, changes nothing, write times included.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use store::{ClosedSession, ConversationWrite, OpenSession, OpenSessionWrite, StoredMarks};
use wire::Seq;

use super::*;

/// What a record does, as persistence would see it.
#[derive(Clone, Debug)]
enum Deed {
    Say(usize, Vec<u8>),
    Open(usize, u8),
    Close(usize),
    Marks(usize, [u64; 4]),
    Nothing,
}

const CONVERSATIONS: usize = 3;

fn deed() -> impl Strategy<Value = Deed> {
    let c = 0..CONVERSATIONS;
    prop_oneof![
        5 => (c.clone(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(c, text)| Deed::Say(c, text)),
        2 => (c.clone(), any::<u8>()).prop_map(|(c, agent)| Deed::Open(c, agent)),
        1 => c.clone().prop_map(Deed::Close),
        2 => (c, prop::array::uniform4(0u64..50)).prop_map(|(c, n)| Deed::Marks(c, n)),
        1 => Just(Deed::Nothing),
    ]
}

/// A log and the state a fold would have at each of its records.
struct Log {
    tenant: String,
    partition: PartitionWrite,
    deeds: Vec<Deed>,
    at_ms: i64,
}

impl Log {
    /// The write of the records `from..to`, coalesced as persistence does.
    fn batch(&self, from: usize, to: usize) -> PartitionWrite {
        let mut write = self.partition.clone();
        let mut touched: BTreeMap<usize, ConversationWrite> = BTreeMap::new();
        let mut seqs = [0u64; CONVERSATIONS];
        for (offset, deed) in self.deeds.iter().enumerate().take(to) {
            let position = at(offset as u64);
            let (c, event) = match deed {
                Deed::Say(c, text) => (*c, Some(text.clone())),
                Deed::Open(c, agent) => (*c, Some(vec![*agent])),
                Deed::Close(c) => (*c, Some(vec![])),
                Deed::Marks(c, n) => {
                    if offset >= from {
                        let [customer_recv, customer_read, agent_recv, agent_read] = *n;
                        let marks = StoredMarks {
                            customer_recv,
                            customer_read,
                            agent_recv,
                            agent_read,
                        };
                        write.marks.push((self.key(*c), marks));
                    }
                    continue;
                }
                Deed::Nothing => continue,
            };
            seqs[c] += 1;
            if offset < from {
                continue;
            }
            let seq = Seq(seqs[c]);
            let conversation = touched.entry(c).or_default();
            conversation.key = Some(self.key(c));
            conversation.last_seq = seq;
            conversation.state = Some((format!("state of {c} at {seq}").into(), position));
            conversation.events.extend(event.map(|entry| EventRow {
                seq,
                staff_only: offset % 3 == 0,
                at_ms: self.at_ms + offset as i64,
                entry: entry.into(),
                position,
            }));
            match deed {
                Deed::Open(_, agent) => {
                    let open = Some(OpenSession {
                        key: self.key(c),
                        agent: format!("agent-{agent}"),
                        state: 3,
                    });
                    conversation.open_session = Some(OpenSessionWrite { open, position });
                }
                Deed::Close(_) => {
                    conversation.open_session = Some(OpenSessionWrite { open: None, position });
                    conversation.sessions_closed.push(ClosedSession {
                        agent: format!("agent-{c}"),
                        opened_at_ms: self.at_ms + offset as i64,
                        closed_at_ms: self.at_ms + offset as i64,
                        first_seq: Seq(1),
                        last_seq: seq,
                        position,
                    });
                }
                _ => {}
            }
        }
        write.conversations = touched.into_values().collect();
        write
    }

    fn key(&self, c: usize) -> ConversationKey {
        conversation(&self.tenant, &format!("c{c}"))
    }
}

/// `empty` makes a store with nothing in it: digests are of whole stores.
pub async fn any_stretch_in_any_chunking_changes_nothing<F>(empty: impl Fn() -> F, cases: u32)
where
    F: Future<Output = Store>,
{
    let mut runner = TestRunner::new(Config::with_cases(cases));
    let strategy = (
        prop::collection::vec(deed(), 1..60),
        prop::collection::vec(1usize..12, 1..8),
        prop::collection::vec((any::<prop::sample::Index>(), 1usize..60, 1usize..20), 0..6),
    );
    for _ in 0..cases {
        let (deeds, chunks, replays) = strategy.new_tree(&mut runner).unwrap().current();
        let log = Log {
            tenant: unique("t"),
            partition: partition(),
            at_ms: now_ms(),
            deeds,
        };
        let end = log.deeds.len();
        let whole = empty().await;
        whole.write(log.batch(0, end)).await.unwrap();
        let expected = whole.digest().await.unwrap();
        drop(whole);

        let store = empty().await;
        let mut from = 0;
        for chunk in chunks.iter().cycle() {
            if from == end {
                break;
            }
            let to = (from + chunk).min(end);
            store.write(log.batch(from, to)).await.unwrap();
            from = to;
        }
        assert_eq!(
            store.digest().await.unwrap(),
            expected,
            "in chunks {chunks:?}: {:?}",
            log.deeds
        );
        for (start, len, chunk) in &replays {
            let mut from = start.index(end);
            let stop = (from + len).min(end);
            while from < stop {
                let to = (from + chunk).min(stop);
                store.write(log.batch(from, to)).await.unwrap();
                from = to;
            }
            assert_eq!(
                store.digest().await.unwrap(),
                expected,
                "replayed {replays:?}: {:?}",
                log.deeds
            );
        }
    }
}

/// The digest sees every table, and every byte of it.
pub async fn a_digest_moves_with_every_kind_of_write<F>(empty: impl Fn() -> F)
where
    F: Future<Output = Store>,
{
    let store = empty().await;
    let log = Log {
        tenant: unique("t"),
        partition: partition(),
        at_ms: now_ms(),
        deeds: vec![
            Deed::Say(0, b"a".to_vec()),
            Deed::Open(0, 1),
            Deed::Marks(0, [1, 0, 0, 0]),
            Deed::Marks(0, [1, 0, 0, 1]),
            Deed::Close(0),
            Deed::Say(1, b"b".to_vec()),
        ],
    };
    let mut before = store.digest().await.unwrap();
    for offset in 0..log.deeds.len() {
        store.write(log.batch(offset, offset + 1)).await.unwrap();
        let after = store.digest().await.unwrap();
        assert_ne!(before, after, "{:?}", log.deeds[offset]);
        before = after;
    }
    assert_eq!(before.rows("events"), 4);
}
