//! The client's edge: one task that opens connections, carries the core's actions out, and never holds more than a bounded amount.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::frames::{AgentState, Since};

use crate::core::{Action, Core, Start};
use crate::history::{Observer, Recorder, Who};
use crate::incoming::Incoming;
use crate::policy::{Backoff, Ended};
use crate::transport::{Connection, Inbound, Tls, Transport};

/// Commands and incoming items that wait; a full one slows its writer down.
const QUEUE_ITEMS: usize = 1_024;
/// Messages without answer; beyond it [`Handle::send`] waits.
const PENDING_MAX: usize = 256;

#[derive(Clone, Default)]
pub struct Options {
    /// Where a node listens; the others are tried when it does not answer or sends the client away.
    pub urls: Vec<String>,
    /// `None`: the usual one of the URL's scheme.
    pub transport: Option<Transport>,
    /// Whose certificates are believed of `wss://`, `tls://` and `https://`; `None`: whom the system believes.
    pub tls: Option<Tls>,
    pub token: String,
    pub device: Option<String>,
    pub since: Option<Since>,
    pub term: Option<u64>,
    pub backoff: Backoff,
    /// Records what happens; the token's claims must say the same.
    pub recorder: Option<(Arc<Recorder>, Who)>,
}

impl Options {
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            token: token.into(),
            ..Self::default()
        }
    }
}

/// The client has ended: its connection was closed for good, or it was shut down.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the client has ended")]
pub struct Gone;

enum Command {
    Send {
        id: String,
        conversation: Option<String>,
        body: Box<RawValue>,
    },
    Act {
        id: String,
        conversation: Option<String>,
        deed: String,
        value: Box<RawValue>,
    },
    Read {
        conversation: Option<String>,
        seq: u64,
    },
    Typing {
        conversation: Option<String>,
    },
    Status {
        state: AgentState,
        capacity: Option<u32>,
    },
    Refresh {
        token: String,
    },
    Ping,
    /// Drop the connection without a word, as a network would, and come back.
    Cut,
    Close,
}

/// Speaks for the user. When the last clone is dropped the client ends.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    _task: Arc<JoinSet<()>>,
}

/// Where a client begins.
pub struct Client;

impl Client {
    /// Starts connecting. What is heard comes from the receiver; when it ends, so has the client.
    /// Must be called inside a tokio runtime.
    pub fn connect(options: Options) -> (Handle, mpsc::Receiver<Incoming>) {
        let (commands, to_driver) = mpsc::channel(QUEUE_ITEMS);
        let (to_app, incoming) = mpsc::channel(QUEUE_ITEMS);
        let mut task = JoinSet::new();
        task.spawn(Driver::new(options, to_app).run(to_driver));
        let handle = Handle {
            commands,
            _task: Arc::new(task),
        };
        (handle, incoming)
    }
}

impl Handle {
    /// Sends a message and returns its id; [`Incoming::Sent`], `Placed` or `Refused` will name it.
    /// `conversation` may be left out by customers. Waits while too many are without answer.
    pub async fn send(&self, conversation: Option<&str>, body: Box<RawValue>) -> Result<String, Gone> {
        let id = uuid::Uuid::now_v7().to_string();
        self.send_as(id.clone(), conversation, body).await?;
        Ok(id)
    }

    /// Sends a message under an id of the caller's.
    pub async fn send_as(&self, id: String, conversation: Option<&str>, body: Box<RawValue>) -> Result<(), Gone> {
        let conversation = conversation.map(Into::into);
        self.command(Command::Send { id, conversation, body }).await
    }

    /// Sends `{"text":…}`.
    pub async fn say(&self, conversation: Option<&str>, text: &str) -> Result<String, Gone> {
        self.send(conversation, text_body(text)).await
    }

    /// A deed, e.g. `act(None, "request", r#"{"agent":"bo","only":true}"#)`; `value` is a JSON object.
    pub async fn act(&self, conversation: Option<&str>, deed: &str, value: Box<RawValue>) -> Result<String, Gone> {
        let id = uuid::Uuid::now_v7().to_string();
        self.command(Command::Act {
            id: id.clone(),
            conversation: conversation.map(Into::into),
            deed: deed.into(),
            value,
        })
        .await?;
        Ok(id)
    }

    /// The user has seen everything up to `seq`.
    pub async fn read(&self, conversation: Option<&str>, seq: u64) -> Result<(), Gone> {
        let conversation = conversation.map(Into::into);
        self.command(Command::Read { conversation, seq }).await
    }

    pub async fn typing(&self, conversation: Option<&str>) -> Result<(), Gone> {
        let conversation = conversation.map(Into::into);
        self.command(Command::Typing { conversation }).await
    }

