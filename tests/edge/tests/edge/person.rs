//! Somebody with the Rust client, who waits for what is to come and says what came instead.

use std::time::Duration;

use client::{Client, Event, Handle, Incoming, Options, Tls, Transport};
use serde_json::value::RawValue;
use tokio::sync::mpsc::Receiver;
use wire::frames::{AgentState, ConversationState, Since};

use crate::house::{House, token};

const PATIENCE: Duration = Duration::from_secs(120);

pub const WAYS: [Transport; 4] = [
    Transport::WebSocket,
    Transport::Tcp,
    Transport::Events,
    Transport::LongPoll,
];

pub struct Person {
    pub handle: Handle,
    incoming: Receiver<Incoming>,
    /// The events heard, in order.
    pub heard: Vec<Event>,
    pub session: String,
    /// The state and agent it was told last.
    standing: Option<(ConversationState, Option<String>)>,
}

/// The node's URL for this transport.
pub fn url(house: &House, way: Transport, secure: bool) -> String {
    let (scheme, port) = match (way, secure) {
        (Transport::WebSocket, false) => ("ws", house.ws),
        (Transport::WebSocket, true) => ("wss", house.ws),
        (Transport::Tcp, false) => ("tcp", house.tcp),
        (Transport::Tcp, true) => ("tls", house.tcp),
        (_, false) => ("http", house.ws),
        (_, true) => ("https", house.ws),
    };
    // The certificates of the tests name localhost.
    let host = if secure { "localhost" } else { "127.0.0.1" };
    format!("{scheme}://{host}:{port}")
}

#[derive(Default)]
pub struct Hello<'a> {
    pub device: Option<&'a str>,
    pub since: Option<u64>,
    pub tls: Option<Tls>,
    pub token: Option<String>,
}

impl Person {
    pub fn connect(house: &House, way: Transport, role: &str, user: &str, hello: Hello<'_>) -> Person {
        let secure = hello.tls.is_some();
        let options = Options {
            transport: Some(way),
            tls: hello.tls,
            device: hello.device.map(Into::into),
            since: hello.since.map(Since::Own),
            ..Options::new(
                url(house, way, secure),
                hello.token.unwrap_or_else(|| token(user, role)),
            )
        };
        let (handle, incoming) = Client::connect(options);
        Person {
            handle,
            incoming,
            heard: Vec::new(),
            session: String::new(),
            standing: None,
        }
    }

    /// Waits until `is` says yes; what comes before it is kept if it is an event.
    pub async fn until(&mut self, what: &str, mut is: impl FnMut(&Incoming) -> bool) -> Incoming {
        let mut passed = Vec::new();
        let waiting = async {
            loop {
                let incoming = self.incoming.recv().await.expect("the client goes on");
                if let Incoming::Event(event) = &incoming {
                    self.heard.push(event.clone());
                }
                if let Incoming::Connected { session, .. } = &incoming {
                    self.session.clone_from(session);
                }
                if let Incoming::Conversation { state, agent, .. } = &incoming {
                    self.standing = Some((*state, agent.clone()));
                }
                if is(&incoming) {
                    return incoming;
                }
                passed.push(format!("{incoming:?}").chars().take(120).collect::<String>());
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(incoming) => incoming,
            Err(_) => panic!("waited in vain for {what}; heard {passed:#?}"),
        }
    }

    pub async fn connected(&mut self) {
        self.until("connected", |i| matches!(i, Incoming::Connected { .. }))
            .await;
    }

    /// The conversation's own place is known.
    pub async fn begun(&mut self) {
        self.until("its conversation", |i| matches!(i, Incoming::Conversation { .. }))
            .await;
    }

    pub async fn available(&mut self) {
        self.connected().await;
        self.handle.status(AgentState::Available, Some(64)).await.unwrap();
    }

    pub async fn active_with(&mut self, agent: &str) {
        // It may have been told while something else was waited for.
        if self.standing == Some((ConversationState::Active, Some(agent.to_owned()))) {
            return;
        }
        self.until("an agent", |i| {
            matches!(i, Incoming::Conversation { state: ConversationState::Active, agent: Some(a), .. } if a == agent)
        })
        .await;
    }

    /// Says a text and waits for its place.
    pub async fn say(&mut self, conversation: Option<&str>, text: &str) -> u64 {
        let sent = self.handle.say(conversation, text).await.unwrap();
        let placed = self.until("its place", |i| match i {
            Incoming::Placed { id, .. } => *id == sent,
            Incoming::Event(e) => e.id.as_deref() == Some(&sent),
            _ => false,
        });
        match placed.await {
            Incoming::Placed { seq, .. } => seq,
            Incoming::Event(event) => event.seq,
            _ => unreachable!(),
        }
    }

    /// Waits for that text of somebody else.
    pub async fn hears(&mut self, text: &str) -> u64 {
        let heard = self.until(
            text,
            |i| matches!(i, Incoming::Event(e) if e.text().as_deref() == Some(text)),
        );
        match heard.await {
            Incoming::Event(event) => event.seq,
            _ => unreachable!(),
        }
    }

    /// Asks for this agent and nobody else.
    pub async fn request(&mut self, agent: &str) {
        let value = RawValue::from_string(format!(r#"{{"agent":"{agent}","only":true}}"#)).unwrap();
        let asked = self.handle.act(None, "request", value).await.unwrap();
        self.until("done", |i| matches!(i, Incoming::Done { id } if *id == asked))
            .await;
    }
}

/// A customer and the agent that answers it, over the same transport.
pub async fn pair(house: &House, way: Transport, tls: Option<Tls>, name: &str) -> (Person, Person) {
    let (customer, agent) = (format!("customer-{name}"), format!("agent-{name}"));
    let hello = || Hello {
        tls: tls.clone(),
        ..Hello::default()
    };
    let mut bo = Person::connect(house, way, "agent", &agent, hello());
    bo.available().await;
    let device = Some("phone");
    let mut alice = Person::connect(house, way, "customer", &customer, Hello { device, ..hello() });
    alice.begun().await;
    alice.request(&agent).await;
    alice.active_with(&agent).await;
    bo.active_with(&agent).await;
    (alice, bo)
}
