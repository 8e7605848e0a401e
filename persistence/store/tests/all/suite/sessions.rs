//! Open sessions come and go by position; closed ones stay, newest first.

use store::{ClosedSession, ConversationWrite, OpenSession, OpenSessionWrite};
use wire::{Epoch, Offset, Position, Seq};

use super::*;

fn open(key: &ConversationKey, agent: &str, state: i32) -> OpenSession {
    OpenSession {
        key: key.clone(),
        agent: agent.into(),
        state,
    }
}

async fn put(store: &Store, partition: &PartitionWrite, key: &ConversationKey, open: Option<OpenSession>, offset: u64) {
    let mut write = partition.clone();
    write.conversations.push(ConversationWrite {
        key: Some(key.clone()),
        open_session: Some(OpenSessionWrite {
            open,
            position: Position::new(partition.epoch, Offset(offset)),
        }),
        ..Default::default()
    });
    store.write(write).await.unwrap();
}

async fn listed(store: &Store, write: &PartitionWrite) -> Vec<OpenSession> {
    let mut all = store
        .open_sessions(&write.lane, write.epoch, write.partition)
        .await
        .unwrap();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

pub async fn open_sessions_are_listed_by_partition(store: Store) {
    let (tenant, write) = (unique("t"), partition());
    let (a, b) = (conversation(&tenant, "a"), conversation(&tenant, "b/c"));
    let mut other = write.clone();
    other.partition = wire::Partition(1);
    let mut later = write.clone();
    later.epoch = Epoch(2);
    put(&store, &write, &a, Some(open(&a, "", 1)), 5).await;
    put(&store, &write, &b, Some(open(&b, "bo", 3)), 6).await;
    put(&store, &other, &a, Some(open(&a, "elsewhere", 3)), 7).await;
    put(&store, &later, &a, Some(open(&a, "later", 3)), 8).await;
    assert_eq!(listed(&store, &write).await, vec![open(&a, "", 1), open(&b, "bo", 3)]);
    assert_eq!(listed(&store, &other).await, vec![open(&a, "elsewhere", 3)]);
    assert_eq!(listed(&store, &later).await, vec![open(&a, "later", 3)]);
    put(&store, &write, &a, Some(open(&a, "bo", 3)), 9).await;
    assert_eq!(listed(&store, &write).await[0], open(&a, "bo", 3));
}

pub async fn a_closed_session_stays_closed_whatever_is_replayed(store: Store) {
    let (key, write) = (fresh("a"), partition());
    put(&store, &write, &key, Some(open(&key, "bo", 3)), 5).await;
    put(&store, &write, &key, None, 9).await;
    assert_eq!(listed(&store, &write).await, vec![]);
    put(&store, &write, &key, Some(open(&key, "bo", 3)), 5).await;
    put(&store, &write, &key, Some(open(&key, "di", 3)), 8).await;
    assert_eq!(listed(&store, &write).await, vec![]);
    put(&store, &write, &key, Some(open(&key, "di", 3)), 12).await;
    put(&store, &write, &key, None, 9).await;
    assert_eq!(listed(&store, &write).await, vec![open(&key, "di", 3)]);
    put(&store, &write, &key, Some(open(&key, "old", 1)), 11).await;
    assert_eq!(listed(&store, &write).await, vec![open(&key, "di", 3)]);
    put(&store, &write, &key, None, 13).await;
    assert_eq!(listed(&store, &write).await, vec![]);
}

pub async fn closed_sessions_of_an_agent_are_newest_first(store: Store) {
    let (tenant, write) = (unique("t"), partition());
    const DAY_MS: i64 = 86_400_000;
    let now = now_ms();
    let closed = |agent: &str, days: i64, offset: u64| ClosedSession {
        agent: agent.into(),
        opened_at_ms: now - days * DAY_MS,
        closed_at_ms: now - days * DAY_MS + 60_000,
        first_seq: Seq(offset),
        last_seq: Seq(offset + 4),
        position: at(offset),
    };
    // Months apart, two on one day, two of one conversation in one write, and an agent whose name begins like another's.
    let (a, b) = (conversation(&tenant, "a"), conversation(&tenant, "b"));
    let sessions = [
        (&a, closed("bo", 200, 1)),
        (&a, closed("bo", 40, 10)),
        (&b, closed("bo", 2, 20)),
        (&a, closed("bo", 1, 30)),
        (&a, closed("b", 1, 40)),
        (&a, closed("bob", 1, 50)),
    ];
    let mut all = write.clone();
    for key in [&a, &b] {
        let sessions_closed = sessions
            .iter()
            .filter(|(k, _)| *k == key)
            .map(|(_, s)| s.clone())
            .collect();
        all.conversations.push(ConversationWrite {
            key: Some(key.clone()),
            sessions_closed,
            ..Default::default()
        });
    }
    store.write(all.clone()).await.unwrap();
    store.write(all).await.unwrap();
    let expected: Vec<_> = [3, 2, 1, 0]
        .map(|i| (sessions[i].0.clone(), sessions[i].1.clone()))
        .into();
    let tenant = &a.tenant;
    assert_eq!(store.sessions_of_agent(tenant, "bo", 10).await.unwrap(), expected);
    assert_eq!(store.sessions_of_agent(tenant, "bo", 2).await.unwrap(), expected[..2]);
    assert_eq!(store.sessions_of_agent(tenant, "b", 10).await.unwrap().len(), 1);
    assert_eq!(store.sessions_of_agent(tenant, "", 10).await.unwrap(), vec![]);
}