    pub async fn status(&self, state: AgentState, capacity: Option<u32>) -> Result<(), Gone> {
        self.command(Command::Status { state, capacity }).await
    }

    /// A new token, for this connection and all later ones.
    pub async fn refresh(&self, token: impl Into<String>) -> Result<(), Gone> {
        self.command(Command::Refresh { token: token.into() }).await
    }

    pub async fn ping(&self) -> Result<(), Gone> {
        self.command(Command::Ping).await
    }

    /// Drops the connection without a word, as a network would; the client comes back by itself.
    pub async fn cut(&self) -> Result<(), Gone> {
        self.command(Command::Cut).await
    }

    /// Closes the connection and ends the client.
    pub async fn close(&self) -> Result<(), Gone> {
        self.command(Command::Close).await
    }

    async fn command(&self, command: Command) -> Result<(), Gone> {
        self.commands.send(command).await.map_err(|_| Gone)
    }
}

/// `{"text":…}`
pub fn text_body(text: &str) -> Box<RawValue> {
    let mut body = br#"{"text":"#.to_vec();
    wire::event::push_json_str(&mut body, text);
    body.push(b'}');
    let body = String::from_utf8(body).unwrap_or_default();
    // What was just written is JSON; an empty value is the answer to the impossible.
    RawValue::from_string(body).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

enum Next {
    Open { at: Instant },
    Up(Connection),
    Ended,
}

struct Driver {
    core: Core,
    urls: Vec<String>,
    at_url: usize,
    transport: Option<Transport>,
    tls: Option<Tls>,
    observer: Option<Observer>,
    started: Instant,
    to_app: mpsc::Sender<Incoming>,
    for_app: VecDeque<Incoming>,
}

impl Driver {
    fn new(options: Options, to_app: mpsc::Sender<Incoming>) -> Self {
        Self {
            core: Core::new(Start {
                token: options.token,
                device: options.device.clone(),
                since: options.since,
                term: options.term,
                backoff: options.backoff,
                observe: options.recorder.is_some(),
                user: options.recorder.as_ref().map(|(_, who)| who.user.clone()),
            }),
            urls: options.urls,
            at_url: 0,
            transport: options.transport,
            tls: options.tls,
            observer: options
                .recorder
                .map(|(recorder, who)| Observer::new(recorder, who, options.device)),
            started: Instant::now(),
            to_app,
            for_app: VecDeque::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        // One, not zero, is the beginning: a time of 0 means "at once" in the core.
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(&self, at_ms: u64) -> Instant {
        // A minute is as good as for ever: the loop asks again.
        let from_now = at_ms.saturating_sub(self.now_ms()).min(60_000);
        Instant::now() + Duration::from_millis(from_now)
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut next = Next::Open { at: Instant::now() };
        loop {
            next = match next {
                Next::Open { at } => self.wait_and_open(at, &mut commands).await,
                Next::Up(connection) => self.converse(connection, &mut commands).await,
                Next::Ended => break,
            }
        }
        while let Some(incoming) = self.for_app.pop_front() {
            if self.to_app.send(incoming).await.is_err() {
                return;
            }
        }
    }

    async fn wait_and_open(&mut self, at: Instant, commands: &mut mpsc::Receiver<Command>) -> Next {
        let to_app = self.to_app.clone();
        while Instant::now() < at {
            tokio::select! {
                _ = tokio::time::sleep_until(at) => {}
                command = commands.recv(), if self.core.pending() < PENDING_MAX => match command {
                    None | Some(Command::Close) => return Next::Ended,
                    Some(command) => {
                        self.command(command);
                        // Nothing to write yet, but the history's times are those of the deeds.
                        self.actions();
                    }
                },
                permit = to_app.reserve(), if !self.for_app.is_empty() => match permit {
                    Ok(permit) => if let Some(incoming) = self.for_app.pop_front() { permit.send(incoming) },
                    Err(_) => return Next::Ended,
                },
            }
        }
        let Some(url) = self.urls.get(self.at_url % self.urls.len().max(1)).cloned() else {
            return self.ended(Ended::closed(wire::CloseCode::Forbidden.number(), "no URL was given"));
        };
        let Some(transport) = self.transport.or_else(|| Transport::of_url(&url)) else {
            let why = format!("{url}: write ws://, tcp:// or http://host:port, or over TLS wss://, tls:// or https://");
            return self.ended(Ended::closed(wire::CloseCode::Forbidden.number(), why));
        };
        let connect = self.core.connect_frame();
        // Before the deed: what is invoked is recorded first.
        self.actions();
        let token = self.core.token().to_owned();
        match Connection::open(transport, &url, self.tls.as_ref(), &token, connect).await {
            Ok(connection) => {
                let now_ms = self.now_ms();
                self.core.opened(now_ms);
                Next::Up(connection)
            }
            Err(ended) => self.ended(ended),
        }
    }

    /// Until the connection ends.
    async fn converse(&mut self, mut connection: Connection, commands: &mut mpsc::Receiver<Command>) -> Next {
        let to_app = self.to_app.clone();
        loop {
            let (frames, leave) = self.actions();
            if let Some(ended) = leave {
                connection.close().await;
                return self.ended(ended);
            }
            if !frames.is_empty()
                && let Err(ended) = connection.write(frames).await
            {
                return self.last_words(connection, ended).await;
            }
            let timer = self
                .core
                .next_timer()
                .map_or_else(|| self.instant(u64::MAX), |at| self.instant(at));
            tokio::select! {
                // An application that does not take what was heard stops the reading, and so the server's pushes.
                heard = connection.next(), if self.for_app.len() < QUEUE_ITEMS => match heard {
                    Ok(inbound) => self.inbound(inbound),
                    Err(ended) => return self.ended(ended),
                },
                command = commands.recv(), if self.core.pending() < PENDING_MAX => match command {
                    None | Some(Command::Close) => {
                        self.actions();
                        connection.close().await;
                        return Next::Ended;
                    }
                    Some(Command::Cut) => return self.ended(Ended::lost("cut")),
                    Some(command) => {
                        if let Command::Refresh { token } = &command {
                            connection.set_token(token);
                        }
                        self.command(command);
                    }
                },
                permit = to_app.reserve(), if !self.for_app.is_empty() => match permit {
                    Ok(permit) => if let Some(incoming) = self.for_app.pop_front() { permit.send(incoming) },
                    Err(_) => return Next::Ended,
                },
                _ = tokio::time::sleep_until(timer) => {
                    let now_ms = self.now_ms();
                    self.core.timer(now_ms);
                }
            }
        }
    }

    /// A write failed; the reason may be waiting to be read.
    async fn last_words(&mut self, mut connection: Connection, ended: Ended) -> Next {
        let reading = async {
            loop {
                match connection.next().await {
                    Ok(inbound) => self.inbound(inbound),
                    Err(ended) => return ended,
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_millis(200), reading)
            .await
            .unwrap_or(ended);
        self.ended(ended)
    }

    fn inbound(&mut self, inbound: Inbound) {
        let now_ms = self.now_ms();
        match inbound {
            Inbound::Frame(frame) => self.core.frame(now_ms, &frame),
            Inbound::Ping { answer } => {
                self.core.heard(now_ms);
                if answer {
                    self.core.ping();
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        let now_ms = self.now_ms();
        match command {
            Command::Send { id, conversation, body } => self.core.send(now_ms, id, conversation, &body),
            Command::Act {
                id,
                conversation,
                deed,
                value,
            } => self.core.act(now_ms, id, conversation, &deed, &value),
            Command::Read { conversation, seq } => self.core.read(now_ms, conversation.as_deref(), seq),
            Command::Typing { conversation } => self.core.typing(conversation.as_deref()),
            Command::Status { state, capacity } => self.core.status(state, capacity),
            Command::Refresh { token } => self.core.refresh(token),
            Command::Ping => self.core.ping(),
            Command::Cut | Command::Close => {}
        }
    }

    fn ended(&mut self, ended: Ended) -> Next {
        self.core.closed(ended, rand::random());
        let mut next = Next::Ended;
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Open { after_ms, elsewhere } => {
                    if elsewhere {
                        self.at_url = (self.at_url + 1) % self.urls.len().max(1);
                    }
                    next = Next::Open {
                        at: Instant::now() + Duration::from_millis(after_ms),
                    };
                }
                other => {
                    self.plain(other);
                }
            }
        }
        next
    }

    /// Carries out what needs no socket; returns the frames to write, and why to leave if the core says so.
    fn actions(&mut self) -> (Vec<Bytes>, Option<Ended>) {
        let mut frames = Vec::new();
        let mut leave = None;
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Write(frame) => frames.push(frame),
                Action::Disconnect(ended) => leave = Some(ended),
                other => self.plain(other),
            }
        }
        (frames, leave)
    }

    fn plain(&mut self, action: Action) {
        match action {
            Action::Deliver(incoming) => self.for_app.push_back(incoming),
            Action::Observe(what) => {
                if let Some(observer) = &mut self.observer {
                    observer.record(what);
                }
            }
            // The connection they were meant for is gone; the outbox has what must go again.
            Action::Write(_) | Action::Disconnect(_) | Action::Open { .. } | Action::Stop => {}
        }
    }
}
