//! A node and a worker that knows who answers whom, played by a task: registrations are confirmed and given their conversations
//! with one event each, questions answered, and what came over the link is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use process::Config;
use prost::Message as _;
use wire::link::{Access, Registered, from_node, from_worker};
use wire::record::{Role, Session, SessionState};

use crate::common::*;

/// (tenant, conversation) → its session. What is not here is idle.
pub type Sessions = Arc<Mutex<BTreeMap<(String, String), Session>>>;

pub struct House {
    pub node: TestNode,
    pub sessions: Sessions,
    /// Acks and typing that reached the worker.
    pub linked: Arc<AtomicUsize>,
    pub registered: Arc<AtomicUsize>,
}

/// A session answered by this agent.
pub fn answered_by(agent: &str) -> Session {
    Session {
        state: SessionState::SessionActive.into(),
        agent: agent.into(),
        ..Session::default()
    }
}

/// The public part of a state cell: version 1, and the session as field 6.
pub fn state_cell(session: &Session) -> bytes::Bytes {
    let session = session.encode_to_vec();
    let mut cell = vec![0x08, 1, 0x32, session.len() as u8];
    cell.extend_from_slice(&session);
    cell.into()
}

impl House {
    pub async fn start(config: Config) -> House {
        let mut node = start_with(config, |_| {}).await;
        let mut worker = node.worker(1).await;
        let sessions: Sessions = Sessions::default();
        let (linked, registered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (known, links, comes) = (sessions.clone(), linked.clone(), registered.clone());
        tokio::spawn(async move {
            loop {
                match worker.any().await {
                    from_node::Item::Register(register) => {
                        comes.fetch_add(1, Ordering::SeqCst);
                        let confirmed = Registered {
                            connection: register.connection,
                            partition: register.partition,
                            generation: register.generation,
                            rank: register.rank,
                        };
                        worker.send(from_worker::Item::Registered(confirmed)).await;
                        if register.role() == Role::Customer {
                            worker.begin(&register, &register.user, 0, Access::Full).await;
                            worker.push(&register, &register.user, 1).await;
                            continue;
                        }
                        let mine: Vec<String> = known
                            .lock()
                            .iter()
                            .filter(|((tenant, _), s)| *tenant == register.tenant && s.agent == register.user)
                            .map(|((_, conversation), _)| conversation.clone())
                            .filter(|c| partition_of(&register.tenant, c) == register.partition)
                            .collect();
                        for conversation in mine {
                            worker.begin(&register, &conversation, 0, Access::Full).await;
                            worker.push(&register, &conversation, 1).await;
                        }
                    }
                    from_node::Item::Ask(ask) => {
                        let session = known.lock().get(&(ask.tenant, ask.conversation)).cloned();
                        let answer = wire::link::Answer {
                            ask: ask.ask,
                            known: true,
                            session,
                            last_seq: 0,
                        };
                        worker.send(from_worker::Item::Answer(answer)).await;
                    }
                    from_node::Item::Acked(_) | from_node::Item::Typing(_) => {
                        links.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => {}
                }
            }
        });
        House {
            node,
            sessions,
            linked,
            registered,
        }
    }

    /// The owner knows it, and the conversation's row says the same.
    pub fn put(&self, tenant: &str, conversation: &str, session: Session) {
        let cell = state_cell(&session);
        self.node
            .history
            .cells
            .lock()
            .insert(format!("{tenant}/{conversation}"), cell);
        let key = (tenant.to_owned(), conversation.to_owned());
        self.sessions.lock().insert(key, session);
    }

    /// (messages, acts, link items) so far. Presence is no act.
    pub fn counts(&self) -> (usize, usize, usize) {
        let desk = self.node.log.desk();
        let acts = desk
            .iter()
            .filter(|input| matches!(input, wire::record::desk_record::Input::Act(_)))
            .count();
        (self.node.log.messages().len(), acts, self.linked.load(Ordering::SeqCst))
    }
}

pub fn partition_of(tenant: &str, conversation: &str) -> u32 {
    let key = wire::ConversationKey::new(
        wire::Tenant::new(tenant).unwrap(),
        wire::User::new(conversation).unwrap(),
    );
    wire::topics::partition_of(&key.to_key(), PARTITIONS).0
}
