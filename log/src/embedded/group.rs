//! Consumer groups within the process: range assignment, eager rebalance, one generation per group.
//!
//! A rebalance takes everything back first (`Revoked`, and waits for each `done`), then gives it out anew. Who does not
//! let go in time loses its partitions: `Lost`, and its commits are fenced before anybody else is assigned.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use wire::{Offset, Partition};

use super::Shared;
use super::member::Member;
use crate::{Assigned, TopicPartition};

pub(super) struct Group {
    pub name: String,
    /// How long a member may take to let go.
    patience: Duration,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    members: BTreeMap<u64, Arc<Member>>,
    owners: HashMap<TopicPartition, u64>,
    rebalances: u64,
    /// Members came or went since the last assignment.
    dirty: bool,
}

impl Group {
    pub fn new(name: String, patience: Duration) -> Self {
        Self {
            name,
            patience,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub fn join(&self, member: Arc<Member>) {
        let mut state = self.state.lock();
        state.members.insert(member.id, member);
        state.dirty = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Its partitions are free at once; nothing it commits counts any more.
    pub fn leave(&self, member: u64) {
        let mut state = self.state.lock();
        if state.members.remove(&member).is_some() {
            state.owners.retain(|_, owner| *owner != member);
            state.dirty = true;
            drop(state);
            self.changed.notify_one();
        }
    }

    pub fn owns(&self, member: u64, offsets: &[(TopicPartition, Offset)]) -> bool {
        let state = self.state.lock();
        offsets.iter().all(|(at, _)| state.owners.get(at) == Some(&member))
    }

    /// Ends every member.
    pub fn end(&self) {
        let members: Vec<Arc<Member>> = self.state.lock().members.values().cloned().collect();
        for member in members {
            member.close();
        }
    }

    /// The group's coordinator; runs as long as the log.
    pub async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            self.changed.notified().await;
            if self.state.lock().dirty {
                self.take_back().await;
                self.give_out(&shared);
            }
        }
    }

    async fn take_back(&self) {
        let deadline = Instant::now() + self.patience;
        let mut waiting = Vec::new();
        {
            let state = self.state.lock();
            for member in state.members.values() {
                let owned = owned_by(&state.owners, member.id);
                if !owned.is_empty() {
                    let (done, released) = oneshot::channel();
                    member.revoke(owned, done);
                    waiting.push((member.clone(), released));
                }
            }
        }
        for (member, released) in waiting {
            // A dropped `done` is a release too.
            if tokio::time::timeout_at(deadline, released).await.is_err() {
                let mut state = self.state.lock();
                let lost = owned_by(&state.owners, member.id);
                state.owners.retain(|_, owner| *owner != member.id);
                // It joins again when it takes its events again; until then it would only be given what it does not read.
                state.members.remove(&member.id);
                drop(state);
                tracing::warn!(group = self.name, member = member.id, "a member did not let go in time");
                member.lose(lost);
            }
        }
    }

    fn give_out(&self, shared: &Shared) {
        let mut state = self.state.lock();
        state.dirty = false;
        state.rebalances += 1;
        let generation = shared.generation << 32 | state.rebalances;
        let members: Vec<Arc<Member>> = state.members.values().cloned().collect();
        let shares = range(&members, shared);
        state.owners = HashMap::new();
        for (member, share) in &shares {
            state.owners.extend(share.iter().map(|at| (at.clone(), member.id)));
        }
        for (member, share) in shares {
            let assigned: Vec<Assigned> = share
                .into_iter()
                .map(|at| Assigned {
                    committed: shared.committed_of(&self.name, &at),
                    at,
                    generation,
                })
                .collect();
            if !assigned.is_empty() {
                member.assign(assigned, shared);
            }
        }
    }
}

fn owned_by(owners: &HashMap<TopicPartition, u64>, member: u64) -> Vec<TopicPartition> {
    let mut owned: Vec<_> = owners
        .iter()
        .filter(|(_, o)| **o == member)
        .map(|(at, _)| at.clone())
        .collect();
    owned.sort();
    owned
}

/// Per topic: the members in order, each the next run of partitions, the first ones one more where it does not divide.
fn range(members: &[Arc<Member>], shared: &Shared) -> Vec<(Arc<Member>, Vec<TopicPartition>)> {
    let mut shares: Vec<(Arc<Member>, Vec<TopicPartition>)> = members.iter().map(|m| (m.clone(), Vec::new())).collect();
    let mut topics: Vec<_> = members.iter().flat_map(|m| &m.topics).collect();
    topics.sort();
    topics.dedup();
    for topic in topics {
        let count = shared.topic(topic).map_or(0, |t| t.partitions.len());
        let mut takers: Vec<_> = shares.iter_mut().filter(|(m, _)| m.topics.contains(topic)).collect();
        let mut next = 0;
        let among = takers.len();
        for (i, (_, share)) in takers.iter_mut().enumerate() {
            let portion = count / among + usize::from(i < count % among);
            share.extend((next..next + portion).map(|p| TopicPartition {
                topic: topic.clone(),
                partition: Partition(p as u32),
            }));
            next += portion;
        }
    }
    shares
}
