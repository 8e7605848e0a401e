//! Customers and agents over the public protocol, with the client that everybody uses. They talk while they are told to, and
//! the client's recorder writes down what they see.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use client::history::{Recorder, Who};
use client::pages::Pages;
use client::{Client, Handle, Incoming, Options};
use rand::Rng;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wire::frames::{AgentState, ConversationState};

use crate::Failed;
use crate::house::House;

/// Somebody with so many messages unanswered waits.
const PENDING_MAX: usize = 20;

/// What people do beside talking, in so many of a thousand steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Drop the connection without a word and come back.
    pub cuts: u32,
    /// An agent closes the conversation it would have spoken in; the customer's next message begins a session anew.
    pub closes: u32,
}

/// What all of a test's people share.
#[derive(Default)]
pub struct Mood {
    /// They begin new messages while true.
    pub talking: AtomicBool,
    /// Raised to make everybody drop the connection and come back.
    pub cuts: AtomicU64,
    /// Messages without an end yet.
    pub pending: AtomicUsize,
    /// Connections open now.
    pub up: AtomicUsize,
    pub sent: AtomicUsize,
    pub heard: AtomicUsize,
}

/// One device of one person.
#[derive(Clone)]
pub struct Person {
    pub who: Who,
    pub device: &'static str,
    pub token: String,
    pub urls: Vec<String>,
    /// Between two messages, about.
    pub pause: Duration,
    pub habits: Habits,
}

pub struct People {
    pub mood: Arc<Mood>,
    pub recorder: Arc<Recorder>,
    pub persons: Vec<Person>,
    tasks: JoinSet<()>,
}

impl People {
    /// `customers` with one device each (the first has a second), and `agents`.
    pub fn arrive(
        house: &House,
        recorder: Arc<Recorder>,
        customers: usize,
        agents: usize,
        habits: Habits,
    ) -> Result<Self, Failed> {
        let mut persons = Vec::new();
        let person = |user: String, role: &str, device: &'static str| -> Result<Person, Failed> {
            Ok(Person {
                token: house.token(role, &user)?,
                who: Who {
                    tenant: "demo".into(),
                    user,
                    role: role.into(),
                },
                device,
                urls: house.urls(),
                pause: Duration::from_millis(150),
                habits,
            })
        };
        for i in 0..agents {
            persons.push(person(format!("agent-{i}"), "agent", "desk")?);
        }
        for i in 0..customers {
            persons.push(person(format!("customer-{i}"), "customer", "phone")?);
        }
        persons.push(person("customer-0".into(), "customer", "laptop")?);
        let mood = Arc::new(Mood::default());
        mood.talking.store(true, Ordering::SeqCst);
        let mut tasks = JoinSet::new();
        for (i, person) in persons.iter().enumerate() {
            let mut person = person.clone();
            // Spread over the nodes.
            let by = i % person.urls.len().max(1);
            person.urls.rotate_left(by);
            tasks.spawn(live(person, Arc::clone(&mood), Arc::clone(&recorder)));
        }
        Ok(People {
            mood,
            recorder,
            persons,
            tasks,
        })
    }

    pub fn count(&self) -> usize {
        self.persons.len()
    }

    pub async fn leave(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// A person's day.
async fn live(person: Person, mood: Arc<Mood>, recorder: Arc<Recorder>) {
    let options = Options {
        urls: person.urls.clone(),
        token: person.token.clone(),
        device: Some(person.device.into()),
        recorder: Some((recorder, person.who.clone())),
        ..Options::default()
    };
    let (handle, incoming) = Client::connect(options);
    let agent = person.who.role != "customer";
    let mut day = Day {
        pages: person.urls.first().and_then(|url| Pages::new(url).ok()),
        person,
        mood,
        handle,
        pending: BTreeSet::new(),
        mine: BTreeSet::new(),
        agent,
        cuts: 0,
        up: false,
        said: 0,
    };
    day.run(incoming).await;
}

fn in_a_thousand(so_many: u32) -> bool {
    rand::rng().random_range(0..1_000) < so_many
}

struct Day {
    person: Person,
    mood: Arc<Mood>,
    handle: Handle,
    pages: Option<Pages>,
    pending: BTreeSet<String>,
    /// Conversations an agent answers now.
    mine: BTreeSet<String>,
    agent: bool,
    cuts: u64,
    up: bool,
    said: u64,
}

impl Day {
    async fn run(&mut self, mut incoming: mpsc::Receiver<Incoming>) {
        loop {
            let pause = self.person.pause.mul_f64(rand::rng().random_range(0.3..1.7));
            let next = tokio::time::sleep(pause);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    heard = incoming.recv() => match heard {
                        Some(heard) => self.hear(heard).await,
                        None => return,
                    },
                    () = &mut next => break,
                }
            }
            let cuts = self.mood.cuts.load(Ordering::SeqCst);
            let talking = self.mood.talking.load(Ordering::SeqCst);
            if cuts != self.cuts || (talking && in_a_thousand(self.person.habits.cuts)) {
                self.cuts = cuts;
                // Its end is told by the client.
                let _ = self.handle.cut().await;
            } else if self.pending.len() < PENDING_MAX && talking {
                // Also without a connection: the outbox keeps it.
                self.say().await;
            }
        }
    }

    async fn say(&mut self) {
        let to = if self.agent {
            let Some(to) = self
                .mine
                .iter()
                .nth(self.said as usize % self.mine.len().max(1))
                .cloned()
            else {
                return;
            };
            Some(to)
        } else {
            None
        };
        self.said += 1;
        if self.agent && in_a_thousand(self.person.habits.closes) {
            // Whether it is done is seen by the conversation's next frame.
            let nothing = RawValue::from_string("{}".into()).unwrap_or_else(|_| RawValue::NULL.to_owned());
            let _ = self.handle.act(to.as_deref(), "close", nothing).await;
            return;
        }
        let text = format!(
            "{} {} says {}: 你好 שלום \u{1f44b}",
            self.person.who.user, self.person.device, self.said
        );
        if let Ok(id) = self.handle.say(to.as_deref(), &text).await {
            self.mood.sent.fetch_add(1, Ordering::SeqCst);
            self.mood.pending.fetch_add(1, Ordering::SeqCst);
            self.pending.insert(id);
        }
    }

    fn ended(&mut self, id: &str) {
        if self.pending.remove(id) {
            self.mood.pending.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn set_up(&mut self, up: bool) {
        match (self.up, up) {
            (false, true) => self.mood.up.fetch_add(1, Ordering::SeqCst),
            (true, false) => self.mood.up.fetch_sub(1, Ordering::SeqCst),
            _ => 0,
        };
        self.up = up;
    }

    async fn hear(&mut self, heard: Incoming) {
        match heard {
            Incoming::Connected { .. } => {
                self.set_up(true);
                if self.agent {
                    let _ = self.handle.status(AgentState::Available, Some(20)).await;
                }
            }
            Incoming::Disconnected { .. } => {
                self.set_up(false);
                self.mine.clear();
            }
            Incoming::Sent { id } | Incoming::Placed { id, .. } => self.ended(&id),
            Incoming::Refused { id, .. } => self.ended(&id),
            Incoming::Event(event) => {
                self.mood.heard.fetch_add(1, Ordering::SeqCst);
                if event.user.as_deref() == Some(&self.person.who.user)
                    && let Some(id) = &event.id
                {
                    self.ended(id);
                }
            }
            Incoming::Conversation {
                conversation,
                state,
                agent,
                ..
            } if self.agent => {
                if state == ConversationState::Active && agent.as_deref() == Some(&self.person.who.user) {
                    self.mine.insert(conversation);
                } else {
                    self.mine.remove(&conversation);
                }
            }
            Incoming::Reset {
                conversation,
                had,
                last_seq,
            } => {
                // As a client would, and under whatever fault is on; all of it is read again and judged when the run is over.
                if let Some(pages) = &self.pages {
                    let _ = pages.all(&self.person.token, &conversation, had, last_seq).await;
                }
            }
            _ => {}
        }
    }
}
